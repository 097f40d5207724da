"""Layers of Synopsys' fork that TensorFlow's nets need."""

from __future__ import annotations

import math

import numpy as np

from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.sampling import filtered
from netc.ir.dims import MAX_DIM
from netc.ir.graph import Value

_CENTRES = ("align_corners", "half_pixel_centers")


@layer("Squeeze")
def squeeze(c: Layer) -> Value:
    """Without the axes given, each of size 1."""
    p = c.param("squeeze_param")
    axes = [c.axis(axis, p) for axis in p.all("axis")]
    if not axes:
        raise c.unsupported("without an axis, which forks read differently", "give its axes")
    for axis in axes:
        c.check(c.size(axis) == 1, f"axis {axis} of {c.x.type} is not of size 1", p, "axis")
    return c.reshape(c.x, [d for i, d in enumerate(c.shape) if i not in axes])


@layer("Pad")
def pad(c: Layer) -> Value:
    """`constant_values` around every axis: two paddings for each, before and after."""
    p = c.param("pad_param")
    ends, rank = p.all("paddings"), c.x.type.rank
    c.check(len(ends) == 2 * rank, f"{2 * rank} paddings are needed, not {len(ends)}", p)
    before, after = tuple(ends[::2]), tuple(ends[1::2])
    return c.b.pad(c.x, before=before, after=after, value=p.real("constant_values"))


@layer("ResizeNearestNeighbor")
def resize_nearest_neighbor(c: Layer) -> Value:
    """Another size, each result the pixel at i · in/out, rounded down.

    With `align_corners` it is i · (in − 1)/(out − 1), rounded; with `half_pixel_centers`
    (i + ½) · in/out, and with `half_pixel_onnx` ½ less, both rounded down.
    """
    p = c.param("resize_nearest_neighbor_param")
    way = _way(c, p, (*_CENTRES, "half_pixel_onnx"))
    x, size = _image(c, p)
    for axis, new in zip((2, 3), size, strict=True):
        old = _known(c, x, axis)
        if way == "align_corners" and new > 1:
            numbers = (2 * (old - 1), new - 1, 2 * (new - 1))
        elif way.startswith("half_pixel"):
            numbers = (2 * old, old - (new if way == "half_pixel_onnx" else 0), 2 * new)
        else:
            numbers = (old, 0, new)
        index = _rounded_down(c, new, *numbers)
        x = c.b.gather(x, c.b.clip(index, low=0.0, high=old - 1.0), axis=axis)
    return _as_given(c, p, x)


def _rounded_down(c: Layer, count: int, factor: int, more: int, divisor: int) -> Value:
    """⌊(i · factor + more) / divisor⌋ of whole numbers; ½ more keeps quotients off whole ones."""
    place = c.b.iota(c.constant(0.0, (count,)))
    return c.b.formula(place, body=f"floor((x0 * {factor} + {more + 0.5}) / {divisor})")


@layer("ResizeBilinear")
def resize_bilinear(c: Layer) -> Value:
    """Another size, each result between the pixels around i · in/out.

    With `align_corners` that is i · (in − 1)/(out − 1), with `half_pixel_centers` or
    `pytorch_half_pixel` (i + ½) · in/out − ½. Another fork gives the size of NCHW as `factor`, or
    as height and width.
    """
    p = c.param("resize_bilinear_param")
    way = _way(c, p, (*_CENTRES, "pytorch_half_pixel"))
    for field, plain in (("output_scale", 1), ("output_zero_point", 0), ("saturate", "None")):
        if p.get(field) != plain:
            raise c.unsupported(f"{field} {p.get(field)}: netc rounds no results")
    x, size = _image(c, p)
    if way and not (way == "pytorch_half_pixel" and min(size) == 1):
        y = c.b.resize_bilinear(x, size=size, align_corners=way == "align_corners")
        return _as_given(c, p, y)
    for axis, new in zip((2, 3), size, strict=True):
        old = _known(c, x, axis)
        place = c.b.iota(c.constant(0.0, (new,)))
        if way:  # a single result is at −½
            shift = 0.5 * old / new - 0.5 if new > 1 else -0.5
            place = c.b.affine(place, scale=old / new, shift=shift)
        else:
            place = c.b.affine(place, scale=old / new)
        x, total = filtered(c, x, axis, place, "max(1 - abs(x0), 0)", 1.0)
        x = c.b.div(x, total)
    return _as_given(c, p, x)


def _way(c: Layer, p: Message, fields: tuple[str, ...]) -> str:
    """Which of the ways to place results is chosen, if one is."""
    chosen = [field for field in fields if p.flag(field)]
    c.check(len(chosen) < 2, f"{' and '.join(chosen)} exclude each other", p)
    return chosen[0] if chosen else ""


def _image(c: Layer, p: Message) -> tuple[Value, tuple[int, int]]:
    """The bottom as [n, c, h, w], and the height and width it gets."""
    c.check(c.x.type.rank == 4, f"{c.type} needs 4 axes, not {c.x.type}")
    layout = _layout(p)
    if layout not in ("NHWC", "NCHW"):
        raise c.unsupported(f"data_format {layout}; NHWC and NCHW are")
    sides = (1, 2) if layout == "NHWC" else (2, 3)
    height, width = (_size(c, p, *each) for each in zip(sides, ("height", "width"), strict=True))
    x = c.b.transpose(c.x, perm=(0, 3, 1, 2)) if layout == "NHWC" else c.x
    return x, (height, width)


def _known(c: Layer, x: Value, axis: int) -> int:
    """A size that has to be a number."""
    size = x.type.shape[axis]
    if not isinstance(size, int):
        raise c.fail(f"the size of axis {axis} must be a number, not {size}")
    c.check(size > 0, f"{c.x.type} has no pixels")
    return size


def _layout(p: Message) -> str:
    """The order of the axes: that of the fork whose fields are given."""
    other = any(field in p for field in ("factor", "height", "width"))
    return "NCHW" if other else p.text("data_format")


def _as_given(c: Layer, p: Message, x: Value) -> Value:
    """The result in the order of the bottom's axes."""
    return c.b.transpose(x, perm=(0, 2, 3, 1)) if _layout(p) == "NHWC" else x


def _size(c: Layer, p: Message, axis: int, side: str) -> int:
    """A side of the result: a number, or what a factor of the bottom's comes to."""
    given = next((f for f in (f"output_{side}", side) if f in p), "")
    if given:
        c.check(p.whole(given) >= 1, f"{given} must be at least 1", p, given)
        return p.whole(given)
    factor = "factor" if "factor" in p else f"scale_{side}"
    with np.errstate(all="ignore"):
        scaled = float(np.float32(c.size(axis)) * np.float32(p.real(factor)))
    good = 1 <= scaled <= MAX_DIM
    c.check(good, f"{factor} makes a {side} of {scaled:g}", p, factor)
    return math.floor(scaled)
