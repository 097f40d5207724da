"""Caffe's numbered blobs and netc's named parameters.

A layer's blobs are called `<layer>.w`, `<layer>.b`, … in the order Caffe keeps them. BatchNorm's
three blobs (mean sum, variance sum, factor) become two, `<layer>.mean` and `<layer>.variance`:
the sums divided by the factor.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.frontend.caffe.weights import Blobs

Arrays = list[NDArray[Any] | None]


def is_scaled(blobs: Arrays) -> bool:
    """Whether blobs are those of a BatchNorm layer: sums, and the factor they are scaled by."""
    sizes = [b.size for b in blobs if b is not None]
    return len(blobs) == len(sizes) in (3, 5) and sizes[2] == 1 and sizes[0] == sizes[1]


def statistics(blobs: Arrays) -> list[NDArray[Any]]:
    """Mean and variance of a BatchNorm layer: each sum over the factor, all 0 for a factor of 0."""
    mean, variance, factor = (np.asarray(b, np.float32) for b in blobs[:3])
    scale = np.float32(0) if factor.item() == 0 else np.float32(1) / np.float32(factor.item())
    return [mean * scale, variance * scale]


def plain(blobs: Arrays) -> Arrays:
    """A layer's blobs as parameters: BatchNorm's divided by their factor, others as they are."""
    return [*statistics(blobs), *blobs[3:]] if is_scaled(blobs) else blobs


def by_parameter(blobs: Blobs, wanted: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Arrays for the parameters `wanted`, named `<layer>.<anything>`, by order within the layer."""
    found: dict[str, NDArray[Any]] = {}
    place: dict[str, int] = {}
    for name in wanted:
        layer = name.rpartition(".")[0]
        i = place.setdefault(layer, 0)
        place[layer] += 1
        arrays = plain(blobs.get(layer, []))
        if i < len(arrays) and (array := arrays[i]) is not None:
            found[name] = array
    return found
