"""Sizes and views that windowed ops share: convolution, pooling, im2col."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from netc.ir.dims import Dim
from netc.ir.op import Array, require
from netc.ir.types import DType, TensorType

Ints: TypeAlias = tuple[int, ...]


def axis_of(axis: int, rank: int) -> int:
    """The axis counted from the front; a negative one counts from the end."""
    require(-rank <= axis < rank, f"axis {axis} is outside a tensor of {rank} axes")
    return axis % rank


def floats(*xs: TensorType, first: int = 0) -> None:
    """Require float32 operands, the inputs from number `first` on."""
    for i, x in enumerate(xs, first):
        require(x.dtype is DType.F32, f"input {i} is {x}; f32 is needed here (see cast)")


def not_negative(number: float, what: str) -> float:
    """The number, which must be 0 or more and neither infinite nor NaN."""
    require(0 <= number < math.inf, f"{what} {number} must be 0 or more")
    return number


def per_axis(given: Ints, axes: int, default: int, what: str, lowest: int) -> Ints:
    """One number per spatial axis; () stands for the default everywhere."""
    out = given or (default,) * axes
    require(len(out) == axes, f"{what} {_show(out)} does not fit {axes} spatial axes")
    require(all(n >= lowest for n in out), f"{what} {_show(out)} must be at least {lowest}")
    require(all(n < 2**31 for n in out), f"{what} {_show(out)} is too large")
    return out


def _show(numbers: Ints) -> str:
    return "x".join(map(str, numbers))


def known(dims: tuple[Dim, ...], what: str) -> Ints:
    """Sizes that must be numbers, not symbols."""
    out = tuple(d for d in dims if isinstance(d, int))
    require(len(out) == len(dims), f"{what} must be known, not {', '.join(map(str, dims))}")
    return out


def conv_size(size: Dim, kernel: int, stride: int, pad: int, dilation: int) -> Dim:
    """⌊(size + 2·pad − dilation·(kernel − 1) − 1) / stride⌋ + 1; the window must fit once."""
    extent = dilation * (kernel - 1) + 1
    room = size + 2 * pad
    if isinstance(room, int):
        require(room >= extent, f"a window of {extent} does not fit {size} + 2 * {pad}")
    return (room - extent) // stride + 1


def least_pooled(kernel: int, stride: int, pad: int, ceil: bool) -> int:
    """The smallest size that has a window: where sizes are rounded up, one that exceeds the padded
    image by less than a stride."""
    fitting = kernel - 2 * pad
    return min(fitting, max(fitting - stride + 1, 1)) if ceil else fitting


def pool_size(size: Dim, kernel: int, stride: int, pad: int, ceil: bool, clip: bool) -> Dim:
    """Caffe's pooled size (pooling_layer.cpp): rounded up or down, then clipped.

    Rounded up, o = ⌈(size + 2·pad − kernel) / stride⌉ + 1; where any axis is padded, a last window
    that starts at or beyond size + pad is dropped. Both are floors of numerators that differ by a
    number, so the smaller numerator decides, for symbols too.
    """
    room = size + (2 * pad - kernel)
    if isinstance(size, int):
        enough = size >= least_pooled(kernel, stride, pad, ceil)
        require(enough, f"a window of {kernel} does not fit {size} + 2 * {pad}")
    last = room + stride - 1 if ceil else room
    if clip:
        gap = pad - kernel + (stride if ceil else 1)  # last − (size + pad − 1)
        last = last - max(gap, 0)
    return last // stride + 1


def padded(x: Array, pad: Ints, ends: Ints, fill: float) -> Array:
    """x with `pad` before each spatial axis and enough after it to reach `ends`."""
    width = [(0, 0), (0, 0)]
    for p, size, end in zip(pad, x.shape[2:], ends, strict=True):
        width.append((p, max(0, end - p - size)))
    return np.pad(x, width, constant_values=fill) if any(map(any, width)) else x


def offsets(kernel: Ints) -> Iterator[Ints]:
    """Every position within a window, row by row."""
    return itertools.product(*(range(k) for k in kernel))


def taps(at: Ints, sizes: Ints, stride: Ints, dilation: Ints) -> tuple[slice, ...]:
    """Where the windows' element `at` lies in a padded tensor, for `sizes` windows."""
    spatial = (
        slice(a * d, a * d + (n - 1) * s + 1 if n else a * d, s)
        for a, n, s, d in zip(at, sizes, stride, dilation, strict=True)
    )
    return (slice(None), slice(None), *spatial)


def tap_of(w: Array, at: Ints) -> Array:
    """The weights w[:, :, *at] of one position within a window."""
    index: Any = (slice(None), slice(None), *at)
    return np.asarray(w[index])


def ends_of(sizes: Ints, kernel: Ints, stride: Ints, dilation: Ints) -> Ints:
    """Where the last window ends on each padded spatial axis."""
    return tuple(
        (n - 1) * s + (k - 1) * d + 1
        for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)
    )
