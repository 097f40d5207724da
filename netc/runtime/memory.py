"""Memory of a run: aligned, touched before it is used, and counted before it is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netc.errors import ResourceError
from netc.ir.plan import ALIGN
from netc.runtime import host
from netc.runtime.faults import fault
from netc.runtime.limits import Limits

Bytes: TypeAlias = npt.NDArray[np.uint8]

PAGE = 4096
_NAN_BYTE = 0xFF  # 0xFFFFFFFF is a NaN as float32 and −1 as an integer
_SHOWN = 3  # buffers an error names


def address(array: npt.NDArray[Any]) -> int:
    """Where an array's first element lies."""
    return int(array.__array_interface__["data"][0])


def aligned(size: int, what: str, present: bool = True) -> Bytes:
    """`size` bytes at a multiple of 64, every page of them `present` unless all is soon written."""
    fault("arena.allocate")
    try:
        whole = np.empty(size + ALIGN, np.uint8)
    except MemoryError as error:
        raise ResourceError(f"no memory for {size_text(size)} of {what}") from error
    start = -address(whole) % ALIGN
    part = whole[start : start + size]
    if present:
        part[::PAGE] = 0
    return part


def aligned_copy(data: npt.NDArray[Any] | memoryview | bytes | bytearray, what: str) -> Bytes:
    """The bytes themselves where they are aligned, otherwise a copy that is."""
    flat = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    if not len(flat) or address(flat) % ALIGN == 0:
        return flat
    copy = aligned(len(flat), what)
    copy[:] = flat
    return copy


def poison(part: Bytes) -> None:
    """Fill with NaN, so that what is read before it is written shows in the results."""
    part[:] = _NAN_BYTE


def size_text(size: int) -> str:
    """A number of bytes as a person reads it."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def require_memory(
    total: int, parts: Callable[[], Sequence[tuple[str, int]]], limits: Limits, held: int = 0
) -> None:
    """Refuse a run before its memory is taken; the error names its biggest parts.

    So many bytes of the total are `held` already.
    """
    free = host.available_memory()
    allowed = held + int(free * limits.memory_share) if limits.memory is None else limits.memory
    if total <= allowed:
        return
    biggest = sorted(parts(), key=lambda part: -part[1])[:_SHOWN]
    named = ", ".join(f"{name} {size_text(size)}" for name, size in biggest)
    raise ResourceError(
        f"this run needs {size_text(total)} and may take {size_text(allowed)}; biggest: {named}",
        help="give a smaller batch or image, or a higher limit",
    )
