"""Words that cut a tensor along an axis."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise, repeat

from netc.errors import GraphError
from netc.frontend.net.maker import Site
from netc.ir.dims import Dim, lowest
from netc.ir.graph import Value
from netc.ir.ops.shape import Dims
from netc.ir.ops.windows import axis_of


def slice_(site: Site, x: Value, axis: int = 1, start: Dim = 0, stop: Dim | None = None) -> Value:
    """Elements `start` (included) to `stop` (not included, none: the end) along the axis.

    Negative ones count from the end: `slice(x, start=-1)` is the last element, `start=-H` are the
    last H. Either may have symbols; that they fit the axis is then checked when the net runs.
    """
    size = x.type.shape[axis_of(axis, x.type.rank)]
    first, last = (_from_front(end, size) for end in (start, stop))
    return site.make("slice", x, axis=axis, start=first, stop=last)


def _from_front(end: Dim | None, size: Dim) -> Dim | None:
    return size + end if end is not None and _is_negative(end) else end


def _is_negative(end: Dim) -> bool:
    """Whether an end is below 0, or with symbols never above."""
    return end < 0 if isinstance(end, int) else lowest(-end) is not None


def split(site: Site, x: Value, parts: int | Dims, axis: int = 1) -> tuple[Value, ...]:
    """x along the axis in so many equal parts, or in parts of these sizes; -1 is what is left."""
    size = x.type.shape[axis_of(axis, x.type.rank)]
    sizes = _equal(size, parts) if isinstance(parts, int) else _given(size, parts)
    ends = pairwise(accumulate(sizes, initial=0))
    return tuple(
        site.make("slice", x, axis=axis, start=start, stop=stop, inner=f"{i}")
        for i, (start, stop) in enumerate(ends)
    )


def _equal(size: Dim, parts: int) -> Iterable[Dim]:
    """So many equal sizes, one by one: a net's nodes end sooner than an axis may."""
    if parts < 1 or not isinstance(size, int) or size % parts:
        raise GraphError(f"{parts} parts do not divide an axis of {size}")
    return repeat(size // parts, parts)


def _given(size: Dim, sizes: Dims) -> Dims:
    """The sizes with -1 replaced. Raises GraphError where they are not the whole axis."""
    said = f"parts of [{', '.join(map(str, sizes))}]"
    left = [isinstance(d, int) and d == -1 for d in sizes]
    if not sizes or sum(left) > 1:
        raise GraphError(f"{said}: one size at least, and one -1 at most")
    if any(isinstance(d, int) and d < -1 for d in sizes):
        raise GraphError(f"{said}: a size is -1, 0 or more")
    total: Dim = sum((d for d, is_left in zip(sizes, left, strict=True) if not is_left), start=0)
    rest = size - total
    if (rest != 0 and not any(left)) or (isinstance(rest, int) and rest < 0):
        raise GraphError(f"{said} are {total} together; the axis is {size}")
    return tuple(rest if is_left else d for d, is_left in zip(sizes, left, strict=True))
