"""Depthwise convolution against its reference."""

import numpy as np
import pytest

from netc.ir.graph import Builder
from netc.ir.types import f32
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, close, expected

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
