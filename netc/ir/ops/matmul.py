"""The matrix product of two values: attention, and whatever else multiplies what a run computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from netc.ir.derivative import summed
from netc.ir.dims import Dim
from netc.ir.op import Array, Grads, Op, case, require
from netc.ir.ops.windows import floats
from netc.ir.scalar import broadcast
from netc.ir.types import TensorType, f32

if TYPE_CHECKING:
    from netc.ir.graph import Builder, Value


class MatMul(Op, name="matmul"):
    """Matrix products over the last two axes: x[…, m, k] · y[…, k, n] is […, m, n].

    The axes before them broadcast as in numpy.matmul. With `transpose_x`, x is […, k, m]; with
    `transpose_y`, y is […, n, k].
    """

    transpose_x: bool = False
    transpose_y: bool = False

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        floats(x, y)
        for name, v in (("x", x), ("y", y)):
            require(v.rank >= 2, f"{name} is {v}; a matrix has two axes at least")
        (m, k), (depth, n) = self.matrices(x, y)
        require(k == depth, f"inner sizes differ: x has {k}, y has {depth}")
        return x.with_shape((*broadcast(x.shape[:-2], y.shape[:-2]), m, n))

    def matrices(self, x: TensorType, y: TensorType) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
        """Rows and columns of the matrices that are multiplied, of x and of y."""
        first, second = x.shape[-2:], y.shape[-2:]
        return (
            first[::-1] if self.transpose_x else first,
            second[::-1] if self.transpose_y else second,
        )

    @np.errstate(all="ignore")
    def reference(self, x: Array, y: Array) -> Array:
        first = x.swapaxes(-1, -2) if self.transpose_x else x
        second = y.swapaxes(-1, -2) if self.transpose_y else y
        out: Array = np.matmul(first, second)
        return out

    def flops(self, x: TensorType, y: TensorType) -> Dim:
        return self.infer(x, y).count * self.matrices(x, y)[0][1] * 2

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        first, second = xs
        # x·y: dx = dy·yᵀ and dy = xᵀ·dy; an operand that is read turned has its gradient turned.
        if self.transpose_x:
            dx = b.matmul(second, dy, transpose_x=self.transpose_y, transpose_y=True)
        else:
            dx = b.matmul(dy, second, transpose_y=not self.transpose_y)
        if self.transpose_y:
            dw = b.matmul(dy, first, transpose_x=True, transpose_y=self.transpose_x)
        else:
            dw = b.matmul(first, dy, transpose_x=not self.transpose_x)
        return summed(b, dx, first.type), summed(b, dw, second.type)

    samples = (
        case(f32[3, 5], f32[5, 7]),
        case(f32[2, 3, 5], f32[2, 5, 7]),
        case(f32[2, 3, 17, 9], f32[2, 3, 9, 20]),
        case(f32[2, 3, 5, 8], f32[2, 3, 33, 8], transpose_y=True),
        case(f32[2, 9, 4], f32[2, 9, 17], transpose_x=True),
        case(f32[9, 4], f32[3, 16, 9], transpose_x=True, transpose_y=True),
        case(f32[2, 3, 4, 6], f32[6, 5]),
        case(f32[4, 6], f32[2, 3, 6, 5]),
        case(f32[2, 1, 3, 6], f32[4, 6, 5]),
        case(f32[1, 3, 2, 8], f32[2, 1, 8, 16]),
        case(f32[1, 1], f32[1, 1]),
        case(f32[2, 1, 24], f32[2, 24, 1]),
        case(f32[0, 3, 4], f32[0, 4, 5]),
        case(f32[2, 3, 0], f32[2, 0, 5]),
        case(f32[2, 0, 4], f32[2, 4, 5]),
        case(f32[2, 3, 4], f32[2, 4, 0]),
        case(f32[3, 5], f32[4, 7], error="x has 5, y has 4"),
        case(f32[3, 5], f32[5, 7], transpose_x=True, error="x has 3, y has 5"),
        case(f32[2, 3, 5], f32[3, 5, 7], error="2"),
        case(f32[5], f32[5, 7], error="two axes"),
        case(f32[3, 5], f32[5], error="two axes"),
    )
