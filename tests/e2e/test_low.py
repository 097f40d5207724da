"""`--precision low` on processors: files, layers, levels, devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import netc
from netc.cli.rebuild import SAME, compared, rebuild
from netc.codegen.cpu.target import native
from netc.compiler import Options, on_processors
from netc.ir.device import Device
from netc.ir.dims import evaluate
from netc.ir.graph import Graph
from netc.ir.plan import Space
from netc.runtime.artifact import open_artifact

needs_pairs = pytest.mark.skipif(
    not native(pairs=True).pairs, reason="no products of bfloat16 here"
)
TEXT = """\
net n(data: f32[N, 16, 19, 21]) -> y {
  a = data |> conv(40, 1, name="one") |> relu
  b = a |> conv(48, 3, pad=1, name="three") |> relu |> max_pool(2, stride=2)
  c = b |> conv(32, 5, stride=2, pad=2, groups=2, name="five") |> reshape([N, 32, 25])
  d = matmul(c, c, transpose_x=true) |> softmax(axis=-1)
  y = matmul(c, d) |> fc(24, name="last")
}
"""


@pytest.fixture(scope="module")
def graph() -> Graph:
    return netc.parse(TEXT, name="n")


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((5, 16, 19, 21)).astype(np.float32)


def error(found: np.ndarray, graph: Graph, data: np.ndarray) -> float:
    """Of the largest result."""
    want = netc.interpret(graph, {"data": data})["y"]
    return float(np.abs(found - want).max() / np.abs(want).max())


@needs_pairs
def test_results_and_files(graph: Graph, data: np.ndarray, tmp_path: Path) -> None:
    high = netc.compile(graph)
    low = netc.compile(graph, precision="low")
    assert error(high(data=data)["y"], graph, data) < 1e-5
    assert 1e-4 < error(low(data=data)["y"], graph, data) < 3e-2
    assert (high.level, low.level) == (native().name, native(pairs=True).name)
    for name, exe in (("high", high), ("low", low)):
        exe.save(tmp_path / f"{name}.bin")
    read = netc.load(tmp_path / "low.bin")
    np.testing.assert_array_equal(read(data=data)["y"], low(data=data)["y"])
    files = {name: open_artifact(tmp_path / f"{name}.bin") for name in ("high", "low")}
    assert files["low"].notes["precision"] == "low"
    # the filtered convolution reads float32; rounding its weights would gain nothing
    half = len(files["high"].weights) - 40 * 48 * 9 * 4
    assert len(files["low"].weights) - 40 * 48 * 9 * 4 < 0.6 * half


@needs_pairs
def test_a_file_is_compiled_again_from_rounded_weights(
    graph: Graph, data: np.ndarray, tmp_path: Path
) -> None:
    made = netc.compile(graph, precision="low")
    made.save(tmp_path / "low.bin")
    again = netc.load(tmp_path / "low.bin", trust=False)
    np.testing.assert_array_equal(again(data=data)["y"], made(data=data)["y"])


def test_where_nothing_multiplies_bfloat16_low_is_high(graph: Graph, data: np.ndarray) -> None:
    level = native().name
    plain = netc.compile(graph, cpu=[level])(data=data)["y"]
    np.testing.assert_array_equal(
        netc.compile(graph, cpu=[level], precision="low")(data=data)["y"], plain
    )


@needs_pairs
def test_files_with_both_kinds_of_code(graph: Graph, data: np.ndarray, tmp_path: Path) -> None:
    both = netc.compile(graph, cpu=[native().name, "native"], precision="low")
    assert both.level == native(pairs=True).name
    both.save(tmp_path / "both.bin")
    alone = netc.compile(graph, precision="low")
    np.testing.assert_array_equal(both(data=data)["y"], alone(data=data)["y"])
    again = netc.load(tmp_path / "both.bin", trust=False)  # all digits are kept for the other
    np.testing.assert_array_equal(again(data=data)["y"], alone(data=data)["y"])


@needs_pairs
@pytest.mark.parametrize("layer", ["one", "five", "last"])
def test_layers_are_chosen_by_name(layer: str, graph: Graph, data: np.ndarray) -> None:
    exact = netc.compile(graph, precision="exact")(data=data)["y"]
    some = netc.compile(graph, precision="exact", precisions={layer: "low"})(data=data)["y"]
    others = netc.compile(graph, precision="low", precisions={layer: "exact"})(data=data)["y"]
    assert (some != exact).mean() > 0.9
    assert 1e-5 < error(some, graph, data) < 3e-2
    assert 1e-5 < error(others, graph, data) < 3e-2


@needs_pairs
def test_threads_batches_and_devices_change_no_bit(graph: Graph, data: np.ndarray) -> None:
    change_no_bit(graph, data, "low")


def change_no_bit(graph: Graph, data: np.ndarray, precision: str) -> None:
    """Threads, batches and devices change no bit of the results."""
    want = netc.compile(graph, precision=precision)(data=data)["y"]
    for threads in (1, 2, 3):
        exe = netc.compile(graph, precision=precision, threads=threads)
        np.testing.assert_array_equal(exe(data=data)["y"], want)
        alone = [exe(data=data[i : i + 1])["y"] for i in range(len(data))]
        np.testing.assert_array_equal(np.concatenate(alone), want)
    two = ["cpu:0", "cpu:1"]
    for how in ({"replicate": two}, {"split": {"one": two, "last": two}}, {"pipeline": two}):
        exe = netc.compile(graph, precision=precision, **how)  # type: ignore[arg-type]
        np.testing.assert_array_equal(exe(data=data)["y"], want)


def test_a_plan_beside_one_for_gpus_is_as_exact_as_the_most_exact_layer() -> None:
    options = Options(precision="low", targets=("cpu", "cuda"), devices=(Device("cuda"),))
    assert on_processors(options).precision == "low"
    mixed = Options(precision="low", precisions={"fc8": "exact"}, targets=("cpu", "cuda"))
    assert on_processors(mixed).precision == "exact"
    assert on_processors(mixed).precisions == {}


TIED = """\
net t(x: f32[N, 64], z: f32[64, 9], i: f32[5]) -> a, b, c, d {
  w = param(f32[100, 64])
  a = matmul(w, z)
  b = x |> fc(w=w, bias=false, name="out")
  v = param(f32[9, 64])
  c = x |> fc(w=v, bias=false, name="other")
  d = gather(v, i)
}
"""


@needs_pairs
@pytest.mark.parametrize("precision", ["low", "high"])
def test_weights_that_are_read_whole_too_are_kept_whole(precision: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((3, 64)), "z": rng.standard_normal((64, 9)), "i": range(5)}
    feed = {name: np.asarray(x, np.float32) for name, x in feed.items()}
    layers = {"out": "low", "other": "low"}
    made = netc.compile(netc.parse(TIED, name="t"), precision=precision, precisions=layers)
    made.save(tmp_path / "t.bin")
    again = netc.load(tmp_path / "t.bin", trust=False)
    for name, want in made(feed).items():
        np.testing.assert_array_equal(again(feed)[name], want)
    got = made(feed)["d"]
    np.testing.assert_array_equal(got, netc.interpret(netc.parse(TIED, name="t"), feed)["d"])


@needs_pairs
def test_beside_gpu_kernels_all_digits_are_kept(
    graph: Graph, data: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("triton", reason="Triton compiles for GPUs")
    both: dict = {"target": "cpu,cuda", "gpu": "interpret"}
    exe = netc.compile(graph, precision="exact", precisions={"one": "low"}, **both)
    assert [level.name for level in exe.model.levels] == ["cuda", native().name]
    exe = netc.compile(graph, precision="low", **both)
    assert [level.name for level in exe.model.levels] == ["cuda", native(pairs=True).name]
    exe.save(tmp_path / "both.bin")
    file = open_artifact(tmp_path / "both.bin")
    rows = compared(file, rebuild(file, False, lambda done, total: None), "")
    assert {said for _, _, said in rows} == {SAME}


@pytest.mark.parametrize("precision", ["low", "high"])
@pytest.mark.parametrize("text", [
    "net n(x: f32[N,0]) -> y { y = x |> fc(16) }",
    "net n(x: f32[N,0,9,9]) -> y { y = x |> conv(16,3) |> conv(8,1) }",
    "net n(x: f32[N,0,9,9]) -> y { y = x |> conv_transpose(16,4,stride=2) |> relu }",
])  # fmt: skip
def test_empty_weights_come_out_of_a_file(text: str, precision: str, tmp_path: Path) -> None:
    made = netc.compile(netc.parse(text, name="n"), precision=precision)
    made.save(tmp_path / "n.bin")
    x = np.zeros((2, 0, 9, 9)[: len(made.inputs["x"].shape)], np.float32)
    again = netc.load(tmp_path / "n.bin", trust=False)
    np.testing.assert_array_equal(again(x=x)["y"], made(x=x)["y"])


STORED = """\
net s(x: f32[N, 16, 20, 22]) -> a, y {
  a = x |> conv(24, 3, pad=1, name="a") |> relu
  b = a |> conv(16, 3, pad=1, name="b") |> max_pool(2, stride=2, name="pool")
  c = a |> conv(24, 3, stride=2, pad=1, groups=24, name="c")
  y = concat(b, c, axis=1) |> conv(8, 1, name="y") |> global_avg_pool
}
"""


def is_bfloat16(x: np.ndarray) -> bool:
    """Whether all its numbers are."""
    return not (x.view(np.uint32) & 0xFFFF).any()


@needs_pairs
def test_maps_between_low_kernels_are_bfloat16() -> None:
    graph = netc.parse(STORED, name="s")
    x = np.random.default_rng(0).standard_normal((2, 16, 20, 22)).astype(np.float32)
    found = netc.compile(graph, precision="low")(x=x)
    assert is_bfloat16(found["a"])
    assert not is_bfloat16(found["y"])  # what a net gives keeps all digits
    want = netc.interpret(graph, {"x": x})["y"]
    assert 1e-4 < abs(found["y"] - want).max() / abs(want).max() < 2e-2


@needs_pairs
@pytest.mark.parametrize("precision", ["low", "int8"])
def test_what_exact_layers_give_and_read_keeps_all_digits(precision: str) -> None:
    """Also where the passes put kernels in between, and values into one buffer."""
    graph = netc.parse(STORED, name="s")
    x = np.random.default_rng(0).standard_normal((2, 16, 20, 22)).astype(np.float32)
    exact = netc.compile(graph, precision="exact")(x=x)
    all_of = dict.fromkeys(["a", "b", "pool", "c", "y"], "exact")
    found = netc.compile(graph, precision=precision, precisions=all_of)(x=x)
    for name in ("a", "y"):
        np.testing.assert_array_equal(found[name], exact[name])
    for name in ("b", "c"):  # the concat has a part that is exact
        layers = {"a": "exact", name: "exact"}
        found = netc.compile(graph, precision=precision, precisions=layers)(x=x)
        np.testing.assert_array_equal(found["a"], exact["a"])


@needs_pairs
def test_maps_take_half_the_memory() -> None:
    graph = netc.parse("net n(x: f32[N,64,32,32]) -> y { y = x " + "|> conv(64,1) |> relu " * 5
                       + "|> global_avg_pool }", name="n")  # fmt: skip

    buffers = netc.compile(graph, precision="low").model.levels[0].plan.buffers
    sizes = [evaluate(b.size, {"N": 1}) for b in buffers if b.space is Space.ARENA]
    assert max(sizes) == 2 * 64 * 32 * 32


PLACES = """\
net p(x: f32[N, 16, 8, 8]) -> y, z {
  table = param(f32[400, 3])
  c = x |> conv(16, 1, name="c") |> relu
  y = gather(table, reshape(c, [N, 1024]))
  z = c |> max_pool(2, stride=2)
}
"""


@needs_pairs
def test_what_is_looked_up_keeps_its_digits() -> None:
    """256 is a bfloat16, 257 is none."""
    w = np.zeros((16, 16, 1, 1), np.float32)
    w[:, 0] = 1
    table = np.arange(1200, dtype=np.float32).reshape(400, 3)
    given = {"table": table, "c.w": w, "c.b": np.ones(16, np.float32)}
    graph = netc.with_weights(netc.parse(PLACES, name="p"), given)
    found = netc.compile(graph, precision="low")(x=np.full((1, 16, 8, 8), 256, np.float32))["y"]
    assert (found == table[257]).all()


STEM = """\
net s(x: f32[N, 5, H, W]) -> y {
  a = x |> slice(axis=1, start=1, stop=4)
  y = a |> conv(16, 3, pad=[3, 2], name="c") |> relu |> max_pool(2)
}
"""


@needs_pairs
@pytest.mark.parametrize("precision", ["low", "int8"])
@pytest.mark.parametrize("size", [(1, 1), (2, 17), (9, 3), (33, 40)])
def test_row_major_maps_are_rounded_where_they_lie(size: tuple[int, int], precision: str) -> None:
    """No copy is made for the zeros around them, nor of a part of the channels."""
    graph = netc.parse(STEM, name="s")
    made = netc.compile(graph, precision=precision)
    assert "copy" not in {step.op for step in made.model.levels[0].plan.steps}
    x = np.random.default_rng(0).standard_normal((2, 5, *size)).astype(np.float32)
    want = netc.interpret(graph, {"x": x})["y"]
    assert abs(made(x=x)["y"] - want).max() < 0.02 * abs(want).max()
