"""Arrays from a `.safetensors` file: strict, zero-copy.

The layout is a little-endian length, a JSON header {name: {dtype, shape, data_offsets}}, and the
bytes; here the tensors must fill the bytes exactly, without overlap.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.errors import Span, WeightsError, clean

MAX_HEADER = 16 << 20  # bytes
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
    "BF16": "<u2",
}


def is_safetensors(data: memoryview | bytes) -> bool:
    """Whether the bytes start as a safetensors file does: a length, then `{`."""
    return len(data) >= 9 and bytes(data[8:9]) == b"{" and bytes(data[4:8]) == bytes(4)


def read_safetensors(
    data: memoryview | bytes, name: str = "<safetensors>"
) -> dict[str, NDArray[Any]]:
    """Every array by name; BF16 and F16 become float32."""
    view = memoryview(data)
    length = int.from_bytes(view[:8], "little")
    if len(view) < 8 or length > min(MAX_HEADER, len(view) - 8):
        raise WeightsError(f"a header of {length:,} bytes does not fit the file", Span(name))
    header = _parse(bytes(view[8 : 8 + length]), name)
    header.pop("__metadata__", None)
    body, at = view[8 + length :], 0
    found: dict[str, NDArray[Any]] = {}
    entries = [(*_entry(key, entry, name), key) for key, entry in header.items()]
    for start, end, dtype, shape, key in sorted(entries, key=lambda e: e[:2]):
        if start != at or end > len(body):
            raise WeightsError(f"{clean(key)} overlaps or leaves a gap", Span(name))
        found[key] = _array(body[start:end], dtype, shape)
        at = end
    if at != len(body):
        raise WeightsError(f"{len(body) - at:,} bytes belong to no tensor", Span(name))
    return found


def _parse(text: bytes, name: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({k for k, _ in pairs}) != len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as e:
        raise WeightsError(f"damaged header: {clean(e)}", Span(name)) from None
    if not isinstance(header, dict):
        raise WeightsError("damaged header: not an object", Span(name))
    return header


def _entry(key: str, entry: Any, name: str) -> tuple[int, int, str, tuple[int, ...]]:
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        start, end = entry["data_offsets"]
        numbers = (*shape, start, end)
        good = all(type(n) is int and 0 <= n < 1 << 48 for n in numbers) and len(shape) <= 32
        size = np.dtype(_DTYPES[dtype]).itemsize * math.prod(shape)
    except (TypeError, ValueError, KeyError):
        raise WeightsError(f"damaged entry {clean(key)}", Span(name)) from None
    if not good or end - start != size:
        raise WeightsError(f"{clean(key)} does not fill its bytes", Span(name))
    return start, end, dtype, shape


def _array(raw: memoryview, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.frombuffer(raw, _DTYPES[dtype]).reshape(shape)
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if dtype == "F16" else array
