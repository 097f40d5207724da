"""Between devices."""

from __future__ import annotations

from netc.ir.op import Array, Op, case, require
from netc.ir.ops.shape import Concat
from netc.ir.ops.windows import floats
from netc.ir.types import TensorType, f32


class Copy(Op, name="copy"):
    """x, on the device where this node runs; the one op that may read what lies elsewhere."""

    blocked = (0,)

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: Array) -> Array:
        return x

    samples = (case(f32[2, 5, 3, 3]), case(f32[2, 5, 3, 3].blocked()), case(f32[3]), case(f32[()]))


class AllGather(Op, name="all_gather"):
    """Parts of a value, wherever they lie, one after another along the axis on this device.

    The `collectives` pass makes of it copies and a concat.
    """

    axis: int = 1

    def infer(self, *parts: TensorType) -> TensorType:
        return Concat(self.axis).infer(*parts)

    def reference(self, *parts: Array) -> Array:
        return Concat(self.axis).reference(*parts)

    samples = (
        case(f32[2, 3, 5, 5], f32[2, 4, 5, 5]),
        case(f32[2, 3], f32[1, 3], f32[4, 3], axis=0),
        case(f32[2, 3], f32[1, 3], error="only axis 1"),
    )


class AllReduce(Op, name="all_reduce"):
    """The sum of values of one shape, wherever they lie, in their order, on this device.

    The `collectives` pass makes of it copies and additions.
    """

    def infer(self, first: TensorType, *more: TensorType) -> TensorType:
        floats(first)
        for x in more:
            require(x == first, f"sums {first} and {x}")
        return first

    def reference(self, first: Array, *more: Array) -> Array:
        return sum(more, start=first)

    samples = (
        case(f32[2, 3, 5, 5], f32[2, 3, 5, 5]),
        case(f32[2, 3], f32[2, 3], f32[2, 3]),
        case(f32[2, 3], f32[2, 4], error="sums"),
    )


CROSSING = (Copy, AllGather, AllReduce)  # ops that may read what lies on other devices
