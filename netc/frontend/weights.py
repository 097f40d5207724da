"""Weights by parameter name, for any net: npz, safetensors, caffemodel, caffemodel.h5."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from netc.errors import WeightsError
from netc.frontend.binding import refuse_foreign
from netc.frontend.caffe.params import by_parameter
from netc.frontend.caffe.weights import read_weights
from netc.frontend.files import named_bytes
from netc.frontend.npz import is_zip, read_npz
from netc.frontend.safetensors import is_safetensors, read_safetensors


def read_params(
    source: str | os.PathLike[str] | bytes | memoryview, wanted: Iterable[str], name: str = ""
) -> dict[str, NDArray[Any]]:
    """Arrays by parameter name. The kind of file is told by its bytes, not its suffix.

    Each gives what it holds. A Caffe file has no names for blobs: the parameters `wanted` of a
    layer tell which they are, and a layer without any stands under its own name.
    """
    called, data = named_bytes(source, WeightsError)
    name = name or called
    refuse_foreign(data, name)
    if is_zip(data):
        return read_npz(data, name)
    if is_safetensors(data):
        return read_safetensors(data, name)
    return by_parameter(read_weights(data, name), wanted)
