"""Row-major convolutions of few output channels a group, against the reference."""

import numpy as np
import pytest

from netc.codegen.cpu.anchors import direct
from netc.codegen.cpu.lowering import RULES
from netc.ir.graph import Builder
from netc.ir.ops.convolution import Conv
from netc.ir.types import f32
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, close, expected, normal

WINDOWS = [  # kernel, stride, pad, dilation
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    ((2, 3, 5), (1, 2, 1), (0, 1, 4), (2, 1, 2)),
    ((1, 1, 4), (1, 1, 2), (0, 0, 5), (1, 1, 3)),
    ((5, 1, 1), (1, 1, 1), (2, 0, 0), (1, 1, 1)),
    ((2, 2, 8), (1, 1, 1), (1, 1, 7), (1, 1, 1)),
    ((1, 3, 9), (1, 1, 3), (0, 1, 4), (1, 1, 1)),  # left to the kernel of any window
]
GROUPS = [
    (5, 1, 1),
    (3, 1, 2),
    (2, 4, 3),
    (1, 9, 1),
]  # groups, channels in and out of each; of more than one in, the kernel of any window


@pytest.fixture(autouse=True)
def plain_conv(monkeypatch):
    """Results are row-major."""
    monkeypatch.setitem(RULES, Conv, direct.lower_direct_conv)


def check(level, window, groups, shape, where, tail=True):
    """A convolution of symbolic sizes with a bias, and what follows it."""
    kernel, stride, pad, dilation = window
    count, ins, outs = groups
    symbols = "NDHW"[: len(shape)] if len(shape) == 4 else "NHW"
    sizes = dict(zip(symbols, shape, strict=True))
    b = Builder()
    x = b.input("x", f32[symbols[0], count * ins, *symbols[1:]])
    w, bias = b.input("w", f32[count * outs, ins, *kernel]), b.input("b", f32[count * outs])
    y = b.conv(x, w, bias, stride=stride, pad=pad, dilation=dilation, groups=count)
    if tail:
        y = b.relu(b.add(y, b.input("r", y.type)))
    body = b.graph("g", {"y": y})
    feed = normal(body, sizes)
    param = {"w": Where(param=True), "b": Where(param=True)}
    (got,) = Bench(body, feed, param | where, sizes).run(level)
    bound = 8 * 2.0**-24 * expected(body, {k: np.abs(v) for k, v in feed.items()})[0]
    close(got, expected(body, feed)[0], 0, bound)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("window", WINDOWS)
def test_volumes(level, window, groups):
    for width in (3, 17, 28):
        check(level, window, groups, (2, 5, 4, width), {})


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("width", [1, 7, 15, 16, 31, 32, 33, 48, 49, 100])
def test_widths(level, width):
    """Beside what is no operand's."""
    where = {"x": Where((1, 2), spread=1), "y": Where((1, 1), spread=2)}
    for stride in ((1, 1), (1, 2)):
        window = ((3, 3), stride, (1, 1), (1, 1))
        check(level, window, (3, 1, 1), (2, 4, width), where, tail=False)
        check(level, window, (3, 1, 1), (1, 4, width), {})


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("channels", [1, 8])
def test_parts_compute_what_the_whole_does(level, channels):
    """Two of seven output channels, bit for bit."""
    found = []
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((1, channels, 6, 21)), "b": rng.standard_normal(7)}
    feed["w"] = rng.standard_normal((7, channels, 3, 3))
    feed = {k: v.astype(np.float32) for k, v in feed.items()}
    for outputs in (7, 2):
        b = Builder()
        x, w = b.input("x", f32[1, channels, 6, 21]), b.input("w", f32[outputs, channels, 3, 3])
        y = b.conv(x, w, b.input("b", f32[outputs]), pad=(1, 1))
        arrays = {k: v if k == "x" else v[:outputs] for k, v in feed.items()}
        where = {name: Where(param=True) for name in "wb"}
        found += Bench(b.graph("g", {"y": y}), arrays, where).run(level)
    np.testing.assert_array_equal(found[0][:, :2], found[1])
