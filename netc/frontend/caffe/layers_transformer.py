"""Spatial transformers: images moved by what a net computes (Jaderberg et al., 2015)."""

from __future__ import annotations

from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.sampling import Between, bilinear, extent
from netc.ir.dims import Dim, product
from netc.ir.graph import Value

_THETAS = [f"theta_{row}_{column}" for row in (1, 2) for column in (1, 2, 3)]
_AFFINE = "x0 * x2 + x1 * x3 + x4"  # of a row and a column by a row of θ


@layer("SpatialTransformer", bottoms=2)
def spatial_transformer(c: Layer) -> Value:
    """The first bottom where an affine map leads, between pixels bilinear, 0 outside
    (daerduoCarey/SpatialTransformerLayer).

    Result (i, j) of [h, w] is read at (θ₁ · v, θ₂ · v), v = (2i/h − 1, 2j/w − 1, 1), where rows and
    columns of the image count from −1 to 1. The rows of θ are the numbers that fields give, the
    others, in order, those of the second bottom.
    """
    p = c.param("st_param")
    c.check(c.x.type.rank == 4, f"SpatialTransformer needs 4 axes, not {c.x.type}")
    for field, only in (("transform_type", "affine"), ("sampler_type", "bilinear")):
        if p.text(field) != only:
            raise c.unsupported(f"{field} {p.text(field)}; {only} is")
    if "compute_dU" in p:  # a fork whose rows and columns count otherwise
        raise c.unsupported("st_param with compute_dU; with to_compute_dU it is")
    size = [_side(c, p, i) for i in range(2)]
    theta = _theta(c, p)
    grid = [_grid(c, (1, 1, *size), axis) for axis in (2, 3)]
    rows, columns = (
        _around(c, c.b.formula(*grid, *theta[3 * i : 3 * i + 3], body=_AFFINE), c.shape[2 + i])
        for i in range(2)
    )
    return bilinear(c, c.x, rows, columns)


def _side(c: Layer, p: Message, i: int) -> Dim:
    """The height or the width of the result."""
    field = ("output_H", "output_W")[i]
    if field not in p:
        return c.shape[2 + i]
    c.check(p.whole(field) >= 1, f"{field} must be at least 1", p, field)
    return p.whole(field)


def _theta(c: Layer, p: Message) -> list[Value]:
    """Six numbers of each image, [n, 1, 1, 1], or of all."""
    given, open_ = c.xs[1].type, [field for field in _THETAS if field not in p]
    count = product(given.shape[1:])
    c.check(count == len(open_), f"bottom 1 is {given}; it has to give {len(open_)} numbers")
    c.fits(given.shape[0] == c.shape[0], f"bottom 0 is {c.x.type}, bottom 1 is {given}")
    numbers = c.reshape(c.xs[1], (given.shape[0], len(open_), 1, 1))
    return [
        c.constant(p.real(field))
        if field in p
        else c.b.slice(numbers, axis=1, start=open_.index(field), stop=open_.index(field) + 1)
        for field in _THETAS
    ]


def _grid(c: Layer, shape: tuple[Dim, ...], axis: int) -> Value:
    """Where each result lies along an axis: from −1 to less than 1."""
    place = c.b.iota(c.constant(0.0, shape), axis=axis)
    return c.b.formula(place, extent(c, shape[axis]), body="x0 / x1 * 2 - 1")


def _around(c: Layer, place: Value, size: Dim) -> Between:
    """The pixels around a place, of a weight of 0 outside the image."""
    sides = extent(c, size)
    place = c.b.formula(place, sides, body="(x0 + 1) / 2 * x1")
    near = c.b.formula(place, body="floor(x0)")
    share = c.b.sub(place, near)
    parts: list[Value] = []
    for pixel, weight in (
        (near, c.b.affine(share, scale=-1.0, shift=1.0)),
        (c.b.affine(near, shift=1.0), share),
    ):
        body = "select(x0 >= 0, select(x0 < x1, x2, 0), 0)"
        parts.append(c.b.formula(pixel, sides, body="max(min(x0, x1 - 1), 0)"))
        parts.append(c.b.formula(pixel, sides, weight, body=body))
    return Between(parts[0], parts[2], parts[1], parts[3])
