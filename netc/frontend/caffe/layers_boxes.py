"""Layers that find boxes: SSD's DetectionOutput and the proposals of Faster R-CNN.

How many boxes are found depends on the data, and shapes do not: there is room for as many as may be
found, and the image of a row behind the last one is −1.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Sequence

from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.ir.graph import Value
from netc.ir.ops.indexing import Compact
from netc.ir.types import DType

LOWEST = -3.4028234663852886e38  # −FLT_MAX
MOST = 2**24  # whole numbers that float32 has


def ranked(c: Layer, scores: Value, count: int) -> Value:
    """The places of the largest numbers of the last axis, in falling order."""
    return c.b.argmax(scores, axis=scores.type.rank - 1, top_k=count, first=True)


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


def joined(c: Layer, *parts: Value) -> Value:
    """Parts one behind the other along the last axis."""
    return c.b.concat(*parts, axis=parts[0].type.rank - 1)


# ---- SSD ----------------------------------------------------------------------------------------


@layer("DetectionOutput", bottoms=(3, None))
def detection_output(c: Layer) -> Value:
    """Rows (image, label, score, x0, y0, x1, y1) of the boxes of every class that no better one of
    the class overlaps, from the default boxes and what the net says of them (SSD's
    detection_output_layer.cpp): those of one image by label, then from the best score down.

    A fourth bottom, on which Caffe draws the boxes, is not read.
    """
    if len(c.xs) > 4:
        raise c.unsupported(f"it has {len(c.xs)} bottoms", "SSD's, of 3 or 4 bottoms, is")
    p = c.param("detection_output_param")
    boxes, scores = _boxes(c, p), _scores(c, p)
    items, classes, priors = scores.type.shape
    assert isinstance(classes, int)
    assert isinstance(priors, int)
    limits = p.sub("nms_param")
    top = min(_limit(c, limits, "top_k"), priors)
    every = classes * top
    keep = min(_limit(c, p, "keep_top_k"), every)
    countable(c, every)

    least = p.real("confidence_threshold") if "confidence_threshold" in p else LOWEST
    scores = above(c, scores, least)
    order = ranked(c, scores, top)
    best = c.b.gather(scores, order, axis=2, batch=2)
    own = boxes.type.rank - 2  # the axes before the boxes: images, or images and classes
    near = c.b.gather(boxes, order, axis=own, batch=own)
    eta = limits.real("eta")
    c.check(0 < eta <= 1, "eta must be above 0 and at most 1", limits, "eta")
    kept = c.b.non_max_suppression(near, overlap=overlap_of(c, limits), eta=eta)
    good = flags(c, kept, best)

    good, best = (c.reshape(x, (items, every)) for x in (good, best))
    place = c.b.iota(good, axis=1)
    if keep < every:
        chosen = ranked(c, c.b.where(good, best, c.constant(-math.inf)), keep)
        good = c.b.gather(good, chosen, axis=1, batch=1)
        place = rising(c, c.b.where(good, chosen, c.constant(every)), keep)
        good = c.b.formula(place, body=f"select(x0 < {every}, 1, 0)")
    label = c.b.formula(place, body=f"floor((x0 + 0.5) / {top})")
    background = p.whole("background_label_id")
    if 0 <= background <= classes:  # one that is left out
        label = c.b.formula(label, body=f"x0 + select(x0 < {background}, 0, 1)")
    columns = (c.b.iota(place, axis=0), label, c.b.gather(best, place, axis=1, batch=1))
    where = c.b.gather(c.reshape(near, (items, every, 4)), place, axis=1, batch=1)
    table = joined(c, *(c.reshape(x, (items, keep, 1)) for x in columns), where)
    return in_front(c, table, good)


def in_front(c: Layer, table: Value, good: Value) -> Value:
    """The rows that are good, those of all images one behind the other, and rows of −1."""
    count = table.type.shape[0] * table.type.shape[1]
    rows = c.reshape(table, (count, 7)), c.reshape(good, (count,))
    moved, found = c.b(Compact(), *rows).results
    place = c.b.iota(moved, axis=0)
    real = c.b.cast(found, to=DType.F32)
    out = c.b.formula(place, real, moved, body="select(x0 < x1, x2, -1)")
    return c.reshape(out, (1, 1, count, 7))


def _limit(c: Layer, p: Message, field: str) -> int:
    """How many are kept at most; −1 is no limit."""
    limit = p.whole(field) if field in p else -1
    c.check(limit >= -1 and limit != 0, f"{field} must be at least 1, or -1 for all", p, field)
    return limit if limit > 0 else 2**31


def overlap_of(c: Layer, p: Message) -> float:
    """The overlap above which the worse one of two boxes is dropped."""
    overlap = p.real("nms_threshold")
    c.check(0 <= overlap <= 1, "nms_threshold must be between 0 and 1", p, "nms_threshold")
    return overlap


def _scores(c: Layer, p: Message) -> Value:
    """[items, classes, boxes], without the background."""
    classes = _classes(c, p)
    conf = c.xs[1]
    x = c.reshape(conf, (conf.type.shape[0], _priors(c), classes))
    return _without(c, p, c.b.transpose(x, perm=(0, 2, 1)))


def _boxes(c: Layer, p: Message) -> Value:
    """[items, boxes, 4], or [items, classes, boxes, 4] where each class has boxes of its own."""
    loc, prior = c.xs[0], c.xs[2]
    items, priors = loc.type.shape[0], _priors(c)
    default, variance = (
        c.reshape(c.b.slice(prior, axis=1, start=i, stop=i + 1), (1, priors, 4)) for i in (0, 1)
    )
    if p.flag("share_location"):
        moves = c.reshape(loc, (items, priors, 4))
    else:
        moves = c.reshape(loc, (items, priors, _classes(c, p), 4))
        moves = _without(c, p, c.b.transpose(moves, perm=(0, 2, 1, 3)))
    if not p.flag("variance_encoded_in_target"):
        moves = c.b.mul(moves, variance)
    return _CODES[p.text("code_type")](c, moves, default)


def _by_corner(c: Layer, moves: Value, default: Value) -> Value:
    return c.b.add(default, moves)


def _by_corner_and_size(c: Layer, moves: Value, default: Value) -> Value:
    size = c.b.sub(pair(c, default, 1), pair(c, default, 0))
    return c.b.add(default, c.b.mul(moves, joined(c, size, size)))


def _by_middle_and_size(c: Layer, moves: Value, default: Value) -> Value:
    low, high = (pair(c, default, i) for i in (0, 1))
    return _moved(c, moves, c.b.formula(low, high, body="(x0 + x1) / 2"), c.b.sub(high, low))


_CODES: dict[str, Callable[[Layer, Value, Value], Value]] = {
    "CORNER": _by_corner,
    "CORNER_SIZE": _by_corner_and_size,
    "CENTER_SIZE": _by_middle_and_size,
}


def _moved(c: Layer, moves: Value, middle: Value, size: Value) -> Value:
    """Boxes whose middle is moved by parts of their size, and whose size is scaled by eˣ."""
    moved = c.b.formula(pair(c, moves, 0), size, middle, body="x0 * x1 + x2")
    return boxes_around(c, moved, pair(c, moves, 1), size)


def boxes_around(c: Layer, middle: Value, growth: Value, size: Value) -> Value:
    """Boxes with a middle and a size, which is scaled by eˣ of its growth."""
    half = c.b.formula(growth, size, body="exp(x0) * x1 / 2")
    return joined(c, c.b.sub(middle, half), c.b.add(middle, half))


def _without(c: Layer, p: Message, x: Value) -> Value:
    """x without the background along axis 1."""
    classes, background = _classes(c, p), p.whole("background_label_id")
    if not 0 <= background < classes:
        return x
    c.check(classes > 1, "there is no class but the background", p, "num_classes")
    ends = [(0, background), (background + 1, classes)]
    parts = [c.b.slice(x, axis=1, start=a, stop=b) for a, b in ends if a < b]
    return parts[0] if len(parts) == 1 else c.b.concat(*parts, axis=1)


def _classes(c: Layer, p: Message) -> int:
    c.check("num_classes" in p, "num_classes is missing", p)
    c.check(p.whole("num_classes") > 0, "num_classes must be at least 1", p, "num_classes")
    return p.whole("num_classes")


def _priors(c: Layer) -> int:
    """How many default boxes there are, when all bottoms fit."""
    p = c.param("detection_output_param")
    loc, conf, prior = (x.type for x in c.xs[:3])
    count, classes = prior.count // 8, _classes(c, p)
    good = prior.rank >= 3 and prior.shape[1] == 2 and isinstance(count, int)
    c.check(good, f"bottom 2 is {prior}; default boxes of known number have 1x2x(4 boxes)")
    assert isinstance(count, int)
    own = 1 if p.flag("share_location") else classes
    for i, x, each, of in ((0, loc, 4 * own, "locations"), (1, conf, classes, "scores")):
        fits = x.rank > 0 and x.count == x.shape[0] * (count * each)
        c.check(fits, f"bottom {i} is {x}; {count} default boxes have {count * each} {of} an image")
    c.check(loc.shape[0] == conf.shape[0], f"bottom 0 is {loc}, bottom 1 is {conf}")
    return count


# ---- Faster R-CNN -------------------------------------------------------------------------------

_BASE = 16.0  # pixels: the side of the square of which all anchors are made
_ENTRY = re.compile(
    r"""['"]?(\w+)['"]?\s*:\s*(?:!!\S+\s*)?(\[[^][]*\]|\([^()]*\)|[\w.+-]+)[\s,]*"""
)

# lib/fast_rcnn/config.py: boxes before and after, overlap, least side in pixels
_TEST, _TRAIN = (6000, 300, 0.7, 16.0), (12000, 2000, 0.7, 16.0)


def proposals(c: Layer) -> list[Value]:
    """Regions (image, x0, y0, x1, y1) that may hold an object, and their scores, from the best down
    (py-faster-rcnn's rpn/proposal_layer.py, with the numbers of its config.py)."""
    c.check(len(c.xs) == 3, f"it takes 3 bottoms, not {len(c.xs)}")
    c.check(len(c.tops) in (1, 2), f"it takes 1 or 2 tops, not {len(c.tops)}")
    stride, anchors = _parameters(c)
    before, after, overlap, least = _TRAIN if c.train else _TEST
    scores, moves, info = c.xs
    _fit(c, len(anchors))
    items = scores.type.shape[0]
    height, width = scores.type.shape[2:]
    every = height * width * len(anchors)
    image = [c.reshape(_columns(c, info, i), (info.type.shape[0], 1, 1, 1, -1)) for i in (0, 1)]

    moves = c.reshape(moves, (items, len(anchors), 4, height, width))
    moves = c.b.transpose(moves, perm=(0, 3, 4, 1, 2))
    size = pairs(c, anchors)
    grid = pair(c, moves, 0)
    shift = joined(c, *(c.b.iota(c.b.slice(grid, axis=4, stop=1), axis=a) for a in (2, 1)))
    middle = c.b.affine(shift, scale=stride, shift=_BASE / 2)
    boxes = _moved(c, moves, middle, size)
    low, high = (
        c.b.formula(pair(c, boxes, i), image[0], body="max(min(x0, x1 - 1), 0)") for i in (0, 1)
    )
    least_side = c.b.formula(
        low, high, image[1], body=f"select(x1 - x0 + 1 >= x2 * {least:g}, 1, 0)"
    )
    large = c.b.mul(*(c.b.slice(least_side, axis=4, start=i, stop=i + 1) for i in (0, 1)))

    object_ = c.b.slice(scores, axis=1, start=len(anchors), stop=2 * len(anchors))
    object_ = c.reshape(c.b.transpose(object_, perm=(0, 2, 3, 1)), (items, every))
    large = c.reshape(large, (items, every))
    object_ = c.b.where(large, above(c, object_, LOWEST), c.constant(-math.inf))
    if not isinstance(every, int) or every < before:  # room for all, however small the image is
        object_ = c.b.pad(object_, before=(0, 0), after=(0, before), value=-math.inf)
    order = ranked(c, object_, before)
    best = c.b.gather(object_, order, axis=1, batch=1)
    boxes = c.reshape(joined(c, low, high), (items, every, 4))
    near = c.b.gather(boxes, order, axis=1, batch=1)
    kept = c.b.non_max_suppression(near, overlap=overlap, border=1.0)
    good = flags(c, kept, best)
    return _first(c, good, (near, c.reshape(best, (*best.type.shape, 1))), after)[: len(c.tops)]


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
    c.check(alike, f"bottom 0 is {scores}, bottom 1 is {moves}")
    fits = info.rank == 2 and info.shape[1] == 3 and info.shape[0] in (1, scores.shape[0])
    c.check(fits, f"bottom 2 is {info}; height, width and scale of each image are needed")


def _columns(c: Layer, info: Value, kind: int) -> Value:
    """Of each image its width and height, or its scale."""
    starts: Sequence[int] = (1, 0) if kind == 0 else (2,)
    parts = [c.b.slice(info, axis=1, start=i, stop=i + 1) for i in starts]
    return parts[0] if len(parts) == 1 else joined(c, *parts)


def pairs(c: Layer, anchors: Sequence[tuple[float, float]]) -> Value:
    """Widths and heights as [1, 1, 1, anchors, 2]."""
    numbers = [c.constant(x, (1,)) for each in anchors for x in each]
    return c.reshape(c.b.concat(*numbers, axis=0), (1, 1, 1, len(anchors), 2))


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
