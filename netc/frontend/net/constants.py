"""Numbers that a net holds by itself: nested lists of the language, arrays of NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.errors import GraphError
from netc.frontend.binding import exact
from netc.ir.types import DType

ARRAYS = "tensor([[1, 2], [3, 4]]) is numbers; param(f32[3, 4]) has them among the weights"
_KEPT = {"u1": DType.U8, "i1": DType.I32, "i2": DType.I32, "u2": DType.I32, "i4": DType.I32,
         "u4": DType.I64, "i8": DType.I64}  # fmt: skip


def array_of(values: Any, dtype: DType | None = None) -> tuple[NDArray[Any], DType]:
    """Nested tuples of numbers, or an array, as elements of a type; an array's own fit as they are.

    Raises GraphError for what is no such array and for numbers that the type does not have.
    """
    if not isinstance(values, np.ndarray):
        dtype = dtype or DType.F32
        values = _from_lists(values, dtype)
    kind = values.dtype.kind
    if kind not in "biuf":
        raise GraphError(f"an array of {values.dtype} has no element type of a net")
    if dtype is None:
        dtype = DType.F32 if kind == "f" else _KEPT.get(values.dtype.str[1:])
    if dtype is None:
        raise GraphError(f"an array of {values.dtype} is none of u8, i32, i64 and f32")
    if dtype is DType.F32:
        with np.errstate(over="ignore"):  # infinity beyond the largest float32
            return values.astype(np.float32), dtype
    return exact(values, dtype), dtype


def _from_lists(values: Any, dtype: DType) -> NDArray[Any]:
    """Float64 for f32, which all numbers are near; integers one by one, so none loses a digit."""
    numbers = list(_leaves(values))
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise GraphError("a tensor is made of numbers, in lists within lists", help=ARRAYS)
    try:
        made = np.array(values, np.float64)
    except ValueError:
        raise GraphError("the lists of a tensor have different lengths") from None
    except OverflowError:
        raise GraphError("a number is too large for a float") from None
    if dtype is DType.F32:
        return made
    return np.array([dtype.element(n) for n in numbers], dtype.numpy).reshape(made.shape)


def _leaves(values: Any) -> Iterator[Any]:
    if isinstance(values, tuple):
        for value in values:
            yield from _leaves(value)
    else:
        yield values
