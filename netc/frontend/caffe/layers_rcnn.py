"""Fast and Faster R-CNN, R-FCN: regions that may hold an object, and pooling over them."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Sequence

from netc.frontend.caffe.boxes import (
    LOWEST,
    MOST,
    above,
    flags,
    joined,
    moved_boxes,
    pair,
    pairs,
    ranked,
    rising,
)
from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.ir.dims import product
from netc.ir.graph import Value

_BASE = 16.0  # pixels: the side of the square of which all anchors are made
_ENTRY = re.compile(
    r"""['"]?(\w+)['"]?\s*:\s*(?:!!\S+\s*)?(\[[^][]*\]|\([^()]*\)|[\w.+-]+)[\s,]*"""
)

# lib/fast_rcnn/config.py: boxes before and after, overlap, least side in pixels
_TEST, _TRAIN = (6000, 300, 0.7, 16.0), (12000, 2000, 0.7, 16.0)


@layer("ROIPooling", bottoms=2)
def roi_pooling(c: Layer) -> Value:
    """The largest element of each bin of each region."""
    p = c.param("roi_pooling_param")
    size = (_count(c, p, "pooled_h"), _count(c, p, "pooled_w"))
    return c.b.roi_pool(c.x, _rows_of_five(c), size=size, scale=_scale(c, p))


@layer("PSROIPooling", bottoms=2)
def psroi_pooling(c: Layer) -> Value:
    """The mean of each bin of each region, each bin of channels of its own."""
    p = c.param("psroi_pooling_param")
    channels, group = _count(c, p, "output_dim"), _count(c, p, "group_size")
    scale = _scale(c, p)
    return c.b.ps_roi_pool(c.x, _rows_of_five(c), channels=channels, group=group, scale=scale)


def _count(c: Layer, p: Message, field: str) -> int:
    c.check(p.whole(field) >= 1, f"{field} must be at least 1", p, field)
    return p.whole(field)


def _scale(c: Layer, p: Message) -> float:
    c.check(p.real("spatial_scale") > 0, "spatial_scale must be above 0", p, "spatial_scale")
    return p.real("spatial_scale")


def _rows_of_five(c: Layer) -> Value:
    """The second bottom as [r, 5]: Caffe's [r, 5, 1, 1] too."""
    rois = c.xs[1]
    sizes = rois.type.shape
    c.check(product(sizes[1:]) == 5, f"rois is {rois.type}; five numbers for each are needed")
    return rois if len(sizes) == 2 else c.reshape(rois, (sizes[0], 5))


def proposals(c: Layer) -> list[Value]:
    """Regions (image, x0, y0, x1, y1) that may hold an object, and their scores, from the best down
    (py-faster-rcnn's rpn/proposal_layer.py, with the numbers of its config.py)."""
    c.check(len(c.xs) == 3, f"it takes 3 bottoms, not {len(c.xs)}")
    c.check(len(c.tops) in (1, 2), f"it takes 1 or 2 tops, not {len(c.tops)}")
    stride, anchors = _parameters(c)
    before, after, overlap, least = _TRAIN if c.train else _TEST
    scores = c.x
    _fit(c, len(anchors))
    items, _, height, width = scores.type.shape
    every = height * width * len(anchors)
    boxes, large = _regions(c, stride, anchors, least)
    likely = c.b.slice(scores, axis=1, start=len(anchors), stop=2 * len(anchors))
    likely = c.reshape(c.b.transpose(likely, perm=(0, 2, 3, 1)), (items, every))
    likely = c.b.where(large, above(c, likely, LOWEST), c.constant(-math.inf))
    if not isinstance(every, int) or every < before:  # room for all, however small the image is
        likely = c.b.pad(likely, before=(0, 0), after=(0, before), value=-math.inf)
    order = ranked(c, likely, before)
    best = c.b.gather(likely, order, axis=1, batch=1)
    near = c.b.gather(boxes, order, axis=1, batch=1)
    kept = c.b.non_max_suppression(near, overlap=overlap, border=1.0)
    good = flags(c, kept, best)
    return _first(c, good, (near, c.reshape(best, (*best.type.shape, 1))), after)[: len(c.tops)]


def _regions(
    c: Layer, stride: float, anchors: Sequence[tuple[float, float]], least: float
) -> tuple[Value, Value]:
    """All boxes, within their images, [items, boxes, 4], and whether each is large enough."""
    _, moves, info = c.xs
    items, _, height, width = moves.type.shape
    every = height * width * len(anchors)
    high, wide, scale = (_column(c, info, i) for i in range(3))
    sides = joined(c, wide, high)
    moves = c.reshape(moves, (items, len(anchors), 4, height, width))
    moves = c.b.transpose(moves, perm=(0, 3, 4, 1, 2))
    cell = c.b.slice(moves, axis=4, stop=1)
    shift = joined(c, *(c.b.iota(cell, axis=a) for a in (2, 1)))
    middle = c.b.affine(shift, scale=stride, shift=_BASE / 2)
    boxes = moved_boxes(c, moves, middle, pairs(c, anchors))
    near, far = (
        c.b.formula(pair(c, boxes, i), sides, body="max(min(x0, x1 - 1), 0)") for i in (0, 1)
    )
    body = f"select(x1 - x0 + 1 >= x2 * {least:g}, 1, 0)"
    enough = c.b.formula(near, far, scale, body=body)
    large = c.b.mul(*(c.b.slice(enough, axis=4, start=i, stop=i + 1) for i in (0, 1)))
    return c.reshape(joined(c, near, far), (items, every, 4)), c.reshape(large, (items, every))


def _first(c: Layer, good: Value, of: tuple[Value, Value], count: int) -> list[Value]:
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
    return [c.reshape(rows, (total, 5)), c.reshape(scores, (total, 1))]


def _fit(c: Layer, anchors: int) -> None:
    """Whether the bottoms have the sizes that so many anchors need."""
    scores, moves, info = (x.type for x in c.xs)
    for i, x, channels in ((0, scores, 2 * anchors), (1, moves, 4 * anchors)):
        fits = x.rank == 4 and x.shape[1] == channels
        c.check(fits, f"bottom {i} is {x}; {anchors} anchors need {channels} channels")
    alike = scores.shape[0] == moves.shape[0] and scores.shape[2:] == moves.shape[2:]
    c.fits(alike, f"bottom 0 is {scores}, bottom 1 is {moves}")
    fits = info.rank == 2 and info.shape[1] == 3 and info.shape[0] in (1, scores.shape[0])
    c.check(fits, f"bottom 2 is {info}; height, width and scale of each image are needed")


def _column(c: Layer, info: Value, index: int) -> Value:
    """A number of each image, [items, 1, 1, 1, 1]."""
    numbers = c.b.slice(info, axis=1, start=index, stop=index + 1)
    return c.reshape(numbers, (info.type.shape[0], 1, 1, 1, 1))


def _parameters(c: Layer) -> tuple[float, list[tuple[float, float]]]:
    """How many pixels the cells are apart, and the width and height of each anchor."""
    p = c.param("python_param")
    given = dict(_entries(c, p))
    numbers: dict[str, list[float]] = {"ratios": [0.5, 1.0, 2.0], "scales": [8.0, 16.0, 32.0]}
    for name, value in given.items():
        if name not in ("feat_stride", *numbers):
            raise c.unsupported(f"its param_str has {name!r}", "feat_stride, scales and ratios are")
        numbers[name] = value
    good = len(numbers.get("feat_stride", ())) == 1 and all(
        found and all(0 < x < 1e6 for x in found) for found in numbers.values()
    )
    c.check(good, "param_str needs 'feat_stride', and numbers above 0", p, "param_str")
    return numbers["feat_stride"][0], [
        (width * scale, height * scale)
        for width, height in map(_of_ratio, numbers["ratios"])
        for scale in numbers["scales"]
    ]


def _of_ratio(ratio: float) -> tuple[float, float]:
    """Width and height of the base square's area, in whole pixels (generate_anchors.py)."""
    width = round(math.sqrt(_BASE * _BASE / ratio))
    return float(width), float(round(width * ratio))


def _entries(c: Layer, p: Message) -> Iterator[tuple[str, list[float]]]:
    """The names and numbers of a param_str, as YAML or Python writes them."""
    lines = [line.partition("#")[0] for line in p.text("param_str").splitlines()]
    text = "\n".join(lines).strip().removeprefix("{").removesuffix("}").strip()
    place = 0
    while place < len(text):
        found = _ENTRY.match(text, place)
        try:
            value = ast.literal_eval(found[2]) if found else None
        except (ValueError, SyntaxError):
            value = None
        if not found or value is None:
            raise c.unsupported("its param_str is no list of names and numbers")
        numbers = value if isinstance(value, list | tuple) else [value]
        if not all(type(x) in (int, float) and abs(x) < MOST for x in numbers):
            raise c.unsupported(f"in its param_str, {found[1]!r} is no number of pixels")
        yield found[1], [float(x) for x in numbers]
        place = found.end()
