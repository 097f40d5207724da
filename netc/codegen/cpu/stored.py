"""float32 as it lies in memory: in all its bits, or as the nearest bfloat16."""

from __future__ import annotations

from netc.codegen.cpu.emit import Function, Val, vec
from netc.ir.types import DType

SHORT = "bf16"  # the `Operand.element` of what is stored in 16 bits


def size_of(dtype: DType, element: str) -> int:
    """Bytes of one element."""
    return 2 if element == SHORT else dtype.size


def read(f: Function, address: Val, lanes: int, element: str = "") -> Val:
    """Some elements that lie side by side."""
    if element != SHORT:
        return f.load(vec(lanes), address)
    return widen(f, f.load(vec(lanes, "i16"), address, 2))


def widen(f: Function, bits: Val) -> Val:
    """The float32 of the bits of bfloat16."""
    upper = f.shl(f.zext(bits, vec(bits.lanes, "i32")), 16)
    return f.cast("bitcast", upper, vec(bits.lanes))


def write(f: Function, value: Val, address: Val, element: str = "") -> None:
    """The same, stored."""
    if element == SHORT:
        f.store(narrow(f, value), address, 2)
    else:
        f.store(value, address)


def narrow(f: Function, value: Val) -> Val:
    """The bits of the nearest bfloat16."""
    short = f.cast("fptrunc", value, vec(value.lanes, "bfloat"))
    return f.cast("bitcast", short, vec(value.lanes, "i16"))
