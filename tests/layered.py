"""Random nets as people write them, layer upon layer, with channels that can be split."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from netc.ir.graph import Graph, Value
from netc.ir.types import f32
from tests.strategies import Growth

CHANNELS = (2, 3, 4, 6, 8, 9, 12, 16)
COUNTS = (2, 3, 4, 6, 8, 12, 16, 17)  # of a layer's output channels


def _channels(x: Value) -> int:
    c = x.type.shape[1]
    assert isinstance(c, int)
    return c


def _conv(g: Growth, x: Value, out: int = 0, k: int = 0, stride: int = 1) -> Value | None:
    """A convolution; where nothing is said of its channels it may be in groups."""
    c, groups = _channels(x), 1
    if not out:
        groups = g.one_of(1, 1, *(d for d in range(2, c + 1) if c % d == 0))
        out = groups * g.one_of(1, 2, 3) if groups > 1 else g.one_of(*COUNTS)
    k = k or g.one_of(1, 3, 3, 5)
    scale = math.sqrt(2 / (c // groups * k * k))
    xs = [x, g.param((out, c // groups, k, k), scale=scale)]
    xs += [g.param((out,))] if g.pick(3) else []
    pad = (k // 2, k // 2)
    return g.add("conv", *xs, groups=groups, pad=pad, stride=(stride, stride))


def _conv_relu(g: Growth, x: Value) -> Value | None:
    y = _conv(g, x, stride=g.one_of(1, 1, 1, 2))
    return y and g.add("relu", y)


def _up(g: Growth, x: Value) -> Value | None:
    c = _channels(x)
    groups = g.one_of(1, 1, c)
    w = g.param((c, g.one_of(2, 3, 4) if groups == 1 else 1, 2, 2), scale=1 / math.sqrt(c))
    return g.add("conv_transpose", x, w, groups=groups, stride=(2, 2))


def _pool(g: Growth, x: Value) -> Value | None:
    kernel = g.one_of((2, 2), (3, 3))
    name, stride, pad = g.one_of("max_pool", "avg_pool"), g.one_of((1, 1), (2, 2)), g.one_of(0, 1)
    return g.add(name, x, kernel=kernel, stride=stride, pad=(pad, pad))


def _across(g: Growth, x: Value) -> Value | None:
    """What reads all channels of a place."""
    name, attributes = g.one_of(("lrn", {"size": 3, "alpha": 0.1}), ("softmax", {}))
    return g.add(name, x, **attributes)


def _norm(g: Growth, x: Value) -> Value | None:
    c = _channels(x)
    y = g.add("batch_norm", x, g.param((c, 1, 1)), g.param((c, 1, 1), "positive"))
    y = y and g.add("mul", y, g.param((c, 1, 1), "positive"))
    y = y and g.add("add", y, g.param((c, 1, 1)))
    return y and g.add("relu", y) if g.pick(2) else y


def _branches(g: Growth, x: Value) -> Value | None:
    made = [_conv(g, x, g.one_of(*COUNTS), g.one_of(1, 3, 5)) for _ in range(2 + g.pick(2))]
    found = [y for y in made if y is not None]
    if len(found) < 2:
        return None
    found += [g.add("relu", found.pop()) or x] if g.pick(2) else []
    y = g.add("concat", *found, *([x] if g.pick(3) == 0 else []), axis=1)
    return y and g.add("relu", y) if g.pick(2) else y


def _residual(g: Growth, x: Value) -> Value | None:
    y = _conv(g, x, g.one_of(*COUNTS), 3)
    y = y and g.add("relu", y)
    y = y and _conv(g, y, _channels(x), g.one_of(1, 3))
    y = y and g.add("add", y, x)
    return y and g.add("relu", y) if g.pick(2) else y


def _gate(g: Growth, x: Value) -> Value | None:
    """Channels weighed by what is in all of them."""
    y = g.add("global_avg_pool", x)
    y = y and _conv(g, y, g.one_of(2, 3, 4), 1)
    y = y and g.add("relu", y)
    y = y and _conv(g, y, _channels(x), 1)
    y = y and g.add("sigmoid", y)
    return y and g.add("mul", x, y)


def _halves(g: Growth, x: Value) -> Value | None:
    """Channels apart and together again, in another order."""
    at = 1 + g.pick(_channels(x) - 1)
    low = g.add("slice", x, axis=1, stop=at)
    high = low and g.add("slice", x, axis=1, start=at, stop=_channels(x))
    low = low and high and (_conv_relu(g, low) or low)
    if low is None or high is None or low.type.shape[2:] != high.type.shape[2:]:
        return None
    return g.add("concat", high, low, axis=1)


def _one_map(g: Growth, x: Value) -> Value | None:
    """A pointwise layer and a formula."""
    y = _conv(g, x, g.one_of(*COUNTS), 1)
    return y and g.add(*g.one_of(("sigmoid", y), ("tanh", y), ("elu", y), ("abs", y)))


BLOCKS = (
    _conv_relu, _conv_relu, _conv, _up, _pool, _across, _norm, _branches, _residual, _gate,
    _halves, _one_map,
)  # fmt: skip


def _head(g: Growth, x: Value) -> Value | None:
    """One, two or three inner products over all of x."""
    y: Value | None = g.add("global_avg_pool", x) if g.pick(2) else x
    y = y and g.add("flatten", y)
    for _ in range(1 + g.pick(3)):
        inner = y is not None and y.type.shape[1]
        if y is None or not isinstance(inner, int) or inner > 4000:
            return y
        out = g.one_of(*COUNTS)
        xs = [y, g.param((out, inner), scale=math.sqrt(2 / inner)), g.param((out,))]
        y = g.add("fc", *xs[: 2 + g.pick(2)])
        y = y and g.add(*g.one_of(("relu", y), ("softmax", y), ("tanh", y)))
    return y


@st.composite
def layered(draw: st.DrawFn, batch: int = 2, max_blocks: int = 4) -> Graph:
    """A net of one image, of up to so many blocks and mostly with inner products at its end."""

    def pick(count: int) -> int:
        return draw(st.integers(0, 2**20)) % count if count > 1 else 0

    g = Growth(pick, draw(st.integers(0, 2**16)))
    side = g.one_of((6, 6), (8, 8), (9, 7))
    g.input(f32[batch, g.one_of(*CHANNELS), *side])
    x = g.pool[0]
    made: list[Value] = []
    for _ in range(1 + pick(max_blocks)):
        block: Any = BLOCKS[pick(len(BLOCKS))]
        y = block(g, x)
        if y is not None:
            made.append(x := y)
    if pick(4):
        made.append(x := _head(g, x) or x)
    chosen = {v.name: v for v in (x, *(made[pick(len(made))] for _ in range(pick(3)) if made))}
    return replace(g.b.graph("layered", chosen), inputs=tuple(g.b.inputs))
