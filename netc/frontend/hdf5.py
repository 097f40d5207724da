"""Arrays from an HDF5 file, through h5py, which is an extra: `netc[data]`.

Only what the file itself holds is read: no links to other files, no external storage, no
virtual datasets, and no more memory than the file's size allows for.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.errors import Span, UsageError, WeightsError, clean

MAX_DATASETS = 100_000
MAX_DEPTH = 16
MAX_RATIO = 200  # bytes in memory for each byte in the file, beyond the allowance
ALLOWANCE = 64 << 20  # bytes


def is_hdf5(data: memoryview | bytes) -> bool:
    """Whether the bytes start as an HDF5 file does."""
    return bytes(data[:8]) == b"\x89HDF\r\n\x1a\n"


def read_hdf5(data: memoryview | bytes, name: str, group: str = "") -> dict[str, NDArray[Any]]:
    """Every dataset beneath `group`, by its path there, in natural order of the names."""
    try:
        import h5py
    except ImportError:
        help = 'pip install "netc[data]"'
        raise UsageError("reading HDF5 needs h5py", Span(name), help) from None
    try:
        with h5py.File(io.BytesIO(bytes(data)), "r") as file:
            root = file.get(group) if group else file
            if not isinstance(root, h5py.Group):
                raise WeightsError(f"the file has no group {group!r}", Span(name))
            walk = _Walk(h5py, name, len(data))
            walk.group(root, "", 0)
            return walk.found
    except WeightsError:
        raise
    except Exception as e:  # h5py raises many kinds for a damaged file
        raise WeightsError(f"damaged HDF5: {clean(e)}", Span(name)) from None


class _Walk:
    def __init__(self, h5py: Any, name: str, size: int) -> None:
        self.h5py, self.name = h5py, name
        self.budget = size * MAX_RATIO + ALLOWANCE
        self.found: dict[str, NDArray[Any]] = {}
        self.visited = 0

    def group(self, group: Any, prefix: str, depth: int) -> None:
        """Depth first; `0, 1, … 10` in the order of numbers."""
        if depth > MAX_DEPTH:
            raise WeightsError(f"groups are nested more than {MAX_DEPTH} deep", Span(self.name))
        for key in sorted(group, key=lambda k: (not k.isdigit(), len(k) if k.isdigit() else 0, k)):
            self.visited += 1
            if self.visited > MAX_DATASETS:
                raise WeightsError(f"more than {MAX_DATASETS:,} entries", Span(self.name))
            path = f"{prefix}{key}"
            if not isinstance(group.get(key, getlink=True), self.h5py.HardLink):
                raise WeightsError(f"{clean(path)} is a link, which is not read", Span(self.name))
            item = group[key]
            if isinstance(item, self.h5py.Group):
                self.group(item, f"{path}/", depth + 1)
            else:
                self.found[path] = self.dataset(item, path)

    def dataset(self, item: Any, path: str) -> NDArray[Any]:
        if item.is_virtual or item.external is not None:
            raise WeightsError(f"{clean(path)} is stored outside the file", Span(self.name))
        if item.dtype.kind not in "fiu":
            raise WeightsError(f"{clean(path)} does not hold numbers", Span(self.name))
        self.budget -= int(item.nbytes)
        if self.budget < 0:
            raise WeightsError(f"{clean(path)} is too large for this file", Span(self.name))
        return np.asarray(item[()])
