"""Regions that may hold an object, as forks of Faster R-CNN find them in C++."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from netc.frontend.caffe.boxes import MOST, above, count_of, overlap_of
from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.regions import Search, best_apart, fit, likely_objects, moved_anchors
from netc.ir.graph import Value


@layer("Proposal", bottoms=3, tops=(1, 2))
def proposal(c: Layer) -> list[Value]:
    """Rows (image, x0, y0, x1, y1), [n · post_nms_topn, 5], and their scores, from the best down
    (PVANET's proposal_layer.cpp and nms.cpp).

    A box that is too small is not left out, but has the score 0. The third bottom gives height,
    width and scale of each image, or a scale down and one across. Overlap counts pixels, so that
    boxes less than one apart share some; PVANET's share none.
    """
    p = c.param("proposal_param")
    before = count_of(c, p, "pre_nms_topn")
    search = Search(
        stride=count_of(c, p, "feat_stride"),
        base=count_of(c, p, "base_size"),
        anchors=_anchors(p.whole("base_size"), _sizes(c, p, "ratio"), _sizes(c, p, "scale")),
        before=before,
        after=min(count_of(c, p, "post_nms_topn"), before),
        overlap=overlap_of(c, p, "nms_thresh"),
        least=_least(c, p, "min_size"),
    )
    boxes, large = moved_anchors(c, search, fit(c, search, (3, 4)))
    likely = c.b.mul(likely_objects(c, search), large)
    return [*best_apart(c, search, boxes, likely)][: len(c.tops)]


@layer("SimplerNMS", bottoms=3)
def simpler_nms(c: Layer) -> Value:
    """Rows (image, x0, y0, x1, y1), [n · post_nms_topn, 5], from the best score down, of equal ones
    the last box first (Intel's simpler_nms_layer.cpp).

    Height, width and scale of an image are cut to whole numbers, and scores have to be above 0.
    """
    p = c.param("simpler_nms_param")
    before = count_of(c, p, "pre_nms_topn")
    search = Search(
        stride=count_of(c, p, "feat_stride"),
        base=16.0,
        anchors=_anchors(16, (0.5, 1.0, 2.0), _sizes(c, p, "scale")),
        before=before,
        after=min(count_of(c, p, "post_nms_topn"), before),
        overlap=overlap_of(c, p, "iou_threshold"),
        least=_least(c, p, "min_bbox_size"),
    )
    info = c.b.formula(fit(c, search), body="floor(x0)")
    boxes, large = moved_anchors(c, search, info)
    likely = above(c, likely_objects(c, search), 0.0)
    likely = c.b.where(large, likely, c.constant(-math.inf))
    return best_apart(c, search, boxes, likely, first=False)[0]


def _sizes(c: Layer, p: Message, field: str) -> list[float]:
    """Ratios or scales of anchors."""
    c.check(field in p, f"{field} is missing", p)
    good = all(0 < x < MOST for x in p.all(field))
    c.check(good, f"{field} must be above 0 and at most {MOST:,}", p, field)
    return p.all(field)


def _least(c: Layer, p: Message, field: str) -> float:
    c.check(p.whole(field) <= MOST, f"{field} must be at most {MOST:,}", p, field)
    return p.real(field)


def _anchors(
    base: int, ratios: Sequence[float], scales: Sequence[float]
) -> list[tuple[float, float]]:
    """Width and height of anchors: a square's area at each ratio, in whole pixels, at each scale
    (generate_anchors, whose numbers are float32)."""
    out = []
    for ratio in map(np.float32, ratios):
        width = _nearest(np.sqrt(np.float32(base * base) / ratio))
        height = _nearest(np.float32(width) * ratio)
        out += [(width * scale, height * scale) for scale in scales]
    return out


def _nearest(x: np.floating) -> float:
    """The nearest whole number, a half upwards."""
    return float(np.floor(x + np.float32(0.5)))
