"""YOLO's boxes: the layers of the fork MobileNet-YOLO and of Intel's training toolbox."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from netc.frontend.caffe.boxes import (
    above,
    boxes_around,
    countable,
    flags,
    in_front,
    joined,
    overlap_of,
    pair,
    pairs,
    ranked,
)
from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.layers_common import flattened
from netc.frontend.caffe.message import Message
from netc.ir.graph import Value

Pair = tuple[float, float]

ROOM = 1000  # the best boxes of an image, those that are looked at


@layer("Yolov3DetectionOutput", bottoms=(1, None))
def yolo_detection_output(c: Layer) -> Value:
    """Rows (image, label, score, x0, y0, x1, y1) of the boxes that no better one of any class
    overlaps, those of one image from the best score down (yolov3_detection_output_layer.cpp).

    Bottom t is [n, boxes · (5 + classes), side, side]: of each box of a cell x, y, width, height,
    how likely it is one, and how likely each class is.
    """
    p = c.param("yolov3_detection_output_param")
    classes = p.whole("num_classes")
    c.check(classes >= 1, "num_classes must be at least 1", p, "num_classes")
    found = [
        _of_bottom(c, i, classes, _scaled(anchors, p.all("anchors_scale")[i]))
        for i, anchors in enumerate(_anchors(c, p))
    ]
    boxes, likely, of_class = (joined(c, *parts, axis=1) for parts in zip(*found, strict=True))
    scores = c.b.formula(likely, of_class, body="sigmoid(x0) * sigmoid(x1)")
    items, every, _ = scores.type.shape
    scores = c.reshape(scores, (items, every * classes))
    order, best = _best(c, scores, p.real("confidence_threshold"))
    box = c.b.formula(order, body=f"floor((x0 + 0.5) / {classes})")
    near = c.b.gather(boxes, box, axis=1, batch=1)
    label = c.b.formula(order, box, body=f"x0 - {classes} * x1 + 1")
    return _apart(c, near, best, label, overlap_of(c, p))


@layer("YoloDetectionOutput", bottoms=(1, 2))
def yolo2_detection_output(c: Layer) -> Value:
    """Rows (image, label, score, x0, y0, x1, y1) of the boxes that no better one of any class
    overlaps, those of one image from the best score down (yolo_detection_output_layer.cpp).

    Bottoms are as those of Yolov3DetectionOutput. A box has the label of its likeliest class.
    """
    p = c.param("yolo_detection_output_param")
    c.check("num_classes" in p, "num_classes is missing", p)
    classes, count, sides = p.whole("num_classes"), p.whole("num_box"), p.all("biases")
    c.check(classes >= 1, "num_classes must be at least 1", p, "num_classes")
    c.check(p.whole("coords") == 4, "coords must be 4", p, "coords")
    good = len(sides) == 2 * count > 0 and all(s > 0 for s in sides)
    c.check(good, f"biases are two numbers above 0 for each of {count} boxes", p, "biases")
    c.check(p.real("nms_threshold") > 0, "nms_threshold must be above 0", p, "nms_threshold")
    anchors = [*zip(sides[::2], sides[1::2], strict=True)]
    found = [_of_bottom(c, i, classes, anchors) for i in range(len(c.xs))]
    boxes, likely, of_class = (joined(c, *parts, axis=1) for parts in zip(*found, strict=True))
    share = c.b.softmax(of_class, axis=2)
    most = c.b.argmax(share, axis=2, values=True)
    scores = c.b.formula(likely, most, body="sigmoid(x0) * x1")
    order, best = _best(c, _flat(c, scores), _below(p.real("confidence_threshold")))
    near = c.b.gather(boxes, order, axis=1, batch=1)
    label = _flat(c, c.b.argmax(share, axis=2, first=True))
    label = c.b.affine(c.b.gather(label, order, axis=1, batch=1), shift=1.0)
    return _apart(c, near, best, label, max(0.0, _below(overlap_of(c, p))))


def _flat(c: Layer, x: Value) -> Value:
    """[n, boxes, 1] as [n, boxes]."""
    return c.reshape(x, x.type.shape[:2])


def _below(x: float) -> float:
    """The largest float32 below x: what is above it is x or more."""
    return float(np.nextafter(np.float32(x), np.float32(-math.inf)))


def _scaled(anchors: Sequence[Pair], scale: float) -> list[Pair]:
    return [(wide / scale, tall / scale) for wide, tall in anchors]


def _of_bottom(
    c: Layer, number: int, classes: int, anchors: Sequence[Pair]
) -> tuple[Value, Value, Value]:
    """The boxes that a bottom tells of, [n, boxes, 4], how likely each is one, [n, boxes, 1], and
    how likely each class is in each, [n, boxes, classes]; anchors are in cells."""
    x, count = c.xs[number], len(anchors)
    side = x.type.shape[-1]
    fits = x.type.rank == 4 and x.type.shape[1:3] == (count * (5 + classes), side)
    fits = fits and isinstance(side, int) and side > 0
    what = f"{count} boxes of {classes} classes need {count * (5 + classes)} channels, height as"
    c.check(fits, f"bottom {number} is {x.type}; {what} width, and sizes that are known")
    assert isinstance(side, int)
    items, total = x.type.shape[0], side * side * count
    x = c.reshape(x, (items, count, 5 + classes, side, side))
    x = c.b.transpose(x, perm=(0, 3, 4, 1, 2))
    corner, likely, of_class = (
        c.b.slice(x, axis=4, start=a, stop=b) for a, b in ((0, 1), (4, 5), (5, None))
    )
    cell = joined(c, c.b.iota(corner, axis=2), c.b.iota(corner, axis=1))
    middle = c.b.formula(pair(c, x, 0), cell, body=f"(sigmoid(x0) + x1) / {side}")
    size = pairs(c, _scaled(anchors, side))
    boxes = boxes_around(c, middle, pair(c, x, 1), size)
    return (
        c.reshape(boxes, (items, total, 4)),
        c.reshape(likely, (items, total, 1)),
        c.reshape(of_class, (items, total, classes)),
    )


def _best(c: Layer, scores: Value, least: float) -> tuple[Value, Value]:
    """The places of the best scores above the least of each image, in falling order, and they."""
    every = scores.type.shape[1]
    assert isinstance(every, int)
    countable(c, every)
    scores = above(c, scores, least)
    order = ranked(c, scores, min(ROOM, every))
    return order, c.b.gather(scores, order, axis=1, batch=1)


def _apart(c: Layer, near: Value, best: Value, label: Value, overlap: float) -> Value:
    """The rows of those of the boxes, in falling order, that no better one overlaps."""
    good = flags(c, c.b.non_max_suppression(near, overlap=overlap), best)
    columns = (c.b.iota(best, axis=0), label, best)
    table = joined(c, *(c.reshape(x, (*best.type.shape, 1)) for x in columns), near)
    return in_front(c, table, good)


def _anchors(c: Layer, p: Message) -> list[list[Pair]]:
    """Widths and heights in pixels of the boxes of each bottom."""
    sides, masks, groups = p.all("biases"), p.all("mask"), p.whole("mask_group_num")
    count, scales = p.whole("num_box"), p.all("anchors_scale")
    c.check(groups == len(c.xs), f"{groups} groups for {len(c.xs)} bottoms", p, "mask_group_num")
    c.check(
        len(masks) == groups * count and count > 0,
        f"{len(masks)} mask for {groups} bottoms of {count} boxes each",
        p,
        "mask",
    )
    c.check(
        len(scales) >= groups and all(s > 0 for s in scales),
        f"{len(scales)} anchors_scale for {groups} bottoms, each above 0",
        p,
        "anchors_scale",
    )
    c.check(
        2 * max(masks) + 1 < len(sides) and all(s > 0 for s in sides),
        f"biases are two numbers above 0 for each of {max(masks) + 1} boxes",
        p,
        "biases",
    )
    each = [(sides[2 * i], sides[2 * i + 1]) for i in masks]
    return [each[i : i + count] for i in range(0, len(each), count)]


@layer("RegionYolo")
def region_yolo(c: Layer) -> Value:
    """What darknet's region layer makes of [n, boxes · (coords + 1 + classes), h, w], flattened as
    `flatten_param` says: σ of each box's x and y and of how likely it is one, softmax of how likely
    each class is (region_yolo_layer.cpp).

    Without `do_softmax` it is YOLOv3's, as OpenVINO has it: of as many boxes as `mask` has, σ of
    the classes too, and the shape of the bottom.
    """
    p = c.param("region_yolo_param")
    if p.flag("do_softmax"):
        return flattened(c, _regions(c, p, p.whole("num"), softmax=True))
    c.check("mask" in p, "mask is missing", p)
    return _regions(c, p, len(p.all("mask")), softmax=False)


@layer("Region")
def region(c: Layer) -> Value:
    """RegionYolo's numbers in the shape of the bottom (region_layer.cpp of the same fork)."""
    p = c.param("region_param")
    for field in ("classes", "coords", "num"):
        c.check(field in p, f"{field} is missing", p)
    return _regions(c, p, p.whole("num"), softmax=True)


def _regions(c: Layer, p: Message, boxes: int, softmax: bool) -> Value:
    classes, coords = p.whole("classes"), p.whole("coords")
    for field, count, least in (("num", boxes, 1), ("classes", classes, 1), ("coords", coords, 2)):
        c.check(count >= least, f"{field} must be at least {least}", p, field)
    each, what = coords + 1 + classes, f"{boxes} boxes of {coords} coords and {classes} classes"
    fits = c.x.type.rank == 4 and c.shape[1] == boxes * each
    c.check(fits, f"bottom 0 is {c.x.type}; {what} need {boxes * each} channels", p)
    items, _, height, width = c.shape
    x = c.reshape(c.x, (items, boxes, each, height, width))
    parts = [c.b.slice(x, axis=2, start=a, stop=b) for a, b in _ends(coords, each)]
    corner, *size, likely, of_class = parts
    of_class = c.b.softmax(of_class, axis=2) if softmax else c.b.sigmoid(of_class)
    y = joined(c, c.b.sigmoid(corner), *size, c.b.sigmoid(likely), of_class, axis=2)
    return c.reshape(y, c.shape)


def _ends(coords: int, each: int) -> list[tuple[int, int]]:
    """Where x and y lie, what other coordinates there are, how likely it is one, and classes."""
    ends = (0, 2), (2, coords), (coords, coords + 1), (coords + 1, each)
    return [(a, b) for a, b in ends if a < b]
