"""float32 as the shorter numbers that products are made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from netc.ir.op import Array

_NAN = 0x7FC0  # as bfloat16
_MOST = 127  # of a byte, either way
_LAST = 0x7F  # the bits of a scale that are zero


def rounded(array: Array, element: str) -> Array:
    """float32 as float16, as the bits of bfloat16, or rounded to tf32; to nearest even."""
    if element == "fp16":
        with np.errstate(over="ignore"):
            return array.astype(np.float16)
    floats = np.ascontiguousarray(array, np.float32)
    bits = floats.view(np.uint32)
    if element == "tf32":
        cut = (bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)
        return np.where(np.isnan(array), array, cut.view(np.float32))
    near = bits >> 16
    near &= 1
    near += 0x7FFF
    near += bits
    near >>= 16
    with np.errstate(invalid="ignore", over="ignore"):
        odd = np.isnan(floats.sum())  # of opposite infinities too
    if odd:
        near[np.isnan(floats)] = _NAN
    return near.astype(np.uint16)


def as_bytes(array: Array, axes: tuple[int, ...]) -> tuple[npt.NDArray[np.int8], Array]:
    """float32 as whole numbers up to 127, and what one is worth, for each place along other axes.

    The worth has 17 digits, so that 127 times it is exact, and what is read back so is made of the
    same bytes again. Where anything is infinite or NaN, all is read back as NaN.
    """
    array = np.ascontiguousarray(array)
    with np.errstate(invalid="ignore"):
        worth = np.max(np.abs(array), axes, keepdims=True) / np.float32(_MOST)
        odd = ~np.isfinite(worth)
        up = (worth.view(np.uint32) + np.uint32(_LAST)) & np.uint32(~_LAST & 0xFFFFFFFF)
        worth = np.where(odd, np.float32(np.nan), up.view(np.float32))
        near = np.rint(array / np.where(worth > 0, worth, np.float32(1)))
    return np.where(odd, 1, near).astype(np.int8), worth.squeeze(axes)


def of_bytes(whole: npt.NDArray[np.int8], worth: Array) -> Array:
    """The float32 that bytes stand for; the largest there are are not exceeded."""
    largest = np.finfo(np.float32).max
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray((whole * worth).clip(-largest, largest), np.float32)
