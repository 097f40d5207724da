"""3×3 convolutions by Winograd's filtering, against the reference and the usual kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import netc
from netc.cli.rebuild import SAME, compared, rebuild
from netc.codegen.cpu.anchors import winograd
from netc.codegen.cpu.target import native
from netc.codegen.rounding import rounded
from netc.ir.device import Device
from netc.ir.graph import Graph
from netc.ir.machine import DeviceSpec, Machine
from netc.ir.op import REGISTRY, Array
from netc.runtime.artifact import read_artifact
from netc.runtime.session import Executable
from tests.codegen.cpu.harness import LEVELS_HERE

ROUNDING = 8 * 2.0**-24  # of the sum of magnitudes, as for other sums
OF_PAIRS = 1.01 * 2.0**-8  # in LOW: two operands are rounded to the nearest of eight bits
PAIRED = native(pairs=True)
needs_pairs = pytest.mark.skipif(not PAIRED.pairs, reason="no products of bfloat16 here")


def net(text: str, seed: int = 0) -> Graph:
    """A net with weights drawn at random."""
    graph = netc.parse(f"net n{text}", warn=lambda *_: None)
    rng = np.random.default_rng(seed)
    weights = {
        p.name: rng.standard_normal(p.types[0].sizes({})).astype(np.float32) for p in graph.params
    }
    return replace(graph, weights=weights)


def conv(channels: int, outs: int, size: str, groups: int = 1, tail: str = "") -> Graph:
    """One convolution between other kernels, so that it reads and gives channel blocks."""
    make = f'relu |> conv({outs}, 3, pad=1, groups={groups}, name="c")'
    return net(f"(x: f32[N,{channels},{size}]) -> y {{ y = x |> {make} {tail} }}")


def steps(exe: Executable) -> int:
    """Of the convolution."""
    return sum("tile" in step.op or step.op.startswith("conv") for step in exe.plan.steps)


NEAR, FAR = winograd.NEAR, winograd.FAR
POINTS = np.array([0, NEAR, -NEAR, FAR, -FAR])


def powers(count: int) -> Array:
    """Aᵀ without its last column: powers of the points."""
    return np.array([POINTS**n for n in range(count)])


def bound(graph: Graph, x: Array, rounding: float = ROUNDING) -> Array:
    """How far off each output may be: rounding of |Aᵀ|[(|G||g||Gᵀ|) ⊙ (|Bᵀ||d||B|)]|A| + |b|.

    Rows of Bᵀ are Π(x − points) over x − point; those of G powers over Π of the differences.
    """
    whole = np.poly(POINTS)[::-1]
    b = np.zeros((6, 6))
    for i, point in enumerate(POINTS):
        b[i, :5] = np.polydiv(whole[::-1], [1, -point])[0][::-1]
    b[5] = whole
    scale = [np.prod([p - q for q in POINTS if q != p]) for p in POINTS]
    g = np.vstack([powers(3).T / np.array(scale)[:, None], [0, 0, 1]])
    a = np.hstack([powers(4), [[0], [0], [0], [1]]])
    w, (n, _, height, width) = np.abs(graph.weights["c.w"]), x.shape
    down, across = -(-height // 4), -(-width // 4)
    padded = np.pad(
        np.abs(x), ((0, 0), (0, 0), (1, 4 * down + 1 - height), (1, 4 * across + 1 - width))
    )
    d = np.lib.stride_tricks.sliding_window_view(padded, (6, 6), (2, 3))[:, :, ::4, ::4]
    groups = x.shape[1] // w.shape[1]
    v = (abs(b) @ d @ abs(b).T).reshape(n, groups, w.shape[1], down, across, 6, 6)
    u = (abs(g) @ w @ abs(g).T).reshape(groups, -1, w.shape[1], 6, 6)
    m = np.einsum("ngcyxij,gocij->ngoyxij", v, u).reshape(n, len(w), down, across, 6, 6)
    y = (abs(a) @ m @ abs(a).T).transpose(0, 1, 2, 4, 3, 5)
    y = y.reshape(n, len(w), 4 * down, 4 * across)[:, :, :height, :width]
    return np.asarray(rounding * (y + np.abs(graph.weights["c.b"])[:, None, None]))


def check(graph: Graph, x: Array, **options: Any) -> Executable:
    """Compile, run, and compare with the reference."""
    exe = netc.compile(graph, **options)
    (got,) = exe(x=x).values()
    (want,) = netc.interpret(graph, {"x": x}).values()
    assert got.shape == want.shape
    rounding = OF_PAIRS if options.get("precision") == "low" else ROUNDING
    assert (np.abs(got - want) <= bound(graph, np.maximum(x, 0.0), rounding)).all()
    return exe


def drawn(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize(
    ("channels", "outs", "height", "width", "groups"),
    [(16, 5, 12, 12, 1), (24, 44, 13, 18, 1), (64, 32, 16, 9, 2), (128, 64, 15, 12, 4)],
)
def test_one_layer(
    channels: int, outs: int, height: int, width: int, groups: int, level: str
) -> None:
    graph = conv(channels, outs, f"{height},{width}", groups)
    exe = check(graph, drawn(2, channels, height, width), cpu=level)
    assert steps(exe) == 3


@needs_pairs
@pytest.mark.parametrize("limit", [1 << 24, 1 << 14])
@pytest.mark.parametrize(
    ("channels", "outs", "height", "width", "groups"),
    [(16, 5, 12, 12, 1), (24, 44, 13, 18, 1), (64, 32, 16, 9, 2)],
)
def test_of_pairs(
    channels: int, outs: int, height: int, width: int, groups: int, limit: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(winograd, "MOST_SCRATCH", limit)
    graph, x = conv(channels, outs, f"{height},{width}", groups), drawn(2, channels, height, width)
    exe = check(graph, x, precision="low")
    assert (steps(exe) == 3) == (limit == 1 << 24)
    (low,) = exe(x=x).values()
    (high,) = check(graph, x)(x=x).values()
    assert (low != high).mean() > 0.9
    for threads in (1, 3):
        other = netc.compile(graph, precision="low", threads=threads)
        np.testing.assert_array_equal(*other(x=x).values(), low)


@needs_pairs
def test_planes_of_pairs() -> None:
    graph = conv(24, 44, "14,14")
    high, low = (netc.compile(graph, precision=p) for p in ("high", "low"))
    for exe in (high, low):
        exe.start()
    floats = high.image.made.view(np.float32).reshape(36, 3, -1, 2, 16)
    pairs = low.image.made.view(np.uint16).reshape(36, 3, -1, 16, 2).swapaxes(3, 4)
    np.testing.assert_array_equal(pairs, rounded(floats, "bf16"))


def test_large_images_are_cut_into_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "MOST_SCRATCH", 1 << 16)
    for height in (13, 16, 22):
        graph = conv(16, 24, f"{height},14")
        assert steps(check(graph, drawn(3, 16, height, 14))) in (6, 9)


def test_sizes_left_open_have_the_bands_of_usual_ones() -> None:
    fixed = steps(netc.compile(conv(64, 64, "224,224")))
    for size in ("H,W", "16*H,16*W", "H+100,2*W"):
        assert steps(netc.compile(conv(64, 64, size))) == fixed
    large = replace(conv(64, 64, "16*H,16*W"), usual={"H": 40, "W": 40})
    assert steps(netc.compile(large)) >= steps(netc.compile(conv(64, 64, "640,640"))) > fixed


def test_images_of_enormous_sizes_have_few_bands() -> None:
    for size in ("100000000*H,4", "W,100000000*H"):
        assert steps(netc.compile(conv(16, 16, size))) <= 3 * winograd.MOST_BANDS


@pytest.mark.parametrize("limit", [1 << 24, 1 << 18])
def test_images_of_any_size(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Also those smaller than a tile, and those with fewer rows than there are bands."""
    monkeypatch.setattr(winograd, "MOST_SCRATCH", limit)
    graph = conv(16, 16, "H,W")
    exe = netc.compile(graph)
    for n, height, width in ((2, 30, 17), (1, 1, 1), (0, 14, 14), (1, 4, 5), (1, 3, 70)):
        x = drawn(n, 16, height, width)
        (got,) = exe(x=x).values()
        (want,) = netc.interpret(graph, {"x": x}).values()
        assert (np.abs(got - want) <= bound(graph, np.maximum(x, 0.0))).all()


@pytest.mark.parametrize(
    "tail",
    [
        "|> relu",
        "|> add(x)",
        "|> sigmoid |> mul(x) |> max_pool(2, stride=2)",
        '|> scale(name="s") |> add(x) |> relu |> conv(16, 1)',
    ],
)
def test_what_follows_is_done_on_the_way(tail: str) -> None:
    text = f'y = x |> conv(16, 3, pad=1, name="c") {tail}'
    graph = net(f"(data: f32[N,16,15,14]) -> y {{ x = data |> relu\n {text} }}")
    x = drawn(2, 16, 15, 14)
    (got,) = netc.compile(graph)(data=x).values()
    (want,) = netc.interpret(graph, {"data": x}).values()
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize(("channels", "outs", "groups"), [(16, 5, 1), (24, 44, 1), (64, 32, 2)])
def test_planes_are_made_at_load_from_the_weights(
    channels: int, outs: int, groups: int, level: str
) -> None:
    graph = conv(channels, outs, "14,14", groups)
    exe = netc.compile(graph, cpu=level)
    exe.start()
    w = graph.weights["c.w"]
    apart = np.array([[p - q for q in POINTS if q != p] for p in POINTS])
    g = np.vstack([powers(3).T / apart.prod(1)[:, None], [0, 0, 1]])
    want = (g @ w.astype(np.float64) @ g.T).reshape(groups, outs // groups, -1, 36)
    want = want.transpose(3, 0, 2, 1).astype(np.float32)  # planes, groups, channels, outputs
    panels = -(-outs // groups // 16)
    made = exe.image.made.view(np.float32).reshape(36, groups, panels, -1, 16)
    made = made.transpose(0, 1, 3, 2, 4).reshape(36, groups, want.shape[2], -1)
    np.testing.assert_allclose(made[..., : outs // groups], want, rtol=2.0**-23, atol=1e-12)
    assert not made[..., outs // groups :].any()
    assert len(exe.model.weights) < w.nbytes * -(-outs // 16) * 16 / outs * 1.5 + 4096


def test_layers_of_equal_weights_share_their_planes() -> None:
    text = """(x: f32[N,16,12,12]) -> y {
      a = relu(x) |> conv(16, 3, pad=1, name="c") |> relu
      y = a |> conv(16, 3, pad=1, w=c.w, bias=false, name="d")
    }"""
    exe = netc.compile(net(text))
    assert exe.plan.setup is not None
    assert len(exe.plan.setup.steps) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_shows_and_stays_within_its_tiles(value: float) -> None:
    graph, x = conv(16, 16, "16,16"), drawn(1, 16, 16, 16)
    (clean,) = netc.compile(graph)(x=x).values()
    x[0, 3, 5, 9] = value  # seen by the tile of rows 4 to 7, columns 8 to 11, alone
    (got,) = netc.compile(graph)(x=x).values()
    inside = np.zeros((16, 16), bool)
    inside[4:8, 8:12] = True
    assert not np.isfinite(got[..., inside]).any()
    np.testing.assert_array_equal(got[..., ~inside], clean[..., ~inside])


MODULE = """net module(data: f32[N,16,14,15]) -> y {
  x = data |> relu
  a = x |> conv(16, 3, pad=1, name="a") |> relu |> conv(24, 3, pad=1, name="b")
  both = concat(x |> conv(16, 1, name="c"), a, x |> conv(24, 3, pad=1, name="d"), axis=1)
  y = relu(both |> conv(64, 3, pad=1, groups=2, name="e")) + both
}"""


def test_results_go_where_a_concat_wants_them() -> None:
    graph, x = netc.parse(MODULE, warn=lambda *_: None), drawn(2, 16, 14, 15)
    (want,) = netc.interpret(graph, {"data": x}).values()
    for optimize in (True, False):
        exe = netc.compile(graph, optimize=optimize)
        exe.poison()
        for _ in range(2):
            (got,) = exe(data=x).values()
            np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    "how", [{"replicate": "cpu:0,cpu:1"}, {"split": dict.fromkeys("abe", "cpu:0,cpu:1")},
            {"pipeline": "cpu:0,cpu:1", "micro_batches": 2}],
)  # fmt: skip
def test_parts_on_several_devices_compute_the_same_bits(how: dict[str, Any]) -> None:
    graph = netc.parse(MODULE.replace("N,", "4,"), warn=lambda *_: None)
    x = drawn(4, 16, 14, 15)
    (one,), (parts,) = (netc.compile(graph, **o)(data=x).values() for o in ({}, how))
    np.testing.assert_array_equal(one, parts)


def test_placement_knows_how_much_is_left_to_do() -> None:
    graph = conv(64, 64, "56,56")
    node = next(n for n in graph.nodes if n.op.name == "conv")
    cpu, gpu = (DeviceSpec(1 << 40, 1e9, 1e15, 0.0) for _ in range(2))
    machine = Machine("m", {Device("cpu", 0): cpu, Device("cuda", 0): gpu})
    ours, theirs = (machine.seconds(node, d, {"N": 1}) for d in machine.devices)
    assert 3.2 < theirs / ours < 4


def test_any_number_of_threads_gives_the_same_bits() -> None:
    graph, x = conv(32, 48, "20,15"), drawn(3, 32, 20, 15)
    one, *others = (netc.compile(graph, threads=t)(x=x) for t in (1, 2, 3))
    for other in others:
        for name, y in one.items():
            np.testing.assert_array_equal(other[name], y)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.0, 2.0, 5.0]),
    shape=st.tuples(st.sampled_from([16, 32, 72]), st.integers(12, 17), st.integers(12, 21)),
)
def test_rounding_is_that_of_sums(seed: int, spread: float, shape: tuple[int, int, int]) -> None:
    """Also where values are of very different size."""
    channels, height, width = shape
    x = drawn(1, *shape, seed=seed)
    x *= np.exp(spread * drawn(1, *shape, seed=seed + 1))
    check(conv(channels, 16, f"{height},{width}"), x)


def test_who_asks_for_exact_results_gets_the_usual_kernel() -> None:
    graph, x = conv(16, 16, "16,16"), drawn(1, 16, 16, 16)
    assert steps(netc.compile(graph, precision="exact")) == 1
    assert steps(netc.compile(graph, precisions={"c": "exact"})) == 1
    assert steps(netc.compile(graph, precisions={"c": "high"}, precision="exact")) == 3
    exact = netc.compile(graph, precision="exact")(x=x)
    (want,) = netc.interpret(graph, {"x": x}).values()
    (got,) = exact.values()
    w = np.abs(graph.weights["c.w"])
    sums = REGISTRY["conv"](pad=(1, 1)).reference(np.maximum(x, 0), w, np.abs(graph.weights["c.b"]))
    assert (np.abs(got - want) <= ROUNDING * sums).all()


@pytest.mark.parametrize(
    "text",
    [
        "(x: f32[N,16,16,16]) -> y { y = x |> relu |> conv(16, 3, pad=1, stride=2) }",
        "(x: f32[N,16,16,16]) -> y { y = x |> relu |> conv(16, 3) }",
        "(x: f32[N,16,16,16]) -> y { y = x |> relu |> conv(16, 3, pad=2, dilation=2) }",
        "(x: f32[N,16,16,16]) -> y { y = x |> relu |> conv(16, 5, pad=1) }",
        "(x: f32[N,16,8,8]) -> y { y = x |> relu |> conv(16, 3, pad=1) }",
        "(x: f32[N,12,16,16]) -> y { y = x |> relu |> conv(16, 3, pad=1) }",
        "(x: f32[N,64,16,16]) -> y { y = x |> relu |> conv(24, 3, pad=1, groups=2) }",
        "(x: f32[N,16,16,16]) -> y { y = x |> relu |> conv(16, 3, pad=1, groups=16) }",
    ],
)
def test_other_convolutions_stay_as_they_are(text: str) -> None:
    assert steps(netc.compile(net(text))) == 1


def test_a_saved_file_is_compiled_again_as_it_was(tmp_path: Path) -> None:
    graph, path = conv(16, 16, "16,16"), tmp_path / "n.bin"
    for precision in ("exact", "high"):
        netc.compile(graph, precision=precision).save(path)
        file = read_artifact(memoryview(path.read_bytes()), "n")
        rows = compared(file, rebuild(file, False, lambda done, total: None), "")
        assert {said for _, _, said in rows} == {SAME}
