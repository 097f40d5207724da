"""Between devices."""

from __future__ import annotations

from netc.ir.op import Array, Op, case
from netc.ir.types import TensorType, f32


class Copy(Op, name="copy"):
    """x, on the device where this node runs; the one op that may read what lies elsewhere."""

    blocked = (0,)

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: Array) -> Array:
        return x

    samples = (case(f32[2, 5, 3, 3]), case(f32[2, 5, 3, 3].blocked()), case(f32[3]), case(f32[()]))
