"""Ops that read places given by data. An index out of range never reads outside."""

from __future__ import annotations

import math

import numpy as np

from netc.ir.dims import Dim, product
from netc.ir.op import Array, Op, Types, case, require
from netc.ir.ops.windows import (
    Ints,
    axis_of,
    conv_size,
    ends_of,
    floats,
    known,
    offsets,
    padded,
    per_axis,
    taps,
)
from netc.ir.types import TensorType, f32, i64


def whole(index: Array, size: int) -> tuple[Array, Array]:
    """Indices rounded towards 0 (0 where illegal), and which are from 0 to size − 1; NaN is not."""
    given = np.trunc(np.nan_to_num(np.asarray(index, np.float64), nan=-1.0))
    legal = (given >= 0) & (given < size)
    return np.where(legal, given, 0).astype(np.int64), legal


class Gather(Op, name="gather"):
    """Items of x along the axis, picked by an index tensor that takes the axis' place.

    Indices are integers, or floats (rounded towards 0); one out of range gives NaN. The first
    `batch` axes of the index are those of x: each item has picks of its own.
    """

    axis: int = 0
    batch: int = 0

    def infer(self, x: TensorType, index: TensorType) -> TensorType:
        floats(x)
        axis, batch = axis_of(self.axis, x.rank), self.batch
        good = 0 <= batch <= min(axis, index.rank)
        require(good, f"batch {batch} is not between 0 and axis {axis}, nor within {index}")
        same = x.shape[:batch] == index.shape[:batch]
        require(same, f"the index is {index}; its first {batch} axes are not those of {x}")
        return x.with_shape((*x.shape[:axis], *index.shape[batch:], *x.shape[axis + 1 :]))

    def reference(self, x: Array, index: Array) -> Array:
        axis, batch = axis_of(self.axis, x.ndim), self.batch
        size, before, after = x.shape[axis], x.shape[batch:axis], x.shape[axis + 1 :]
        shape = (*x.shape[:axis], *index.shape[batch:], *after)
        if not size:
            return np.full(shape, np.nan, x.dtype)
        items = math.prod(x.shape[:batch])
        at, legal = whole(index.reshape(items, 1, math.prod(index.shape[batch:]), 1), size)
        parts = x.reshape(items, math.prod(before), size, math.prod(after))
        picked = np.take_along_axis(parts, at, 2)
        return np.where(legal, picked, x.dtype.type(np.nan)).reshape(shape)

    samples = (
        case(f32[7, 5], f32[3, 4], draw=("normal", "index:7")),
        case(f32[2, 5, 3], f32[4], axis=1, draw=("normal", "index:9")),
        case(f32[3, 2], f32[()], draw=("normal", "index:3")),
        case(f32[2, 17], f32[2, 3], axis=-1, draw=("normal", "index:17")),
        case(f32[0, 5], f32[3], draw=("normal", "index:2")),
        case(f32[4, 5], f32[0], draw=("normal", "index:2")),
        case(f32[4], f32[()], draw=("normal", "index:6")),
        case(f32[4, 5], i64[3], draw=("normal", "index:4")),
        case(f32[2, 5, 3], f32[2, 7], axis=1, batch=1, draw=("normal", "index:5")),
        case(f32[2, 3, 5], f32[2, 3, 4], axis=2, batch=2, draw=("normal", "index:6")),
        case(f32[2, 3, 5, 2], f32[2, 4], axis=-2, batch=1, draw=("normal", "index:5")),
        case(f32[3, 5], f32[3], axis=1, batch=1, draw=("normal", "index:5")),
        case(f32[0, 5], f32[0, 3], axis=1, batch=1),
        case(f32[4, 5], f32[3], axis=2, error="outside"),
        case(f32[4, 5], f32[4, 3], batch=1, error="between 0 and axis 0"),
        case(f32[4, 5], f32[3, 2], axis=1, batch=1, error="not those of f32[4,5]"),
    )


class Iota(Op, name="iota"):
    """0, 1, 2, … along the axis for every element of x, whose values are not read."""

    axis: int = 0

    def infer(self, x: TensorType) -> TensorType:
        floats(x)
        axis_of(self.axis, x.rank)
        return x

    def reference(self, x: Array) -> Array:
        axis = axis_of(self.axis, x.ndim)
        along = np.arange(x.shape[axis], dtype=x.dtype)
        return np.broadcast_to(np.expand_dims(along, self._others(axis, x.ndim)), x.shape).copy()

    @staticmethod
    def _others(axis: int, rank: int) -> tuple[int, ...]:
        return tuple(a for a in range(rank) if a != axis)

    samples = (
        case(f32[3, 5]),
        case(f32[2, 3, 4, 17], axis=1),
        case(f32[7], axis=-1),
        case(f32[0, 3], axis=1),
        case(f32[1, 5]),
        case(f32[2, 3], axis=2, error="outside"),
    )


class Pick(Op, name="pick"):
    """x at the label along the axis, which keeps a size of 1; NaN where the label is no index.

    There is one label per place of the other axes, in any shape with that many elements.
    """

    axis: int = 1

    def infer(self, x: TensorType, label: TensorType) -> TensorType:
        floats(x)
        axis = axis_of(self.axis, x.rank)
        places = product(d for i, d in enumerate(x.shape) if i != axis)
        require(label.count == places, f"{label.count} labels do not fit {places} places of x")
        return x.with_shape((*x.shape[:axis], 1, *x.shape[axis + 1 :]))

    def reference(self, x: Array, label: Array) -> Array:
        axis = axis_of(self.axis, x.ndim)
        shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        at, legal = whole(label.reshape(shape), x.shape[axis])
        if not x.shape[axis]:
            return np.full(shape, np.nan, x.dtype)
        return np.where(legal, np.take_along_axis(x, at, axis), x.dtype.type(np.nan))

    samples = (
        case(f32[5, 7], f32[5], draw=("normal", "index:7")),
        case(f32[2, 3, 4, 5], f32[2, 1, 4, 5], draw=("normal", "index:5")),
        case(f32[2, 3, 5], f32[2, 3], axis=-1, draw=("normal", "index:5")),
        case(f32[0, 3], f32[0], draw=("normal", "index:3")),
        case(f32[5, 7], f32[4], error="4 labels"),
        case(f32[5, 7], f32[5], axis=2, error="outside"),
    )


class Im2col(Op, name="im2col"):
    """The windows of x as columns: [n, c·Πk, o…], rows ordered channel, then window position."""

    kernel: Ints
    stride: Ints = ()
    pad: Ints = ()
    dilation: Ints = ()

    def window(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Kernel, stride, pad and dilation, one number per spatial axis."""
        axes = len(self.kernel)
        return (
            per_axis(self.kernel, axes, 1, "kernel", 1),
            per_axis(self.stride, axes, 1, "stride", 1),
            per_axis(self.pad, axes, 0, "pad", 0),
            per_axis(self.dilation, axes, 1, "dilation", 1),
        )

    def sizes(self, spatial: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """The result's spatial sizes."""
        window = zip(spatial, *self.window(), strict=True)
        return tuple(conv_size(*each) for each in window)

    def infer(self, x: TensorType) -> TensorType:
        floats(x)
        axes = len(self.kernel)
        require(axes > 0, f"x is {x}; windows need an axis behind the channels")
        require(x.rank == 2 + axes, f"x is {x}; a kernel of {axes} axes needs {2 + axes}")
        rows = x.shape[1] * math.prod(self.kernel)
        return x.with_shape((x.shape[0], rows, *self.sizes(x.shape[2:])))

    def reference(self, x: Array) -> Array:
        kernel, stride, pad, dilation = self.window()
        sizes = known(self.sizes(x.shape[2:]), "sizes")
        whole_x = padded(x, pad, ends_of(sizes, kernel, stride, dilation), 0)
        parts = [whole_x[taps(at, sizes, stride, dilation)] for at in offsets(kernel)]
        return np.stack(parts, 2).reshape(x.shape[0], x.shape[1] * len(parts), *sizes)

    samples = (
        case(f32[2, 3, 7, 5], kernel=(3, 2), stride=(2, 1), pad=(1, 0)),
        case(f32[1, 5, 6, 6], kernel=(2, 2), dilation=(2, 3)),
        case(f32[1, 1, 4], kernel=(3,)),
        case(f32[0, 3, 5, 5], kernel=(3, 3)),
        case(f32[2, 3, 7, 5], kernel=(8, 2), error="does not fit 7"),
        case(f32[2, 3, 7], kernel=(3, 2), error="needs 4"),
        case(f32[2, 3, 7, 5], kernel=(3, 3), stride=(1, 0), error="stride"),
    )


class Compact(Op, name="compact"):
    """Rows of each x where the selector is not 0, moved to the front; zeros behind; their count.

    Inputs are the tensors and last the selector, one number per row. The last result is the count,
    an i64 scalar (Caffe filter_layer.cpp has data-dependent shapes instead).
    """

    def infer(self, *xs: TensorType) -> Types:
        require(len(xs) >= 2, "tensors and a selector are needed")
        selector = xs[-1]
        floats(selector, first=len(xs) - 1)
        require(selector.rank >= 1, f"the selector is {selector}; one number per row is needed")
        for i, x in enumerate(xs):
            require(x.rank >= 1, f"input {i} has no rows")
            same = x.shape[0] == selector.shape[0]
            require(same, f"input {i} has {x.shape[0]} rows, the selector {selector.shape[0]}")
        one = selector.count == selector.shape[0]
        require(one, f"the selector is {selector}; one number per row is needed")
        return (*xs[:-1], i64[()])

    def reference(self, *xs: Array) -> tuple[Array, ...]:
        kept = np.flatnonzero(xs[-1].reshape(-1) != 0)
        outs = []
        for x in xs[:-1]:
            out = np.zeros_like(x)
            out[: len(kept)] = x[kept]
            outs.append(out)
        return (*outs, np.asarray(len(kept), np.int64))

    samples = (
        case(f32[7, 3], f32[7], draw=("normal", "index:2")),
        case(f32[5, 2, 3], f32[5, 4], f32[5, 1, 1], draw=("normal", "normal", "index:2")),
        case(f32[0, 3], f32[0]),
        case(f32[7, 3], f32[6], error="7 rows"),
        case(f32[7, 3], f32[7, 2], error="one number per row"),
        case(f32[7], error="a selector"),
    )
