"""Maps stored as bfloat16: kernels give what they give of the same numbers in float32, rounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gemm_harness import nearest

from netc.codegen.cpu.target import native
from netc.codegen.precision import Precision
from netc.ir.graph import Builder, Graph, Value
from netc.ir.op import REGISTRY
from netc.ir.ops.convolution import ConvTranspose, Fc
from netc.ir.types import Layout, TensorType, f32
from tests.codegen.cpu.harness import Bench, Where, body_of, conv, normal, odd

LEVEL = native(pairs=True)
pytestmark = pytest.mark.skipif(not LEVEL.pairs, reason="no bfloat16 here")
PARAM = Where(param=True)
BOTH = [Precision.LOW, Precision.INT8]
LYING = [Where(), Where(halo=(2, 3)), Where(halo=(2, 2), spread=1)]


def check(
    body: Graph,
    precision: Precision = Precision.LOW,
    feed: dict[str, np.ndarray] | None = None,
    **where: Where,
) -> None:
    """The same results as of operands that are as short, but not stored so."""
    values = {n.name: n.out for n in body.inputs} | body.outputs
    blocks = [name for name, v in values.items() if v.type.layout is Layout.C8]
    feed = feed or normal(body, None)
    feed = {name: nearest(x) if name in blocks else x for name, x in feed.items()}
    short = {name: replace(where.get(name, Where()), short=True) for name in blocks}
    wide = Bench(body, feed, where).run(LEVEL.name, (1, 2), precision)
    got = Bench(body, feed, where | short).run(LEVEL.name, precision=precision)
    for name, want, found in zip(body.outputs, wide, got, strict=True):
        want = nearest(want) if name in blocks else want
        np.testing.assert_array_equal(found, want)


def blocked(*shape: int) -> TensorType:
    return f32[shape].blocked()


def tail(b: Builder, y: Value, *more: Value) -> Value:
    """What follows an anchor, with one value of the result's size."""
    return b.relu(b.add(y, more[0])) if more else b.relu(y)


OPS = {
    "max pool": (REGISTRY["max_pool"](kernel=(3, 3), stride=(2, 2), pad=(1, 1)), (2, 13, 11, 12)),
    "large pool": (REGISTRY["max_pool"](kernel=(5, 4), stride=(2, 1)), (1, 16, 9, 11)),
    "mean pool": (REGISTRY["avg_pool"](kernel=(2, 2), stride=(2, 2)), (2, 21, 9, 8)),
    "edges of means": (REGISTRY["avg_pool"](kernel=(3, 3), pad=(1, 1)), (1, 8, 7, 5)),
    "large means": (REGISTRY["avg_pool"](kernel=(6, 7)), (1, 8, 9, 17)),
    "lrn": (REGISTRY["lrn"](size=5, alpha=1e-1), (2, 20, 5, 7)),
    "wide lrn": (REGISTRY["lrn"](size=19, alpha=1e-1, beta=0.5), (1, 40, 3, 4)),
    "mean": (REGISTRY["global_avg_pool"](), (2, 13, 9, 7)),
    "largest": (REGISTRY["global_max_pool"](), (1, 16, 6, 33)),
    "slice": (REGISTRY["slice"](axis=1, start=8, stop=21), (2, 24, 3, 5)),
    "crop": (REGISTRY["slice"](axis=3, start=1, stop=4), (1, 13, 3, 5)),
    "bilinear": (REGISTRY["resize_bilinear"](size=(7, 9)), (2, 13, 4, 5)),
    "nearest": (REGISTRY["resize_nearest"](scale=(2, 3)), (1, 13, 4, 5)),
}


@pytest.mark.parametrize("where", LYING)
@pytest.mark.parametrize("name", OPS)
def test_ops(name: str, where: Where) -> None:
    op, shape = OPS[name]
    check(body_of(op, [blocked(*shape)], tail), x0=where, out0=where)
    feed = {"x0": odd(shape)}
    check(body_of(op, [blocked(*shape)]), feed=feed, x0=where, out0=where)


@pytest.mark.parametrize("where", LYING)
def test_formulas_of_all_layouts(where: Where) -> None:
    t = f32[2, 13, 6, 19]
    b = Builder()
    x, y = b.input("x", t.blocked()), b.input("y", t.blocked())
    z, c = b.input("z", t), b.input("c", f32[13, 1, 1])
    total = b.add(b.mul(b.to_plain(x), c), b.add(b.to_plain(y), z))
    body = b.graph("g", {"blocks": b.to_blocked(total), "rows": b.sigmoid(total)})
    check(body, x=where, c=PARAM, blocks=where)


@pytest.mark.parametrize("type", [f32[2, 13, 1, 1], f32[1, 1, 6, 19], f32[2, 1, 1, 1]])
def test_what_is_the_same_for_pixels_or_channels(type: TensorType) -> None:
    b = Builder()
    x, y = b.input("x", blocked(2, 13, 6, 19)), b.input("y", type.blocked())
    check(b.graph("g", {"out": b.mul(x, y)}))


CONVOLUTIONS = {
    "plain": (conv(pad=(1, 1)), (2, 24, 7, 9), (40, 24, 3, 3)),
    "strides": (conv(stride=(2, 2)), (1, 21, 8, 9), (13, 21, 1, 1)),
    "groups": (conv(groups=2, dilation=(2, 1)), (2, 32, 7, 9), (48, 16, 3, 2)),
    "few channels": (conv(), (1, 5, 8, 9), (13, 5, 2, 2)),
    "filtered": (conv(pad=(1, 1)), (2, 24, 13, 14), (20, 24, 3, 3)),
    "filtered groups": (conv(groups=2), (1, 32, 15, 18), (32, 16, 3, 3)),
    "alone": (conv(groups=24, pad=(1, 1)), (2, 24, 9, 19), (24, 1, 3, 3)),
    "alone, strides": (conv(groups=13, pad=(1, 1), stride=(2, 2)), (1, 13, 9, 22), (13, 1, 3, 3)),
    "alone, large": (conv(groups=16, dilation=(1, 2)), (1, 16, 9, 21), (16, 1, 6, 6)),
}


@pytest.mark.parametrize("precision", BOTH)
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("where", LYING)
def test_convolutions(name: str, precision: Precision, where: Where) -> None:
    op, shape, weights = CONVOLUTIONS[name]
    where = replace(where, halo=where.halo if any(where.halo) else op.pad)
    w, bias = f32[weights], f32[weights[:1]]
    out = op.infer(f32[shape], w, bias).blocked()
    extra = [out] if name != "alone" else []  # tiles that lap over one another, and that do not
    body = body_of(op, [blocked(*shape), w, bias], tail, extra)
    check(body, precision, x0=where, x1=PARAM, x2=PARAM, e0=where, out0=where)


PHASES = {
    "matrices": ((2, 24, 5, 6), (24, 13, 4, 4), {"stride": (2, 2), "pad": (1, 1)}),
    "groups": ((1, 16, 4, 5), (16, 8, 3, 3), {"groups": 2, "stride": (2, 1)}),
    "alone": ((2, 13, 4, 9), (13, 1, 4, 4), {"groups": 13, "stride": (2, 2), "pad": (1, 1)}),
}


@pytest.mark.parametrize("precision", BOTH)
@pytest.mark.parametrize("name", PHASES)
def test_transposed_convolutions(name: str, precision: Precision) -> None:
    shape, weights, attributes = PHASES[name]
    body = body_of(ConvTranspose(**attributes), [blocked(*shape), f32[weights]], tail)
    assert body.outputs["out0"].type.layout is Layout.C8
    check(body, precision, x0=Where(halo=(2, 2)), x1=PARAM, out0=Where(spread=1))


@pytest.mark.parametrize("precision", BOTH)
@pytest.mark.parametrize("shape", [(3, 13, 2, 3), (20, 24, 1, 1)])
def test_inner_products(shape: tuple[int, ...], precision: Precision) -> None:
    depth = shape[1] * shape[2] * shape[3]
    for where in (Where(), Where(halo=(1, 1))):
        body = body_of(Fc(), [blocked(*shape), f32[19, depth]], tail)
        check(body, precision, x0=where, x1=PARAM)


@pytest.mark.parametrize("shape", [(1, 24, 3, 5), (2, 16, 67, 67)])  # by one thread, by several
@pytest.mark.parametrize("number", [0.0, -3.0, 7e-39, np.inf, -np.inf, np.nan, -np.nan])
def test_ranges_of_bits(shape: tuple[int, ...], number: float) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for signs in (x, abs(x), -abs(x), 0 * x):
        one = signs.copy()
        one[-1, 9, 1, 2] = number
        body = body_of(conv(), [blocked(*shape), f32[16, shape[1], 1, 1]])
        check(body, Precision.INT8, {"x0": one, "x1": np.ones((16, shape[1], 1, 1))}, x1=PARAM)
