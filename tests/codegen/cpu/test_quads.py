"""Products of bytes: how values are counted, what is left as it is, and how weights lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from netc.codegen.cpu.packing import IN_QUADS, pack, packed_count, unpack
from netc.codegen.cpu.target import LEVELS, native, runnable
from netc.codegen.precision import Precision
from netc.errors import ArtifactError
from netc.ir.graph import Builder, Graph, Value
from netc.ir.ops.convolution import Fc
from netc.ir.types import f32
from tests.codegen.cpu.harness import Bench, Where, body_of, conv, expected, normal

LEVEL = next((t for t in runnable() if t.quads and not t.pairs), native())
needs_quads = pytest.mark.skipif(not LEVEL.quads, reason="no products of bytes here")
PARAM = Where(param=True)
HOW = ("conv", 1)


def counted(x: np.ndarray, groups: int = 1) -> np.ndarray:
    """Each group of each image in 254ths of its range, as netc counts them; float32."""
    flat = np.asarray(x, np.float32).reshape(len(x) * groups, -1)
    low, high = np.minimum(flat.min(1), 0), np.maximum(flat.max(1), 0)
    scale = np.maximum(high / np.float32(254) - low / np.float32(254), np.float32(1e-37))
    times = np.float32(1) / scale
    zero = np.rint(-low.astype(np.float64) * times + 0.25)
    number = np.rint(flat.astype(np.float64) * times[:, None] + zero[:, None])
    assert ((number >= 0) & (number <= 255)).all()
    return ((number - zero[:, None]) * scale[:, None]).astype(np.float32).reshape(x.shape)


def stored(w: np.ndarray) -> np.ndarray:
    """Weights as they are multiplied: each output channel in 127ths of its largest."""
    most = abs(w).reshape(len(w), -1).max(1)
    worth = most / np.float32(127) * (1 + np.float32(2.0**-17))
    column = (slice(None), *(None,) * (w.ndim - 1))
    how = (IN_QUADS, *HOW)
    shape = w.shape if w.ndim == 4 else (*w.shape, 1, 1)
    packed = np.empty(packed_count(how, shape), np.float32)
    pack(w.reshape(shape), how, packed)
    back = unpack(packed, how, shape).reshape(w.shape)
    assert (abs(back - w) <= 0.5001 * worth[column]).all()
    return back


def run(
    body: Graph,
    sizes: dict[str, int] | None = None,
    level: str = LEVEL.name,
    **where: Where,
) -> tuple:
    """The results in INT8, in HIGH, and of what is multiplied, exactly summed; a bound."""
    feed = normal(body, sizes)
    for i, image in enumerate(feed["x0"]):
        image *= 10.0 ** (i - 1)  # ranges of their own
        image += i  # and not around 0
        image[len(image) // 2 :] *= 7  # nor those of groups
    bench = Bench(body, feed, where, sizes)
    (got,) = bench.run(level, precision=Precision.INT8)
    (high,) = bench.run(level, (1, 2))
    groups = getattr(bench.kernel.anchor.op, "groups", 1)
    short = feed | {"x0": counted(feed["x0"], groups), "x1": stored(feed["x1"])}
    (want,) = expected(body, short)
    (magnitude,) = expected(body, {name: abs(x) for name, x in short.items()})
    return got, high, want, 8 * 2.0**-24 * magnitude + 1e-30


def check(body: Graph, sizes: dict[str, int] | None = None, **where: Where) -> None:
    """Operands are counted, and nothing else is less exact."""
    got, high, want, bound = run(body, sizes, **where)
    assert (abs(got - want) <= bound).all()
    assert (got != high).mean() > 0.4  # others are zeros of a ReLU


def relu(b: Builder, y: Value) -> Value:
    return b.relu(y)


@needs_quads
@pytest.mark.parametrize("attributes", [
    {}, {"pad": (1, 1)}, {"stride": (2, 2), "pad": (1, 1)}, {"dilation": (2, 1), "pad": (2, 1)},
    {"groups": 2, "pad": (1, 1)}, {"groups": 4, "stride": (2, 1)},
])  # fmt: skip
@pytest.mark.parametrize("where", [Where(), Where(halo=(3, 2)), Where(spread=2, halo=(2, 2))])
def test_convolutions(attributes: dict, where: Where) -> None:
    groups, pad = attributes.get("groups", 1), attributes.get("pad", (0, 0))
    where = Where(max(where.halo, pad), where.spread)
    x, w = f32["N", 32, "H", 9].blocked(), f32[40 * groups, 32 // groups, 3, 2]
    body = body_of(conv(**attributes), [x, w, f32[40 * groups]], relu)
    for height in (7, 130):  # ranges by one thread, and by several
        check(body, {"N": 3, "H": height}, x0=where, x1=PARAM, x2=PARAM)


@needs_quads
@pytest.mark.parametrize("stride", [(2, 2), (1, 3), (4, 1)])
@pytest.mark.parametrize("channels", [16, 44])
@pytest.mark.parametrize("where", [Where(), Where(halo=(1, 2), spread=1)])
def test_windows_of_one_pixel(channels: int, stride: tuple, where: Where) -> None:
    x, w = f32["N", channels, "H", 90].blocked(), f32[40, channels, 1, 1]
    body = body_of(conv(stride=stride), [x, w])
    for height in (7, 1):
        feed = {"N": 2, "H": height}
        got, high, _, _ = run(body, feed, x0=where, x1=PARAM)
        largest = abs(high).reshape(2, -1).max(1)[:, None, None, None]
        assert (abs(got - high) < 0.02 * largest).all()  # only pixels that are read have a range


@needs_quads
@pytest.mark.parametrize("inputs", [64, 1000, 1112])
@pytest.mark.parametrize("images", [1, "N"])
def test_inner_products(inputs: int, images: object) -> None:
    for depth in (inputs, inputs - 1, inputs - 2, inputs - 3):
        body = body_of(Fc(), [f32[images, depth], f32[50, depth], f32[50]])
        check(body, {"N": 5}, x1=PARAM, x2=PARAM)
    blocked = f32[images, inputs // 8, 2, 4].blocked()
    got, high, _, _ = run(body_of(Fc(), [blocked, f32[50, inputs]]), {"N": 5}, x1=PARAM)
    assert (abs(got - high).max(1) < 0.02 * abs(high).max(1)).all()


@needs_quads
@pytest.mark.parametrize("channels", [3, 4, 5, 13, 17, 20, 26, 31])
@pytest.mark.parametrize("blocked", [True, False])
@pytest.mark.parametrize("attributes", [{}, {"stride": (2, 2), "pad": (2, 3)}, {"groups": 2}])
def test_channels_that_are_no_eights(channels: int, blocked: bool, attributes: dict) -> None:
    groups, where = attributes.get("groups", 1), Where(attributes.get("pad", (0, 0)))
    if blocked and groups > 1:
        return  # the layout pass leaves such groups row-major
    x, w = f32["N", channels * groups, "H", 37], f32[16 * groups, channels, 3, 4]
    body = body_of(
        conv(**attributes), [x.blocked() if blocked else x, w],
        None if blocked else lambda b, y: b.to_blocked(y),
    )  # fmt: skip
    for height in (9, 330):
        check(body, {"N": 2, "H": height}, x0=where, x1=PARAM)


@needs_quads
@pytest.mark.parametrize("channels", [1, 2])
def test_of_two_channels_pairs_are_as_fast(channels: int) -> None:
    body = body_of(
        conv(), [f32[2, channels, 9, 9], f32[16, channels, 4, 4]], lambda b, y: b.to_blocked(y)
    )
    got, high, _, _ = run(body, x1=PARAM)
    np.testing.assert_array_equal(got, high)


@needs_quads
def test_of_eight_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    if not LEVEL.is_x86:
        pytest.skip("levels of x86")
    wide = LEVELS["x86-64-v4-vnni"]  # whose processors have the same instruction, spelled otherwise
    narrow = replace(LEVELS["x86-64-v3-vnni"], features=wide.features)
    monkeypatch.setitem(LEVELS, narrow.name, narrow)
    body = body_of(conv(pad=(1, 1)), [f32[2, 44, 9, 9].blocked(), f32[50, 44, 3, 3]], relu)
    got, _, want, bound = run(body, level=narrow.name, x0=Where((1, 1)), x1=PARAM)
    assert (abs(got - want) <= bound).all()


@needs_quads
@pytest.mark.parametrize("depth", [8, 65544])
def test_short_and_long_sums_stay_as_they_are(depth: int) -> None:
    body = body_of(Fc(), [f32[2, depth], f32[17, depth]])
    got, high, _, _ = run(body, x1=PARAM)
    np.testing.assert_array_equal(got, high)


@needs_quads
def test_the_largest_sums_there_can_be() -> None:
    body = body_of(Fc(), [f32[2, 65536], f32[17, 65536]])
    feed = {"x0": np.ones((2, 65536)), "x1": np.full((17, 65536), 2.0)}
    feed["x0"][1] = -1
    feed["x1"][3] = -2
    (got,) = Bench(body, feed, {"x1": PARAM}).run(LEVEL.name, precision=Precision.INT8)
    np.testing.assert_allclose(got, feed["x0"] @ feed["x1"].T, 1e-4)


@needs_quads
@pytest.mark.parametrize("height", [4, 400])
def test_ranges_of_all_kinds(height: int) -> None:
    body = body_of(conv(), [f32[8, 32, height, 4].blocked(), f32[32, 32, 1, 1]])
    rng = np.random.default_rng(0)
    x = rng.random((8, 32, height, 4)).astype(np.float32)
    x[0], x[1], x[2] = 0, 3.25, -7
    x[3] = (2 * x[3] - 1) * np.float32(3.4e38)  # whose range is no float32
    x[4] *= np.float32(1e-33)
    x[5, 3, 1, 2], x[6, 5, 2, 2] = np.nan, np.inf
    w = (rng.standard_normal((32, 32, 1, 1)) * 1e-2).astype(np.float32)
    (y,) = Bench(body, {"x0": x, "x1": w}, {"x1": PARAM}).run(LEVEL.name, precision=Precision.INT8)
    (want,) = expected(body, {"x0": x, "x1": w})
    assert (y[0] == 0).all()
    for i in (1, 2, 3, 4, 7):
        assert abs(y[i] - want[i]).max() < 0.02 * abs(want[i]).max()
    assert np.isnan(y[5]).all()  # an image has one scale
    assert not np.isfinite(y[6]).any()


@needs_quads
def test_zeros_around_a_map_give_zeros() -> None:
    body = body_of(conv(pad=(1, 1)), [f32[2, 20, 9, 9].blocked(), f32[16, 20, 1, 1]])
    got, _, want, bound = run(body, x0=Where((1, 1)), x1=PARAM)
    assert (got[:, :, [0, -1], :] == 0).all()
    assert (abs(got - want) <= bound).all()


@needs_quads
def test_nothing_overflows_between() -> None:
    body = body_of(Fc(), [f32[3, 1024], f32[5, 1024]])
    rng = np.random.default_rng(0)
    for x, w in ((1e36, 1.0), (1e-3, 3e36), (3e38, 1e-3)):
        feed = {"x0": rng.uniform(-x, x, (3, 1024)), "x1": np.full((5, 1024), w)}
        feed = {name: a.astype(np.float32) for name, a in feed.items()}
        (y,) = Bench(body, feed, {"x1": PARAM}).run(LEVEL.name, precision=Precision.INT8)
        (want,) = expected(body, feed)
        assert abs(y - want).max() < 1e-2 * x * w * 32


@needs_quads
def test_weights_that_are_no_numbers_stay_so() -> None:
    body = body_of(Fc(), [f32[2, 64], f32[20, 64]])
    rng = np.random.default_rng(0)
    feed = {"x0": rng.random((2, 64)), "x1": rng.random((20, 64))}
    feed["x1"][3, 5], feed["x1"][7, 1], feed["x1"][8] = np.nan, np.inf, 0
    (y,) = Bench(body, feed, {"x1": PARAM}).run(LEVEL.name, precision=Precision.INT8)
    assert not np.isfinite(y[:, [3, 7]]).any()
    assert (y[:, 8] == 0).all()
    assert np.isfinite(np.delete(y, [3, 7], 1)).all()


@pytest.mark.parametrize(("how", "shape"), [
    (("conv", 1), (40, 16, 3, 3)), (("conv", 4), (40, 8, 1, 1)), (("conv", 1), (3, 12, 2, 1)),
    (("conv", 2), (6, 3, 7, 7)), (("conv", 1), (20, 13, 2, 3)), (("fc", 8, 3, 5), (17, 120)),
    (("fc", 1001, 1, 1), (17, 1001)),
])  # fmt: skip
@pytest.mark.parametrize("size", [1.0, 1e-37, 3e-43, 1e38, 3.4028235e38])
def test_weights_come_back_as_they_are_multiplied(how: tuple, shape: tuple, size: float) -> None:
    w = (np.random.default_rng(0).uniform(-1, 1, shape) * size).astype(np.float32)
    w.reshape(-1)[:3] = size, -size, 0
    packed = np.full(packed_count((IN_QUADS, *how), shape), np.nan, np.float32)
    pack(w, (IN_QUADS, *how), packed)
    back = unpack(packed, (IN_QUADS, *how), shape)
    most = abs(w).reshape(len(w), -1).max(1).reshape(-1, *(1,) * (len(shape) - 1))
    assert (abs(back - w) <= most / 253 + 128 * 2.0**-149).all()
    again = np.full_like(packed, np.nan)
    pack(back, (IN_QUADS, *how), again)
    np.testing.assert_array_equal(packed.view(np.uint32), again.view(np.uint32))


def test_weights_that_are_no_numbers_come_back_so() -> None:
    w = np.random.default_rng(0).uniform(-1e10, 1e10, (20, 24, 1, 1)).astype(np.float32)
    w[3, 5], w[7, 1] = np.nan, np.inf
    how = (IN_QUADS, *HOW)
    packed, again = (np.empty(packed_count(how, w.shape), np.float32) for _ in range(2))
    pack(w, how, packed)
    back = unpack(packed, how, w.shape)
    assert np.isnan(back[[3, 7]]).all()
    pack(back, how, again)
    np.testing.assert_array_equal(packed.view(np.uint32), again.view(np.uint32))


@pytest.mark.parametrize(
    "inner", [(), ("raw",), ("conv",), (IN_QUADS, "conv", 1), ("phases", 1, 2, 2), ("conv", 3)]
)
def test_weights_that_cannot_have_been_packed_so(inner: tuple) -> None:
    how, shape = (IN_QUADS, *inner), (16, 8, 3, 3)
    packed = np.zeros(packed_count(how, shape), np.float32)
    with pytest.raises(ArtifactError, match="packed in an unknown way"):
        unpack(packed, how, shape)
