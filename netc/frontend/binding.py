"""Arrays from files, brought to the type and shape a parameter has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.errors import GraphError, Span, WeightsError, clean
from netc.frontend.files import named_bytes
from netc.frontend.npz import is_zip
from netc.frontend.safetensors import is_safetensors
from netc.ir.types import DType

_FOREIGN = {  # how a file that is no weights begins -> what it is
    b"\x93NUMPY": "one NumPy array without a name",
    b"\x80": "a Python pickle, such as PyTorch's older files",
    b"\x08": "another protobuf, such as an ONNX model",
}
FITS = (
    "arrays by parameter name fit: np.savez(path, **arrays), or safetensors' "
    "save_file(arrays, path); or a .caffemodel"
)


def is_by_name(source: object) -> bool:
    """Whether weights are by parameter name: a mapping, an npz or a safetensors file.

    Raises WeightsError for a file of a kind that is known and not read.
    """
    if isinstance(source, Mapping):
        return True
    if not isinstance(source, str | os.PathLike | bytes | memoryview):
        return False
    name, data = named_bytes(source, WeightsError)
    refuse_foreign(data, name)
    return is_zip(data) or is_safetensors(data)


def refuse_foreign(data: memoryview, name: str) -> None:
    """Raise WeightsError for the weights of others; a .caffemodel begins with none of these."""
    for start, what in _FOREIGN.items():
        if bytes(data[: len(start)]) == start and not is_safetensors(data):
            raise WeightsError(f"the file is {what}", Span(name), FITS)


def numbers(value: Any, name: str) -> NDArray[Any]:
    """What a mapping gives for a parameter, as an array of real numbers."""
    if isinstance(value, np.ma.MaskedArray):
        raise WeightsError(f"{clean(name)} is a masked array", help="fill it first: x.filled(0)")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # such as lists of different lengths
        array = np.asarray(None)
    except RuntimeError as e:  # such as a tensor of PyTorch that requires grad
        what = f"{clean(name)}: a {clean(type(value).__name__)} that gives no array"
        raise WeightsError(what, help=clean(e)) from None
    if array.dtype.kind not in "biuf":
        raise WeightsError(f"{clean(name)} is {clean(type(value).__name__)}, not real numbers")
    return array


def fitted(
    array: NDArray[Any], shape: Sequence[int], name: str, dtype: DType = DType.F32
) -> NDArray[Any]:
    """`array` as elements of this shape, which may differ in axes of size 1 only.

    So the legacy bias 1×1×1×N fits [N], and [C] fits [C,1,1]. What already is as it must be
    is not copied.
    """
    if [d for d in array.shape if d != 1] != [d for d in shape if d != 1]:
        found, wanted = _shown(array.shape), _shown(shape)
        raise WeightsError(f"{clean(name)} is {wanted} in the net, {found} in the weights")
    try:
        with np.errstate(over="raise"):
            made = array if dtype is DType.F32 else exact(array, dtype)
            return np.require(made, dtype.numpy, ["C", "A"]).reshape(tuple(shape))
    except FloatingPointError:
        raise WeightsError(f"{clean(name)} has numbers beyond float32") from None
    except GraphError as e:
        raise WeightsError(f"{clean(name)}: {e.diagnostics[0].message}") from None


def exact(array: NDArray[Any], dtype: DType) -> NDArray[Any]:
    """Numbers as integers of a type. Raises GraphError for one that is none."""
    parts = array[array != np.floor(array)][:1] if array.dtype.kind == "f" else ()
    ends = (array.min(), array.max()) if array.size else ()
    for value in (*parts, *ends):
        dtype.element(value.item())
    return array.astype(dtype.numpy)


def _shown(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
