"""Normalization across channels, and softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from netc.ir.dims import Dim
from netc.ir.op import Array, Grads, Op, case, require
from netc.ir.ops.windows import axis_of, floats, not_negative
from netc.ir.types import TensorType, f32

if TYPE_CHECKING:
    from netc.ir.graph import Builder, Value


class Lrn(Op, name="lrn"):
    """x · (k + alpha/size · Σx²)^−beta, the sum over `size` neighbouring channels.

    Channels beyond the edges count as 0 (Krizhevsky et al., 2012; Caffe lrn_layer.cpp).
    """

    size: int = 5
    alpha: float = 1.0
    beta: float = 0.75
    k: float = 1.0
    blocked = (0,)

    def infer(self, x: TensorType) -> TensorType:
        floats(x)
        require(x.rank >= 2, f"x is {x}; it has no channel axis")
        require(self.size >= 1 and self.size % 2 == 1, f"size {self.size} must be odd")
        not_negative(self.k, "k")
        return x

    @np.errstate(all="ignore")
    def reference(self, x: Array) -> Array:
        channels = x.shape[1]
        reach = min(self.size // 2, max(0, channels - 1))
        width = [(0, 0), (reach, reach)] + [(0, 0)] * (x.ndim - 2)
        square = np.pad(x * x, width)
        total = np.zeros_like(x)
        for i in range(2 * reach + 1):
            total += square[:, i : i + channels]
        f = x.dtype.type
        base = f(np.float32(self.k)) + f(np.float32(self.alpha / self.size)) * total
        return np.asarray(x * base ** f(np.float32(-self.beta)))

    def flops(self, x: TensorType) -> Dim:
        return x.count * (self.size + 20)

    samples = (
        case(f32[2, 7, 3, 5], size=5, alpha=0.5, beta=0.75),
        case(f32[1, 17, 4, 4], size=3, alpha=1.0, beta=0.5, k=2.0),
        case(f32[1, 1, 3, 3], size=5),
        case(f32[2, 3, 5, 1], size=9, beta=1.0),
        case(f32[0, 3, 4, 4]),
        case(f32[2, 5]),
        case(f32[1, 3, 4, 4], size=4, error="odd"),
        case(f32[1, 3, 4, 4], size=0, error="odd"),
        case(f32[1, 3, 4, 4], k=-1.0, error="k -1.0 must be 0 or more"),
        case(f32[3], error="no channel axis"),
    )


class Softmax(Op, name="softmax"):
    """exp(x − max) / Σ exp(x − max) along the axis."""

    axis: int = 1

    def infer(self, x: TensorType) -> TensorType:
        floats(x)
        axis_of(self.axis, x.rank)
        return x

    @np.errstate(all="ignore")
    def reference(self, x: Array) -> Array:
        e = np.exp(x - x.max(self.axis, keepdims=True, initial=-np.inf))
        return np.asarray(e / e.sum(self.axis, keepdims=True))

    def flops(self, x: TensorType) -> Dim:
        return x.count * 12

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        inner = b.reduce_sum(b.mul(y, dy), axes=(self.axis,), keep=True)
        return (b.formula(y, dy, inner, body="x0 * (x1 - x2)"),)

    samples = (
        case(f32[2, 10]),
        case(f32[1, 17, 3, 5]),
        case(f32[2, 3, 5], axis=-1),
        case(f32[7], axis=0),
        case(f32[3, 1]),
        case(f32[0, 4]),
        case(f32[2, 3], axis=2, error="outside"),
        case(f32[()], axis=0, error="outside"),
    )


class LogSoftmax(Softmax, name="log_softmax"):
    """x − max − log Σ exp(x − max) along the axis."""

    @np.errstate(all="ignore")
    def reference(self, x: Array) -> Array:
        d = x - x.max(self.axis, keepdims=True, initial=-np.inf)
        return np.asarray(d - np.log(np.exp(d).sum(self.axis, keepdims=True)))

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        total = b.reduce_sum(dy, axes=(self.axis,), keep=True)
        return (b.formula(y, dy, total, body="x1 - exp(x0) * x2"),)
