"""FlowNet 2's layers that change the size of images."""

from __future__ import annotations

from functools import reduce

import numpy as np

from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.sampling import filtered, size_of
from netc.ir.dims import Dim, ceil_div, most
from netc.ir.graph import Value

_CUBE = "x0 * x0 * (1.5 * x0 - 2.5) + 1", "x0 * (x0 * (2.5 - 0.5 * x0) - 4) + 2"
# Weight by distance, and the distance from which it is 0.
_KERNELS = {
    "LINEAR": ("max(1 - x0, 0)", 1.0),
    "CUBIC": (f"select(x0 <= 1, {_CUBE[0]}, select(x0 < 2, {_CUBE[1]}, 0))", 2.0),
}


@layer("Resample", bottoms=(1, 2))
def resample(c: Layer) -> Value:
    """Another size, that of a second bottom where there is one, from pixels weighted by their
    distance (resample_layer.cu).

    Output i reads i · in/out + ½ · r − ½, where r, as there, is in/out of the other axis. Where
    images shrink, `antialias` widens the weights by as much. NEAREST is held within the image.
    """
    p = c.param("resample_param")
    kind, sides = p.text("type"), (2, 3)
    if kind == "AREA":
        raise c.unsupported("type AREA; NEAREST, LINEAR and CUBIC are")
    new = _new_size(c, p, ("height", "width"))
    ratios = [float(np.float32(c.size(axis)) / np.float32(new[axis - 2])) for axis in sides]
    places = [
        _places(c, size, own, f"{other / 2!r} - 0.5")
        for size, own, other in zip(new, ratios, reversed(ratios), strict=True)
    ]
    x = c.x
    if kind == "NEAREST":
        for axis, place in zip(sides, places, strict=True):
            last = c.size(axis) - 1
            index = c.b.formula(place, body=f"max(min(floor(x0 + 0.5), {last}), 0)")
            x = c.b.gather(x, index, axis=axis)
        return x
    widened = p.flag("antialias") and max(ratios) > 1
    if kind == "LINEAR" and not widened and ratios[0] == ratios[1]:
        return c.b.resize_bilinear(x, size=new, align_corners=False)
    weight, reach = _KERNELS[kind]
    for axis, place, ratio in zip(sides, places, ratios, strict=True):
        width = ratio if widened else 1.0
        x, total = filtered(c, x, axis, place, _by_distance(weight, width), reach * width)
        x = c.b.formula(x, total, body="select(x1 == 0, 0, x0 / x1)")
    return x


@layer("Downsample", bottoms=(1, 2))
def downsample(c: Layer) -> Value:
    """A smaller size, that of a second bottom where there is one, corner to corner: pixels are
    weighted by their distance, up to that of two results (downsample_layer.cu).

    NaN is left out; where it has more than half of the weight of what is left, the result is NaN.
    """
    new = _new_size(c, c.param("downsample_param"), ("top_height", "top_width"))
    old = (c.size(2), c.size(3))
    if new == old:
        return c.x
    c.fits(min(*new, *old) > 1, f"from {old} to {new} pixels: sides of at least 2 are needed")
    known = c.b.formula(c.x, body="select(x0 == x0, 1, 0)")
    sums = [c.b.formula(c.x, body="select(x0 == x0, x0, 0)"), known]
    every = c.constant(1.0)
    for axis in (2, 3):
        ratio = (old[axis - 2] - 1) / (new[axis - 2] - 1)
        weight = _by_distance(_KERNELS["LINEAR"][0], ratio)
        place = _places(c, new[axis - 2], ratio, "0")
        (x, total), (k, _) = (filtered(c, each, axis, place, weight, ratio) for each in sums)
        sums, every = [x, k], c.b.mul(every, total)
    known = c.b.formula(every, sums[1], body="select((x0 - x1) / x1 > 0.5, 0, 1)")
    return c.b.formula(*sums, known, body="x0 * x2 / (x1 * x2)")  # 0 / 0 is NaN


def _new_size(c: Layer, p: Message, fields: tuple[str, str]) -> tuple[int, int]:
    """Height and width: those of the second bottom, or those given."""
    c.check(c.x.type.rank == 4, f"{c.type} needs 4 axes, not {c.x.type}")
    if len(c.xs) == 1:
        for field in fields:
            c.check(p.whole(field) >= 1, f"{field} must be at least 1", p, field)
        return p.whole(fields[0]), p.whole(fields[1])
    return size_of(c, c.xs[1])


def _places(c: Layer, size: int, ratio: float, shift: str) -> Value:
    """Where along an axis each of `size` results lies."""
    return c.b.formula(c.b.iota(c.constant(0.0, (size,))), body=f"x0 * {ratio!r} + {shift}")


def _by_distance(weight: str, width: float) -> str:
    """A weight by distance as a formula of where a pixel lies, `width` times as wide."""
    return weight.replace("x0", f"abs(x0 / {width!r})")


@layer("Accum", bottoms=(1, None))
def accum(c: Layer) -> Value:
    """The channels of all bottoms, each brought to one size bilinearly, corner to corner
    (accum_layer.cpp).

    That size is the last bottom's, whose numbers are not read, with `have_reference`; else that of
    the largest, made divisible by `size_divisible_by` or enlarged to top_height and top_width.
    """
    p, xs = c.param("accum_param"), c.xs
    for x in xs:
        c.check(x.type.rank == 4, f"Accum needs 4 axes, not {x.type}")
        c.fits(x.type.shape[0] == c.shape[0], f"bottoms are {c.x.type} and {x.type}")
    if p.flag("have_reference"):
        c.check(len(xs) > 1, "a reference needs a bottom before it", p, "have_reference")
        size, xs = xs[-1].type.shape[2:], xs[:-1]
    else:
        size = _largest(c, p)
    fitted = [
        x if x.type.shape[2:] == size else c.b.resize_bilinear(x, size=size, align_corners=True)
        for x in xs
    ]
    return fitted[0] if len(fitted) == 1 else c.b.concat(*fitted, axis=1)


def _largest(c: Layer, p: Message) -> tuple[Dim, ...]:
    """The largest height and width of the bottoms; those asked for where both are larger."""
    sides = [reduce(most, (x.type.shape[axis] for x in c.xs)) for axis in (2, 3)]
    if "size_divisible_by" in p:
        unit = p.whole("size_divisible_by")
        c.check(unit >= 1, "size_divisible_by must be at least 1", p, "size_divisible_by")
        asked = [ceil_div(d, unit) * unit for d in sides]
    else:
        asked = [p.whole("top_height"), p.whole("top_width")]
    if all(d == 0 for d in asked):
        return tuple(sides)
    larger = all(a > d for a, d in zip(asked, sides, strict=True))
    return tuple(asked if larger else sides)
