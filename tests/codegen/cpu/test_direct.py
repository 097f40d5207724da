"""Direct convolution and its transpose against their references."""

import numpy as np
import pytest

from netc.codegen.cpu.anchors import direct
from netc.codegen.cpu.lowering import RULES
from netc.ir.op import REGISTRY, Case
from netc.ir.ops.convolution import Conv
from netc.ir.types import f32
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, body_of, close, drawn, expected

MORE = [
    Case((f32[1, 6, 9, 40], f32[4, 3, 3, 3], f32[4]), {"groups": 2, "pad": (1, 1)}),
    Case((f32[1, 3, 5, 37], f32[3, 1, 3, 3], f32[3]), {"groups": 3, "pad": (1, 1)}),
    Case((f32[1, 3, 5, 37], f32[2, 3, 3, 5]), {"pad": (1, 2), "dilation": (1, 3)}),
    Case((f32[2, 20, 6, 9], f32[33, 20, 3, 3]), {"pad": (1, 1)}),
]
GROWN = [
    Case((f32[1, 3, 6, 7], f32[3, 1, 8, 8]), {"groups": 3, "stride": (4, 4), "pad": (2, 2)}),
    Case((f32[1, 20, 5, 6], f32[20, 33, 3, 3], f32[33]), {"stride": (2, 1), "pad": (1, 0)}),
    Case((f32[1, 2, 4], f32[2, 3, 5]), {"stride": (3,), "dilation": (2,)}),
]


def run(level, op, case, types, tail=None, extra=()):
    body = body_of(op, types, tail, extra)
    arrays = drawn(Case((*types, *extra)))
    feed = {n.name: a for n, a in zip(body.inputs, arrays, strict=True)}
    where = {f"x{i}": Where(param=True) for i in range(1, len(types))}
    (got,) = Bench(body, feed, where).run(level)
    size = {k: np.abs(v) for k, v in feed.items()}
    bound = 8 * 2.0**-24 * expected(body, size)[0]
    close(got, expected(body, feed)[0], 0, bound)


@pytest.fixture
def plain_conv(monkeypatch):
    """Every convolution by the direct kernel."""
    monkeypatch.setitem(RULES, Conv, direct.lower_direct_conv)


@pytest.mark.usefixtures("plain_conv")
@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("case", [c for c in (*Conv.samples, *MORE) if not c.error])
def test_conv(level, case):
    run(level, Conv(**case.attributes), case, case.inputs)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize(
    "case", [c for c in (*REGISTRY["conv_transpose"].samples, *GROWN) if not c.error]
)
def test_conv_transpose(level, case):
    run(level, REGISTRY["conv_transpose"](**case.attributes), case, case.inputs)


@pytest.mark.usefixtures("plain_conv")
@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("outputs", [1, 3, 20])
def test_tail(level, outputs):
    types = (f32[1, 4, 6, 30], f32[outputs, 4, 3, 3], f32[outputs])
    out = f32[1, outputs, 6, 30]
    tail = lambda b, y, r: b.relu(b.add(y, r))  # noqa: E731
    run(level, Conv(pad=(1, 1)), None, types, tail, (out,))
