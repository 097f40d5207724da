"""What layers that read an image at places between its pixels are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from netc.frontend.caffe.boxes import MOST
from netc.frontend.caffe.layer import Layer
from netc.ir.dims import Dim
from netc.ir.graph import Value


@dataclass(frozen=True)
class Between:
    """Places along one axis of an image, [n, 1, h, w]: the two pixels that each is between, which
    lie in the image, and how much of each is taken."""

    near: Value
    far: Value
    of_near: Value
    of_far: Value


def extent(c: Layer, size: Dim) -> Value:
    """A size as a number, where it is open too."""
    if isinstance(size, int):
        return c.constant(float(size))
    return c.b.reduce_sum(c.constant(1.0, (size,)), axes=(0,))


def bilinear(c: Layer, image: Value, rows: Between, columns: Between) -> Value:
    """An image's numbers at places between four pixels, [n, channels, h, w]."""
    height, width = image.type.shape[2:]
    if isinstance(height, int) and isinstance(width, int) and height * width > MOST:
        raise c.unsupported(f"it reads an image of {height * width:,} pixels, at most {MOST:,} are")
    parts: list[Value] = []
    for row, of_row in ((rows.near, rows.of_near), (rows.far, rows.of_far)):
        for column, of_column in ((columns.near, columns.of_near), (columns.far, columns.of_far)):
            pixel = _pixels(c, image, row, column)
            parts.append(c.b.formula(pixel, of_row, of_column, body="x0 * x1 * x2"))
    return c.b.formula(*parts, body="x0 + x1 + x2 + x3")


def _pixels(c: Layer, image: Value, row: Value, column: Value) -> Value:
    """The pixels of an image at rows and columns, [n, 1, h, w], that lie in it."""
    items, channels, height, width = image.type.shape
    place = c.b.formula(row, column, extent(c, width), body="x0 * x2 + x1")
    place = c.reshape(place, (items, *place.type.shape[2:]))
    return c.b.gather(c.reshape(image, (items, channels, height * width)), place, axis=2, batch=1)


def filtered(
    c: Layer, x: Value, axis: int, place: Value, weight: str, reach: float
) -> tuple[Value, Value]:
    """The numbers of an axis around each place, each times its weight, summed; and the sums of the
    weights themselves, which stand along that axis.

    `place` is [out]. `weight` is a formula of the distance x0, and 0 from `reach` on.
    """
    size, (out,), most = x.type.shape[axis], place.type.shape, math.ceil(reach)
    assert isinstance(size, int)
    place = c.b.reshape(place, shape=(0, 1))
    tap = c.b.iota(c.constant(0.0, (1, 2 * most)), axis=1)
    at = c.b.formula(place, tap, body=f"floor(x0) + x1 - {most - 1}")
    share = c.b.formula(c.b.sub(place, at), body=weight)
    share = c.b.formula(at, share, body=f"select(x0 >= 0, select(x0 < {size}, x1, 0), 0)")
    near = c.b.gather(x, c.b.clip(at, low=0.0, high=size - 1.0), axis=axis)
    behind = (1,) * (x.type.rank - axis - 1)
    parts = c.b.mul(near, c.b.reshape(share, shape=(out, 2 * most, *behind)))
    total = c.b.reduce_sum(share, axes=(1,))
    return c.b.reduce_sum(parts, axes=(axis + 1,)), c.b.reshape(total, shape=(out, *behind))


def size_of(c: Layer, image: Value) -> tuple[int, int]:
    """Height and width of another bottom, which have to be known."""
    like = image.type
    c.check(like.rank == 4, f"{c.type} needs 4 axes, not {like}")
    height, width = like.shape[2:]
    if not (isinstance(height, int) and isinstance(width, int)):
        raise c.fail(f"the sizes of {like} vary between runs")
    c.fits(min(height, width) > 0, f"{like} has no pixels")
    return height, width
