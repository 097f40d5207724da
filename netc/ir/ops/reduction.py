"""Reductions over axes, ArgMax and Accuracy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from netc.ir.derivative import spread
from netc.ir.dims import Dim, product
from netc.ir.op import Array, Grads, Op, Types, case, require
from netc.ir.ops.windows import Ints, axis_of, floats, known
from netc.ir.types import TensorType, f32

if TYPE_CHECKING:
    from netc.ir.graph import Builder, Value


class Reduce(Op):
    """`axes` to one element each, dropped unless `keep`."""

    axes: Ints
    keep: bool = False

    def over(self, rank: int) -> Ints:
        """The axes, counted from the front."""
        axes = tuple(axis_of(a, rank) for a in self.axes)
        require(len(set(axes)) == len(axes), f"axes {self.axes} name an axis twice")
        return axes

    def infer(self, x: TensorType) -> TensorType:
        floats(x)
        axes = self.over(x.rank)
        if self.keep:
            return x.with_shape(tuple(1 if i in axes else d for i, d in enumerate(x.shape)))
        return x.with_shape(tuple(d for i, d in enumerate(x.shape) if i not in axes))

    def flops(self, x: TensorType) -> Dim:
        return x.count

    samples = (
        case(f32[2, 3, 5, 7], axes=(2, 3)),
        case(f32[2, 3, 5, 7], axes=(1,), keep=True),
        case(f32[2, 17, 1], axes=(-1, 0)),
        case(f32[3, 5], axes=(0, 1)),
        case(f32[3, 5], axes=()),
        case(f32[()], axes=()),
        case(f32[0, 5], axes=(1,)),
        case(f32[3, 0], axes=(1,)),
        case(f32[2, 3], axes=(2,), error="outside"),
        case(f32[2, 3], axes=(1, -1), error="twice"),
    )


class ReduceSum(Reduce, name="reduce_sum"):
    """The sum over axes; 0 of nothing."""

    @np.errstate(all="ignore")
    def reference(self, x: Array) -> Array:
        return np.asarray(x.sum(self.over(x.ndim), keepdims=self.keep))

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        return (spread(b, dy, xs[0].type, self.over(xs[0].type.rank)),)


class ReduceMean(Reduce, name="reduce_mean"):
    """The sum over axes divided by the element count; NaN of nothing."""

    @np.errstate(all="ignore")
    def reference(self, x: Array) -> Array:
        axes = self.over(x.ndim)
        count = np.prod([x.shape[a] for a in axes])
        return np.asarray(x.sum(axes, keepdims=self.keep) / x.dtype.type(count))

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        axes = self.over(xs[0].type.rank)
        ones = b.const(type=xs[0].type, value=1.0)
        count = b.reduce_sum(ones, axes=axes, keep=self.keep)
        return (spread(b, b.div(dy, count), xs[0].type, axes),)


class ReduceMax(Reduce, name="reduce_max"):
    """The maximum over axes, NaN when one is NaN; −∞ of nothing."""

    def reference(self, x: Array) -> Array:
        return np.asarray(x.max(self.over(x.ndim), keepdims=self.keep, initial=-np.inf))


class ArgMax(Op, name="argmax"):
    """The `top_k` largest in falling order; equal ones from the highest index down, or, with
    `first`, from the lowest up.

    With an axis, its size becomes top_k and the result is indices (as floats), or values. Without,
    each item of axis 0 is searched whole: [n, 1, top_k], or [n, 2, top_k] of indices and values,
    with axes of 1 appended up to x's rank (Caffe argmax_layer.cpp). NaN counts as largest.
    An index beyond 2²⁴ is rounded to a float.
    """

    axis: int | None = None
    top_k: int = 1
    values: bool = False
    first: bool = False

    def infer(self, x: TensorType) -> TensorType:
        floats(x)
        axis = axis_of(0 if self.axis is None else self.axis, x.rank)
        size = self.searched(x.shape)
        enough = not isinstance(size, int) or self.top_k <= size
        require(self.top_k >= 1 and enough, f"top_k {self.top_k} is not between 1 and {size}")
        if self.axis is None:
            pairs = 2 if self.values else 1
            return x.with_shape((x.shape[0], pairs, self.top_k, *(1 for _ in x.shape[3:])))
        return x.with_shape((*x.shape[:axis], self.top_k, *x.shape[axis + 1 :]))

    def searched(self, shape: tuple[Dim, ...]) -> Dim:
        """How many elements each result is the largest of."""
        if self.axis is None:
            return product(shape[1:])
        return shape[axis_of(self.axis, len(shape))]

    def reference(self, x: Array) -> Array:
        whole = self.axis is None
        flat = x.shape[0], math.prod(x.shape[1:])
        rows = x.reshape(flat) if whole else np.moveaxis(x, self.axis or 0, -1)
        require(self.top_k <= rows.shape[-1], f"top_k {self.top_k} of {rows.shape[-1]} elements")
        if self.first:
            rising = rows.shape[-1] - 1 - np.argsort(rows[..., ::-1], -1, kind="stable")
        else:
            rising = np.argsort(rows, -1, kind="stable")
        order = rising[..., ::-1][..., : self.top_k]
        best = np.take_along_axis(rows, order, -1)
        if not whole:
            found = best if self.values else order.astype(x.dtype)
            return np.asarray(np.moveaxis(found, -1, self.axis or 0))
        both = [order.astype(x.dtype), best] if self.values else [order.astype(x.dtype)]
        shape = x.shape[0], len(both), self.top_k, *(1 for _ in x.shape[3:])
        return np.stack(both, 1).reshape(shape)

    def flops(self, x: TensorType) -> Dim:
        return x.count

    samples = (
        case(f32[3, 10], draw=("distinct",)),
        case(f32[2, 5, 3, 3], axis=1, draw=("index:3",)),
        case(f32[2, 17], axis=-1, top_k=5, values=True),
        case(f32[2, 3, 4, 5], top_k=3, values=True, draw=("index:7",)),
        case(f32[2, 3, 4, 5], top_k=2, draw=("distinct",)),
        case(f32[2, 7, 2], axis=1, top_k=7, draw=("index:2",)),
        case(f32[2, 5, 3, 3], axis=1, first=True, draw=("index:3",)),
        case(f32[2, 3, 4, 5], top_k=17, values=True, first=True, draw=("index:3",)),
        case(f32[37, 3], axis=0, top_k=36, draw=("index:3",)),
        case(f32[37], axis=-1, top_k=37, first=True, draw=("index:3",)),
        case(f32[3, 2, 11, 5], axis=2, top_k=8, values=True),
        case(f32[0, 4], axis=1),
        case(f32[0, 9], axis=1, top_k=9),
        case(f32[7], axis=0, values=True),
        case(f32[3, 4], top_k=5, error="between 1 and 4"),
        case(f32[3, 4], top_k=0, error="top_k 0"),
        case(f32[3, 4], axis=2, error="outside"),
        case(f32[3, 0], error="top_k 1"),
    )


class Accuracy(Op, name="accuracy"):
    """The share of labels that count as right.

    A label counts when fewer than top_k other classes fail to score below its own (ties lose,
    NaN loses). Labels equal to `ignore` are left out; 0 when none is left; a label that names no
    class is wrong (Caffe accuracy_layer.cpp).
    """

    top_k: int = 1
    axis: int = 1
    ignore: int | None = None

    def classes(self, x: TensorType, label: TensorType) -> int:
        """How many classes there are, when x and label fit."""
        floats(x)
        axis = axis_of(self.axis, x.rank)
        (classes,) = known((x.shape[axis],), "the number of classes")
        places = product(d for i, d in enumerate(x.shape) if i != axis)
        require(label.count == places, f"{label.count} labels do not fit {places} places of x")
        require(1 <= self.top_k <= classes, f"top_k {self.top_k} is not between 1 and {classes}")
        return classes

    def infer(self, x: TensorType, label: TensorType) -> Types:
        self.classes(x, label)
        return x.with_shape(())

    def judged(self, x: Array, label: Array) -> tuple[Array, Array, Array]:
        """Per place: its label (−1 where it names no class), whether it counts, whether right."""
        rows = np.moveaxis(x, self.axis, -1).reshape(-1, x.shape[self.axis])
        given = np.trunc(np.nan_to_num(label.reshape(-1), nan=-1.0))
        counts = given != self.ignore if self.ignore is not None else np.ones(len(given), bool)
        legal = (given >= 0) & (given < rows.shape[1])
        index = np.where(legal, given, 0).astype(np.int64)
        own = np.take_along_axis(rows, index[:, None], 1)
        below = (rows < own).sum(1)
        right = legal & (rows.shape[1] - 1 - below < self.top_k)
        return np.where(legal, index, -1), counts, right & counts

    def reference(self, x: Array, label: Array) -> Array:
        _, counts, right = self.judged(x, label)
        return np.asarray(right.sum() / max(1, counts.sum()), x.dtype)

    def flops(self, x: TensorType, label: TensorType) -> Dim:
        return x.count

    samples = (
        case(f32[7, 5], f32[7], draw=("distinct", "index:5")),
        case(f32[6, 3, 2, 2], f32[6, 1, 2, 2], draw=("index:4", "index:3")),
        case(f32[9, 4], f32[9, 1], top_k=2, ignore=1, draw=("distinct", "index:4")),
        case(f32[2, 3, 5], f32[2, 3], axis=-1, draw=("index:3", "index:7")),
        case(f32[0, 4], f32[0], draw=("normal", "index:4")),
        case(f32[7, 5], f32[6], error="6 labels"),
        case(f32[7, 5], f32[7], top_k=6, error="between 1 and 5"),
        case(f32[7, 5], f32[7], axis=3, error="outside"),
    )


class AccuracyPerClass(Accuracy, name="accuracy_per_class"):
    """`accuracy` of the labels of each class alone; 0 for a class with no label."""

    def infer(self, x: TensorType, label: TensorType) -> Types:
        return x.with_shape((self.classes(x, label),))

    def reference(self, x: Array, label: Array) -> Array:
        index, counts, right = self.judged(x, label)
        classes = x.shape[self.axis]
        total = np.bincount(index[counts & (index >= 0)], minlength=classes)
        hits = np.bincount(index[right], minlength=classes)
        return np.asarray(hits / np.maximum(1, total), x.dtype)
