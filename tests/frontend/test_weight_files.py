"""npz, safetensors and HDF5 as weights: what is read, and what is refused."""

from __future__ import annotations

import io
import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.errors import NetcError, UsageError, WeightsError
from netc.frontend.binding import fitted
from netc.frontend.caffe import from_caffe
from netc.frontend.caffe.weights import read_weights
from netc.frontend.weights import read_params

ARRAYS = {
    "conv1.w": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "conv1.b": np.array([1.5, -2]),
    "n": np.array(3, np.int32),
    "none": np.empty((0, 3), np.float32),
}


def npz(arrays: dict[str, Any] = ARRAYS, compressed: bool = False) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, **arrays)
    return out.getvalue()


def safetensors(
    arrays: dict[str, Any] = ARRAYS, change: Callable[[dict[str, Any]], Any] = lambda h: h
) -> bytes:
    names = {"float32": "F32", "float64": "F64", "int32": "I32", "float16": "F16"}
    header: dict[str, Any] = {"__metadata__": {"made": "here"}}
    body = b""
    for name, a in arrays.items():
        offsets = [len(body), len(body) + a.nbytes]
        header[name] = {"dtype": names[str(a.dtype)], "shape": [*a.shape], "data_offsets": offsets}
        body += a.tobytes()
    changed = change(header)
    text = json.dumps(changed if changed is not None else header).encode()
    return len(text).to_bytes(8, "little") + text + body


def same(found: dict[str, Any]) -> None:
    assert found.keys() == ARRAYS.keys()
    for name, a in ARRAYS.items():
        np.testing.assert_array_equal(found[name], a)


def test_npz() -> None:
    same(read_params(npz(), []))
    same(read_params(npz(compressed=True), []))
    fortran = {"a": np.asfortranarray(ARRAYS["conv1.w"])}
    np.testing.assert_array_equal(read_params(npz(fortran), [])["a"], ARRAYS["conv1.w"])


def test_safetensors() -> None:
    same(read_params(safetensors(), []))
    data = safetensors()
    assert np.shares_memory(read_params(data, [])["conv1.w"], np.frombuffer(data, np.uint8))


def test_halves_become_float32() -> None:
    half = {"h": np.array([1, 2.5, -3], np.float16)}
    found = read_params(safetensors(half), [])["h"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, half["h"])
    bits = (np.array([1, 2.5, -3], np.float32).view(np.uint32) >> 16).astype(np.uint16)

    def brain(header: dict[str, Any]) -> None:
        header["h"]["dtype"] = "BF16"

    found = read_params(safetensors({"h": bits.view(np.float16)}, brain), [])["h"]
    np.testing.assert_array_equal(found, [1, 2.5, -3])


def test_the_files_of_a_folder(tmp_path: Path) -> None:
    for name, data in (("a.npz", npz()), ("b.safetensors", safetensors()), ("c", npz())):
        (tmp_path / name).write_bytes(data)
        same(read_params(tmp_path / name, []))


def test_caffe_weights_by_parameter_name(shared: Path) -> None:
    path = shared / "models" / "lenet" / "lenet.caffemodel"
    found = read_params(path, ["conv1.w", "conv1.b", "ip2.w", "other.w"])
    assert {k: v.shape for k, v in found.items()} == {
        "conv1.w": (20, 1, 5, 5),
        "conv1.b": (20,),
        "ip2.w": (10, 500),
        "conv2": (50,),
        "ip1": (500,),
        "ip2.b": (10,),  # what the file has besides
    }


def entry(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["conv1.b"].update(changes)


def bomb() -> bytes:
    out = io.BytesIO()
    kind = {"descr": "<f4", "fortran_order": False, "shape": (1 << 26,)}
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as f,
    ):
        np.lib.format.write_array_header_1_0(f, kind)
        for _ in range(256):
            f.write(bytes(1 << 20))
    return out.getvalue()


def twice() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.npy", b"")
    return out.getvalue()


def npy(header: str, body: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        text = header.encode()
        archive.writestr("a.npy", b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + body)
    return out.getvalue()


def header(descr: str = "'<f4'", shape: str = "(1,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "overlap": (lambda: safetensors(change=entry(data_offsets=[80, 96])), "overlaps or leaves"),
    "gap": (lambda: safetensors() + b"abcd", "4 bytes belong to no tensor"),
    "short": (lambda: safetensors()[:-1], "overlaps or leaves a gap"),
    "size": (lambda: safetensors(change=entry(shape=[3])), "conv1.b does not fill its bytes"),
    "huge": (lambda: safetensors(change=entry(shape=[1 << 60])), "conv1.b does not fill"),
    "negative": (lambda: safetensors(change=entry(data_offsets=[-1, 15])), "does not fill"),
    "kind": (lambda: safetensors(change=entry(dtype="F8_E4M3")), "damaged entry conv1.b"),
    "no entry": (lambda: safetensors(change=entry(data_offsets=None)), "damaged entry"),
    "list": (lambda: safetensors(change=lambda h: [h]), "does not fit"),
    "header": (lambda: (1 << 31).to_bytes(8, "little") + b"{}", "does not fit the file"),
    "twice": (lambda: b"\x11" + bytes(7) + b'{"a": 1, "a": 2}' + b" ", "a name stands twice"),
    "deep": (lambda: (200_001).to_bytes(8, "little") + b"{" + b"[" * 200_000, "damaged header"),
    "bomb": (bomb, "netc allows 200:1"),
    "two of a name": (twice, "two arrays have one name"),
    "truncated": (lambda: npz()[:-30], "damaged archive"),
    "no array": (lambda: npz()[:4] + bytes(100), "damaged archive"),
    "pickle": (lambda: npy(header("'|O'")), "holds object, not numbers"),
    "code": (lambda: npy("__import__('os').system('true')"), "damaged array header"),
    "too short": (lambda: npy(header(shape="(9,)"), b"1234"), "4 bytes for float32[9]"),
    "big shape": (lambda: npy(header(shape="(99999999999999,)")), "damaged array header"),
    "not npy": (lambda: npy("").replace(b"NUMPY", b"numpy"), "damaged archive"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    make, message = REFUSED[kind]
    data = make()
    with pytest.raises(WeightsError) as caught:
        read_params(data, [])
    if kind not in ("list", "not npy"):  # what these look like first depends on their bytes
        assert message in str(caught.value)


@pytest.mark.parametrize("make", [npz, safetensors])
def test_flips_and_truncations_end_in_an_error_or_an_answer(make: Callable[[], bytes]) -> None:
    whole, rng = make(), random.Random(3)
    for i in range(1000):
        data = bytearray(whole)
        if i % 2:
            del data[rng.randrange(len(data)) :]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            read_params(bytes(data), [])
        except WeightsError:
            continue


def torch_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02.")
        archive.writestr("model/data/0", bytes(8))
    return out.getvalue()


def one_array() -> bytes:
    out = io.BytesIO()
    np.save(out, np.ones(3))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (one_array(), "one NumPy array without a name"),
        (b"\x80\x02}q\x00.", "a Python pickle"),
        (torch_zip(), "of PyTorch"),
        (b"\x08\x07\x12\x07pytorch:\x00", "another protobuf, such as an ONNX model"),
    ],
)
def test_weights_of_others_are_named(data: bytes, what: str) -> None:
    net = 'input: "x" input_shape { dim: 1 } layer { name: "r" type: "ReLU" bottom: "x" top: "y" }'
    for read in (lambda: read_params(data, []), lambda: from_caffe(net, data)):
        with pytest.raises(WeightsError, match=f"the file is {what}") as e:
            read()
        assert "by parameter name fit" in e.value.diagnostics[0].help


def test_what_is_no_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, tmp_path / "none", "a\0b", "/dev/null"):
        with pytest.raises(WeightsError):
            read_params(path, [])
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(WeightsError, match="the file is empty"):
        read_params(tmp_path / "empty", [])


@pytest.mark.parametrize(
    ("shape", "wanted", "fits"),
    [
        ((5,), (5,), True),
        ((1, 1, 1, 5), (5,), True),
        ((5,), (5, 1, 1), True),
        ((1,), (), True),
        ((1, 1, 3, 4), (3, 4), True),
        ((2, 3), (3, 2), False),
        ((6,), (2, 3), False),
        ((), (2,), False),
    ],
)
def test_shapes_differ_in_ones_only(
    shape: tuple[int, ...], wanted: tuple[int, ...], fits: bool
) -> None:
    array = np.ones(shape)
    if not fits:
        with pytest.raises(WeightsError, match="in the net"):
            fitted(array, wanted, "p")
        return
    found = fitted(array, wanted, "p")
    assert (found.shape, found.dtype) == (wanted, np.float32)


class TestHdf5:
    """`.caffemodel.h5`: groups data/<layer>/<index>."""

    h5py: Any = None

    @pytest.fixture(autouse=True)
    def _h5py(self) -> None:
        self.h5py = pytest.importorskip("h5py")

    def file(self, tmp_path: Path, fill: Callable[[Any], Any]) -> Path:
        path = tmp_path / "w.caffemodel.h5"
        with self.h5py.File(path, "w") as f:
            fill(f)
        return path

    def test_blobs(self, tmp_path: Path) -> None:
        blobs = [np.full(2, i, np.float32) for i in range(12)]

        def fill(f: Any) -> None:
            for i, b in enumerate(blobs):
                f[f"data/inception/1x1/{i}"] = b
            f["diff/conv/0"] = blobs[0]

        found = read_weights(self.file(tmp_path, fill))
        assert list(found) == ["inception/1x1"]
        np.testing.assert_array_equal(found["inception/1x1"], blobs)

    def test_what_is_shared_is_stored_once(self, tmp_path: Path) -> None:
        def fill(f: Any) -> None:
            f["data/a/0"], f["data/a/1"] = np.ones((2, 3)), np.zeros(2)
            f["data/b/1"] = np.full(2, 5)

        path = self.file(tmp_path, fill)
        assert read_weights(path)["b"][0] is None
        layer = """layer { name: "NAME" type: "InnerProduct" bottom: "x" top: "NAME"
          param { name: "w" } param { } inner_product_param { num_output: 2 } }"""
        text = 'input: "x" input_shape { dim: 1 dim: 3 }'
        text += layer.replace("NAME", "a") + layer.replace("NAME", "b")
        graph = from_caffe(text, path, strict=True)
        assert sorted(graph.weights) == ["a.b", "a.w", "b.b"]

    def test_refused(self, tmp_path: Path) -> None:
        def outside(f: Any) -> None:
            f["data/c/0"] = self.h5py.ExternalLink("/etc/passwd", "x")

        def soft(f: Any) -> None:
            f["data/c/0"] = self.h5py.SoftLink("/data")

        def text(f: Any) -> None:
            f["data/c/0"] = "abc"

        def far(f: Any) -> None:
            f["data/c/1000"] = np.ones(1)

        def endless(f: Any) -> None:
            f["data/c/" + "9" * 5000] = np.ones(1)

        def square(f: Any) -> None:
            f["data/c/²"] = np.ones(1)

        def bomb(f: Any) -> None:
            f.create_dataset("data/c/0", (1 << 30,), "f4", compression="gzip", fillvalue=0)

        def raw(f: Any) -> None:
            kind = [(str(tmp_path / "raw"), 0, 4)]
            f.create_dataset("data/c/0", (1,), "f4", external=kind)

        for fill, message in (
            (outside, "is a link"), (soft, "is a link"), (text, "does not hold numbers"),
            (far, "numbered beyond 100"), (endless, "numbered beyond 100"),
            (square, "is not a blob of a layer"), (bomb, "too large for this file"),
            (raw, "outside the file"), (lambda f: f.create_group("data"), "holds no blobs"),
            (lambda f: None, "no group 'data'"),
        ):  # fmt: skip
            with pytest.raises(WeightsError, match=message):
                read_weights(self.file(tmp_path, fill))

    def test_damage(self, tmp_path: Path) -> None:
        def fill(f: Any) -> None:
            f["data/c/0"] = np.ones((8, 8), np.float32)

        whole = self.file(tmp_path, fill).read_bytes()
        for size in range(8, len(whole), 97):
            try:
                read_weights(whole[:size])
            except WeightsError:
                continue

    def test_without_h5py(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = self.file(tmp_path, lambda f: f.create_group("data"))
        monkeypatch.setitem(__import__("sys").modules, "h5py", None)
        with pytest.raises(UsageError) as caught:
            read_weights(path)
        assert caught.value.diagnostics[0].help == 'pip install "netc[data]"'


def test_errors_are_all_netcs() -> None:
    rng = random.Random(4)
    for start in (b"PK\3\4", b"\x89HDF\r\n\x1a\n", b"\x10" + bytes(7) + b"{"):
        for _ in range(200):
            try:
                read_params(start + rng.randbytes(100), [])
            except NetcError:
                continue
