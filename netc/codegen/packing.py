"""How files hold parameters: every back end's packings, and their inverses."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from netc.codegen.cpu import packing as cpu
from netc.codegen.triton import packing as gpu
from netc.ir.op import Array


def packed_count(packing: Sequence[str | int], shape: tuple[int, ...]) -> int:
    """How many numbers a parameter of this shape has when it is packed so."""
    return int(_of(packing).packed_count(packing, shape))


def pack(array: Array, packing: Sequence[str | int], out: Array) -> None:
    """Write a float32 parameter packed so; `out` is flat, and every number of it is written."""
    _of(packing).pack(array, packing, out)


def unpack(packed: Array, packing: Sequence[str | int], shape: tuple[int, ...]) -> Array:
    """A parameter of this shape out of its packed numbers."""
    made: Array = _of(packing).unpack(packed, packing, shape)
    return made


def rounding(packing: Sequence[str | int]) -> str:
    """How a parameter loses digits when it is packed so; "" where it does not."""
    return str(packing[0]) if packing[0] in cpu.ROUNDED else ""


def _of(packing: Sequence[str | int]) -> ModuleType:
    return gpu if str(packing[0]).startswith("gpu_") else cpu
