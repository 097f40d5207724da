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

Arrays = list[NDArray[Any]]


def is_scaled(blobs: Arrays) -> bool:
    """Whether blobs are those of a BatchNorm layer: sums, and the factor they are scaled by."""
    return len(blobs) in (3, 5) and blobs[2].size == 1 and blobs[0].size == blobs[1].size


def statistics(blobs: Arrays) -> Arrays:
    """Mean and variance of a BatchNorm layer: each sum over the factor, all 0 for a factor of 0."""
    factor = np.float32(blobs[2].reshape(()))
    scale = np.float32(0) if factor == 0 else np.float32(1) / factor
    return [np.asarray(b, np.float32) * scale for b in blobs[:2]]


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
        if i < len(arrays):
            found[name] = arrays[i]
    return found
