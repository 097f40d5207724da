"""Sizes as JSON: a number, or terms [coefficient, factor, …] with symbols or calls as factors.

Reading evaluates and compiles no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from netc.errors import ArtifactError, clean
from netc.ir.dims import Call, Dim, Sym, least, most, product, sym

_MAX_NAME = 64  # characters of a symbol
_MAX_TERMS, _MAX_FACTORS, _MAX_DEPTH = 512, 32, 64  # of one size


def wrong(value: Any, wanted: str) -> ArtifactError:
    """The error for a part of a plan that is something else."""
    return ArtifactError(f"the plan holds {clean(repr(value)[:40])} where {wanted} belongs")


def listed(value: Any, count: int | None = None) -> list[Any]:
    """A list, of this length where one is given."""
    if type(value) is not list or count not in (None, len(value)):
        raise wrong(value, "a list" if count is None else f"a list of {count}")
    return value


def whole(value: Any) -> int:
    """A whole number that fits in 64 bits."""
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise wrong(value, "a whole number of 64 bits")
    return value


def text(value: Any) -> str:
    """A text."""
    if type(value) is not str:
        raise wrong(value, "a text")
    return value


def size_to_json(size: Dim) -> Any:
    """A size as a number or as its terms."""
    if isinstance(size, int):
        return size
    return [[c, *map(_factor, atoms)] for atoms, c in size.terms]


def _factor(atom: Sym | Call) -> Any:
    if isinstance(atom, Sym):
        return atom.name
    return [atom.kind, size_to_json(atom.a), size_to_json(atom.b)]


def size_from_json(value: Any, depth: int = 0) -> Dim:
    """The inverse of `size_to_json`. Raises ArtifactError or GraphError."""
    if type(value) is int:
        return whole(value)
    if len(listed(value)) > _MAX_TERMS or depth > _MAX_DEPTH:
        raise wrong(value, "a size of moderate length")
    total: Dim = 0
    for term in value:
        total = total + _term(listed(term) or [None], depth)
    return total


def _term(term: Sequence[Any], depth: int) -> Dim:
    coefficient, *factors = term
    if len(factors) > _MAX_FACTORS:
        raise wrong(term, "a term of moderate length")
    return product([_read_factor(f, depth + 1) for f in factors]) * whole(coefficient)


def _read_factor(value: Any, depth: int) -> Dim:
    if type(value) is str:
        if not value.isidentifier() or len(value) > _MAX_NAME:
            raise wrong(value, "the name of a size")
        return sym(value)
    kind, a, b = listed(value, 3)
    x, y = size_from_json(a, depth), size_from_json(b, depth)
    match kind:
        case "floordiv":
            return _divided(x, y)
        case "min":
            return least(x, y)
        case "max":
            return most(x, y)
    raise wrong(kind, "floordiv, min or max")


def _divided(a: Dim, b: Dim) -> Dim:
    if isinstance(b, int) and b <= 0:
        raise wrong(b, "a divisor")
    return a // b
