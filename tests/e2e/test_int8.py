"""`--precision int8` on processors: files, layers, levels, devices."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import netc
from netc.cli import main
from netc.codegen.cpu.target import native, runnable
from netc.codegen.precision import Precision
from netc.compiler import Options, build
from netc.ir.graph import Graph
from netc.runtime.artifact import open_artifact
from netc.runtime.session import executable
from tests.e2e.test_low import TEXT, TIED, change_no_bit, error
from tests.e2e.test_random_graphs import RANDOM
from tests.strategies import feeds, graphs

BEST = native(pairs=True, quads=True)
ALONE = next((t for t in runnable() if t.quads and not t.pairs), BEST)
LEVELS = list({t.name: t.name for t in (ALONE, BEST)})
needs_quads = pytest.mark.skipif(not BEST.quads, reason="no products of bytes here")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return netc.parse(TEXT, name="n")


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((5, 16, 19, 21)).astype(np.float32)


@needs_quads
@pytest.mark.parametrize("level", LEVELS)
def test_results_and_files(level: str, graph: Graph, data: np.ndarray, tmp_path: Path) -> None:
    made = netc.compile(graph, precision="int8", cpu=[level])
    assert made.level == level
    y = made(data=data)["y"]
    assert 1e-3 < error(y, graph, data) < 5e-2
    made.save(tmp_path / "n.bin")
    np.testing.assert_array_equal(netc.load(tmp_path / "n.bin")(data=data)["y"], y)
    file = open_artifact(tmp_path / "n.bin")
    assert file.notes["precision"] == "int8"
    again = netc.load(tmp_path / "n.bin", trust=False)  # from weights of eight bits
    assert again.level == BEST.name
    assert error(again(data=data)["y"], graph, data) < 5e-2
    if level == BEST.name:
        np.testing.assert_array_equal(again(data=data)["y"], y)
    assert CliRunner().invoke(main, ["verify", str(tmp_path / "n.bin")]).exit_code == 0


@needs_quads
def test_weights_take_a_quarter_of_the_room(tmp_path: Path) -> None:
    net = "net f(x: f32[N, 1024]) -> y { y = x |> fc(1024, bias=false) }"
    sizes = {}
    for precision in ("high", "int8"):
        netc.compile(netc.parse(net, name="f"), precision=precision).save(tmp_path / "f.bin")
        sizes[precision] = len(open_artifact(tmp_path / "f.bin").weights)
    assert sizes["int8"] < 0.26 * sizes["high"]


def test_native_is_the_level_that_gains(graph: Graph) -> None:
    assert netc.compile(graph, precision="int8").level == BEST.name
    for precision in ("high", "exact"):
        assert netc.compile(graph, precision=precision).level == native().name


def test_where_nothing_multiplies_bytes_int8_is_high(
    graph: Graph, data: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    level = native().name
    plain = netc.compile(graph, cpu=[level])(data=data)["y"]
    assert not caplog.messages
    got = netc.compile(graph, cpu=[level], precision="int8", precisions={"one": "low"})
    np.testing.assert_array_equal(got(data=data)["y"], plain)
    said = [
        f"{p} is computed as high: {level} has no instructions for less" for p in ("int8", "low")
    ]
    assert caplog.messages == said
    if BEST.pairs:
        caplog.clear()
        netc.compile(graph, precision="int8", precisions={"one": "low"})
        assert not caplog.messages


@needs_quads
def test_files_with_all_kinds_of_code(graph: Graph, data: np.ndarray, tmp_path: Path) -> None:
    names = [native().name, *LEVELS]
    both = netc.compile(graph, cpu=names, precision="int8")
    both.save(tmp_path / "both.bin")
    want = netc.compile(graph, precision="int8")(data=data)["y"]
    np.testing.assert_array_equal(both(data=data)["y"], want)
    again = netc.load(tmp_path / "both.bin", trust=False)  # all digits are kept for the others
    np.testing.assert_array_equal(again(data=data)["y"], want)


@needs_quads
@pytest.mark.parametrize("layer", ["one", "five", "last"])
def test_layers_are_chosen_by_name(layer: str, graph: Graph, data: np.ndarray) -> None:
    exact = netc.compile(graph, precision="exact")(data=data)["y"]
    some = netc.compile(graph, precision="exact", precisions={layer: "int8"})(data=data)["y"]
    others = netc.compile(graph, precision="int8", precisions={layer: "exact"})(data=data)["y"]
    assert (some != exact).mean() > 0.9
    assert 1e-4 < error(some, graph, data) < 5e-2
    assert 1e-4 < error(others, graph, data) < 5e-2


@needs_quads
def test_threads_batches_and_devices_change_no_bit(graph: Graph, data: np.ndarray) -> None:
    data = data * np.float32([1, 100, 1e-3, 7, 0]).reshape(5, 1, 1, 1)  # each with its own range
    change_no_bit(graph, data, "int8")


@needs_quads
def test_shares_of_a_grouped_layer_compute_what_the_whole_does() -> None:
    text = (
        'net g(x: f32[N,16,9,9]) -> y { y = x |> conv(32, 5, groups=2, name="c") |> max_pool(2) }'
    )
    x = np.random.default_rng(0).standard_normal((2, 16, 9, 9)).astype(np.float32)
    x[:, 8:] *= 30
    graph = netc.parse(text, name="g")
    want = netc.compile(graph, precision="int8")(x=x)["y"]
    shared = netc.compile(graph, precision="int8", split={"c": ["cpu:0", "cpu:1"]})
    np.testing.assert_array_equal(shared(x=x)["y"], want)
    exact = netc.interpret(graph, {"x": x})["y"]
    for part in (slice(16), slice(16, 32)):  # each group is counted by its own range
        assert abs(want - exact)[:, part].max() < 0.03 * abs(exact[:, part]).max()


@needs_quads
@pytest.mark.parametrize("odd", [np.nan, np.inf, 3.4028235e38])
def test_a_file_with_odd_weights_is_as_it_would_be_made_again(odd: float, tmp_path: Path) -> None:
    w = np.random.default_rng(0).uniform(-1e10, 1e10, (24, 64)).astype(np.float32)
    w[3, 5] = odd
    graph = netc.parse('net f(x: f32[N, 64]) -> y { y = x |> fc(24, name="c") }', name="f")
    given = {"c.w": w, "c.b": np.zeros(24, np.float32)}
    netc.compile(netc.with_weights(graph, given), precision="int8").save(tmp_path / "f.bin")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert CliRunner().invoke(main, ["verify", str(tmp_path / "f.bin")]).exit_code == 0


@needs_quads
@pytest.mark.parametrize("layers", [{"out": "int8"}, {"out": "int8", "other": "low"}])
def test_weights_that_are_read_in_other_ways_too_are_kept_whole(
    layers: dict[str, str], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((3, 64)), "z": rng.standard_normal((64, 9)), "i": range(5)}
    feed = {name: np.asarray(x, np.float32) for name, x in feed.items()}
    made = netc.compile(netc.parse(TIED, name="t"), precision="low", precisions=layers)
    made.save(tmp_path / "t.bin")
    again = netc.load(tmp_path / "t.bin", trust=False)
    for name, want in made(feed).items():
        np.testing.assert_array_equal(again(feed)[name], want)


SHARED = """\
net s(x: f32[N, 64], z: f32[N, 64]) -> a, b {
  w = param(f32[100, 64])
  a = x |> fc(w=w, bias=false, name="bytes")
  b = z |> fc(w=w, bias=false, name="pairs")
}
"""


@needs_quads
def test_weights_rounded_in_two_ways_are_kept_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    feed = {name: rng.standard_normal((3, 64)).astype(np.float32) for name in "xz"}
    layers = {"bytes": "int8", "pairs": "low"}
    made = netc.compile(netc.parse(SHARED, name="s"), precisions=layers)
    made.save(tmp_path / "s.bin")
    again = netc.load(tmp_path / "s.bin", trust=False)
    for name, want in made(feed).items():
        np.testing.assert_array_equal(again(feed)[name], want)


def test_on_gpus_it_is_low() -> None:
    assert [p.on_gpus for p in Precision if p.on_gpus is not p] == [Precision.LOW]
    pytest.importorskip("triton", reason="Triton compiles for GPUs")
    net = "net g(x: f32[3, 64]) -> y { y = x |> fc(32) |> relu |> fc(16) }"
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    run = {
        p: netc.compile(netc.parse(net, name="g"), target="cuda", gpu="interpret", precision=p)
        for p in ("low", "int8")
    }
    np.testing.assert_array_equal(run["int8"](x=x)["y"], run["low"](x=x)["y"])


@needs_quads
@pytest.mark.parametrize("level", LEVELS)
def test_random_graphs(level: str) -> None:
    """Threads change no bit, and no kernel reads memory that nothing wrote."""

    @settings(RANDOM, max_examples=40)
    @given(graph=graphs(), seed=st.integers(0, 99))
    def agrees(graph: Graph, seed: int) -> None:
        feed = feeds(graph, seed, None)
        made = build(graph, Options(cpu=(level,), precision="int8"))
        want = executable(made, 1)(feed)
        for threads in (2, 3):
            exe = executable(made, threads)
            exe.poison()
            for name, y in exe(feed).items():
                np.testing.assert_array_equal(y, want[name])

    agrees()


@pytest.mark.parametrize("text", [
    "net n(x: f32[N,0]) -> y { y = x |> fc(16) }",
    "net n(x: f32[N,0,9,9]) -> y { y = x |> conv(16,3) |> conv(8,1) }",
])  # fmt: skip
def test_empty_values(text: str, tmp_path: Path) -> None:
    made = netc.compile(netc.parse(text, name="n"), precision="int8")
    made.save(tmp_path / "n.bin")
    sizes = [d if isinstance(d, int) else 2 for d in made.inputs["x"].shape]
    x = np.zeros(sizes, np.float32)
    again = netc.load(tmp_path / "n.bin", trust=False)
    np.testing.assert_array_equal(again(x=x)["y"], made(x=x)["y"])
