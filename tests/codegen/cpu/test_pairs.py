"""Products of bfloat16: what is rounded, what is not, and how weights lie."""

from __future__ import annotations

import numpy as np
import pytest
from gemm_harness import nearest

from netc.codegen.cpu.packing import IN_PAIRS, pack, packed_count, unpack
from netc.codegen.cpu.target import native
from netc.codegen.precision import Precision
from netc.errors import ArtifactError
from netc.ir.graph import Builder, Graph, Value
from netc.ir.ops.convolution import Fc
from netc.ir.ops.matmul import MatMul
from netc.ir.types import f32
from tests.codegen.cpu.harness import Bench, Where, body_of, conv, expected, normal

LEVEL = native(pairs=True)
needs_pairs = pytest.mark.skipif(not LEVEL.pairs, reason="no products of bfloat16 here")
PARAM = Where(param=True)


def run(body: Graph, sizes: dict[str, int] | None = None, **where: Where) -> tuple:
    """The results in LOW, in HIGH, and of operands that are rounded, exactly summed; a bound."""
    feed = normal(body, sizes)
    bench = Bench(body, feed, where, sizes)
    (low,) = bench.run(LEVEL.name, precision=Precision.LOW)
    (high,) = bench.run(LEVEL.name, (1, 2))
    short = {name: nearest(x) if name in ("x0", "x1") else x for name, x in feed.items()}
    (want,) = expected(body, short)
    (magnitude,) = expected(body, {name: abs(x) for name, x in short.items()})
    return low, high, want, 8 * 2.0**-24 * magnitude + 1e-30


def check(body: Graph, sizes: dict[str, int] | None = None, **where: Where) -> None:
    """Operands are rounded, and nothing else."""
    low, high, want, bound = run(body, sizes, **where)
    assert (abs(low - want) <= bound).all()
    assert (low != high).mean() > 0.4  # others are zeros of a ReLU


@needs_pairs
@pytest.mark.parametrize("attributes", [
    {}, {"pad": (1, 1)}, {"stride": (2, 2), "pad": (1, 1)}, {"dilation": (2, 1), "pad": (2, 1)},
    {"groups": 2, "pad": (1, 1)},
])  # fmt: skip
@pytest.mark.parametrize("where", [Where(), Where(halo=(3, 2)), Where(spread=2, halo=(2, 2))])
def test_convolutions(attributes: dict, where: Where) -> None:
    groups, pad = attributes.get("groups", 1), attributes.get("pad", (0, 0))
    where = Where(max(where.halo, pad), where.spread)
    x, w = f32["N", 32, "H", 9].blocked(), f32[40 * groups, 32 // groups, 3, 2]

    def tail(b: Builder, y: Value) -> Value:
        return b.relu(y)

    body = body_of(conv(**attributes), [x, w, f32[40 * groups]], tail)
    check(body, {"N": 2, "H": 7}, x0=where, x1=PARAM, x2=PARAM)


@needs_pairs
@pytest.mark.parametrize("stride", [(2, 2), (1, 3), (4, 1)])
@pytest.mark.parametrize("channels", [16, 44])
@pytest.mark.parametrize("where", [Where(), Where(halo=(1, 2), spread=1)])
def test_windows_of_one_pixel(channels: int, stride: tuple, where: Where) -> None:
    x, w = f32["N", channels, "H", 9].blocked(), f32[40, channels, 1, 1]
    body = body_of(conv(stride=stride), [x, w])
    for height in (7, 8, 1):
        check(body, {"N": 2, "H": height}, x0=where, x1=PARAM)


@needs_pairs
@pytest.mark.parametrize("inputs", [64, 1000, 1112])
@pytest.mark.parametrize("images", [1, "N"])
def test_inner_products(inputs: int, images: object) -> None:
    for depth in (inputs, inputs - 1, inputs - 2):
        body = body_of(Fc(), [f32[images, depth], f32[50, depth], f32[50]])
        check(body, {"N": 5}, x1=PARAM, x2=PARAM)
    blocked = f32[images, inputs // 8, 2, 4].blocked()
    check(body_of(Fc(), [blocked, f32[50, inputs]]), {"N": 5}, x1=PARAM)


@needs_pairs
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("depth", [16, 37, "K"])
@pytest.mark.parametrize("batches", [((2, 3), (2, 3)), ((3,), (2, 3)), ((2, 3), ()), ((), (2,))])
def test_matrices(turned: tuple[bool, bool], depth: object, batches: tuple) -> None:
    x = (depth, 7) if turned[0] else (7, depth)
    y = (45, depth) if turned[1] else (depth, 45)
    body = body_of(MatMul(*turned), [f32[(*batches[0], *x)], f32[(*batches[1], *y)]])
    check(body, {"K": 21})


@needs_pairs
@pytest.mark.parametrize("channels", [2, 3, 5, 8, 13, 20])
@pytest.mark.parametrize("blocked", [True, False])
@pytest.mark.parametrize("attributes", [{}, {"stride": (2, 2), "pad": (2, 3)}, {"groups": 2}])
def test_channels_that_are_no_eights(channels: int, blocked: bool, attributes: dict) -> None:
    groups, pad = attributes.get("groups", 1), attributes.get("pad", (0, 0))
    if blocked and groups > 1:
        return  # the layout pass leaves such groups row-major
    x, w = f32["N", channels * groups, "H", 37], f32[16 * groups, channels, 3, 4]
    body = body_of(
        conv(**attributes), [x.blocked() if blocked else x, w],
        None if blocked else lambda b, y: b.to_blocked(y),
    )  # fmt: skip
    low, high, want, bound = run(body, {"N": 2, "H": 9}, x0=Where(pad), x1=PARAM)
    assert (abs(low - want) <= bound).all()
    assert (low != high).mean() > 0.4


@needs_pairs
def test_sums_of_few_products_stay_as_they_are() -> None:
    body = body_of(conv(), [f32[16, 8, 9, 9].blocked(), f32[64, 8, 1, 1]])
    low, high, _, _ = run(body, x1=PARAM)
    np.testing.assert_array_equal(low, high)


@needs_pairs
def test_nan_and_infinity_stay() -> None:
    body = body_of(conv(), [f32[1, 16, 4, 4].blocked(), f32[32, 16, 1, 1]])
    rng = np.random.default_rng(0)
    feed = {n.name: rng.random(n.types[0].shape).astype(np.float32) for n in body.inputs}
    feed["x0"][0, 3, 1, 2], feed["x0"][0, 5, 2, 2] = np.nan, np.inf
    (y,) = Bench(body, feed, {"x1": PARAM}).run(LEVEL.name, precision=Precision.LOW)
    assert np.isnan(y[0, :, 1, 2]).all()
    assert np.isinf(y[0, :, 2, 2]).all()
    assert np.isfinite(np.delete(y.reshape(32, 16), [6, 10], axis=1)).all()


@pytest.mark.parametrize(("how", "shape"), [
    (("conv", 1), (40, 16, 3, 3)), (("conv", 4), (40, 8, 1, 1)), (("conv", 1), (3, 12, 2, 1)),
    (("conv", 2), (6, 3, 7, 7)), (("conv", 1), (20, 13, 2, 3)), (("fc", 8, 3, 5), (17, 120)),
    (("fc", 1001, 1, 1), (17, 1001)),
])  # fmt: skip
def test_weights_come_back_rounded(how: tuple, shape: tuple[int, ...]) -> None:
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    packed = np.full(packed_count((IN_PAIRS, *how), shape), np.nan, np.float32)
    channels = how[1] if how[0] == "fc" else shape[1]
    wide = channels + channels % 2
    assert 2 * len(packed) == packed_count(how, shape) * wide // channels
    pack(w, (IN_PAIRS, *how), packed)
    np.testing.assert_array_equal(unpack(packed, (IN_PAIRS, *how), shape), nearest(w))


@pytest.mark.parametrize(
    "inner", [(), ("raw",), ("conv",), (IN_PAIRS, "conv", 1), ("phases", 3, 2, 2), ("conv", 3)]
)
def test_weights_that_cannot_have_been_packed_so(inner: tuple) -> None:
    how, shape = (IN_PAIRS, *inner), (16, 8, 3, 3)
    packed = np.zeros(packed_count(how, shape), np.float32)
    with pytest.raises(ArtifactError, match="packed in an unknown way"):
        unpack(packed, how, shape)


@pytest.mark.parametrize("kind", [(), (IN_PAIRS,)])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (24, 5, 4), (-24, -5, 1), (1 << 40, 1, 1), (True, 120, 1), (120, 1.0, 1)]
)
def test_inner_products_of_other_sizes_are_refused(kind: tuple, sizes: tuple) -> None:
    how, shape = (*kind, "fc", *sizes), (17, 120)
    packed = np.zeros(min(1 << 16, max(0, packed_count(how, shape))), np.float32)
    with pytest.raises(ArtifactError, match="packed in an unknown way"):
        unpack(packed, how, shape)
    with pytest.raises(ArtifactError, match="packed in an unknown way"):
        unpack(packed, (*kind, "conv", True), (2, 3, 1, 1))
