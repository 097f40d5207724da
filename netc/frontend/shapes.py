"""Shapes of inputs that a user gives: `shapes={"data": ("N", 3, 224, 224)}`."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping

from netc.errors import GraphError, UsageError, clean
from netc.frontend.generalize import Shape
from netc.ir.dims import Dim, parse_dim, substitute, symbols
from netc.ir.types import TensorType


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


def chosen(
    name: str, declared: TensorType, sizes: Mapping[str, Dim], given: Shape | None
) -> TensorType:
    """An input's type with `sizes` for its symbols. Raises GraphError where that is not `given`."""
    made = declared.with_shape(tuple(substitute(d, sizes) for d in declared.shape))
    if given is None or made.shape == given:
        return made
    shape = ",".join(map(str, given))
    message = f"`{clean(name)}` is {declared}; the shape given is [{shape}]"
    if len(given) != declared.rank:
        raise GraphError(message)
    pairs = zip(declared.shape, made.shape, given, strict=True)
    size, asked = next((size, asked) for size, now, asked in pairs if now != asked)
    if isinstance(size, int):
        raise GraphError(message, help="only symbolic sizes can be chosen")
    known = ", ".join(f"{s} is {sizes[s]}" for s in sorted(symbols(size)) if s in sizes)
    help = f"{size} is not {asked} where {known}" if known else f"{size} is never {asked}"
    raise GraphError(message, help=help)


def _dim(d: int | str) -> Dim:
    if isinstance(d, bool):
        raise TypeError
    size = parse_dim(d) if isinstance(d, str) else operator.index(d)
    if isinstance(size, int) and size < 0:
        raise ValueError
    return size
