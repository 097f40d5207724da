"""One piece of work for a compiler process, its answer, and how both are written to a pipe.

A message is two lengths, a JSON object and a block of bytes; entries of the cache are messages
too.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import IO, Any

from netc.ir.gpu_code import PORTABLE

FORMAT = 1  # of keys and messages; another one makes all cached code stale
FUSION = True  # a·b + c is one rounding
PTX_VERSION = 80  # 8.0: the drivers of CUDA 12.0 and later read it
TARGETS = {"sm_80": 80, "sm_86": 86, "sm_89": 89, "sm_90": 90, "sm_100": 100, "sm_120": 120}
TARGETS |= {PORTABLE: 80}
_LENGTHS = struct.Struct(">II")


@dataclass(frozen=True)
class Job:
    """All that the machine code of one variant depends on, but for the compiler's version."""

    text: str
    params: tuple[str, ...]
    aligned: tuple[int, ...]
    constants: tuple[tuple[str, int], ...]
    warps: int
    stages: int
    arch: str

    def request(self) -> dict[str, Any]:
        """The job as JSON has it."""
        return asdict(self)

    def key(self, compiler: str) -> str:
        """The name of the answer in a cache."""
        options = {"format": FORMAT, "fusion": FUSION, "ptx": PTX_VERSION, "compiler": compiler}
        text = json.dumps(self.request() | options, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Compiled:
    """Machine code (or PTX) with its launch facts."""

    blob: bytes
    entry: str
    warps: int
    shared: int
    registers: int
    local: int

    def head(self) -> dict[str, Any]:
        """The facts without the code."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "blob"}


@dataclass(frozen=True)
class Failed:
    """Why there is no code."""

    reason: str


def send(stream: IO[bytes], head: Mapping[str, Any], blob: bytes = b"") -> None:
    """Write a message."""
    text = json.dumps(head).encode()
    stream.write(_LENGTHS.pack(len(text), len(blob)) + text + blob)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Read a message; None at the end of the stream, also where that is amid a message."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    head, blob = (stream.read(n) for n in _LENGTHS.unpack(lengths))
    if (len(head), len(blob)) != _LENGTHS.unpack(lengths):
        return None
    return json.loads(head), blob
