"""Changes of how elements lie in memory; the values stay."""

from __future__ import annotations

from netc.ir.op import Array, Op, case, require
from netc.ir.ops.windows import floats
from netc.ir.types import Layout, TensorType, f32


class ToBlocked(Op, name="to_blocked"):
    """x in channel blocks of 8 (C8)."""

    def infer(self, x: TensorType) -> TensorType:
        floats(x)
        require(x.rank == 4, f"x is {x}; only four axes can be channel-blocked")
        return x

    def reference(self, x: Array) -> Array:
        return x

    def result_layout(self, *xs: TensorType) -> Layout:
        """C8."""
        return Layout.C8

    samples = (
        case(f32[2, 5, 3, 3]),
        case(f32[1, 17, 4, 1]),
        case(f32[0, 8, 2, 2]),
        case(f32[2, 5, 3], error="four axes"),
    )


class ToPlain(Op, name="to_plain"):
    """x in row-major order."""

    blocked = (0,)

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: Array) -> Array:
        return x

    def result_layout(self, *xs: TensorType) -> Layout:
        """PLAIN."""
        return Layout.PLAIN

    samples = (case(f32[2, 5, 3, 3].blocked()), case(f32[1, 17, 4, 1]))
