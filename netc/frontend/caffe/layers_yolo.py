"""YOLO's boxes: the layer of the fork MobileNet-YOLO."""

from __future__ import annotations

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
from netc.frontend.caffe.message import Message
from netc.ir.graph import Value

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
    found = [_of_bottom(c, p, i, anchors) for i, anchors in enumerate(_anchors(c, p))]
    boxes, scores = (joined(c, *parts, axis=1) for parts in zip(*found, strict=True))
    items, every = scores.type.shape
    assert isinstance(every, int)
    countable(c, every)
    room = min(ROOM, every)
    scores = above(c, scores, p.real("confidence_threshold"))
    order = ranked(c, scores, room)
    best = c.b.gather(scores, order, axis=1, batch=1)
    box = c.b.formula(order, body=f"floor((x0 + 0.5) / {classes})")
    near = c.b.gather(boxes, box, axis=1, batch=1)
    kept = c.b.non_max_suppression(near, overlap=overlap_of(c, p))
    good = flags(c, kept, best)
    label = c.b.formula(order, box, body=f"x0 - {classes} * x1 + 1")
    columns = (c.b.iota(order, axis=0), label, best)
    table = joined(c, *(c.reshape(x, (items, room, 1)) for x in columns), near)
    return in_front(c, table, good)


def _of_bottom(
    c: Layer, p: Message, number: int, anchors: list[tuple[float, float]]
) -> tuple[Value, Value]:
    """The boxes that a bottom tells of, [n, boxes, 4], and how likely each class is in each."""
    x, classes, count = c.xs[number], p.whole("num_classes"), len(anchors)
    side = x.type.shape[-1]
    fits = x.type.rank == 4 and x.type.shape[1:3] == (count * (5 + classes), side)
    fits = fits and isinstance(side, int) and side > 0
    what = f"{count} boxes of {classes} classes need {count * (5 + classes)} channels, height as"
    c.check(fits, f"bottom {number} is {x.type}; {what} width, and sizes that are known", p)
    assert isinstance(side, int)
    items, total = x.type.shape[0], side * side * count
    x = c.reshape(x, (items, count, 5 + classes, side, side))
    x = c.b.transpose(x, perm=(0, 3, 4, 1, 2))
    corner, likely, of_class = (
        c.b.slice(x, axis=4, start=a, stop=b) for a, b in ((0, 1), (4, 5), (5, None))
    )
    cell = joined(c, c.b.iota(corner, axis=2), c.b.iota(corner, axis=1))
    middle = c.b.formula(pair(c, x, 0), cell, body=f"(sigmoid(x0) + x1) / {side}")
    scale = side * p.all("anchors_scale")[number]
    size = pairs(c, [(wide / scale, tall / scale) for wide, tall in anchors])
    boxes = boxes_around(c, middle, pair(c, x, 1), size)
    scores = c.b.formula(likely, of_class, body="sigmoid(x0) * sigmoid(x1)")
    return c.reshape(boxes, (items, total, 4)), c.reshape(scores, (items, total * classes))


def _anchors(c: Layer, p: Message) -> list[list[tuple[float, float]]]:
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
