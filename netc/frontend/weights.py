"""Weights by parameter name, for any net: npz, safetensors, caffemodel, caffemodel.h5."""

from __future__ import annotations

import os
from typing import Any

from numpy.typing import NDArray

from netc.errors import WeightsError
from netc.frontend.caffe.params import by_parameter
from netc.frontend.caffe.weights import read_weights
from netc.frontend.files import display, mapped
from netc.frontend.npz import is_zip, read_npz
from netc.frontend.safetensors import is_safetensors, read_safetensors

Arrays = dict[str, NDArray[Any]]


def read_params(source: str | os.PathLike[str] | bytes | memoryview, name: str = "") -> Arrays:
    """Arrays by parameter name. The kind of file is told by its bytes, not its suffix.

    A Caffe file gives `conv1.w` and `conv1.b` for the blobs of layer `conv1`: see
    `netc.frontend.caffe.params`.
    """
    if isinstance(source, str | os.PathLike):
        name, data = name or display(source), mapped(source, WeightsError)
    else:
        name, data = name or "<bytes>", memoryview(source)
    if is_zip(data):
        return read_npz(data, name)
    if is_safetensors(data):
        return read_safetensors(data, name)
    return by_parameter(read_weights(data, name))
