"""Which variant of a kernel is fastest here: measured once, remembered, and kept in a folder.

What was measured for one GPU and driver is not used for another. A folder that cannot be read
or written, or that is not the user's own, is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from netc.errors import NetcError
from netc.folder import open_folder, read_file, write_file
from netc.ir.gpu_code import KernelText
from netc.runtime.driver import DeviceLost

FILE = "variants.json"
MARGIN = 0.98  # a variant must be this much faster to displace an earlier one
_MOST = 100_000  # entries of a file; one with more begins anew
_MOST_BYTES = 32 << 20

Measure = Callable[[int, float], float]  # of a variant, given the best so far


def key_of(text: KernelText, numbers: Sequence[int], compiler: str) -> str:
    """What the fastest variant depends on, besides the GPU and its driver."""
    told = repr((text.text, text.params, text.aligned, text.variants, tuple(numbers), compiler))
    return hashlib.sha256(told.encode()).hexdigest()


class Tuner:
    """The choices for one GPU."""

    def __init__(self, gpu: str, folder: Path | None) -> None:
        self._gpu, self._folder = gpu, folder
        with open_folder(folder) as opened:
            self._known: dict[str, int] = _read(opened).get(gpu, {})
        self._fresh: dict[str, int] = {}
        self._end = 0.0

    def begin(self, seconds: float) -> None:
        """From now on measure for so long."""
        self._end = time.perf_counter() + seconds

    def choose(self, key: str, candidates: Sequence[int], measure: Measure) -> int:
        """The fastest of the candidates; where there is no time to find out, the first."""
        if len(candidates) == 1:
            return candidates[0]
        known = self._known.get(key)
        if known is not None and known in candidates:
            return known
        if time.perf_counter() >= self._end:
            return candidates[0]
        best, least = candidates[0], float("inf")
        for variant in candidates:
            try:
                seconds = measure(variant, least)
            except DeviceLost:
                raise
            except NetcError:  # this variant does not start here
                continue
            if seconds < least * MARGIN:
                best, least = variant, seconds
        self._known[key] = self._fresh[key] = best
        return best

    def keep(self) -> None:
        """Write what is new to the folder."""
        if not self._fresh:
            return
        with open_folder(self._folder, make=True) as opened:
            whole = _read(opened)  # another process may have written meanwhile
            mine = whole.setdefault(self._gpu, {})
            mine.update(self._fresh)
            if sum(map(len, whole.values())) > _MOST:
                whole = {self._gpu: self._fresh}
            if opened is not None:
                with suppress(OSError):
                    write_file(opened, FILE, json.dumps(whole, sort_keys=True).encode())
        self._fresh = {}


def _read(folder: int | None) -> dict[str, dict[str, int]]:
    """What the file holds; nothing where it is not one of ours."""
    if folder is None:
        return {}
    try:
        value = json.loads(read_file(folder, FILE, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    fits = isinstance(value, dict) and all(
        isinstance(held, dict) and all(type(v) is int for v in held.values())
        for held in value.values()
    )
    return value if fits else {}
