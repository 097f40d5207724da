"""Offset tables: the int32 arrays that kernels walk along, from their affine descriptions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from netc.errors import ArtifactError, ResourceError
from netc.ir.plan import ALIGN
from netc.runtime.memory import aligned

Numbers: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], int]  # dims, strides, base
Offsets: TypeAlias = npt.NDArray[np.int32]

_LEAST, _MOST = -(1 << 31), (1 << 31) - 1
_LINE = ALIGN // 4  # elements


class TableSet:
    """The tables of a binding, one after the other; equal ones share their place."""

    def __init__(self, tables: Sequence[tuple[Numbers, ...]]) -> None:
        self._places: dict[tuple[Numbers, ...], int] = {}
        self.size = 0  # elements
        for parts in tables:
            if parts not in self._places:
                self._places[parts] = self.size
                self.size += -(-sum(_count(dims) for dims, _, _ in parts) // _LINE) * _LINE
        self.starts = [self._places[parts] for parts in tables]

    def fill(self) -> Offsets:
        """The tables' numbers."""
        out = aligned(self.size * 4, "tables").view(np.int32)
        for parts, at in self._places.items():
            for dims, strides, base in parts:
                count = _count(dims)
                if count:
                    _fill(out[at : at + count].reshape(dims), strides, base)
                at += count
        return out


def _count(dims: Sequence[int]) -> int:
    if any(d < 0 for d in dims):
        raise ArtifactError(f"a table of the plan has sizes {tuple(dims)}")
    return math.prod(dims)


def _fill(out: Offsets, strides: Sequence[int], base: int) -> None:
    """base + Σ index[i] · strides[i]; every value must fit in 32 bits."""
    reach = [(d - 1) * s for d, s in zip(out.shape, strides, strict=True)]
    low = base + sum(r for r in reach if r < 0)
    high = base + sum(r for r in reach if r > 0)
    if low < _LEAST or high > _MOST:
        raise ResourceError(f"one image is too large: offsets to {high} exceed 32 bits")
    out[...] = base
    for axis, (d, s) in enumerate(zip(out.shape, strides, strict=True)):
        if d > 1:
            along = (np.arange(d) * s).astype(np.int32)
            out += along.reshape([-1 if i == axis else 1 for i in range(out.ndim)])
