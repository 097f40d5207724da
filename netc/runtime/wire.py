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

from netc.errors import ArtifactError, NetcError, ResourceError, clean
from netc.ir.types import DType
from netc.runtime.limits import DEFAULT, Limits
from netc.runtime.memory import require_memory
from netc.runtime.ports import Array

MAGIC = b"\x93netcmsg"
PROTOCOL = 1
_PREFIX = struct.Struct("<8sI")
_HEAD_BYTES = 1 << 20
_ARRAYS = 4096  # of one message
_CHUNK = 64 << 20  # bytes asked of the system at once
_TYPES = {t.value: t.numpy for t in DType}
_NAMES = {t.numpy: t.value for t in DType}


class Lost(ResourceError):
    """The other end is gone, or says what is no message."""


class Channel:
    """Both directions of a connection, by file descriptors. One thread sends, one receives."""

    def __init__(self, read: int, write: int, limits: Limits = DEFAULT) -> None:
        self._read, self._write, self._limits = read, write, limits

    def send(self, head: dict[str, Any], arrays: Sequence[Array] = ()) -> None:
        """Say something. Raises Lost."""
        listed = [[_NAMES[a.dtype], list(a.shape)] for a in arrays]
        text = json.dumps({**head, "arrays": listed}).encode()
        if len(text) > _HEAD_BYTES:
            raise ResourceError(f"a message's head would have {len(text)} bytes")
        try:
            self._put(memoryview(_PREFIX.pack(MAGIC, len(text)) + text))
            for array in arrays:
                if array.nbytes:
                    flat = np.ascontiguousarray(array).reshape(-1)
                    self._put(flat.view(np.uint8).data)
        except OSError as error:
            raise Lost(f"nothing can be sent: {error.strerror}") from None

    def _put(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self._write, data[:_CHUNK]) :]

    def receive(self) -> tuple[dict[str, Any], list[Array]] | None:
        """The next message; nothing where the other end has said its last.

        Raises Lost, and ResourceError where there is no memory for it: nothing can follow then.
        """
        prefix = bytearray(_PREFIX.size)
        got = self._fill(memoryview(prefix), at_start=True)
        if got == 0:
            return None
        magic, size = _PREFIX.unpack(prefix)
        if magic != MAGIC or size > _HEAD_BYTES:
            said = clean(bytes(prefix).decode("latin-1"))
            raise Lost(f"it said {said!r}, which no netc worker says")
        text = bytearray(size)
        self._fill(memoryview(text))
        head, shapes = _head(bytes(text), self._limits)
        arrays = [self._array(*about) for about in shapes]
        return head, arrays

    def _array(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        size = math.prod(shape) * dtype.itemsize
        require_memory(size, lambda: [("a value from another host", size)], self._limits)
        try:
            array: Array = np.empty(shape, dtype)
        except MemoryError as error:
            raise ResourceError("no memory for a value from another host") from error
        if size:
            self._fill(array.reshape(-1).view(np.uint8).data)
        return array

    def _fill(self, into: memoryview, at_start: bool = False) -> int:
        """Read as many bytes; at the start of a message there may be none at all."""
        got = 0
        while got < len(into):
            try:
                count = os.readv(self._read, [into[got : got + _CHUNK]])
            except OSError as error:
                raise Lost(f"nothing can be read: {error.strerror}") from None
            if not count:
                if at_start and not got:
                    return 0
                raise Lost("it ended within a message")
            got += count
        return got


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
    if math.prod(shape) * dtype.itemsize > limits.tensor_bytes:
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
        pairs = [(str(message), str(help)) for message, help in said]
        ((message, help), *_) = pairs
    except (TypeError, KeyError, ValueError):
        return ArtifactError(f"{where}: an error that does not read")
    found = getattr(errors, str(kind), None)
    fits = isinstance(found, type) and issubclass(found, NetcError)
    made: type[NetcError] = found if fits else ResourceError  # type: ignore[assignment]
    return made(f"{where}: {message}", help=help)
