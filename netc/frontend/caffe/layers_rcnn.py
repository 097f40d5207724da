"""Fast and Faster R-CNN, R-FCN: regions that may hold an object, and pooling over them."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator

from netc.frontend.caffe.boxes import MOST, joined
from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.regions import Search, best_apart, fit, likely_objects, moved_anchors
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
    """The largest element of each bin of each region, which `pad_ratio` of its width and height
    widens at each side (MS-CNN)."""
    p = c.param("roi_pooling_param")
    size = (_count(c, p, "pooled_h"), _count(c, p, "pooled_w"))
    rois = _widened(c, _rows_of_five(c), p)
    return c.b.roi_pool(c.x, rois, size=size, scale=_scale(c, p))


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


def _widened(c: Layer, rois: Value, p: Message) -> Value:
    """Regions with both corners moved out by a part of their sides."""
    ratio = p.real("pad_ratio")
    c.check(0 <= ratio < math.inf, "pad_ratio must be 0 or more", p, "pad_ratio")
    if not ratio:
        return rois
    image, near, far = (
        c.b.slice(rois, axis=1, start=start, stop=stop) for start, stop in ((0, 1), (1, 3), (3, 5))
    )
    margin = c.b.formula(near, far, body=f"(x1 - x0 + 1) * {ratio!r}")
    return joined(c, image, c.b.sub(near, margin), c.b.add(far, margin))


def proposals(c: Layer) -> list[Value]:
    """Regions (image, x0, y0, x1, y1) that may hold an object, and their scores, from the best down
    (py-faster-rcnn's rpn/proposal_layer.py, with the numbers of its config.py). Of the third bottom
    only the first three numbers of each image are read."""
    c.check(len(c.xs) == 3, f"it takes 3 bottoms, not {len(c.xs)}")
    c.check(len(c.tops) in (1, 2), f"it takes 1 or 2 tops, not {len(c.tops)}")
    before, after, overlap, least = _TRAIN if c.train else _TEST
    search = Search(*_parameters(c), before, after, overlap, least)
    info = fit(c, search, (3, 6))
    if info.type.shape[1] != 3:
        info = c.b.slice(info, axis=1, start=0, stop=3)
    boxes, large = moved_anchors(c, search, info)
    likely = c.b.where(large, likely_objects(c, search), c.constant(-math.inf))
    rows, scores = best_apart(c, search, boxes, likely)
    return [rows, c.reshape(scores, (*scores.type.shape, 1))][: len(c.tops)]


def _parameters(c: Layer) -> tuple[float, float, list[tuple[float, float]]]:
    """How many pixels the cells are apart, the base, and the width and height of each anchor."""
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
    anchors = [
        (width * scale, height * scale)
        for width, height in map(_of_ratio, numbers["ratios"])
        for scale in numbers["scales"]
    ]
    return numbers["feat_stride"][0], _BASE, anchors


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
