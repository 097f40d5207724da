"""Weights as Caffe keeps them: layer name to blobs, from `.caffemodel` and `.caffemodel.h5`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.errors import Span, WeightsError, clean
from netc.frontend.caffe.blobs import blob_array
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.wire import read_binary
from netc.frontend.files import named_bytes
from netc.frontend.hdf5 import is_hdf5, read_hdf5

# A layer's blobs in order; None for one that is stored with the layer it is shared with (HDF5).
Blobs = dict[str, list[NDArray[Any] | None]]
Source = str | os.PathLike[str] | bytes | memoryview

_LFS = b"version https://git-lfs"
MAX_LAYERS = 100_000
MAX_BLOBS = 100  # of one layer


def read_weights(source: Source, name: str = "") -> Blobs:
    """Each layer's blobs in order; layers without blobs are left out.

    Legacy blobs keep their four axes (a bias is 1×1×1×N): see `netc.frontend.binding`.
    """
    called, data = named_bytes(source, WeightsError)
    name = name or called
    if is_hdf5(data):
        return from_hdf5(data, name)
    _refuse_lookalikes(data, name)
    return from_caffemodel(data, name)


def _refuse_lookalikes(data: memoryview, name: str) -> None:
    head = bytes(data[:512]).lstrip()
    if not head:
        raise WeightsError("the file is empty", Span(name))
    if head.startswith(_LFS):
        help = "run `git lfs pull` where the file came from"
        raise WeightsError("the file is a Git LFS pointer, not weights", Span(name), help)
    if head[:1] == b"<" and b"html" in head.lower():
        help = "the download gave an error page; fetch the file again"
        raise WeightsError("the file is a web page, not weights", Span(name), help)


def from_caffemodel(data: memoryview | bytes, name: str = "<bytes>") -> Blobs:
    """The blobs of a binary NetParameter, V0, V1 or V2."""
    net = read_binary(data, "NetWeights", name)
    found: Blobs = {}
    layers = [*net.messages("layers"), *net.messages("layer")]
    if not layers:
        raise WeightsError("the file holds no layers", Span(name), "is it a .caffemodel?")
    if len(layers) > MAX_LAYERS:
        raise WeightsError(f"the file has {len(layers):,} layers", Span(name))
    for layer in layers:
        own = layer.sub("layer") if "layer" in layer else layer
        blobs = [*own.messages("blobs"), *(layer.messages("blobs") if own is not layer else ())]
        if blobs:  # of twins the last counts: Caffe copies one over the other
            found[own.text("name")] = blob_arrays(own.text("name"), blobs)
    return found


def blob_arrays(layer: str, blobs: list[Message]) -> list[NDArray[Any] | None]:
    """The arrays of a layer's BlobProtos."""
    return [blob_array(b, f"blob {i} of layer {clean(layer)}") for i, b in enumerate(blobs)]


def from_hdf5(data: memoryview, name: str) -> Blobs:
    """The blobs of a `.caffemodel.h5`: datasets `data/<layer>/<index>`."""
    found: Blobs = {}
    for path, array in read_hdf5(data, name, "data").items():
        layer, _, index = path.rpartition("/")
        if not (index.isascii() and index.isdigit()):
            raise WeightsError(f"{clean(path)} is not a blob of a layer", Span(name))
        if len(index) > 9 or int(index) > MAX_BLOBS:
            raise WeightsError(f"{clean(path)} is numbered beyond {MAX_BLOBS}", Span(name))
        blobs = found.setdefault(layer, [])
        blobs += [None] * (int(index) - len(blobs)) + [np.asarray(array)]
    if not found:
        raise WeightsError("the file holds no blobs", Span(name), "is it a .caffemodel.h5?")
    return found
