"""Convolution, its transpose, and the inner product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from netc.ir.derivative import reshaped
from netc.ir.dims import Dim, product
from netc.ir.op import Array, Grads, Op, case, require
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
    tap_of,
    taps,
)
from netc.ir.types import Layout, TensorType, f32

if TYPE_CHECKING:
    from netc.ir.graph import Builder, Value


class Windowed(Op):
    """The attributes of a convolution; () is the default on every spatial axis."""

    stride: Ints = ()
    pad: Ints = ()
    dilation: Ints = ()
    groups: int = 1

    def window(self, axes: int) -> tuple[Ints, Ints, Ints]:
        """Stride, pad and dilation, one number per spatial axis."""
        return (
            per_axis(self.stride, axes, 1, "stride", 1),
            per_axis(self.pad, axes, 0, "pad", 0),
            per_axis(self.dilation, axes, 1, "dilation", 1),
        )

    def kernel(self, x: TensorType, w: TensorType, bias: tuple[TensorType, ...]) -> Ints:
        """The sizes of the window, when x, w and a bias fit each other in rank and type."""
        floats(x, w, *bias)
        require(len(bias) <= 1, f"at most 3 inputs, not {2 + len(bias)}")
        require(x.rank >= 2, f"x has {x.rank} axes; at least batch and channels are needed")
        require(w.rank == x.rank, f"x has {x.rank} axes, w has {w.rank}")
        require(self.groups >= 1, f"groups {self.groups} must be at least 1")
        return per_axis(known(w.shape[2:], "the kernel's sizes"), w.rank - 2, 1, "kernel", 1)


def _divides(groups: int, count: Dim, what: str) -> None:
    if isinstance(count, int):
        require(count % groups == 0, f"{groups} groups do not divide {count} {what}")


def _bias(bias: tuple[TensorType, ...], channels: Dim) -> None:
    for b in bias:
        require(b.shape == (channels,), f"the bias is {b}; [{channels}] is needed")


class Conv(Windowed, name="conv"):
    """Cross-correlation over x[n, c, …] with w[o, c/groups, k…], plus b[o] when given.

    out = ⌊(in + 2·pad − dilation·(k − 1) − 1) / stride⌋ + 1 on each spatial axis
    (Caffe base_conv_layer.cpp; a window that does not fit once is an error). On processors w and b
    are parameters.
    """

    blocked = (0,)

    def infer(self, x: TensorType, w: TensorType, *bias: TensorType) -> TensorType:
        kernel = self.kernel(x, w, bias)
        window = zip(x.shape[2:], kernel, *self.window(len(kernel)), strict=True)
        _divides(self.groups, x.shape[1], "input channels")
        _divides(self.groups, w.shape[0], "output channels")
        depth = x.shape[1] // self.groups
        require(w.shape[1] == depth, f"w takes {w.shape[1]} channels a group, x gives {depth}")
        _bias(bias, w.shape[0])
        return x.with_shape((x.shape[0], w.shape[0], *(conv_size(*each) for each in window)))

    @np.errstate(all="ignore")
    def reference(self, x: Array, w: Array, *bias: Array) -> Array:
        kernel, groups = w.shape[2:], self.groups
        stride, pad, dilation = self.window(len(kernel))
        window = zip(x.shape[2:], kernel, stride, pad, dilation, strict=True)
        sizes = known(tuple(conv_size(*each) for each in window), "sizes")
        x = padded(x, pad, ends_of(sizes, kernel, stride, dilation), 0.0)
        n, c, o = x.shape[0], x.shape[1] // groups, w.shape[0] // groups
        points = int(np.prod(sizes))
        out = np.zeros((n, groups, o, points), np.result_type(x, w))
        for at in offsets(kernel):
            patch = x[taps(at, sizes, stride, dilation)].reshape(n, groups, c, points)
            tap = tap_of(w, at).reshape(groups, o, c)
            out += tap * patch if c == 1 else tap @ patch
        out = out.reshape(n, groups * o, *sizes)
        return out + bias[0].reshape(-1, *(1 for _ in sizes)) if bias else out

    def flops(self, x: TensorType, w: TensorType, *bias: TensorType) -> Dim:
        points = self.infer(x, w, *bias).count
        return points * (2 * product(w.shape[1:]) + len(bias))

    samples = (
        case(f32[2, 4, 9, 9], f32[6, 2, 3, 3], f32[6], groups=2, pad=(1, 1)),
        case(f32[2, 3, 11, 7], f32[5, 3, 3, 3], stride=(2, 2)),
        case(f32[1, 17, 6, 5], f32[7, 17, 1, 1], f32[7]),
        case(f32[2, 5, 8, 9], f32[10, 1, 3, 5], groups=5, pad=(1, 2), stride=(2, 1)),
        case(f32[1, 7, 10, 10], f32[7, 1, 3, 3], f32[7], groups=7, pad=(2, 2), dilation=(2, 2)),
        case(f32[2, 1, 5, 5], f32[3, 1, 5, 5], f32[3]),
        case(f32[1, 3, 13, 13], f32[17, 3, 7, 7], stride=(4, 3), pad=(3, 3)),
        case(f32[1, 3, 4, 4], f32[5, 3, 2, 3], pad=(3, 4), stride=(3, 2), dilation=(1, 2)),
        case(f32[0, 3, 5, 5], f32[5, 3, 3, 3], f32[5]),
        case(f32[2, 0, 5, 5], f32[5, 0, 3, 3], f32[5]),
        case(f32[2, 6], f32[4, 3], f32[4], groups=2),
        case(f32[2, 3, 12], f32[5, 3, 4], f32[5], stride=(3,)),
        case(f32[1, 2, 5, 6, 7], f32[3, 2, 3, 2, 3], stride=(1, 2, 2), pad=(1, 0, 1)),
        case(f32[1, 3, 5, 5], f32[5, 4, 3, 3], error="channels"),
        case(f32[1, 3, 5, 5], f32[5, 3, 3, 3], groups=2, error="do not divide 3"),
        case(f32[1, 4, 5, 5], f32[5, 2, 3, 3], groups=2, error="do not divide 5"),
        case(f32[1, 3, 5, 5], f32[5, 3, 3, 3], groups=0, error="at least 1"),
        case(f32[1, 3, 5, 5], f32[5, 3, 3, 3], stride=(0, 1), error="stride 0x1"),
        case(f32[1, 3, 5, 5], f32[5, 3, 3, 3], dilation=(0, 1), error="dilation"),
        case(f32[1, 3, 5, 5], f32[5, 3, 3, 3], pad=(-1, 0), error="pad"),
        case(f32[1, 3, 5, 5], f32[5, 3, 3, 3], pad=(1,), error="2 spatial axes"),
        case(f32[1, 3, 5, 5], f32[5, 3, 0, 3], error="kernel 0x3"),
        case(f32[1, 3, 5, 5], f32[5, 3, 6, 3], error="does not fit 5"),
        case(f32[1, 3, 5, 5], f32[5, 3, 3, 3], f32[4], error="[5] is needed"),
        case(f32[1, 3, 5, 5], f32[5, 3, 3], error="axes"),
        case(f32[3], f32[5], error="at least batch"),
    )


class ConvTranspose(Windowed, name="conv_transpose"):
    """The transpose of `conv`: each x[n, c, …] adds x · w[c, o/groups, k…] at its window.

    out = stride·(in − 1) + dilation·(k − 1) + 1 − 2·pad (Caffe deconv_layer.cpp).
    On processors w and b are parameters.
    """

    blocked = (0,)

    def infer(self, x: TensorType, w: TensorType, *bias: TensorType) -> TensorType:
        kernel = self.kernel(x, w, bias)
        window = zip(x.shape[2:], kernel, *self.window(len(kernel)), strict=True)
        _divides(self.groups, x.shape[1], "input channels")
        require(w.shape[0] == x.shape[1], f"w takes {w.shape[0]} channels, x has {x.shape[1]}")
        channels = w.shape[1] * self.groups
        _bias(bias, channels)
        return x.with_shape((x.shape[0], channels, *(_grown(*each) for each in window)))

    @np.errstate(all="ignore")
    def reference(self, x: Array, w: Array, *bias: Array) -> Array:
        kernel, sizes, groups = w.shape[2:], x.shape[2:], self.groups
        stride, pad, dilation = self.window(len(kernel))
        n, c, o = x.shape[0], x.shape[1] // groups, w.shape[1]
        window = zip(sizes, kernel, stride, pad, dilation, strict=True)
        kept = known(tuple(_grown(*each) for each in window), "sizes")
        full = ends_of(sizes, kernel, stride, dilation)
        out = np.zeros((n, groups * o, *full), np.result_type(x, w))
        points = int(np.prod(sizes))
        x = x.reshape(n, groups, c, points)
        for at in offsets(kernel):
            tap = tap_of(w, at).reshape(groups, c, o).swapaxes(1, 2)
            out[taps(at, sizes, stride, dilation)] += (tap @ x).reshape(n, groups * o, *sizes)
        inner = (slice(p, p + size) for p, size in zip(pad, kept, strict=True))
        out = out[(slice(None), slice(None), *inner)]
        return out + bias[0].reshape(-1, *(1 for _ in sizes)) if bias else out

    def flops(self, x: TensorType, w: TensorType, *bias: TensorType) -> Dim:
        return x.count * product(w.shape[1:]) * 2 + self.infer(x, w, *bias).count * len(bias)

    samples = (
        case(f32[2, 4, 5, 5], f32[4, 3, 3, 3], f32[6], groups=2, pad=(1, 1), stride=(2, 2)),
        case(f32[1, 3, 4, 6], f32[3, 5, 2, 2], stride=(2, 2)),
        case(f32[2, 5, 4, 3], f32[5, 1, 4, 4], groups=5, stride=(2, 2), pad=(1, 1)),
        case(f32[1, 7, 3, 3], f32[7, 17, 3, 3], f32[17], dilation=(2, 1), stride=(1, 3)),
        case(f32[0, 3, 4, 4], f32[3, 5, 2, 2]),
        case(f32[2, 3, 6], f32[3, 2, 3], stride=(2,)),
        case(f32[1, 3, 4, 4], f32[4, 5, 2, 2], error="channels"),
        case(f32[1, 3, 1, 1], f32[3, 5, 2, 2], pad=(1, 1), error="nothing is left"),
        case(f32[1, 3, 4, 4], f32[3, 5, 2, 2], stride=(0, 0), error="stride"),
        case(f32[1, 3, 4, 4], f32[3, 5, 2, 2], f32[4], error="is needed"),
    )


def _grown(size: Dim, kernel: int, stride: int, pad: int, dilation: int) -> Dim:
    out = (size - 1) * stride + dilation * (kernel - 1) + 1 - 2 * pad
    if isinstance(out, int):
        require(out >= 1, f"nothing is left of size {size} after cutting 2 * {pad}")
    return out


class Fc(Op, name="fc"):
    """Inner product: x flattened from `axis` on times w[o, k], plus b[o] when given.

    The result is shape[:axis] + (o,) and always row-major (Caffe inner_product_layer.cpp).
    """

    axis: int = 1
    blocked = (0,)

    def infer(self, x: TensorType, w: TensorType, *bias: TensorType) -> TensorType:
        floats(x, w, *bias)
        require(len(bias) <= 1, f"at most 3 inputs, not {2 + len(bias)}")
        axis = axis_of(self.axis, x.rank)
        require(w.rank == 2, f"w is {w}; two axes are needed")
        inner = product(x.shape[axis:])
        require(inner == w.shape[1], f"inner sizes differ: x has {inner}, w has {w.shape[1]}")
        _bias(bias, w.shape[0])
        return x.with_shape((*x.shape[:axis], w.shape[0]))

    @np.errstate(all="ignore")
    def reference(self, x: Array, w: Array, *bias: Array) -> Array:
        outer = x.shape[: axis_of(self.axis, x.ndim)]
        out = x.reshape(int(np.prod(outer)), w.shape[1]) @ w.T
        out = out.reshape(*outer, w.shape[0])
        return out + bias[0] if bias else out

    def flops(self, x: TensorType, w: TensorType, *bias: TensorType) -> Dim:
        return self.infer(x, w, *bias).count * (w.shape[1] * 2 + len(bias))

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        x, w, *bias = xs
        outer = product(x.type.shape[: axis_of(self.axis, x.type.rank)])
        dy = reshaped(b, dy, (outer, w.type.shape[0]))
        flat = reshaped(b, x, (outer, w.type.shape[1]))
        turned = [b.transpose(v, perm=(1, 0)) for v in (w, dy, flat)]
        dx = reshaped(b, b.fc(dy, turned[0]), x.type.shape)
        return (dx, b.fc(turned[1], turned[2]), *(b.reduce_sum(dy, axes=(0,)) for _ in bias))

    def result_layout(self, *xs: TensorType) -> Layout:
        """Row-major, whatever the operands are."""
        return Layout.PLAIN

    samples = (
        case(f32[2, 17], f32[5, 17], f32[5]),
        case(f32[3, 5, 3, 3], f32[7, 45]),
        case(f32[1, 1, 1, 1], f32[1, 1], f32[1]),
        case(f32[2, 3, 4], f32[5, 4], f32[5], axis=2),
        case(f32[2, 3, 4], f32[5, 4], axis=-1),
        case(f32[3, 4], f32[2, 12], f32[2], axis=0),
        case(f32[0, 6], f32[4, 6], f32[4]),
        case(f32[2, 0], f32[4, 0], f32[4]),
        case(f32[2, 17], f32[5, 16], error="x has 17, w has 16"),
        case(f32[2, 17], f32[5, 17], f32[6], error="[5] is needed"),
        case(f32[2, 17], f32[5, 17, 1], error="two axes"),
        case(f32[2, 17], f32[5, 17], axis=2, error="outside"),
        case(f32[()], f32[1, 1], axis=0, error="outside"),
    )


PRODUCTS = (Conv, ConvTranspose, Fc)  # ops that multiply with weights, and may add a bias
