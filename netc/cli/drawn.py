"""Random inputs: a size for whatever a net leaves open, and numbers in those sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.errors import UsageError, clean
from netc.ir.dims import IMAGE, MAX_DIM
from netc.ir.solve import sizes_where
from netc.ir.types import TensorType


def usual_sizes(
    types: Iterable[TensorType], batch: int, usual: Mapping[str, int]
) -> dict[str, int]:
    """A size for every symbol: that of the file the net comes from, the batch, or an image's."""
    return sizes_where(types, lambda axis, _: IMAGE if axis else batch) | dict(usual)


def noted_sizes(notes: Mapping[str, Any]) -> dict[str, int]:
    """The usual sizes that a model's notes give."""
    said = notes.get("usual")
    pairs = said.items() if isinstance(said, dict) else ()
    return {name: n for name, n in pairs if isinstance(n, int) and 0 <= n <= MAX_DIM}


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
