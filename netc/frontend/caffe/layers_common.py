"""Layers that join, cut, reshape, reduce and scale blobs."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.ir.dims import Dim
from netc.ir.graph import Value
from netc.ir.ops.indexing import Compact


@layer("Eltwise", bottoms=(1, None))
def eltwise(c: Layer) -> Value:
    """SUM with coefficients, PROD or MAX of blobs of one shape; MAX passes coefficients over."""
    p = c.param("eltwise_param")
    for i, x in enumerate(c.xs):
        c.fits(x.type == c.x.type, f"bottom {i} is {x.type}, bottom 0 is {c.x.type}")
    kind, coeffs = p.text("operation"), p.all("coeff")
    c.check(not coeffs or kind != "PROD", "PROD takes no coeff", p, "coeff")
    c.check(
        len(coeffs) in (0, len(c.xs)), f"{len(coeffs)} coeff for {len(c.xs)} bottoms", p, "coeff"
    )
    times = coeffs if kind == "SUM" and coeffs else [1.0] * len(c.xs)
    xs = [_times(c, x, k) for x, k in zip(c.xs, times, strict=True)]
    return reduce({"SUM": c.b.add, "PROD": c.b.mul, "MAX": c.b.maximum}[kind], xs)


def _times(c: Layer, x: Value, k: float) -> Value:
    return x if k == 1 else c.b.affine(x, scale=k, shift=0.0)


@layer("Concat", bottoms=(1, None))
def concat(c: Layer) -> Value:
    """Blobs one after another along an axis."""
    p = c.param("concat_param")
    axis = c.axis(_axis_of(c, p, "concat_dim"), p)
    return c.x if len(c.xs) == 1 else c.b.concat(*c.xs, axis=axis)


def _axis_of(c: Layer, p: Message, old: str) -> int:
    """`axis`, or its old name."""
    c.check(not ("axis" in p and old in p), f"give axis or {old}, not both", p, old)
    return p.whole(old) if old in p else p.whole("axis")


@layer("Slice", tops=(1, None))
def slice_layer(c: Layer) -> list[Value]:
    """Parts along an axis: at the points given, or all of one size."""
    p = c.param("slice_param")
    axis = c.axis(_axis_of(c, p, "slice_dim"), p)
    size, count, points = c.size(axis), len(c.tops), p.all("slice_point")
    if count == 1:
        return [c.x]
    if not points:
        c.check(size % count == 0, f"{size} does not divide into {count} tops")
        points = [size // count * i for i in range(1, count)]
    c.check(
        len(points) == count - 1, f"{len(points)} slice_point for {count} tops", p, "slice_point"
    )
    edges = [0, *points, size]
    rising = all(a < b for a, b in pairwise(edges))
    c.check(rising, f"slice_point {points} must rise within 0 to {size}", p, "slice_point")
    return [c.b.slice(c.x, axis=axis, start=a, stop=b) for a, b in pairwise(edges)]


@layer("Split", tops=(1, None))
def split(c: Layer) -> list[Value]:
    """The same blob under several names."""
    return [c.x] * len(c.tops)


@layer("Silence", bottoms=(1, None), tops=0)
def silence(c: Layer) -> list[Value]:
    """Nothing: it keeps a blob from being an output."""
    return []


@layer("Flatten")
def flatten(c: Layer) -> Value:
    """Axes `axis` to `end_axis` as one."""
    return flattened(c, c.x)


def flattened(c: Layer, x: Value) -> Value:
    """Axes `axis` to `end_axis` of a value of the first bottom's rank as one."""
    p = c.param("flatten_param")
    axis, end = c.axis(p.whole("axis"), p), c.axis(p.whole("end_axis"), p, "end_axis")
    c.check(axis <= end, f"axis {axis} lies behind end_axis {end}", p)
    return c.b.flatten(x, axis=axis, end=end)


@layer("Reshape")
def reshape(c: Layer) -> Value:
    """The sizes from `axis` on replaced: 0 copies the size in its place, -1 is what is left."""
    p = c.param("reshape_param")
    rank, axis, many = c.x.type.rank, p.whole("axis"), p.whole("num_axes")
    first = axis if axis >= 0 else rank + axis + 1
    c.check(0 <= first <= rank, f"axis {axis} is outside {c.x.type}", p, "axis")
    c.check(many >= -1, f"num_axes {many} must be -1 or more", p, "num_axes")
    end = rank if many == -1 else first + many
    c.check(
        end <= rank, f"num_axes {many} from axis {first} on is outside {c.x.type}", p, "num_axes"
    )
    middle = [_replaced(c, p, d, first + i) for i, d in enumerate(p.sub("shape").all("dim"))]
    c.check(middle.count(-1) <= 1, "more than one dim is -1", p, "shape")
    new = [*c.shape[:first], *middle, *c.shape[end:]]
    return c.reshape(c.x, new)


def _replaced(c: Layer, p: Message, dim: int, place: int) -> Dim:
    c.check(dim >= -1, f"dim {dim} is neither a size, nor 0 nor -1", p, "shape")
    if dim:
        return dim
    c.check(
        place < c.x.type.rank,
        f"dim 0 at axis {place} has nothing to copy in {c.x.type}",
        p,
        "shape",
    )
    return c.shape[place]


@layer("Tile")
def tile(c: Layer) -> Value:
    """The whole blob repeated along an axis."""
    p = c.param("tile_param")
    c.check(p.whole("tiles") >= 1, "tiles must be at least 1", p, "tiles")
    return c.b.tile(c.x, axis=c.axis(p.whole("axis"), p), times=p.whole("tiles"))


@layer("Reduction")
def reduction(c: Layer) -> Value:
    """SUM, ASUM, SUMSQ or MEAN of all axes from `axis` on, times `coeff`."""
    p = c.param("reduction_param")
    axes = tuple(range(c.axis(p.whole("axis"), p) if c.x.type.rank else 0, c.x.type.rank))
    kind = p.text("operation")
    x = c.b.abs(c.x) if kind == "ASUM" else c.b.mul(c.x, c.x) if kind == "SUMSQ" else c.x
    y = (c.b.reduce_mean if kind == "MEAN" else c.b.reduce_sum)(x, axes=axes)
    return _times(c, y, p.real("coeff"))


@layer("ArgMax")
def argmax(c: Layer) -> Value:
    """The places (or values) of the largest elements, ties to the highest place."""
    p = c.param("argmax_param")
    axis = c.axis(p.whole("axis"), p) if "axis" in p else None
    return c.b.argmax(c.x, axis=axis, top_k=p.whole("top_k"), values=p.flag("out_max_val"))


@layer("Scale", bottoms=(1, 2))
def scale(c: Layer) -> Value:
    """x times a learned blob, or times the second bottom, laid along `axis`; then a bias."""
    p = c.param("scale_param")
    factor, shape = _operand(c, p, "w", 1.0)
    y = c.b.mul(c.x, factor)
    if not p.flag("bias_term"):
        return y
    return c.b.add(y, c.weight("b", shape, p.get("bias_filler")))


@layer("Bias", bottoms=(1, 2))
def bias(c: Layer) -> Value:
    """x plus a learned blob, or plus the second bottom, laid along `axis`."""
    return c.b.add(c.x, _operand(c, c.param("bias_param"), "b", 0.0)[0])


def _operand(c: Layer, p: Message, name: str, fill: float) -> tuple[Value, tuple[Dim, ...]]:
    """What x is combined with, and its shape: broadcast from `axis` on."""
    rank = c.x.type.rank
    scalar = len(c.xs) == 2 and c.xs[1].type.rank == 0  # stands at any axis
    axis = 0 if scalar or not rank else c.axis(p.whole("axis"), p)
    if len(c.xs) == 2:
        other = c.xs[1]
        covered = other.type.rank
    else:
        covered = p.whole("num_axes")
        c.check(covered >= -1, f"num_axes {covered} must be -1 or more", p, "num_axes")
        covered = rank - axis if covered == -1 else covered
    if covered == 0:  # a scalar stands anywhere
        axis = rank
    c.check(
        axis + covered <= rank,
        f"{covered} axes from axis {axis} on are outside {c.x.type}",
        p,
        "axis",
    )
    shape = (*c.shape[axis : axis + covered], *(1 for _ in range(rank - axis - covered)))
    if len(c.xs) == 1:
        return c.weight(name, shape, p.get("filler"), fill), shape
    same = other.type.shape == c.shape[axis : axis + covered]
    c.fits(same, f"bottom 1 is {other.type}; it does not fit {c.x.type} at axis {axis}")
    tail = rank - axis - covered
    if tail == 0:
        return other, shape
    return c.b.reshape(other, shape=(*(0,) * covered, *(1,) * tail)), shape


@layer("BatchReindex", bottoms=2)
def batch_reindex(c: Layer) -> Value:
    """Items of axis 0, picked by the second bottom."""
    c.check(c.xs[1].type.rank == 1, f"the index has 1 axis, not {c.xs[1].type}")
    return c.b.gather(c.x, c.xs[1], axis=0)


@layer("Filter", bottoms=(2, None), tops=(1, None))
def filter_layer(c: Layer) -> list[Value]:
    """Items whose selector is not 0 move to the front; zeros follow, so that shapes are fixed."""
    c.check(len(c.tops) == len(c.xs) - 1, f"{len(c.tops)} tops for {len(c.xs) - 1} blobs")
    return [*c.b(Compact(), *c.xs).results[:-1]]


@layer("Softmax")
def softmax(c: Layer) -> Value:
    """exp(x) over its sum along an axis."""
    p = c.param("softmax_param")
    return c.b.softmax(c.x, axis=c.axis(p.whole("axis"), p))


@layer("Parameter", bottoms=0)
def parameter(c: Layer) -> Value:
    """A parameter as a blob."""
    p = c.param("parameter_param")
    dims = tuple(p.sub("shape").all("dim"))
    c.check(all(d > 0 for d in dims), f"the shape {list(dims)} is not one", p, "shape")
    return c.weight("w", dims)
