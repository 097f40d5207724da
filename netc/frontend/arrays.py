"""Arrays of NumPy among the arguments of a Python call: tensors of the net, or lists of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.frontend.binding import numbers
from netc.frontend.net.maker import Site
from netc.frontend.net.words import Word
from netc.ir.graph import Value
from netc.ir.types import DType


def plain(x: Any) -> Any:
    """NumPy's scalars as Python's numbers, what else gives an array as one. Raises WeightsError."""
    if isinstance(x, Value) or not hasattr(x, "tolist"):
        return x
    is_array = isinstance(x, np.ndarray) or getattr(x, "ndim", 0) > 0
    return numbers(x, "what meets a tensor") if is_array else x.tolist()


def placed(
    word: Word, site: Site, args: list[Any], keywords: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments, arrays in places of tensors as constant tensors, other arrays as tuples.

    An array with one axis is one number per channel where a list is, one without a number.
    """

    def made(x: Any, part: str, takes: bool) -> Any:
        if takes and word.mixes:
            return joined(site, x, part)
        if not isinstance(x, np.ndarray):
            return x
        return site.constant(x, part=part) if takes else nested(x)

    if word.name == "tensor":
        return args, keywords
    tensors = {*word.tensors, *(s.name for s in word.slots if s.is_tensor)}
    count = len(args) if word.variadic else len(word.tensors)
    now = [made(x, "c", i < count) for i, x in enumerate(args)]
    return now, {k: made(x, k, k in tensors) for k, x in keywords.items()}


def joined(site: Site, x: Any, part: str = "c") -> Any:
    """What joins a tensor by element: an array as a constant, or as one number per channel."""
    if not isinstance(x, np.ndarray):
        return x
    return nested(x) if x.ndim <= 1 else site.constant(x, DType.F32, part)


def nested(array: NDArray[Any] | list[Any]) -> Any:
    """An array as tuples within tuples."""
    items = array.tolist() if isinstance(array, np.ndarray) else array
    return tuple(map(nested, items)) if isinstance(items, list) else items
