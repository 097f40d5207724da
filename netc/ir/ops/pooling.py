"""Pooling, with Caffe's window rules (pooling_layer.cpp): a stride that is not given is 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from netc.ir.dims import Dim, product
from netc.ir.op import Array, Grads, Op, case, require
from netc.ir.ops.windows import (
    Ints,
    ends_of,
    floats,
    known,
    least_pooled,
    offsets,
    padded,
    per_axis,
    pool_size,
    taps,
)
from netc.ir.types import TensorType, f32

if TYPE_CHECKING:
    from netc.ir.graph import Builder, Value


class Pool(Op):
    """A window that slides over every spatial axis; channels and batch are kept.

    Rounded down, out = ⌊(in + 2·pad − kernel) / stride⌋ + 1; with `ceil` rounded up, and where any
    axis is padded, a last window that starts at or beyond in + pad is dropped. There must be one
    window: with `ceil`, the kernel may exceed in + 2·pad by less than the stride.
    """

    kernel: Ints
    stride: Ints = ()
    pad: Ints = ()
    ceil: bool = False

    def window(self) -> tuple[Ints, Ints, Ints]:
        """Kernel, stride and pad, one number per spatial axis."""
        axes = len(self.kernel)
        kernel = per_axis(self.kernel, axes, 1, "kernel", 1)
        stride = per_axis(self.stride, axes, 1, "stride", 1)
        pad = per_axis(self.pad, axes, 0, "pad", 0)
        for p, k in zip(pad, kernel, strict=True):
            require(p < k, f"pad {p} must be smaller than the kernel's {k}")
        return kernel, stride, pad

    def sizes(self, spatial: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """The result's spatial sizes."""
        kernel, stride, pad = self.window()
        clip = any(pad)
        window = zip(spatial, kernel, stride, pad, strict=True)
        return tuple(pool_size(*each, self.ceil, clip) for each in window)

    def least(self) -> Ints:
        """The smallest spatial sizes that have a window."""
        return tuple(least_pooled(*each, self.ceil) for each in zip(*self.window(), strict=True))

    def infer(self, x: TensorType) -> TensorType:
        floats(x)
        axes = len(self.kernel)
        require(axes >= 1, "the kernel has no size")
        require(x.rank == 2 + axes, f"x is {x}; a kernel of {axes} axes needs {2 + axes}")
        return x.with_shape((*x.shape[:2], *self.sizes(x.shape[2:])))

    def windows(self, x: Array, fill: float) -> Array:
        """The elements of every window on a new last axis, row by row; `fill` outside."""
        kernel, stride, pad = self.window()
        ones = (1,) * len(kernel)
        sizes = known(self.sizes(x.shape[2:]), "sizes")
        whole = padded(x, pad, ends_of(sizes, kernel, stride, ones), fill)
        return np.stack([whole[taps(at, sizes, stride, ones)] for at in offsets(kernel)], -1)

    def flops(self, x: TensorType) -> Dim:
        return self.infer(x).count * product(self.kernel)


_SAMPLES = (
    case(f32[2, 3, 8, 8], kernel=(2, 2), stride=(2, 2)),
    case(f32[1, 5, 9, 7], kernel=(3, 3), stride=(2, 2), ceil=True),
    case(f32[2, 7, 7, 8], kernel=(3, 2), stride=(2, 3), pad=(1, 1), ceil=True),
    case(f32[1, 17, 6, 6], kernel=(3, 3), pad=(1, 1)),
    case(f32[1, 1, 5, 5], kernel=(2, 2), stride=(2, 2), ceil=True),
    case(f32[1, 3, 4, 4], kernel=(3, 3), stride=(3, 3), pad=(2, 2), ceil=True),
    case(f32[1, 3, 7, 6], kernel=(5, 4), stride=(4, 2), pad=(0, 3), ceil=True),
    case(f32[0, 3, 4, 4], kernel=(2, 2)),
    case(f32[2, 0, 4, 4], kernel=(2, 2)),
    case(f32[2, 3, 9], kernel=(3,), stride=(2,), ceil=True),
    case(f32[1, 2, 4, 5, 6], kernel=(2, 3, 2), stride=(2, 1, 2), pad=(1, 1, 0)),
    case(f32[1, 3, 2, 2], kernel=(4, 4), stride=(3, 3), ceil=True),
    case(f32[2, 9, 1, 5], kernel=(3, 6), stride=(4, 2), ceil=True),
    case(f32[1, 8, 2, 3], kernel=(5, 4), stride=(2, 3), pad=(1, 0), ceil=True),
    case(f32[1, 3, 4, 4], kernel=(5, 5), ceil=True, error="does not fit 4"),
    case(f32[1, 3, 4, 4], kernel=(7, 7), stride=(3, 3), ceil=True, error="does not fit 4"),
    case(f32[1, 3, 4, 4], kernel=(5, 5), error="does not fit 4"),
    case(f32[1, 3, 4, 4], kernel=(2, 2), pad=(2, 2), error="smaller than the kernel"),
    case(f32[1, 3, 4, 4], kernel=(0, 2), error="kernel 0x2"),
    case(f32[1, 3, 4, 4], kernel=(2, 2), stride=(0, 1), error="stride"),
    case(f32[1, 3, 4, 4], kernel=(2,), error="a kernel of 1 axes"),
    case(f32[1, 3], kernel=(), error="no size"),
)


class MaxPool(Pool, name="max_pool"):
    """The largest element of each window, clipped to the image; NaN when one is NaN.

    A window wholly outside the image gives −∞. (Caffe starts at −FLT_MAX and ignores NaN.)
    """

    blocked = (0,)

    def reference(self, x: Array) -> Array:
        return np.asarray(self.windows(x, -np.inf).max(-1))

    samples = _SAMPLES


class MaxPoolIndex(Pool, name="max_pool_index"):
    """Where the largest element of each window lies in its plane: h·W + w, as a float.

    The first wins a tie, NaN counts as largest; a window wholly outside gives −1.
    """

    def reference(self, x: Array) -> Array:
        plane = np.arange(np.prod(x.shape[2:]), dtype=np.float64).reshape(1, 1, *x.shape[2:])
        index = np.broadcast_to(self.windows(plane, -1.0), self.windows(x, 0.0).shape)
        values = np.where(index < 0, -np.inf, self.windows(x, -np.inf))
        best = _first_largest(values, index >= 0)
        return np.take_along_axis(index, best, -1)[..., 0].astype(x.dtype)

    samples = tuple(c if c.error else case(*c.inputs, draw=("distinct",), **c.attributes)
                    for c in _SAMPLES)  # fmt: skip


def _first_largest(values: Array, inside: Array) -> Array:
    """The position of the first largest element that is inside, kept as an axis of 1."""
    largest = values.max(-1, keepdims=True)
    hit = ((values == largest) | (np.isnan(values) & np.isnan(largest))) & inside
    return np.asarray(hit.argmax(-1, keepdims=True))


class AvgPool(Pool, name="avg_pool"):
    """The mean of each window: its elements inside the image, summed, over the window's size.

    The size is that of the window clipped to the padded image, min(start + kernel, in + pad) −
    start on each axis, as in Caffe; where the window lies wholly outside it is 0 or negative.
    """

    blocked = (0,)

    @np.errstate(all="ignore")
    def reference(self, x: Array) -> Array:
        return np.asarray(self.windows(x, 0.0).sum(-1) / self.divisor(x.shape[2:], x.dtype))

    def divisor(self, spatial: Ints, dtype: np.dtype[np.floating]) -> Array:
        """The element count of each window, one per output position."""
        kernel, stride, pad = self.window()
        sizes = known(self.sizes(spatial), "sizes")
        out = np.ones((), dtype)
        for n, size, k, s, p in zip(sizes, spatial, kernel, stride, pad, strict=True):
            start = np.arange(n) * s - p
            out = out[..., None] * (np.minimum(start + k, size + p) - start).astype(dtype)
        return out

    samples = _SAMPLES


class Global(Op):
    """All spatial axes to 1."""

    blocked = (0,)

    def infer(self, x: TensorType) -> TensorType:
        floats(x)
        require(x.rank >= 3, f"x is {x}; it has no spatial axes")
        return x.with_shape((*x.shape[:2], *(1 for _ in x.shape[2:])))

    def flops(self, x: TensorType) -> Dim:
        return x.count

    samples = (
        case(f32[2, 5, 7, 7]),
        case(f32[1, 17, 1, 1]),
        case(f32[2, 3, 4]),
        case(f32[1, 3, 2, 3, 4]),
        case(f32[0, 3, 4, 4]),
        case(f32[2, 3], error="no spatial axes"),
    )


class GlobalAvgPool(Global, name="global_avg_pool"):
    """The mean over all spatial axes, kept as axes of 1."""

    @np.errstate(all="ignore")
    def reference(self, x: Array) -> Array:
        axes = tuple(range(2, x.ndim))
        count = x.dtype.type(np.prod(x.shape[2:]))
        return np.asarray(x.sum(axes, keepdims=True) / count)

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        axes = tuple(range(2, xs[0].type.rank))
        return b.reduce_mean(xs[0], axes=axes, keep=True).op.grad(b, xs, y, dy)


class GlobalMaxPool(Global, name="global_max_pool"):
    """The maximum over all spatial axes, kept as axes of 1; NaN when one is NaN."""

    def reference(self, x: Array) -> Array:
        axes = tuple(range(2, x.ndim))
        return np.asarray(x.max(axes, keepdims=True, initial=-np.inf))
