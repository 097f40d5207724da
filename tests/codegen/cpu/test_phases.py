"""Transposed convolutions in phases: every window, into blocks, beside other channels and halos."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from gemm_harness import nearest

import netc
from netc.codegen.cpu.anchors import lower
from netc.codegen.cpu.emit import Module
from netc.codegen.cpu.gemm import GemmFamily
from netc.codegen.cpu.lowering import Lowering
from netc.codegen.cpu.packing import IN_PAIRS
from netc.codegen.cpu.target import LEVELS, native
from netc.codegen.packing import pack, packed_count, unpack
from netc.codegen.phases import axes_of, why_whole
from netc.codegen.precision import Precision
from netc.errors import ArtifactError
from netc.ir.graph import Builder, Graph
from netc.ir.ops.convolution import ConvTranspose
from netc.ir.types import Layout, TensorType, f32
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, close, expected

PAIRED = native(pairs=True)
KERNELS = [(k, k) for k in range(1, 6)] + [(1, 4), (5, 2)]
STRIDES = [(1, 1), (2, 2), (3, 3), (2, 1), (1, 3)]
PADS = [(0, 0), (1, 1), (2, 0)]
EIGHT = f32[8, 8, 3, 3]
TWICE = {"stride": (2, 2)}
OTHERS = {
    "groups": (f32[2, 16, 4, 5], f32[16, 8, 3, 3], {"groups": 2, "pad": (1, 1)} | TWICE),
    "dilation": (f32[1, 9, 4, 5], f32[9, 7, 3, 3], {"dilation": (2, 3), "stride": (3, 2)}),
    "like dilation": (f32[1, 9, 4, 5], f32[9, 7, 3, 2], {"dilation": (2, 2), "stride": (4, 2)}),
    "one input": (f32[3, 20, 1, 1], f32[20, 24, 4, 4], {}),
    "one row": (f32[1, 8, 1, 5], f32[8, 8, 3, 4], {"pad": (1, 1)} | TWICE),
    "one pixel left": (f32[1, 8, 2, 2], EIGHT, {"pad": (2, 2)} | {"stride": (2, 3)}),
    "much padding": (f32[1, 8, 6, 7], f32[8, 8, 2, 2], {"pad": (3, 4)} | TWICE),
    "no images": (f32[0, 8, 3, 3], EIGHT, TWICE),
    "no channels": (f32[1, 0, 3, 3], f32[0, 8, 2, 2], TWICE),
    "deep": (f32[1, 600, 3, 3], f32[600, 40, 2, 2], TWICE),
    "alone, large": (f32[2, 16, 7, 9], f32[16, 1, 13, 12], {"groups": 16, "pad": (1, 0)} | TWICE),
    "alone, apart": (f32[1, 9, 4, 40], f32[9, 1, 3, 3], {"dilation": (2, 3), "groups": 9} | TWICE),
    "many phases": (f32[1, 8, 3, 2], f32[8, 8, 9, 9], {"stride": (8, 8), "pad": (1, 0)}),
}
WINDOWS = [
    (k, s, p)
    for k, s, p in itertools.product(KERNELS, STRIDES, PADS)
    if all(b * (n - 1) + a > 2 * c for n, a, b, c in zip((4, 5), k, s, p, strict=True))
]
CASES = {
    f"{k} {s} {p}": (f32[2, 9, 4, 5], f32[9, 17, *k], {"stride": s, "pad": p})
    for k, s, p in WINDOWS
}
ALONE = {
    f"alone, {k} {s} {p}": (f32[2, 9, 4, 5], f32[9, 1, *k], {"stride": s, "pad": p, "groups": 9})
    for k, s, p in WINDOWS[::4]
}
CASES |= ALONE | OTHERS


def body_and_halo(x: TensorType, w: TensorType, attributes: dict) -> tuple[Graph, tuple[int, int]]:
    """relu(conv_transpose · slope + residual) in blocks, and the zeros it wants around x."""
    b = Builder()
    op = ConvTranspose(**attributes)
    outputs = w.shape[1] * op.groups
    xs = [b.input(n, t) for n, t in (("x", x), ("w", w), ("b", f32[outputs]))]
    y = b(op, *xs).out
    down, across = (a.halo for a in axes_of(y.node))
    if y.type.layout is Layout.PLAIN:
        y = b.to_blocked(y)
    y = b.mul(y, b.input("s", f32[outputs, 1, 1]))
    y = b.relu(b.add(y, b.input("r", y.type)))
    return b.graph("g", {"out": y}), (down, across)


def run(
    level: str,
    x: TensorType,
    w: TensorType,
    attributes: dict,
    known: dict | None = None,
    precision: Precision = Precision.HIGH,
) -> None:
    """One kernel into a part of a buffer with a halo, for one thread and several."""
    body, halo = body_and_halo(x, w, attributes)
    rng = np.random.default_rng(0)
    shapes = {n.name: n.types[0].sizes(known or {}) for n in body.inputs}
    feed = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    where = {name: Where(param=True) for name in "wbs"}
    where |= {"x": Where(halo), "r": Where((1, 0)), "out": Where((1, 2), spread=2)}
    (got,) = Bench(body, feed, where, known).run(level, (1, 2, 3), precision)
    if precision is Precision.LOW:
        feed |= {name: nearest(feed[name]) for name in "xw"}
    magnitude = expected(body, {k: np.abs(v) for k, v in feed.items()})[0]
    close(got, expected(body, feed)[0], 0, 8 * 2.0**-24 * magnitude + 1e-30)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("name", CASES)
def test_agrees(name: str, level: str) -> None:
    x, w, attributes = CASES[name]
    run(level, x.blocked(), w, attributes)


@pytest.mark.skipif(not PAIRED.pairs, reason="no products of bfloat16 here")
@pytest.mark.parametrize("shape", [
    ((2, 16, 4, 5), (16, 17, 4, 4)), ((1, 20, 5, 4), (20, 9, 3, 2)), ((2, 64, 4, 5), (64, 8, 2, 2)),
    ((1, 600, 3, 3), (600, 40, 2, 2)),
])  # fmt: skip
@pytest.mark.parametrize("attributes", [TWICE, {"stride": (3, 2), "pad": (1, 1)}, {"groups": 2}])
def test_of_pairs(shape: tuple, attributes: dict) -> None:
    x, w = shape
    if "groups" in attributes:  # whole blocks of channels in each
        x, w = (x[0], 32, *x[2:]), (32, 16, *w[2:])
    run(PAIRED.name, f32[x].blocked(), f32[w], attributes, precision=Precision.LOW)
    if "groups" not in attributes:
        known = {"N": x[0], "H": x[2]}
        wide = f32["N", x[1], "H", x[3]].blocked()
        run(PAIRED.name, wide, f32[w], attributes, known, precision=Precision.LOW)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("channels", [1, 3])
def test_few_channels_are_read_as_they_are(channels: int, level: str) -> None:
    attributes = {"stride": (2, 2), "pad": (1, 1)}
    run(level, f32[2, channels, 5, 4], f32[channels, 10, 4, 3], attributes)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 6, 3), (2, 1, 9)])
@pytest.mark.parametrize(
    ("kernel", "more"),
    [
        ((20, 4, 4), {"stride": (2, 2), "pad": (1, 1)}),
        ((20, 2, 1), {"stride": (3, 2)}),
        ((20, 3, 3), {}),
        ((1, 4, 4), {"stride": (2, 2), "pad": (1, 1), "groups": 12}),
    ],
)
def test_symbolic(kernel: tuple, more: dict, sizes: tuple, level: str) -> None:
    known = dict(zip("NHW", sizes, strict=True))
    run(level, f32["N", 12, "H", "W"].blocked(), f32[12, *kernel], more, known)


@pytest.mark.parametrize("name", CASES)
def test_phases_make_every_output_of_the_right_inputs(name: str) -> None:
    """Each output once, by exactly the inputs and taps that the definition names."""
    x, w, attributes = CASES[name]
    body, _ = body_and_halo(x, w, attributes)
    node = next(n for n in body.nodes if isinstance(n.op, ConvTranspose))
    for axis in axes_of(node):
        found = {
            (p.first + y * p.step, p.start + y - t * p.back, p.residue + t * p.every)
            for p in axis.phases()
            for y in range(p.count)
            for t in range(p.taps)
        }
        outputs = sorted(p.first + y * p.step for p in axis.phases() for y in range(p.count))
        assert outputs == list(range(axis.result))
        reach = range(-axis.halo, axis.size + axis.halo)
        assert all(i in reach for _, i, _ in found)
        assert {f for f in found if 0 <= f[1] < axis.size} == {
            (o, i, k)
            for i in range(axis.size)
            for k in range(axis.kernel)
            if 0 <= (o := i * axis.stride + k * axis.dilation - axis.pad) < axis.result
        }


@pytest.mark.parametrize("shape", [(16, 3, 4, 5), (6, 17, 1, 2), (20, 16, 3, 3)])
def test_weights_come_back(shape: tuple[int, ...]) -> None:
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for groups, every in itertools.product((1, 2), ((1, 1), (2, 2), (3, 2), (5, 7))):
        for kind, want in (((), w), ((IN_PAIRS,), nearest(w))):
            how = (*kind, "phases", groups, *every)
            packed = np.full(packed_count(how, shape), np.nan, np.float32)
            pack(w, how, packed)
            assert np.isfinite(packed).all()
            np.testing.assert_array_equal(unpack(packed, how, shape), want)


@pytest.mark.parametrize("how", [("phases", 0, 2, 2), ("phases", 3, 2, 2), ("conv", 3)])
def test_weights_that_cannot_have_been_packed_so(how: tuple) -> None:
    packed = np.zeros(packed_count(how, (16, 8, 3, 3)), np.float32)
    with pytest.raises(ArtifactError, match="packed in an unknown way"):
        unpack(packed, how, (16, 8, 3, 3))


@pytest.mark.parametrize(
    ("w", "attributes", "why"),
    [
        (f32[8, 8, 3, 3], {"stride": (33, 32)}, "1056 convolutions"),
        (f32[8, 2, 3, 3], {"groups": 4}, "2 to 2 channels a group"),
        (f32[8, 1, 3, 3], {"groups": 8}, None),
        (f32[8, 8, 3, 3], {"stride": (32, 32)}, None),
    ],
)
def test_what_stays_whole(w: TensorType, attributes: dict, why: str | None) -> None:
    b = Builder()
    node = b(ConvTranspose(**attributes), b.input("x", f32[1, 8, 4, 4]), b.input("w", w))
    assert (why_whole(node) is None) if why is None else (why in str(why_whole(node)))


@pytest.mark.parametrize(
    ("window", "attributes", "calls"),
    [
        ((2, 2), TWICE, 2),
        ((4, 4), {"pad": (1, 1)} | TWICE, 2),
        ((3, 3), {"pad": (1, 1)} | TWICE, 4),
        ((9, 9), {"stride": (3, 3), "pad": (3, 3)}, 3),
        ((9, 9), {"stride": (3, 3), "pad": (4, 4)}, 9),
        ((64, 64), {"stride": (32, 32)}, 32),
    ],
)
def test_phases_of_a_row_are_groups(window: tuple, attributes: dict, calls: int) -> None:
    """Where they have as many taps and outputs, one call does them all."""
    body, halo = body_and_halo(f32[1, 8, 4, 5].blocked(), f32[8, 9, *window], attributes)
    feed = {n.name: np.zeros(n.types[0].sizes({}), np.float32) for n in body.inputs}
    where = {name: Where(param=True) for name in "wbs"} | {"x": Where(halo)}
    module = Module(LEVELS["aarch64"])
    ctx = Lowering(module.target, module, GemmFamily(module))
    assert len(lower(ctx, Bench(body, feed, where).kernel)) == calls


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "groups"),
    [(3, 16, 3, 1), (5, 7, 3, 1), (19, 20, 3, 1), (12, 24, 3, 2), (6, 9, 2, 3), (33, 18, 5, 1)],
)
def test_one_order_of_sums(channels: int, outputs: int, kernel: int, groups: int) -> None:
    """By the matrix kernel, from planes or blocks, and by the direct one: the same bits."""
    rng = np.random.default_rng(channels)
    x, w, b = (
        rng.standard_normal(s).astype(np.float32)
        for s in ((2, channels, 9, 9), (outputs, channels // groups, kernel, kernel), (outputs,))
    )

    def results(first: bool, optimize: bool) -> np.ndarray:
        g = Builder()
        v = g.input("x", f32[x.shape])
        v = g.conv(v, g.param("i", f32[channels, channels, 1, 1], value=one)) if first else v
        weights = (g.param("w", f32[w.shape], value=w), g.param("b", f32[b.shape], value=b))
        y = g.conv(v, *weights, pad=(kernel // 2,) * 2, groups=groups)
        return netc.compile(g.graph("g", {"y": y}), optimize=optimize)(x=x)["y"]

    one = np.eye(channels, dtype=np.float32)[:, :, None, None]  # into blocks, and no more
    want = results(False, False)
    for first, optimize in ((False, True), (True, False), (True, True)):
        np.testing.assert_array_equal(results(first, optimize), want)


VOLUMES = {
    "twice": (f32[2, 5, 3, 4, 6], f32[5, 17, 2, 2, 2], {"stride": (2, 2, 2)}),
    "of few": (f32[1, 4, 3, 5, 20], f32[4, 3, 4, 3, 4], {"stride": (2, 1, 2), "pad": (1, 1, 1)}),
    "alone": (f32[2, 6, 3, 4, 17], f32[6, 1, 3, 3, 3], {"groups": 6, "pad": (1, 1, 1)}),
    "apart": (f32[1, 4, 3, 2, 5], f32[4, 6, 3, 2, 3], {"groups": 2, "dilation": (1, 3, 2)}),
    "gaps": (f32[1, 4, 2, 3, 3], f32[4, 5, 1, 2, 1], {"stride": (3, 3, 2)}),
    "flat": (f32[1, 4, 1, 1, 3], f32[4, 5, 2, 3, 3], {"stride": (2, 2, 1), "pad": (0, 1, 0)}),
    "row": (f32[2, 3, 11], f32[3, 5, 4], {"stride": (3,), "pad": (1,)}),
    "point": (f32[2, 3], f32[3, 5], {}),
}


def run_plain(level: str, x: TensorType, w: TensorType, attributes: dict, extra: bool) -> None:
    """relu(conv_transpose · slope + residual), row-major; with `extra` plus one value a column."""
    b = Builder()
    outputs = w.shape[1] * attributes.get("groups", 1)
    xs = [b.input(n, t) for n, t in (("x", x), ("w", w), ("b", f32[outputs]))]
    y = b(ConvTranspose(**attributes), *xs).out
    slopes = (outputs, *(1 for _ in w.shape[2:]))
    y = b.mul(y, b.input("s", f32[slopes]))
    y = b.add(y, b.input("r", y.type))
    y = b.add(y, b.input("c", f32[y.type.shape[-1:]])) if extra else y
    body = b.graph("g", {"out": b.relu(y)})
    rng = np.random.default_rng(0)
    feed = {n.name: rng.normal(size=n.types[0].shape).astype(np.float32) for n in body.inputs}
    where = {name: Where(param=True) for name in "wbs"} | {"out": Where(spread=2)}
    (got,) = Bench(body, feed, where).run(level, (1, 2, 3))
    magnitude = expected(body, {k: np.abs(v) for k, v in feed.items()})[0]
    close(got, expected(body, feed)[0], 0, 8 * 2.0**-24 * magnitude + 1e-30)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("name", [*VOLUMES, *list(CASES)[::5], *OTHERS])
def test_row_major(name: str, level: str) -> None:
    for extra in (False, True):  # which strides do not say of a phase
        run_plain(level, *(VOLUMES | CASES)[name], extra)


def test_row_major_is_cut_too() -> None:
    """Each phase a call of its own, all of one code."""
    module = Module(native())
    ctx = Lowering(native(), module, GemmFamily(module))
    b = Builder()
    x, w = b.input("x", f32[1, 4, 3, 3, 3]), b.input("w", f32[4, 8, 2, 2, 2])
    body = b.graph("g", {"out": b.conv_transpose(x, w, stride=(2, 2, 2))})
    feed = {"x": np.zeros((1, 4, 3, 3, 3)), "w": np.zeros((4, 8, 2, 2, 2))}
    calls = lower(ctx, Bench(body, feed, {"w": Where(param=True)}).kernel)
    assert [c.part for c in calls] == [f"phase {i}" for i in range(8)]
    assert len({c.symbol for c in calls}) == 1
