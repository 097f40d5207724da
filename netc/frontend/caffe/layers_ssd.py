"""SSD's default boxes, and DetectionOutput: those of every class that no better one overlaps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from netc.frontend.caffe.boxes import (
    LOWEST,
    above,
    countable,
    flags,
    in_front,
    joined,
    moved_boxes,
    overlap_of,
    pair,
    ranked,
    rising,
)
from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.schema_layers import OTHER_BOXES
from netc.ir.graph import Value


@layer("PriorBox", bottoms=2)
def prior_box(c: Layer) -> Value:
    """SSD's default boxes for each cell of the first bottom, and their variances."""
    p = c.param("prior_box_param")
    for field in ("fixed_size", "fixed_ratio", "density"):
        if field in p:
            raise c.unsupported(f"{field} makes FaceBoxes' denser boxes", "SSD's are")
    smallest, largest = tuple(p.all("min_size")), tuple(p.all("max_size"))
    c.check(len(smallest) > 0 and min(smallest) > 0, "min_size must be above 0", p, "min_size")
    c.check(
        len(largest) in (0, len(smallest)),
        "give no max_size, or one for each min_size",
        p,
        "max_size",
    )
    for field in ("width", "height"):
        c.check(field not in p, f"{field} is for a PriorBoxClustered", p, field)
    return c.b.prior_box(
        *c.xs,
        min_size=smallest,
        max_size=largest,
        aspect_ratio=tuple(p.all("aspect_ratio")),
        flip=p.flag("flip"),
        **_grid(c, p),
    )


@layer("PriorBoxClustered", bottoms=2)
def prior_box_clustered(c: Layer) -> Value:
    """Default boxes of given widths and heights for each cell of the first bottom, and their
    variances (prior_box_clustered_layer.cpp of Intel's training toolbox)."""
    p = c.param("prior_box_param")
    sides = {field: tuple(p.all(field)) for field in ("width", "height")}
    for field, given in sides.items():
        good = len(given) > 0 and min(given) > 0 and max(given) < math.inf
        c.check(good, f"{field} must be above 0 and finite", p, field)
    wide, tall = map(len, sides.values())
    c.check(wide == tall, f"{wide} width for {tall} height", p, "height")
    return c.b.prior_box(*c.xs, **sides, **_grid(c, p))


def _grid(c: Layer, p: Message) -> dict[str, Any]:
    """What default boxes of every kind have: where they lie, whether they are cut, variances."""
    variance = tuple(p.all("variance")) or (0.1,)
    c.check(len(variance) in (1, 4), "give 1 variance, or 4", p, "variance")
    return {
        "clip": p.flag("clip"),
        "variance": variance,
        "img_size": _pair(c, p, "img_size", "img_h", "img_w", int),
        "step": _pair(c, p, "step", "step_h", "step_w", float),
        "offset": p.real("offset"),
    }


def _pair(c: Layer, p: Message, both: str, tall: str, wide: str, kind: type) -> tuple[float, ...]:
    """(height, width) from one field or two; () where the shapes of the blobs tell."""
    given = [field for field in (both, tall, wide) if field in p]
    if not given:
        return ()
    alone = given in ([both], [tall, wide])
    c.check(alone, f"give {both}, or {tall} and {wide}", p, given[0])
    for field in given:
        c.check(p.real(field) > 0, f"{field} must be above 0", p, field)
    return (kind(p.get(given[0])), kind(p.get(given[-1])))


@dataclass(frozen=True)
class _Head:
    """How many classes and default boxes there are, and which class is the background, if any."""

    classes: int
    priors: int
    background: int

    @classmethod
    def of(cls, c: Layer, p: Message) -> _Head:
        """What the layer says, when all bottoms fit."""
        c.check("num_classes" in p, "num_classes is missing", p)
        classes = p.whole("num_classes")
        c.check(classes > 0, "num_classes must be at least 1", p, "num_classes")
        loc, conf, prior = (x.type for x in c.xs[:3])
        count = prior.count // 8
        good = prior.rank >= 3 and prior.shape[1] == 2 and isinstance(count, int)
        c.check(good, f"bottom 2 is {prior}; default boxes of known number have 1x2x(4 boxes)")
        assert isinstance(count, int)
        own = 1 if p.flag("share_location") else classes
        for i, x, each, of in ((0, loc, 4 * own, "locations"), (1, conf, classes, "scores")):
            fits = x.rank > 0 and x.count == x.shape[0] * (count * each)
            what = f"bottom {i} is {x}; {count} default boxes have {count * each} {of} an image"
            c.check(fits, what)
        c.fits(loc.shape[0] == conf.shape[0], f"bottom 0 is {loc}, bottom 1 is {conf}")
        head = cls(classes, count, p.whole("background_label_id"))
        what = "there is no class but the background"
        c.check(head.objects > 0, what, p, "num_classes")
        return head

    @property
    def objects(self) -> int:
        """How many classes there are but the background."""
        return self.classes - (0 <= self.background < self.classes)

    def foreground(self, c: Layer, x: Value) -> Value:
        """x without the background along axis 1."""
        if self.objects == self.classes:
            return x
        ends = [(0, self.background), (self.background + 1, self.classes)]
        return joined(c, *(c.b.slice(x, axis=1, start=a, stop=b) for a, b in ends if a < b), axis=1)


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
    _as_in_ssd(c, p)
    head = _Head.of(c, p)
    boxes, scores = _boxes(c, p, head), _scores(c, head)
    items, limits = scores.type.shape[0], p.sub("nms_param")
    top = min(_limit(c, limits, "top_k"), head.priors)
    every = head.objects * top
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
    if head.objects < head.classes:  # the background is left out
        label = c.b.formula(label, body=f"x0 + select(x0 < {head.background}, 0, 1)")
    columns = (c.b.iota(place, axis=0), label, c.b.gather(best, place, axis=1, batch=1))
    where = c.b.gather(c.reshape(near, (items, every, 4)), place, axis=1, batch=1)
    table = joined(c, *(c.reshape(x, (items, keep, 1)) for x in columns), where)
    return in_front(c, table, good)


def _as_in_ssd(c: Layer, p: Message) -> None:
    """Refuse the fields of forks that make other boxes or rows of it."""
    for field in ("normalized", *OTHER_BOXES):
        if p.flag(field) != (field == "normalized"):
            value = str(p.flag(field)).lower()
            raise c.unsupported(f"{field}: {value}", "boxes as SSD makes them are")


def _limit(c: Layer, p: Message, field: str) -> int:
    """How many are kept at most; −1 is no limit."""
    limit = p.whole(field) if field in p else -1
    c.check(limit >= -1 and limit != 0, f"{field} must be at least 1, or -1 for all", p, field)
    return limit if limit > 0 else 2**31


def _scores(c: Layer, head: _Head) -> Value:
    """[items, classes, boxes], without the background."""
    conf = c.xs[1]
    x = c.reshape(conf, (conf.type.shape[0], head.priors, head.classes))
    return head.foreground(c, c.b.transpose(x, perm=(0, 2, 1)))


def _boxes(c: Layer, p: Message, head: _Head) -> Value:
    """[items, boxes, 4], or [items, classes, boxes, 4] where each class has boxes of its own."""
    loc, prior = c.xs[0], c.xs[2]
    items, priors = loc.type.shape[0], head.priors
    default, variance = (
        c.reshape(c.b.slice(prior, axis=1, start=i, stop=i + 1), (1, priors, 4)) for i in (0, 1)
    )
    if p.flag("share_location"):
        moves = c.reshape(loc, (items, priors, 4))
    else:
        moves = c.reshape(loc, (items, priors, head.classes, 4))
        moves = head.foreground(c, c.b.transpose(moves, perm=(0, 2, 1, 3)))
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
    return moved_boxes(c, moves, c.b.formula(low, high, body="(x0 + x1) / 2"), c.b.sub(high, low))


_CODES: dict[str, Callable[[Layer, Value, Value], Value]] = {
    "CORNER": _by_corner,
    "CORNER_SIZE": _by_corner_and_size,
    "CENTER_SIZE": _by_middle_and_size,
}
