"""Typed SSA values and constants, as LLVM spells them."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Val:
    """One SSA value or constant: its LLVM type and its spelling."""

    type: str
    name: str

    def __str__(self) -> str:
        return f"{self.type} {self.name}"

    @property
    def lanes(self) -> int:
        """Elements of a vector, 1 for a scalar."""
        return int(self.type[1:].split(" ")[0]) if self.type.startswith("<") else 1

    @property
    def element(self) -> str:
        """The element type of a vector, the type itself of a scalar."""
        return self.type[1:-1].split(" x ")[1] if self.type.startswith("<") else self.type


Int = Val | int


def vec(lanes: int, element: str = "float") -> str:
    """The type of `lanes` elements; one lane is the scalar itself, so one rule serves both."""
    return element if lanes == 1 else f"<{lanes} x {element}>"


def const_int(value: int, type: str = "i64") -> Val:
    """An integer constant, splat over all lanes of a vector type."""
    return _splat(Val(type, ""), str(int(value)))


def const_float(value: float, type: str = "float") -> Val:
    """A float32 or float64 constant spelt by its bits, splat over all lanes of a vector type."""
    shape = Val(type, "")
    if shape.element == "float":
        value = _as_float32(value)
    return _splat(shape, f"0x{struct.pack('>d', value).hex().upper()}")


def _as_float32(value: float) -> float:
    """The nearest float32, infinity beyond the largest."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def _splat(shape: Val, literal: str) -> Val:
    if shape.lanes == 1:
        return Val(shape.type, literal)
    return Val(shape.type, f"splat ({shape.element} {literal})")


NULL = Val("ptr", "null")
TRUE = Val("i1", "true")
FALSE = Val("i1", "false")
