"""float32 as the shorter numbers that products are made of."""

from __future__ import annotations

import numpy as np

from netc.ir.op import Array

_NAN = 0x7FC0  # as bfloat16


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
