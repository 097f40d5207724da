"""Files of Caffe's kinds made by hand: protobuf fields, blobs, layers of every version."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from netc.errors import Diagnostic, NetcError
from netc.frontend.caffe import from_caffe
from netc.ir.graph import Graph

INPUT = (
    'layer { name: "data" type: "Input" top: "data" '
    "input_param { shape { dim: 2 dim: 4 dim: 8 dim: 8 } } }\n"
)


def varint(n: int) -> bytes:
    """A whole number as protobuf writes it."""
    out, n = b"", n & (1 << 64) - 1
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number: int, value: bytes | str | int) -> bytes:
    """A length-delimited field, or a varint."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def dims(shape: Sequence[int]) -> bytes:
    """BlobProto.shape."""
    return field(7, field(1, b"".join(map(varint, shape))))


def legacy(shape: Sequence[int]) -> bytes:
    """num, channels, height, width, aligned at the end."""
    four = [1] * (4 - len(shape)) + list(shape)
    return b"".join(field(i, d) for i, d in enumerate(four, 1))


def packed(a: np.ndarray[Any, Any], number: int = 5) -> bytes:
    """BlobProto.data (5, float) or double_data (8), packed."""
    return field(number, a.astype("<f4" if number in (5, 6) else "<f8").tobytes())


def unpacked(a: np.ndarray[Any, Any], number: int = 5) -> bytes:
    """The same, one field for each value."""
    wire, code = (5, "<f") if number in (5, 6) else (1, "<d")
    return b"".join(varint(number << 3 | wire) + struct.pack(code, v) for v in a.reshape(-1))


def v2(name: str, blobs: Sequence[bytes], kind: str = "Convolution") -> bytes:
    """NetParameter.layer."""
    return field(100, field(1, name) + field(2, kind) + b"".join(field(7, b) for b in blobs))


def v1(name: str, blobs: Sequence[bytes], kind: int = 4) -> bytes:
    """NetParameter.layers."""
    return field(2, field(4, name) + field(5, kind) + b"".join(field(6, b) for b in blobs))


def v0(name: str, blobs: Sequence[bytes], kind: str = "conv") -> bytes:
    """NetParameter.layers that hold a V0 layer."""
    inner = field(1, name) + field(2, kind) + b"".join(field(50, b) for b in blobs)
    return field(2, field(1, inner))


def read(text: Any, caffemodel: Any = None, **options: Any) -> Graph:
    """The graph of a text; any warning fails the test unless `warn` takes it."""
    options.setdefault("warn", _unexpected)
    return from_caffe(text, caffemodel, **options)


def _unexpected(d: Diagnostic) -> None:
    if not d.message.startswith("no weights are given"):
        raise AssertionError(f"an unexpected warning: {d}")


def refused(call: Callable[..., Any], *args: Any, **options: Any) -> NetcError:
    """The error of a call that has to fail with one."""
    with pytest.raises(NetcError) as caught:
        call(*args, **options)
    return caught.value
