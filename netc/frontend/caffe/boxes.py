"""What layers that find boxes are made of: choosing by scores, corners of boxes, rows of results.

How many boxes are found depends on the data, and shapes do not: there is room for as many as may be
found, and the image of a row behind the last one is −1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from netc.frontend.caffe.layer import Layer
from netc.frontend.caffe.message import Message
from netc.ir.graph import Value
from netc.ir.ops.indexing import Compact
from netc.ir.types import DType

LOWEST = -3.4028234663852886e38  # −FLT_MAX
MOST = 2**24  # whole numbers that float32 has


def ranked(c: Layer, scores: Value, count: int, first: bool = True) -> Value:
    """The places of the largest numbers of the last axis, in falling order; of equal ones the first
    comes first, or the last."""
    return c.b.argmax(scores, axis=scores.type.rank - 1, top_k=count, first=first)


def above(c: Layer, scores: Value, least: float) -> Value:
    """The scores that are larger than a number; −∞ for the others, and for NaN."""
    return c.b.where(c.b.threshold(scores, level=least), scores, c.constant(-math.inf))


def flags(c: Layer, kept: Value, scores: Value) -> Value:
    """1 for each of the boxes that are kept whose score is one: not −∞."""
    return c.b.mul(kept, c.b.threshold(scores, level=LOWEST))


def countable(c: Layer, scores: int) -> None:
    """Refuse more places than float32 has whole numbers for."""
    if scores > MOST:
        raise c.unsupported(f"it chooses among {scores:,} scores an image, at most {MOST:,} are")


def rising(c: Layer, places: Value, count: int) -> Value:
    """The smallest numbers of the last axis, in rising order."""
    axis = places.type.rank - 1
    found = c.b.argmax(c.b.affine(places, scale=-1.0), axis=axis, top_k=count, values=True)
    return c.b.affine(found, scale=-1.0)


def pair(c: Layer, boxes: Value, place: int) -> Value:
    """Numbers 2 · place and the next of each box: its x and its y of one kind."""
    return c.b.slice(boxes, axis=boxes.type.rank - 1, start=2 * place, stop=2 * place + 2)


def joined(c: Layer, *parts: Value, axis: int = -1) -> Value:
    """Parts one behind the other along an axis; one part as it is."""
    return parts[0] if len(parts) == 1 else c.b.concat(*parts, axis=axis % parts[0].type.rank)


def moved_boxes(c: Layer, moves: Value, middle: Value, size: Value) -> Value:
    """Boxes whose middle is moved by parts of their size, and whose size is scaled by eˣ."""
    moved = c.b.formula(pair(c, moves, 0), size, middle, body="x0 * x1 + x2")
    return boxes_around(c, moved, pair(c, moves, 1), size)


def boxes_around(c: Layer, middle: Value, growth: Value, size: Value) -> Value:
    """Boxes with a middle and a size, which is scaled by eˣ of its growth."""
    half = c.b.formula(growth, size, body="exp(x0) * x1 / 2")
    return joined(c, c.b.sub(middle, half), c.b.add(middle, half))


def pairs(c: Layer, anchors: Sequence[tuple[float, float]]) -> Value:
    """Widths and heights as [1, 1, 1, anchors, 2]."""
    numbers = [c.constant(x, (1,)) for each in anchors for x in each]
    return c.reshape(c.b.concat(*numbers, axis=0), (1, 1, 1, len(anchors), 2))


def overlap_of(c: Layer, p: Message, field: str = "nms_threshold") -> float:
    """The overlap above which the worse one of two boxes is dropped."""
    c.check(0 <= p.real(field) <= 1, f"{field} must be between 0 and 1", p, field)
    return p.real(field)


def count_of(c: Layer, p: Message, field: str) -> int:
    """How many of something there are: one at least, and no more than float32 counts."""
    c.check(1 <= p.whole(field) <= MOST, f"{field} must be between 1 and {MOST:,}", p, field)
    return p.whole(field)


def in_front(c: Layer, table: Value, good: Value) -> Value:
    """The rows that are good, those of all images one behind the other, and rows of −1."""
    count = table.type.shape[0] * table.type.shape[1]
    rows = c.reshape(table, (count, 7)), c.reshape(good, (count,))
    moved, found = c.b(Compact(), *rows).results
    place = c.b.iota(moved, axis=0)
    real = c.b.cast(found, to=DType.F32)
    out = c.b.formula(place, real, moved, body="select(x0 < x1, x2, -1)")
    return c.reshape(out, (1, 1, count, 7))
