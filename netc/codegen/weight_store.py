"""The weights section in the making: where arrays will lie, and then their bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from netc.codegen.operand import Kernel, Packing
from netc.codegen.packing import pack, packed_count, rounding
from netc.ir.op import Array
from netc.ir.plan import ALIGN, WeightArg

_AS_IT_IS = ("raw",)
_SAMPLE = 4096  # bytes of an array that tell it from most others


@dataclass(frozen=True)
class _Piece:
    """An array of the section, and how it is packed there."""

    array: Array
    packing: Packing
    size: int  # bytes there

    def same(self, array: Array) -> bool:
        """Whether an array of the same kind has the same bytes."""
        return array is self.array or np.array_equal(_bytes(array), _bytes(self.array))


@dataclass
class WeightStore:
    """Where each array of a file's weights section lies; all levels of the file share one.

    Arrays must not change once they are added. They are packed when the section is filled.
    """

    size: int = 0  # bytes, a multiple of ALIGN
    packings: dict[int, tuple[int, Packing]] = field(default_factory=dict)  # by `id` of the array
    _read: Counter[int] = field(default_factory=Counter)  # how often each parameter is read,
    _rounded: Counter[tuple[int, str]] = field(default_factory=Counter)  # and with fewer digits
    _pieces: dict[int, _Piece] = field(default_factory=dict)  # by their offset
    _alike: dict[Hashable, list[int]] = field(default_factory=dict)

    def add(self, array: Array) -> WeightArg:
        """The address of an array as it is; stored once however often it is added."""
        return self._place(np.ascontiguousarray(array), _AS_IT_IS, array.nbytes)

    def packed(self, param: Array, packing: Packing) -> WeightArg:
        """The address of a parameter, packed in a way that `packing.unpack` can undo."""
        floats = np.ascontiguousarray(param, np.float32).reshape(param.shape)
        arg = self._place(floats, packing, 4 * packed_count(packing, param.shape))
        self._rounded[id(param), rounding(packing)] += 1
        if id(param) not in self.packings or not rounding(packing):
            self.packings[id(param)] = (arg.offset, packing)
        return arg

    def reads(self, kernel: Kernel) -> None:
        """Take notice of the parameters of a kernel that is about to be lowered."""
        for node, operand in zip(kernel.body.inputs, kernel.ins, strict=True):
            if operand.array is not None:
                uses = (v.node is node for n in kernel.body.nodes for v in n.inputs)
                self._read[id(operand.array)] += sum(uses)

    def stored(self, param: Array, viewed: bool) -> tuple[int, Packing]:
        """Where a parameter is with all the digits that are read of it, added if it must be.

        One that is `viewed` is read by more than kernels.
        """
        at, packing = self.packings.get(id(param), (0, ()))
        if packing and not rounding(packing):
            return at, packing
        alike = self._rounded[id(param), rounding(packing)] if packing else 0
        if packing and not viewed and alike >= self._read[id(param)]:
            return at, packing
        return self.add(param).offset, _AS_IT_IS

    def zeros(self, size: int) -> WeightArg:
        """The address of this many bytes of zeros that nobody shares: counters, for instance."""
        at = self.size
        self.size += -(-size // ALIGN) * ALIGN
        return WeightArg(at)

    def fill(self, section: npt.NDArray[np.uint8]) -> None:
        """Write the section, of `size` bytes."""
        end = 0
        for at, piece in self._pieces.items():
            section[end:at] = 0
            end = at + piece.size
            if piece.packing == _AS_IT_IS:
                section[at:end] = _bytes(piece.array)
            else:
                pack(piece.array, piece.packing, section[at:end].view(np.float32))
        section[end:] = 0

    def _place(self, array: Array, packing: Packing, size: int) -> WeightArg:
        """Where an array lies or is to lie, of so many bytes when it is packed."""
        if not size:
            self.size = self.size or ALIGN  # so that there is such an address
            return WeightArg(0)
        data = _bytes(array)
        some = data[:: max(1, len(data) // _SAMPLE)].tobytes()
        shape = array.shape if packing != _AS_IT_IS else len(data)
        alike = self._alike.setdefault((array.dtype, shape, packing, some), [])
        for at in alike:
            if self._pieces[at].same(array):
                return WeightArg(at)
        arg = self.zeros(size)
        alike.append(arg.offset)
        self._pieces[arg.offset] = _Piece(array, packing, size)
        return arg


def _bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)
