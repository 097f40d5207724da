"""Depthwise convolution, and that of small groups, against its reference."""

import numpy as np
import pytest

from netc.codegen.precision import Precision
from netc.ir.graph import Builder
from netc.ir.types import f32
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, close, expected, normal

CASES = [  # channels, size, kernel, stride, dilation, pad
    (16, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1)),
    (24, (13, 17), (3, 3), (2, 2), (1, 1), (1, 1)),
    (12, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    (9, (9, 11), (5, 5), (1, 1), (1, 1), (2, 2)),
    (8, (9, 30), (5, 3), (2, 1), (1, 2), (2, 1)),
    (8, (20, 21), (7, 7), (1, 1), (1, 1), (3, 3)),
    (8, (20, 21), (7, 7), (2, 2), (2, 1), (0, 3)),
    (8, (3, 3), (3, 3), (1, 1), (1, 1), (0, 0)),
    (8, (4, 40), (1, 1), (1, 1), (1, 1), (0, 0)),
    (8, (12, 12), (3, 3), (1, 1), (3, 3), (3, 3)),
    (8, (5, 3), (3, 3), (3, 3), (1, 1), (2, 2)),
]


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tail", ["", "bias relu", "residual"])
def test_depthwise(level, case, tail):
    channels, size, kernel, stride, dilation, pad = case
    b = Builder()
    x = b.input("x", f32[2, channels, *size].blocked())
    w = b.input("w", f32[channels, 1, *kernel])
    bias = [b.input("b", f32[channels])] if tail else []
    y = b.conv(x, w, *bias, stride=stride, dilation=dilation, pad=pad, groups=channels)
    if tail == "bias relu":
        y = b.relu(y)
    if tail == "residual":
        y = b.add(y, b.input("r", y.type))
    body = b.graph("g", {"y": y})
    rng = np.random.default_rng(0)
    feed = {n.name: rng.normal(size=n.types[0].shape).astype(np.float32) for n in body.inputs}
    where = {"x": Where(tuple(pad)), "w": Where(param=True), "b": Where(param=True),
             "y": Where((1, 1), spread=1)}  # fmt: skip
    (got,) = Bench(body, feed, where).run(level)
    size_of = {k: np.abs(v) for k, v in feed.items()}
    bound = 8 * 2.0**-24 * expected(body, size_of)[0]
    close(got, expected(body, feed)[0], 0, bound)


SHAPES = [  # size, kernel, stride, dilation, pad
    ((14, 14), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((13, 17), (3, 3), (2, 2), (1, 1), (1, 1)),
    ((9, 30), (5, 3), (2, 1), (1, 2), (2, 1)),
    ((11, 12), (9, 2), (1, 1), (1, 1), (4, 1)),  # too tall for straight code
    ((4, 21), (1, 1), (1, 1), (1, 1), (0, 0)),
    ((3, 3), (3, 3), (1, 1), (2, 2), (2, 2)),
]


def grouped(channels, together, shape, like=("N", "H", "W")):
    """A convolution of groups with a bias, and a sum and a relu behind it."""
    _, kernel, stride, dilation, pad = shape
    b = Builder()
    x = b.input("x", f32[like[0], channels, *like[1:]].blocked())
    w, bias = b.input("w", f32[channels, together, *kernel]), b.input("b", f32[channels])
    groups = channels // together
    y = b.conv(x, w, bias, stride=stride, dilation=dilation, pad=pad, groups=groups)
    return b.graph("g", {"y": b.relu(b.add(y, b.input("r", y.type)))})


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize(("channels", "together"), [(24, 2), (6, 2), (32, 4), (12, 4), (24, 8)])
@pytest.mark.parametrize("shape", SHAPES)
def test_groups(level, channels, together, shape, short):
    """Of symbolic sizes, in buffers with halos between other channels; maps of bfloat16 too."""
    size, pad = shape[0], shape[4]
    sizes = dict(zip("NHW", (2, *size), strict=True))
    body = grouped(channels, together, shape)
    feed = normal(body, sizes)
    param, lies = Where(param=True), Where((1, 1), spread=1)
    if short:
        feed = {k: v if k in "wb" else np.round(v * 8) / 8 for k, v in feed.items()}
    where = {"x": Where(tuple(pad), spread=1, short=short), "w": param, "b": param, "y": lies}
    (got,) = Bench(body, feed, where, sizes).run(level)
    size_of = {k: np.abs(v) for k, v in feed.items()}
    taps = together * shape[1][0] * shape[1][1]
    bound = (taps + 2) * 2.0**-24 * expected(body, size_of)[0]
    close(got, expected(body, feed)[0], 0, bound)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("together", [4, 8])
def test_groups_in_fewer_bits(level, together):
    """Groups of whole blocks are rounded where a level can; smaller ones are not."""
    body = grouped(16, together, SHAPES[0], (2, 14, 14))
    feed = normal(body, None)
    where = {"x": Where((1, 1)), "w": Where(param=True), "b": Where(param=True)}
    bench = Bench(body, feed, where)
    (high,), (low,) = (bench.run(level, precision=p) for p in (Precision.HIGH, Precision.LOW))
    same = together == 4 or not level.endswith("bf16")
    assert np.array_equal(high, low) == same
    np.testing.assert_allclose(low, high, atol=0.0 if same else 0.2)
