"""BlobProto to array: legacy and new dims, float, double, NVIDIA's raw and half forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.errors import Span, WeightsError
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.wire import Bytes, read_binary

MAX_AXES = 32  # kMaxBlobAxes of Caffe
MAX_BYTES = 1 << 40  # bytes of one blob
_RAW = {"DOUBLE": "<f8", "FLOAT": "<f4", "FLOAT16": "<f2"}
_LEGACY = ("num", "channels", "height", "width")


def blob_array(blob: Message, owner: str) -> NDArray[Any]:
    """The values of a BlobProto; `owner` names it in errors. Halves become float32."""
    values = _values(blob, owner)
    shape = blob_shape(blob)
    if len(shape) > MAX_AXES:
        what = f"{owner} has {len(shape)} axes; {MAX_AXES} are allowed"
        raise WeightsError(what, Span(blob.document.name))
    size = math.prod(d for d in shape if d)  # what NumPy holds against its limit
    if any(d < 0 or d >= 1 << 31 for d in shape) or size * 8 > MAX_BYTES:
        raise WeightsError(f"{owner} has the shape {shape}", Span(blob.document.name))
    if math.prod(shape) != values.size:
        what = f"{owner} has {values.size:,} values for the shape {shape}"
        raise WeightsError(what, Span(blob.document.name))
    return values.reshape(shape)


def blob_shape(blob: Message) -> tuple[int, ...]:
    """`shape`, or the legacy num, channels, height and width, which win as in Caffe."""
    if any(name in blob for name in _LEGACY):
        return tuple(blob.whole(name) for name in _LEGACY)
    return tuple(blob.sub("shape").all("dim"))


def _values(blob: Message, owner: str) -> NDArray[Any]:
    for name, real in (("double_data", "<f8"), ("data", "<f4")):
        parts = blob.all(name)
        if parts:
            return _joined([np.asarray(part, real) for part in parts])
    raw = blob.get("raw_data")
    if len(raw) == 0:
        return np.empty(0, np.float32)
    kind = blob.text("raw_data_type")
    if kind not in _RAW:
        raise WeightsError(f"{owner} is stored as {kind}, which netc does not read")
    dtype = np.dtype(_RAW[kind])
    if len(raw) % dtype.itemsize:
        raise WeightsError(f"{owner} has {len(raw):,} bytes of {kind}, not a whole number of them")
    values = np.frombuffer(raw, dtype)
    return values.astype(np.float32) if kind == "FLOAT16" else values


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """The pieces of a field one after the other; a single scalar each in a text file."""
    if len(parts) == 1:
        return parts[0].reshape(-1)
    return np.concatenate([part.reshape(-1) for part in parts])


def read_mean(data: Bytes, name: str = "<mean>") -> NDArray[Any]:
    """The mean image of a `.binaryproto`, channels first: legacy 1×C×H×W becomes C×H×W."""
    mean = blob_array(read_binary(data, "BlobProto", name), "the mean image")
    return mean[0] if mean.ndim == 4 and mean.shape[0] == 1 else mean
