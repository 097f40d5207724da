"""Shapes of inputs that a user gives: `shapes={"data": ("N", 3, 224, 224)}`."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping

from netc.errors import GraphError, UsageError, clean
from netc.frontend.generalize import Shape
from netc.ir.dims import Dim, parse_dim


def given_shapes(shapes: Mapping[str, Iterable[int | str]] | None) -> dict[str, Shape]:
    """Each input's shape: whole numbers, and names of sizes such as N."""
    if not isinstance(shapes, Mapping | None):
        raise UsageError("shapes is a mapping: {'data': (1, 3, 224, 224)}")
    return {name: _shape(name, shape) for name, shape in (shapes or {}).items()}


def _shape(name: str, shape: Iterable[int | str]) -> Shape:
    try:
        if isinstance(shape, str):
            raise TypeError
        return tuple(map(_dim, shape))
    except (TypeError, ValueError, GraphError):
        message = f"{clean(repr(shape))} is not a shape for {clean(name)!r}"
        help = "a size is a whole number, or a name where it is left open"
        raise UsageError(message, help=help) from None


def _dim(d: int | str) -> Dim:
    if isinstance(d, bool):
        raise TypeError
    size = parse_dim(d) if isinstance(d, str) else operator.index(d)
    if isinstance(size, int) and size < 0:
        raise ValueError
    return size
