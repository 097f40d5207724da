"""Element-wise formulas as Triton expressions over float32 tiles."""

from __future__ import annotations

from typing import Any

from netc.codegen.triton.source import ELEMENTS, Source, number
from netc.errors import UnsupportedError
from netc.ir.graph import Node
from netc.ir.ops.elementwise import Cast
from netc.ir.ops.sources import Const
from netc.ir.scalar import Elementwise, S
from netc.ir.types import DType

TYPES = {
    DType.F32: "tl.float32",
    DType.U8: "tl.uint8",
    DType.I32: "tl.int32",
    DType.I64: "tl.int64",
}

_UNARY = {
    "neg": "-({})",
    "abs": "tl.abs({})",
    "sqrt": "tl.sqrt_rn({})",
    "floor": "tl.floor({})",
}
_BINARY = {
    "+": "({} + {})",
    "-": "({} - {})",
    "*": "({} * {})",
    "/": "tl.div_rn({}, {})",
    "max": "tl.maximum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
    "min": "tl.minimum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
    "pow": "power({}, {})",
}
_LIMITS = {  # the largest float below the type's end, and what lies beyond
    DType.U8: (0.0, 255.0),
    DType.I32: (-2147483648.0, 2147483520.0),
    DType.I64: (-9223372036854775808.0, 9223371487098961920.0),
}
_INTEGERS = {DType.U8: (0, 255), DType.I32: (-(1 << 31), (1 << 31) - 1)}


class TritonScalars:
    """Reads a formula as text; a literal stays a literal until an operation needs a tile."""

    def __init__(self, src: Source, like: str) -> None:
        self.src, self.like = src, like  # `like` names a tile of the shape of results

    def const(self, c: float) -> str:
        """The literal."""
        return number(c)

    def _tile(self, a: str) -> str:
        """A tile, also of what is a literal."""
        if a.isidentifier():
            return a
        return self.src.let(f"tl.zeros_like({self.like}).to(tl.float32) + {a}")

    def unary(self, fn: str, a: str) -> str:
        """One of scalar.UNARY."""
        form = _UNARY.get(fn)
        return self.src.let(form.format(self._tile(a)) if form else f"{fn}({self._tile(a)})")

    def binary(self, fn: str, a: str, b: str) -> str:
        """One of scalar.BINARY."""
        if fn == "pow":
            return self._power(self._tile(a), b)
        if fn in ("/", "max", "min"):
            a, b = self._tile(a), self._tile(b)
        elif not (a.isidentifier() or b.isidentifier()):
            a = self._tile(a)
        return self.src.let(_BINARY[fn].format(a, b))

    def _power(self, x: str, y: str) -> str:
        """Powers that occur often without logarithms, as on the processor; others in float64."""
        exponent = None if y.isidentifier() else y
        if exponent == "2.0":
            return self.src.let(f"{x} * {x}")
        if exponent == "3.0":
            return self.src.let(f"({x} * {x}) * {x}")
        if exponent in ("0.5", "-0.5", "-0.75"):
            lowest = f'{x} == float("-inf")'
            safe = self.src.let(f'tl.where({lowest}, float("inf"), {x} + 0.0)')
            root = self.src.let(f"tl.sqrt_rn({safe})")
            if exponent == "0.5":
                return root
            if exponent == "-0.75":
                root = self.src.let(f"{root} * tl.sqrt_rn({root})")
            return self.src.let(f"tl.div_rn(tl.zeros_like({root}) + 1.0, {root})")
        return self.src.let(f"power({x}, {self._tile(y)})")

    def compare(self, fn: str, a: str, b: str) -> str:
        """One of scalar.COMPARE."""
        if not (a.isidentifier() or b.isidentifier()):
            a = self._tile(a)
        return self.src.let(f"{a} {fn} {b}")

    def select(self, mask: str, a: str, b: str) -> str:
        """Element by element."""
        return self.src.let(f"tl.where({mask}, {a}, {b})")


def apply(src: Source, node: Node, xs: list[str], like: str) -> str:
    """The name of what an element-wise node makes of its operands' tiles."""
    out = node.out.type.dtype
    if isinstance(node.op, Const):
        if out is DType.F32:
            return src.let(f"tl.zeros_like({like}).to(tl.float32) + {number(node.op.value)}")
        return src.let(f"tl.zeros_like({like}).to({TYPES[out]}) + {int(node.op.value)}")
    if isinstance(node.op, Cast):
        return convert(src, xs[0], node.inputs[0].type.dtype, out)
    if not isinstance(node.op, Elementwise) or out is not DType.F32:
        raise UnsupportedError(f"{node.op.name} of {out} has no kernel", node.loc)
    b: Any = TritonScalars(src, like)
    made: str = node.op.scalar(*(S(b, x) for x in xs)).h
    return made if made.isidentifier() else b._tile(made)


def convert(src: Source, x: str, source: DType, to: DType) -> str:
    """Another element type: floats are cut toward zero, what is out of range is held, NaN is 0."""
    if source is to:
        return x
    if source is DType.F32:
        low, high = _LIMITS[to]
        held = src.let(f"tl.where({x} == {x}, {x}, 0.0)")
        held = src.let(f"tl.where({held} < {low!r}, {low!r}, {held})")
        cut = src.let(f"tl.where({held} > {high!r}, {high!r}, {held}).to({TYPES[to]})")
        if to is DType.U8:
            return cut
        top = (1 << (8 * to.size - 1)) - 1
        return src.let(f"tl.where({x} > {high!r}, {top}, {cut})")
    if to is DType.F32 or source.size < to.size:
        return src.let(f"{x}.to({TYPES[to]})")
    low_, high_ = _INTEGERS[to]
    wide = src.let(f"{x}.to(tl.int64)")
    wide = src.let(f"tl.where({wide} < {low_}, {low_}, {wide})")
    return src.let(f"tl.where({wide} > {high_}, {high_}, {wide}).to({TYPES[to]})")


__all__ = ["ELEMENTS", "TYPES", "TritonScalars", "apply", "convert"]
