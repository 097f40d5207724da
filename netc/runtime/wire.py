"""Messages between the process that runs a net and the workers of its other hosts.

A message is `MAGIC`, the length of its head, the head in JSON, and arrays as their raw bytes,
little-endian; the head's `arrays` lists their element types and shapes. What comes in is checked
before memory is taken for it. Nothing in a message is evaluated.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from netc.errors import ArtifactError, Diagnostic, NetcError, ResourceError, clean
from netc.ir.types import MAX_RANK, DType
from netc.runtime.limits import DEFAULT, Limits
from netc.runtime.memory import require_memory
from netc.runtime.ports import Array

MAGIC = b"\x93netcmsg"
PROTOCOL = 1
_PREFIX = struct.Struct("<8sI")
_HEAD_BYTES = 1 << 20
_ARRAYS = 4096  # of one message
_SAID = 4000  # characters of another host's error
_PIECES = 64  # handed to the system at once
_READ_AHEAD = 1 << 16  # bytes
_LARGE = 1 << 20  # bytes of a value that is worth a look at the memory there is
_TYPES = {t.value: t.numpy for t in DType}
_NAMES = {t.numpy: t.value for t in DType}


class Lost(ResourceError):
    """The other end is gone, or says what is no message."""


class Gone(Lost):
    """The other end has closed the connection."""


class Channel:
    """Both directions of a connection, by file descriptors. One thread sends, one receives."""

    def __init__(self, read: int, write: int, limits: Limits = DEFAULT) -> None:
        self._read, self._write, self._limits = read, write, limits
        for fd in (read, write):
            os.set_blocking(fd, True)
        self._held = memoryview(bytearray(_READ_AHEAD))
        self._start = self._end = 0  # of what was read ahead

    def send(self, head: dict[str, Any], arrays: Sequence[Array] = ()) -> None:
        """Say something. Raises Lost."""
        listed = [[_NAMES[a.dtype], list(a.shape)] for a in arrays]
        text = json.dumps({**head, "arrays": listed}).encode()
        if len(text) > _HEAD_BYTES or len(arrays) > _ARRAYS:
            raise ResourceError(f"{len(arrays)} values are too many for one message")
        pieces = [memoryview(_PREFIX.pack(MAGIC, len(text)) + text)]
        pieces += [_bytes(array) for array in arrays if array.nbytes]
        try:
            for first in range(0, len(pieces), _PIECES):
                self._put(pieces[first : first + _PIECES])
        except OSError as error:
            raise _lost("it takes nothing", error) from None

    def _put(self, pieces: list[memoryview]) -> None:
        while pieces:
            sent = os.writev(self._write, pieces)
            while pieces and sent >= len(pieces[0]):
                sent -= len(pieces.pop(0))
            if sent:
                pieces[0] = pieces[0][sent:]

    def receive(self) -> tuple[dict[str, Any], list[Array]] | None:
        """The next message; nothing where the other end has said its last.

        Raises Lost, and ResourceError where there is no memory for it: nothing can follow then.
        """
        prefix = bytearray(_PREFIX.size)
        if not self._fill(memoryview(prefix), may_end=True):
            return None
        magic, size = _PREFIX.unpack(prefix)
        if magic != MAGIC or size > _HEAD_BYTES:
            said = clean(bytes(prefix).decode("latin-1"))
            raise Lost(f"it said {said!r}, which no netc worker says")
        text = bytearray(size)
        self._fill(memoryview(text))
        head, shapes = _head(bytes(text), self._limits)
        return head, [self._array(*about) for about in shapes]

    @property
    def has_more(self) -> bool:
        """Whether a part of the next message has been read ahead."""
        return self._start < self._end

    def _array(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        size = math.prod(shape) * dtype.itemsize
        if size > _LARGE:
            require_memory(size, lambda: [("a value from another host", size)], self._limits)
        try:
            array: Array = np.empty(shape, dtype)
        except (MemoryError, ValueError) as error:
            raise ResourceError("no memory for a value from another host") from error
        if size:
            self._fill(_bytes(array))
        return array

    def _fill(self, into: memoryview, may_end: bool = False) -> bool:
        """Read as many bytes; False where there are none at all, and that may be."""
        got = min(len(into), self._end - self._start)
        into[:got] = self._held[self._start : self._start + got]
        self._start += got
        while got < len(into):
            try:
                count = os.readv(self._read, [into[got:], self._held])
            except OSError as error:
                raise _lost("it ended amid a message", error) from None
            if not count:
                if may_end and not got:
                    return False
                raise Gone("it ended within a message")
            self._start, self._end = 0, max(0, got + count - len(into))
            got = min(len(into), got + count)
        return True


def _lost(what: str, error: OSError) -> Lost:
    """What became of a connection; one that blocks has done so for as long as it may."""
    silent = isinstance(error, BlockingIOError)
    return (Lost if silent else Gone)(f"{what}: {'it is silent' if silent else error.strerror}")


def _bytes(array: Array) -> memoryview:
    """The bytes of an array, where they lie if they are contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _head(text: bytes, limits: Limits) -> tuple[dict[str, Any], list[tuple[Any, tuple[int, ...]]]]:
    """What a head says, and the element types and shapes of the arrays behind it."""
    try:
        head = json.loads(text.decode())
        listed = head.pop("arrays")
        if not isinstance(listed, list) or len(listed) > _ARRAYS:
            raise ValueError
        return head, [_about(entry, limits) for entry in listed]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Lost("it sent a message that does not read") from None


def _about(entry: Any, limits: Limits) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Element type and shape of one array."""
    name, shape = entry
    dtype = _TYPES[name]
    if not all(type(d) is int and 0 <= d <= limits.tensor_bytes for d in shape):
        raise ValueError
    whole = math.prod(max(d, 1) for d in shape) * dtype.itemsize
    if len(shape) > MAX_RANK or whole > limits.tensor_bytes:
        raise ValueError
    return dtype, tuple(shape)


def error_to_json(error: BaseException) -> dict[str, Any]:
    """An error, to be raised again at the other end."""
    if isinstance(error, NetcError):
        said = [[d.message, d.help] for d in error.diagnostics]
        return {"kind": type(error).__name__, "said": said}
    if isinstance(error, MemoryError):
        return {"kind": "ResourceError", "said": [["out of memory", ""]]}
    return {"kind": "", "said": [[f"netc failed: {type(error).__name__}: {clean(error)}", ""]]}


def error_from_json(value: Any, where: str) -> NetcError:
    """The error of another host, as one of this process that says where it was."""
    from netc import errors

    try:
        kind, said = value["kind"], value["said"]
        pairs = [(_printable(str(message)), _printable(str(help))) for message, help in said]
    except (TypeError, KeyError, ValueError):
        pairs = []
    if not pairs:
        return ArtifactError(f"{where}: an error that does not read")
    found = getattr(errors, str(kind), None)
    fits = isinstance(found, type) and issubclass(found, NetcError)
    made: type[NetcError] = found if fits else ResourceError  # type: ignore[assignment]
    return made([Diagnostic(f"{where}: {message}", help=help) for message, help in pairs])


def _printable(text: str) -> str:
    """What another host says, as an error may show it."""
    return "".join(clean(text[i : i + 100]) for i in range(0, min(len(text), _SAID), 100))
