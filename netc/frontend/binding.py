"""Arrays from files, brought to the type and shape a parameter has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.errors import WeightsError, clean
from netc.frontend.files import mapped
from netc.frontend.npz import is_zip
from netc.frontend.safetensors import is_safetensors


def is_by_name(source: object) -> bool:
    """Whether weights are by parameter name: a mapping, an npz or a safetensors file."""
    if isinstance(source, str | os.PathLike):
        data = mapped(source, WeightsError)
        return is_zip(data) or is_safetensors(data)
    if isinstance(source, bytes | memoryview):
        return is_zip(source) or is_safetensors(source)
    return isinstance(source, Mapping)


def numbers(value: Any, name: str) -> NDArray[Any]:
    """What a mapping gives for a parameter, as an array of real numbers."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # such as lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        raise WeightsError(f"{clean(name)} is {clean(type(value).__name__)}, not real numbers")
    return array


def fitted(array: NDArray[Any], shape: Sequence[int], name: str) -> NDArray[np.float32]:
    """`array` as float32 of this shape, which may differ in axes of size 1 only.

    So the legacy bias 1×1×1×N fits [N], and [C] fits [C,1,1]. What already is aligned float32
    is not copied.
    """
    if [d for d in array.shape if d != 1] != [d for d in shape if d != 1]:
        found, wanted = _shown(array.shape), _shown(shape)
        raise WeightsError(f"{clean(name)} is {wanted} in the net, {found} in the weights")
    return np.require(array, np.float32, ["C", "A"]).reshape(tuple(shape))


def _shown(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
