"""A decoder of protobuf's binary format, driven by the schema; float arrays are views.

The 2 GB and 64 MB limits of protobuf's own reader do not apply; ours is on the number of fields,
and no message of the schema holds itself, so nesting has an end. Every length is checked against
the message it stands in, so a damaged file ends in a `WeightsError` that names the byte.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.errors import Span, WeightsError
from netc.frontend.caffe.message import Document, Message
from netc.frontend.caffe.scalars import BadValue, enumerator
from netc.frontend.caffe.schema import Field, MessageType, message_type

Bytes = bytes | memoryview | mmap.mmap

MAX_FIELDS = 1 << 18  # fields; a run of unpacked floats counts as one

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_REAL = {"float": (_FIXED32, "<f4", 4), "double": (_FIXED64, "<f8", 8)}
_RUN = 1 << 16  # values of an unpacked run looked at in one step


def read_binary(data: Bytes, type_name: str, name: str = "<bytes>") -> Message:
    """The message of type `type_name` in `data`. Fields of unknown number are skipped."""
    decoder = _Decoder(data, Document(name))
    return decoder.message(0, len(data), message_type(type_name))


class _Decoder:
    def __init__(self, data: Bytes, document: Document) -> None:
        self.data = memoryview(data).toreadonly()
        self.document = document
        self.budget = MAX_FIELDS

    def damaged(self, at: int, what: str) -> WeightsError:
        return WeightsError(f"damaged at byte {at:,}: {what}", Span(self.document.name))

    def message(self, at: int, end: int, type: MessageType) -> Message:
        """The fields in bytes [at, end)."""
        message = Message(type, self.document)
        while at < end:
            start = at
            key, at = self.varint(at, end)
            number, wire = key >> 3, key & 7
            if number == 0:
                raise self.damaged(start, "a field has number 0")
            self.budget -= 1
            if self.budget < 0:
                raise self.damaged(start, f"the file has more than {MAX_FIELDS:,} fields")
            field = type.numbers.get(number)
            body, at = self.payload(at, end, wire)
            if field is None:
                continue
            if field.kind in _REAL:
                at = self.reals(message, field, wire, start, body, at, end)
            else:
                self.value(message, field, wire, body, at)
        return message

    def varint(self, at: int, end: int) -> tuple[int, int]:
        data, start, value, shift = self.data, at, 0, 0
        while at < end:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & 0xFFFFFFFFFFFFFFFF, at
            shift += 7
            if shift > 63:
                raise self.damaged(start, "a number is longer than 64 bits")
        raise self.damaged(start, "the file ends inside a number")

    def payload(self, at: int, end: int, wire: int) -> tuple[int, int]:
        """(first byte, one past the last) of a field's value."""
        if wire == _VARINT:
            return at, self.varint(at, end)[1]
        if wire == _LENGTH:
            length, body = self.varint(at, end)
            at = body
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise self.damaged(at - 1, f"wire type {wire} is not one that Caffe's files use")
        if length > end - at:
            raise self.damaged(at, f"a field of {length:,} bytes has {end - at:,} left")
        return at, at + length

    def reals(
        self, message: Message, field: Field, wire: int, start: int, at: int, stop: int, end: int
    ) -> int:
        """Floats: a packed field, or a run of unpacked ones; returns where reading goes on."""
        expected, dtype, size = _REAL[field.kind]
        if wire == _LENGTH:
            if (stop - at) % size:
                what = f"{stop - at:,} bytes are not a whole number of {field.kind}s"
                raise self.damaged(at, what)
            found: NDArray[Any] = np.frombuffer(self.data[at:stop], dtype)
        elif wire == expected:
            found, stop = self.run(start, at - start, end, dtype, size)
        else:
            raise self.damaged(at, f"{field.name} is not stored as {field.kind}s")
        if message.type is not None and message.type.name == "BlobProto":
            message.add(field.name, found)
        else:
            for value in found.tolist():
                message.add(field.name, value)
        return stop

    def run(
        self, start: int, key_size: int, end: int, dtype: str, size: int
    ) -> tuple[NDArray[Any], int]:
        """Values with the same key before each, from `start` on: read in vector steps."""
        key = bytes(self.data[start : start + key_size])
        record = np.dtype([("key", f"V{key_size}"), ("value", dtype)])
        parts: list[NDArray[Any]] = []
        at = start
        while True:
            count = min(_RUN, (end - at) // record.itemsize)
            block = np.frombuffer(self.data[at : at + count * record.itemsize], record)
            keys = block["key"].tobytes()
            same = count if keys == key * count else _same(keys, key)
            parts.append(block["value"][:same])
            at += same * record.itemsize
            if same < _RUN:
                return np.concatenate(parts), at

    def value(self, message: Message, field: Field, wire: int, at: int, stop: int) -> None:
        """One value of any other kind; whole numbers may be packed."""
        if field.kind in ("message", "string", "bytes"):
            if wire != _LENGTH:
                raise self.damaged(at, f"{field.name} is not stored as a {field.kind}")
            message.add(field.name, self.block(field, at, stop))
        elif wire == _VARINT:
            message.add(field.name, self.whole(field, self.varint(at, stop)[0], at))
        elif wire == _LENGTH and field.repeated:
            while at < stop:
                value, after = self.varint(at, stop)
                self.budget -= 1
                if self.budget < 0:
                    raise self.damaged(at, f"the file has more than {MAX_FIELDS:,} fields")
                message.add(field.name, self.whole(field, value, at))
                at = after
        elif field.kind != "any":
            raise self.damaged(at, f"{field.name} is not stored as a whole number")

    def block(self, field: Field, at: int, stop: int) -> Any:
        if field.kind == "message":
            return self.message(at, stop, message_type(field.message))
        raw = bytes(self.data[at:stop]) if field.kind == "string" else self.data[at:stop]
        return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw

    def whole(self, field: Field, value: int, at: int) -> Any:
        if field.kind == "bool":
            return value != 0
        if field.values is not None:
            try:
                return enumerator(value, field)
            except BadValue:
                raise self.damaged(at, f"{field.name} has no value {value}") from None
        if field.kind == "int" and value >> 63:
            return value - (1 << 64)
        return value


def _same(keys: bytes, key: bytes) -> int:
    """How many times `key` repeats at the start of `keys`."""
    size = len(key)
    low, high = 0, len(keys) // size
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if keys.startswith(key * middle) else (low, middle - 1)
    return low
