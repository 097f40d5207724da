"""Ops that move elements and compute nothing: reshape, transpose, concat, slice, …"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from netc.errors import clean
from netc.ir.derivative import reshaped
from netc.ir.dims import Dim, Expr, product
from netc.ir.op import Array, Grads, Op, case, require
from netc.ir.ops.windows import Ints, axis_of, known, per_axis
from netc.ir.types import TensorType, f32, i32, i64, u8

if TYPE_CHECKING:
    from netc.ir.graph import Builder, Value

Dims: TypeAlias = tuple[Dim, ...]


def quotient(a: Dim, b: Dim) -> Dim | None:
    """a / b where it is exact for every size of the symbols, else None."""
    if isinstance(b, int):
        if b == 0:
            return None
        terms = a.terms if isinstance(a, Expr) else (((), a),)
        return a // b if all(c % b == 0 for _, c in terms) else None
    if a == b:
        return 1
    if isinstance(a, int) or len(b.terms) != 1:
        return None
    ((atoms, scale),) = b.terms
    out: Dim = 0
    for factors, c in a.terms:
        left = list(factors)
        for atom in atoms:
            if atom not in left:
                return None
            left.remove(atom)
        if c % scale:
            return None
        out = out + product(Expr((((f,), 1),)) for f in left) * (c // scale)
    return out


class Reshape(Op, name="reshape"):
    """The same elements, row-major, in another shape.

    0 copies the size at the same position, one −1 is what is left.
    """

    shape: Dims

    def infer(self, x: TensorType) -> TensorType:
        return x.with_shape(_resolved(x.shape, self.shape))

    def reference(self, x: Array) -> Array:
        shape = tuple(-1 if isinstance(d, Expr) else d for d in self.shape)
        return x.reshape(known(_resolved(x.shape, shape), "sizes"))

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        return (reshaped(b, dy, xs[0].type.shape),)

    samples = (
        case(f32[2, 12], shape=(0, 3, 4)),
        case(f32[2, 3, 4], shape=(0, -1)),
        case(f32[2, 3, 4], shape=(-1,)),
        case(f32[2, 3, 5], shape=(5, -1, 2)),
        case(f32[6], shape=(1, 6, 1)),
        case(f32[1], shape=()),
        case(f32[()], shape=(1, 1)),
        case(f32[0, 3, 4], shape=(0, -1)),
        case(u8[2, 6], shape=(3, 4)),
        case(f32[2, 12], shape=(0, 5), error="elements"),
        case(f32[2, 12], shape=(-1, 5), error="divide"),
        case(f32[2, 12], shape=(-1, -1), error="more than one"),
        case(f32[2, 12], shape=(0, 12, 0), error="0 copies axis 2"),
        case(f32[2, 12], shape=(-2, 12), error="-2"),
    )


def _resolved(given: Dims, shape: Dims) -> Dims:
    """`shape` with its 0 and −1 replaced, for a tensor whose sizes are `given`."""
    copied = {i for i, d in enumerate(shape) if isinstance(d, int) and d == 0}
    missing = [i for i, d in enumerate(shape) if isinstance(d, int) and d == -1]
    require(len(missing) <= 1, "more than one -1, or more than one size with symbols")
    for i, d in enumerate(shape):
        require(not isinstance(d, int) or d >= -1, f"the size {d} is not -1, 0 or more")
        require(i not in copied or i < len(given), f"0 copies axis {i}, but x has {len(given)}")
    rest = product(d for i, d in enumerate(given) if i not in copied)
    fixed = product(d for i, d in enumerate(shape) if i not in copied and i not in missing)
    out = [given[i] if i in copied else d for i, d in enumerate(shape)]
    if missing:
        left = quotient(rest, fixed)
        require(left is not None, f"{rest} elements do not divide by {fixed}")
        out[missing[0]] = 0 if left is None else left
    else:
        require(rest == fixed, f"{fixed} elements are asked for, where x has {rest}")
    return tuple(out)


class Flatten(Op, name="flatten"):
    """Axes `axis` to `end`, both included, as one."""

    axis: int = 1
    end: int = -1

    def infer(self, x: TensorType) -> TensorType:
        first, last = axis_of(self.axis, x.rank), axis_of(self.end, x.rank)
        require(first <= last, f"axis {self.axis} lies behind axis {self.end} of {x}")
        middle = product(x.shape[first : last + 1])
        return x.with_shape((*x.shape[:first], middle, *x.shape[last + 1 :]))

    def reference(self, x: Array) -> Array:
        first, last = axis_of(self.axis, x.ndim), axis_of(self.end, x.ndim)
        middle = math.prod(x.shape[first : last + 1])
        return x.reshape(*x.shape[:first], middle, *x.shape[last + 1 :])

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        return (reshaped(b, dy, xs[0].type.shape),)

    samples = (
        case(f32[2, 3, 4, 5]),
        case(f32[2, 3, 4, 5], axis=0, end=2),
        case(f32[2, 3, 4], axis=-2, end=-1),
        case(f32[7], axis=0),
        case(f32[0, 3, 4]),
        case(f32[2, 3, 4], axis=2, end=1, error="behind"),
        case(f32[2, 3, 4], axis=3, error="outside"),
    )


class Transpose(Op, name="transpose"):
    """Axis i of the result is axis perm[i] of x."""

    perm: Ints

    def order(self, rank: int) -> Ints:
        """The permutation, counted from the front."""
        perm = tuple(axis_of(p, rank) for p in self.perm)
        require(sorted(perm) == list(range(rank)), f"perm {self.perm} does not order {rank} axes")
        return perm

    def infer(self, x: TensorType) -> TensorType:
        return x.with_shape(tuple(x.shape[p] for p in self.order(x.rank)))

    def reference(self, x: Array) -> Array:
        return x.transpose(self.order(x.ndim)).copy()

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        order = self.order(xs[0].type.rank)
        return (b.transpose(dy, perm=tuple(order.index(i) for i in range(len(order)))),)

    samples = (
        case(f32[2, 3, 4, 5], perm=(0, 2, 3, 1)),
        case(f32[3, 1, 5], perm=(2, 0, 1)),
        case(f32[7, 17], perm=(-1, 0)),
        case(u8[2, 3, 5], perm=(0, 1, 2)),
        case(f32[()], perm=()),
        case(f32[0, 3], perm=(1, 0)),
        case(f32[2, 3], perm=(0, 0), error="does not order"),
        case(f32[2, 3], perm=(0,), error="does not order"),
        case(f32[2, 3], perm=(0, 2), error="outside"),
    )


class Concat(Op, name="concat"):
    """One after another along the axis."""

    axis: int = 1
    blocked = (-1,)

    def infer(self, *xs: TensorType) -> TensorType:
        require(len(xs) >= 1, "nothing to join")
        axis = axis_of(self.axis, xs[0].rank)
        first = xs[0].shape
        for i, x in enumerate(xs):
            require(x.dtype is xs[0].dtype, f"input {i} is {x}, input 0 is {xs[0]}")
            same = len(x.shape) == len(first) and all(
                j == axis or d == e for j, (d, e) in enumerate(zip(x.shape, first, strict=True))
            )
            require(same, f"input {i} is {x}, input 0 is {xs[0]}: only axis {axis} may differ")
        total: Dim = sum((x.shape[axis] for x in xs), start=0)
        return xs[0].with_shape((*first[:axis], total, *first[axis + 1 :]))

    def reference(self, *xs: Array) -> Array:
        return np.concatenate(xs, self.axis)

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        axis = axis_of(self.axis, y.type.rank)
        ends = [0, *accumulate(known(tuple(x.type.shape[axis] for x in xs), "the sizes joined"))]
        return tuple(b.slice(dy, axis=axis, start=i, stop=j) for i, j in pairwise(ends))

    samples = (
        case(f32[2, 3, 4, 5], f32[2, 7, 4, 5]),
        case(f32[2, 3, 4], f32[2, 3, 1], f32[2, 3, 5], axis=-1),
        case(f32[1, 1], f32[2, 1], axis=0),
        case(f32[2, 17]),
        case(f32[2, 0, 3], f32[2, 5, 3]),
        case(u8[2, 3], u8[2, 1]),
        case(f32[2, 3], f32[3, 3], error="only axis 1 may differ"),
        case(f32[2, 3], f32[2, 3, 1], error="only axis 1 may differ"),
        case(f32[2, 3], u8[2, 3], error="input 1 is u8[2,3]"),
        case(f32[2, 3], axis=2, error="outside"),
    )


class Slice(Op, name="slice"):
    """Elements `start` (included) to `stop` (not included, None: the end) along the axis.

    Either may have symbols; that they fit the axis is then checked when the net runs.
    """

    axis: int = 1
    start: Dim = 0
    stop: Dim | None = None
    blocked = (0,)

    def infer(self, x: TensorType) -> TensorType:
        axis = axis_of(self.axis, x.rank)
        size = x.shape[axis]
        stop: Dim = size if self.stop is None else self.stop
        bounds = f"{self.start} to {stop} of {size}"
        start, length, left = self.start, stop - self.start, size - stop
        require(not isinstance(start, int) or start >= 0, f"{bounds}: the start is negative")
        require(not isinstance(length, int) or length >= 0, f"{bounds}: it ends before it starts")
        require(not isinstance(left, int) or left >= 0, f"{bounds}: it ends beyond the axis")
        return x.with_shape((*x.shape[:axis], stop - self.start, *x.shape[axis + 1 :]))

    def reference(self, x: Array) -> Array:
        axis = axis_of(self.axis, x.ndim)
        size = x.shape[axis]
        start, stop = known((self.start, size if self.stop is None else self.stop), "ends")
        require(0 <= start <= stop <= size, f"{start} to {stop} of {size}: it does not fit")
        return x[(*(slice(None),) * axis, slice(start, stop))].copy()

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        rank, axis = xs[0].type.rank, axis_of(self.axis, xs[0].type.rank)
        stop = self.start + y.type.shape[axis]
        ends = known((self.start, xs[0].type.shape[axis] - stop), "what is cut off")
        before, after = ((0,) * axis + (n,) + (0,) * (rank - axis - 1) for n in ends)
        return (b.pad(dy, before=before, after=after),)

    samples = (
        case(f32[2, 7, 3, 3], start=1, stop=6),
        case(f32[2, 7, 3, 3], start=5),
        case(f32[5, 3], axis=0, stop=2),
        case(f32[2, 17], axis=-1, start=16, stop=17),
        case(f32[2, 3], start=3),
        case(u8[2, 5], start=1, stop=3),
        case(f32[2, 7], start=5, stop=8, error="beyond"),
        case(f32[2, 7], start=5, stop=4, error="before it starts"),
        case(f32[2, 7], start=-1, error="negative"),
        case(f32[2, 7], axis=2, error="outside"),
    )


# What is added around an axis -> the elements needed for n on one side.
_PAD_MODES: dict[str, Callable[[int], int]] = {
    "constant": lambda n: 0,
    "edge": lambda n: 1,
    "reflect": lambda n: n + 1,
}


class Pad(Op, name="pad"):
    """`before` and `after` elements around every axis; () adds none.

    What they are, `mode` says: "constant" `value`, "edge" the nearest element of x, "reflect" those
    of x mirrored at its first and last, which are not repeated.
    """

    before: Ints = ()
    after: Ints = ()
    value: float = 0.0
    mode: str = "constant"

    def sides(self, rank: int) -> tuple[Ints, Ints]:
        """What is added before and after every axis."""
        before = per_axis(self.before, rank, 0, "before", 0)
        return before, per_axis(self.after, rank, 0, "after", 0)

    def least(self, rank: int) -> Ints:
        """The sizes that x has at least, so that there is what the mode repeats."""
        most = [max(pair) for pair in zip(*self.sides(rank), strict=True)]
        return tuple(_PAD_MODES[self.mode](n) if n else 0 for n in most)

    def infer(self, x: TensorType) -> TensorType:
        x.dtype.element(self.value)
        known_modes = ", ".join(f'"{mode}"' for mode in _PAD_MODES)
        require(self.mode in _PAD_MODES, f'mode "{clean(self.mode)}" is none of {known_modes}')
        for axis, (size, least) in enumerate(zip(x.shape, self.least(x.rank), strict=True)):
            fits = not isinstance(size, int) or size >= least
            require(fits, f'axis {axis} of {x}: mode "{self.mode}" needs a size of {least} here')
        sides = zip(x.shape, *self.sides(x.rank), strict=True)
        return x.with_shape(tuple(d + b + a for d, b, a in sides))

    def reference(self, x: Array) -> Array:
        width = list(zip(*self.sides(x.ndim), strict=True))
        small = any(size < n for size, n in zip(x.shape, self.least(x.ndim), strict=True))
        require(not small, f'x of {x.shape} is too small for mode "{self.mode}"')
        if not width:
            return x.copy()
        if self.mode != "constant":
            return np.asarray(np.pad(x, width, mode=cast(Any, self.mode)))
        value = np.float32(self.value) if x.dtype.kind == "f" else int(self.value)
        return np.pad(x, width, constant_values=value)

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        if self.mode != "constant":
            return super().grad(b, xs, y, dy)
        starts, _ = self.sides(xs[0].type.rank)
        for axis, (start, size) in enumerate(zip(starts, xs[0].type.shape, strict=True)):
            if dy.type.shape[axis] != size:
                (stop,) = known((start + size,), "the size padded")
                dy = b.slice(dy, axis=axis, start=start, stop=stop)
        return (dy,)

    samples = (
        case(f32[2, 3, 4, 5], before=(0, 0, 1, 2), after=(0, 0, 3, 0)),
        case(f32[2, 3], after=(0, 5), value=-1.5),
        case(f32[1, 1], before=(2, 3)),
        case(i32[2, 3], after=(1, 2), value=2.0**24 + 1),
        case(f32[3, 4]),
        case(f32[0, 3], before=(0, 1)),
        case(f32[2, 3, 4, 5], before=(0, 0, 1, 2), after=(0, 0, 3, 4), mode="reflect"),
        case(f32[3, 17], before=(2, 0), after=(0, 16), mode="reflect"),
        case(i32[2, 9], before=(0, 3), mode="reflect"),
        case(f32[2, 1, 4, 5], before=(0, 2, 1, 7), after=(1, 0, 9, 1), mode="edge"),
        case(u8[3, 2], before=(1, 1), after=(2, 3), mode="edge"),
        case(f32[0, 3], before=(0, 1), mode="edge"),
        case(f32[2, 4], after=(0, 4), mode="reflect", error='"reflect" needs a size of 5'),
        case(f32[2, 0], after=(0, 1), mode="edge", error='"edge" needs a size of 1'),
        case(f32[2, 4], after=(0, 1), mode="replicate", error='"constant", "edge", "reflect"'),
        case(f32[2, 3], before=(1,), error="before 1 does not fit 2"),
        case(f32[2, 3], after=(0, -1), error="after 0x-1"),
        case(u8[2, 3], value=300.0, error="300 is no u8"),
        case(i32[2, 3], value=1.5, error="1.5 is no i32"),
        case(i64[2, 3], value=2.0**63, error="is no i64"),
        case(i64[2, 3], value=math.nan, error="nan is no i64"),
    )


class Tile(Op, name="tile"):
    """The whole block repeated `times` along the axis."""

    axis: int = 1
    times: int = 1

    def infer(self, x: TensorType) -> TensorType:
        axis = axis_of(self.axis, x.rank)
        require(self.times >= 1, f"times {self.times} must be at least 1")
        return x.with_shape((*x.shape[:axis], x.shape[axis] * self.times, *x.shape[axis + 1 :]))

    def reference(self, x: Array) -> Array:
        return np.concatenate([x] * self.times, self.axis)

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        shape, axis = xs[0].type.shape, axis_of(self.axis, xs[0].type.rank)
        parts = reshaped(b, dy, (*shape[:axis], self.times, *shape[axis:]))
        return (b.reduce_sum(parts, axes=(axis,)),)

    samples = (
        case(f32[2, 3, 4], times=3),
        case(f32[2, 3, 4], axis=0, times=2),
        case(f32[2, 1], axis=-1, times=7),
        case(f32[2, 0], times=2),
        case(f32[2, 3], times=0, error="at least 1"),
        case(f32[2, 3], axis=2, error="outside"),
    )


class Crop(Op, name="crop"):
    """x with the axes from `axis` on cut to the sizes of `like`, from `offset` on.

    `offset` has one entry for all these axes, or one each; () is 0 (Caffe crop_layer.cpp). Only the
    shape of `like` is read.
    """

    axis: int = 2
    offset: Ints = ()

    def offsets(self, rank: int) -> Ints:
        """Where each axis starts."""
        axis = axis_of(self.axis, rank)
        given = self.offset * (rank - axis) if len(self.offset) == 1 else self.offset
        return (0,) * axis + per_axis(given, rank - axis, 0, "offset", 0)

    def infer(self, x: TensorType, like: TensorType) -> TensorType:
        axis = axis_of(self.axis, x.rank)
        require(like.rank == x.rank, f"x is {x}, like is {like}: the ranks differ")
        ends = zip(self.offsets(x.rank), like.shape, x.shape, strict=True)
        for i, (start, size, room) in enumerate(ends):
            if i >= axis and isinstance(size, int) and isinstance(room, int):
                fits = start + size <= room
                require(fits, f"axis {i}: {size} from {start} on do not fit {room}")
        return x.with_shape((*x.shape[:axis], *like.shape[axis:]))

    def reference(self, x: Array, like: Array) -> Array:
        axis = axis_of(self.axis, x.ndim)
        sizes = (*x.shape[:axis], *like.shape[axis:])
        starts = self.offsets(x.ndim)
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            require(start + size <= x.shape[i], f"axis {i}: {size} from {start} on do not fit")
        return x[tuple(slice(o, o + n) for o, n in zip(starts, sizes, strict=True))].copy()

    samples = (
        case(f32[2, 3, 7, 9], f32[1, 5, 4, 5], offset=(2,)),
        case(f32[2, 3, 7, 9], f32[1, 5, 4, 5], offset=(3, 1)),
        case(f32[2, 3, 7, 9], f32[1, 2, 7, 1], axis=1, offset=(1, 0, 8)),
        case(f32[2, 3, 4, 4], f32[2, 3, 4, 4]),
        case(f32[2, 3, 4, 4], f32[2, 3, 0, 4]),
        case(f32[2, 3, 4, 4], f32[2, 3, 4, 5], error="do not fit 4"),
        case(f32[2, 3, 4, 4], f32[2, 3, 4], error="ranks differ"),
        case(f32[2, 3, 4, 4], f32[2, 3, 2, 2], offset=(1, 1, 1), error="offset"),
        case(f32[2, 3, 4, 4], f32[2, 3, 2, 2], offset=(-1,), error="offset"),
        case(f32[2, 3, 4, 4], f32[2, 3, 2, 2], axis=4, error="outside"),
    )
