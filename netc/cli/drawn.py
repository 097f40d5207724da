"""Random inputs: a size for whatever a net leaves open, and numbers in those sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.errors import UsageError, clean
from netc.ir.dims import symbols
from netc.ir.types import TensorType


def sizes_where(types: Iterable[TensorType], at: Callable[[int], int]) -> dict[str, int]:
    """A size for every symbol, by the first axis at which it stands."""
    sizes: dict[str, int] = {}
    for type in types:
        for axis, dim in enumerate(type.shape):
            for name in symbols(dim):
                sizes.setdefault(name, at(axis))
    return sizes


def drawn(
    inputs: Mapping[str, TensorType], sizes: Mapping[str, int], seed: int, below: int
) -> dict[str, NDArray[Any]]:
    """For each input normal floats, or whole numbers from 0 to below `below`."""
    rng = np.random.default_rng(seed)
    feed = {}
    for name, type in inputs.items():
        shape = type.sizes(sizes)
        if min(shape, default=0) < 0:
            chosen = ", ".join(f"{clean(k)} = {v}" for k, v in sizes.items())
            help = "another --batch, or a net with its sizes fixed by --shape"
            raise UsageError(f"input {clean(name)}, {type}, has no array with {chosen}", help=help)
        is_float = type.dtype.numpy.kind == "f"
        numbers = rng.standard_normal(shape) if is_float else rng.integers(0, below, shape)
        feed[name] = numbers.astype(type.dtype.numpy)
    return feed
