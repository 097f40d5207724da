"""Caffe's numbered blobs and netc's named parameters.

A layer's blobs are called `<layer>.w`, `<layer>.b`, … in the order Caffe keeps them. BatchNorm's
three blobs (mean sum, variance sum, factor) become two, `<layer>.mean` and `<layer>.variance`:
the sums divided by the factor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.errors import Diagnostic, WeightsError, clean
from netc.frontend.caffe.weights import Blobs

Arrays = list[NDArray[Any] | None]

FACTOR = "factor"  # of a BatchNorm layer: no parameter

# The parameters of each kind of layer, in the order of its blobs.
KINDS: tuple[tuple[str, ...], ...] = (
    ("runs", "mean_image", "mean"),
    ("w",),
    ("b",),
    ("slope",),
    ("w", "b"),
    ("w", "b", "mean", "variance"),
    ("w_i", "w_h", "b"),
    ("w_x", "b", "w_h"),
    ("w_x", "b", "w_static", "w_h"),
    ("w_x", "b", "w_hh", "w_ho", "b_o"),
    ("w_x", "b", "w_static", "w_hh", "w_ho", "b_o"),
    ("mean", "variance", FACTOR),
    ("mean", "variance", FACTOR, "w", "b"),
)
_TWIN = re.compile(r".*_\d+")


def is_scaled(blobs: Arrays) -> bool:
    """Whether blobs are those of a BatchNorm layer: sums, and the factor they are scaled by."""
    sizes = [b.size for b in blobs if b is not None]
    return len(blobs) == len(sizes) in (3, 5) and sizes[2] == 1 and sizes[0] == sizes[1]


def statistics(blobs: Arrays) -> list[NDArray[Any]]:
    """Mean and variance of a BatchNorm layer: each sum over the factor, all 0 for a factor of 0."""
    mean, variance, factor = (np.asarray(b, np.float32) for b in blobs[:3])
    scale = np.float32(0) if factor.item() == 0 else np.float32(1) / np.float32(factor.item())
    return [mean * scale, variance * scale]


def by_parameter(blobs: Blobs, wanted: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Arrays for the parameters `wanted`, named `<layer>.<part>`, and what the file has besides.

    The parts tell the kind of the layer, and so where each stands among its blobs. Parts that no
    kind with so many blobs has are an error; twins of a layer, `<layer>.w_1`, have no blobs.
    """
    names, parts = [*wanted], dict[str, set[str]]()
    for name in names:
        layer, dot, part = name.rpartition(".")
        if dot and not _TWIN.fullmatch(part):
            parts.setdefault(layer, set()).add(part)
    found: dict[str, NDArray[Any]] = {}
    rest: dict[str, list[NDArray[Any]]] = {}
    wrong: list[Diagnostic] = []
    for layer, arrays in blobs.items():
        own = parts.get(layer, set())
        kinds = _kinds(arrays, own)
        if not kinds:
            wrong.append(_misfit(layer, arrays, own))
            continue
        for part, array in _named(arrays, kinds[0]):
            if part in own:
                found[f"{layer}.{part}"] = array
            else:
                rest.setdefault(f"{layer}.{part}" if own else layer, []).append(array)
    if wrong:
        raise WeightsError(wrong)
    beyond = _beyond(rest, found)
    return {**{n: a for n, a in beyond.items() if n not in names}, **found}


def _kinds(arrays: Arrays, parts: set[str]) -> list[tuple[str, ...]]:
    """The kinds of layers that blobs may be of; none where they disagree on a part's place."""
    fit = [k for k in KINDS if len(k) == len(arrays) and parts <= {*k} - {FACTOR}]
    fit = [k for k in fit if FACTOR not in k or is_scaled(arrays)]
    if not parts:
        return fit[-1:] or [tuple(map(str, range(len(arrays))))]
    places = {tuple(k.index(part) for part in sorted(parts)) for k in fit}
    return fit if len(places) == 1 else []


def _named(arrays: Arrays, kind: tuple[str, ...]) -> list[tuple[str, NDArray[Any]]]:
    names = [part for part in kind if part != FACTOR]
    values = [*statistics(arrays), *arrays[3:]] if FACTOR in kind else arrays
    return [(n, a) for n, a in zip(names, values, strict=True) if a is not None]


def _misfit(layer: str, arrays: Arrays, parts: set[str]) -> Diagnostic:
    names = ", ".join(clean(f"{layer}.{part}") for part in sorted(parts))
    stored = f"{len(arrays)} blob{'s' * (len(arrays) > 1)}"
    what = f"layer {clean(layer)} has {names} in the net and {stored} in the weights, which do not "
    help = "read the prototxt with these weights, or give them by name: `netc convert` writes both"
    return Diagnostic(f"{what}tell which is which", help=help)


def _beyond(
    rest: dict[str, list[NDArray[Any]]], found: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Blobs without a parameter. One that equals a parameter is stored with each that shares it."""
    shared: dict[tuple[int, ...], list[NDArray[Any]]] = {}
    for array in found.values():
        shared.setdefault(array.shape, []).append(array)
    return {
        name: array
        for name, arrays in rest.items()
        for array in arrays
        if not any(np.array_equal(array, other) for other in shared.get(array.shape, ()))
    }
