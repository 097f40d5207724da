"""Regions that may hold an object, as Faster R-CNN finds them: boxes that the net moves from
anchors, the best of them that lie apart, as rows that name their image.

Bottoms are scores [n, 2 · anchors, h, w], the second half of them those of objects, moves
[n, 4 · anchors, h, w], and of each image height, width and how often it was enlarged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from netc.frontend.caffe.boxes import (
    LOWEST,
    above,
    flags,
    joined,
    moved_boxes,
    pair,
    pairs,
    ranked,
    rising,
)
from netc.frontend.caffe.layer import Layer
from netc.ir.dims import Dim, product
from netc.ir.graph import Value


@dataclass(frozen=True)
class Search:
    """What is looked for: anchors around cells, and how many boxes, how large and how far apart."""

    stride: float  # pixels from one cell to the next
    base: float  # pixels: the side of the square of which all anchors are made
    anchors: Sequence[tuple[float, float]]  # width and height in pixels
    before: int  # the best boxes of an image, those that are compared
    after: int  # how many are kept of these
    overlap: float  # above which the worse one of two boxes is dropped
    least: float  # the least side, in pixels of the image as it was


def fit(c: Layer, search: Search, columns: Sequence[int] = (3,)) -> Value:
    """The third bottom as [images, numbers of each], when all bottoms fit so many anchors."""
    scores, moves, info = (x.type for x in c.xs)
    anchors = len(search.anchors)
    for i, x, channels in ((0, scores, 2 * anchors), (1, moves, 4 * anchors)):
        fits = x.rank == 4 and x.shape[1] == channels
        c.check(fits, f"bottom {i} is {x}; {anchors} anchors need {channels} channels")
    alike = scores.shape[0] == moves.shape[0] and scores.shape[2:] == moves.shape[2:]
    c.fits(alike, f"bottom 0 is {scores}, bottom 1 is {moves}")
    count = product(info.shape[1:])
    fits = info.rank >= 2 and count in columns and info.shape[0] in (1, scores.shape[0])
    c.check(fits, f"bottom 2 is {info}; height, width and scale of each image are needed")
    return c.xs[2] if info.rank == 2 else c.reshape(c.xs[2], (info.shape[0], count))


def likely_objects(c: Layer, search: Search) -> Value:
    """How likely each box holds an object, [n, boxes]."""
    anchors = len(search.anchors)
    likely = c.b.slice(c.x, axis=1, start=anchors, stop=2 * anchors)
    likely = c.b.transpose(likely, perm=(0, 2, 3, 1))
    return c.reshape(likely, (c.shape[0], _count(c, search)))


def moved_anchors(c: Layer, search: Search, info: Value) -> tuple[Value, Value]:
    """All boxes, within their images, [n, boxes, 4], and whether each is large enough."""
    moves, anchors = c.xs[1], len(search.anchors)
    items, _, height, width = moves.type.shape
    every = _count(c, search)
    high, wide, *scales = (_column(c, info, i) for i in range(int(info.type.shape[1])))
    sides, scale = joined(c, wide, high), joined(c, *scales[::-1])
    moves = c.reshape(moves, (items, anchors, 4, height, width))
    moves = c.b.transpose(moves, perm=(0, 3, 4, 1, 2))
    cell = c.b.slice(moves, axis=4, stop=1)
    shift = joined(c, *(c.b.iota(cell, axis=a) for a in (2, 1)))
    middle = c.b.affine(shift, scale=search.stride, shift=search.base / 2)
    boxes = moved_boxes(c, moves, middle, pairs(c, search.anchors))
    near, far = (
        c.b.formula(pair(c, boxes, i), sides, body="max(min(x0, x1 - 1), 0)") for i in (0, 1)
    )
    body = f"select(x1 - x0 + 1 >= x2 * {search.least:.9g}, 1, 0)"
    enough = c.b.formula(near, far, scale, body=body)
    large = c.b.mul(*(c.b.slice(enough, axis=4, start=i, stop=i + 1) for i in (0, 1)))
    return c.reshape(joined(c, near, far), (items, every, 4)), c.reshape(large, (items, every))


def best_apart(
    c: Layer, search: Search, boxes: Value, likely: Value, first: bool = True
) -> tuple[Value, Value]:
    """Rows (image, x0, y0, x1, y1) of the best boxes of each image that no better one overlaps,
    [n · after, 5], and their scores, [n · after].

    Boxes whose score is −∞ are passed over; of equal scores the first comes first, or the last.
    Behind the last row of an image stand (−1, 0, 0, 0, 0) and 0.
    """
    every, before = likely.type.shape[1], search.before
    likely = above(c, likely, LOWEST)
    if not isinstance(every, int) or every < before:  # room for all, however small the image is
        likely = c.b.pad(likely, before=(0, 0), after=(0, before), value=-math.inf)
    order = ranked(c, likely, before, first)
    best = c.b.gather(likely, order, axis=1, batch=1)
    near = c.b.gather(boxes, order, axis=1, batch=1)
    kept = c.b.non_max_suppression(near, overlap=search.overlap, border=1.0)
    good = flags(c, kept, best)
    return _first(c, good, (near, c.reshape(best, (*best.type.shape, 1))), search.after)


def _first(c: Layer, good: Value, of: tuple[Value, Value], count: int) -> tuple[Value, Value]:
    """The first `count` good boxes of each image as rows that name it, and their scores."""
    items, every = good.type.shape
    assert isinstance(every, int)
    none = c.constant(float(every))
    place = rising(c, c.b.where(good, c.b.iota(good, axis=1), none), count)
    real = c.b.formula(place, body=f"select(x0 < {every}, 1, 0)")
    real = c.reshape(real, (items, count, 1))
    nothing = c.constant(0.0)
    boxes, scores = (c.b.where(real, c.b.gather(x, place, axis=1, batch=1), nothing) for x in of)
    image = c.b.where(real, c.b.iota(real, axis=0), c.constant(-1.0))
    rows = joined(c, image, boxes)
    total = items * count
    return c.reshape(rows, (total, 5)), c.reshape(scores, (total,))


def _count(c: Layer, search: Search) -> Dim:
    """How many boxes an image has."""
    height, width = c.shape[2:]
    return height * width * len(search.anchors)


def _column(c: Layer, info: Value, index: int) -> Value:
    """A number of each image, [n, 1, 1, 1, 1]."""
    numbers = c.b.slice(info, axis=1, start=index, stop=index + 1)
    return c.reshape(numbers, (info.type.shape[0], 1, 1, 1, 1))
