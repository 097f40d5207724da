"""Real nets with real weights, from their Caffe files to answers."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

import netc
from tests.conftest import shared_or_none

ROOT = shared_or_none()
pytestmark = pytest.mark.skipif(ROOT is None, reason="the shared folder with real nets is not here")
MODELS = (ROOT or Path()) / "models"


def check(exe: netc.Executable, golden: Path, tolerance: float = 1e-4) -> None:
    """Every output of the golden, within a tolerance relative to its largest value."""
    blobs = np.load(golden)
    out = exe({k[3:]: blobs[k] for k in blobs if k.startswith("in|")})
    for k in blobs:
        if k.startswith("out|"):
            got, want = out[k[4:]], blobs[k]
            assert got.shape == want.shape
            bound = tolerance * max(1.0, float(np.abs(want).max()))
            assert float(np.abs(got - want).max()) <= bound, k


def compiled(
    folder: str, stem: str, tmp_path: Path, precision: str = "high", **options: object
) -> netc.Executable:
    """A model of the folder, compiled, saved and loaded."""
    base = MODELS / folder / stem
    graph = netc.from_caffe(
        base.with_suffix(".prototxt"), base.with_suffix(".caffemodel"), **options
    )
    netc.compile(graph, precision=precision).save(tmp_path / "model.bin")
    return netc.load(tmp_path / "model.bin")


@pytest.mark.parametrize(("precision", "near"), [("high", 1e-4), ("low", 5e-2), ("int8", 5e-2)])
def test_lenet_accuracy(precision: str, near: float, tmp_path: Path) -> None:
    exe = compiled("lenet", "lenet", tmp_path, precision)
    check(exe, MODELS / "lenet/golden.npz", near)
    raw = gzip.decompress((MODELS / "lenet/t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((MODELS / "lenet/t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    images = np.frombuffer(raw, np.uint8).reshape(-1, 1, 28, 28).astype(np.float32) * 0.00390625
    right = 0
    for start in range(0, 10_000, 500):
        prob = next(iter(exe(data=images[start : start + 500]).values()))
        want = np.frombuffer(labels[start : start + 500], np.uint8)
        right += int((prob.reshape(500, -1).argmax(1) == want).sum())
    assert abs(right / 100 - 99.14) <= (0.01 if precision == "high" else 0.05)


@pytest.mark.parametrize("net", ["det1", "det2", "det3"])
def test_mtcnn(net: str, tmp_path: Path) -> None:
    exe = compiled("mtcnn", net, tmp_path)
    check(exe, MODELS / f"mtcnn/{net}_golden.npz")


def test_det1_takes_any_image_size(tmp_path: Path) -> None:
    exe = compiled("mtcnn", "det1", tmp_path)
    graph = netc.from_caffe(MODELS / "mtcnn/det1.prototxt", MODELS / "mtcnn/det1.caffemodel")
    rng = np.random.default_rng(0)
    for size in ((2, 3, 40, 52), (1, 3, 12, 12), (1, 3, 97, 31)):
        x = rng.standard_normal(size).astype(np.float32)
        want = netc.interpret(graph, {"data": x})
        for name, got in exe(data=x).items():
            np.testing.assert_allclose(got, want[name], atol=1e-5 * np.abs(want[name]).max())


@pytest.mark.parametrize(("precision", "near"), [("high", 1e-3), ("low", 5e-2), ("int8", 0.2)])
def test_rfb320(precision: str, near: float, tmp_path: Path) -> None:
    check(compiled("rfb320", "rfb", tmp_path, precision), MODELS / "rfb320/golden.npz", near)


def test_vdsr(tmp_path: Path) -> None:
    check(compiled("vdsr", "vdsr", tmp_path), MODELS / "vdsr/golden.npz")
