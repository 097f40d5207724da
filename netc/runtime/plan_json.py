"""Plans as JSON, by their own declarations: a class is the list of its fields' values.

A member of a union of classes is preceded by its class's name. A size that is not a number is the
place, as text, of its expression in a list that stands before the plan, so that each expression
is read once. Reading checks every type, evaluates nothing and compiles nothing: what is read has
the form that `netc.ir.plan` declares.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from netc.errors import ArtifactError, GraphError, clean
from netc.ir.dims import Call, Dim, Expr, Sym, least, most, product, sym
from netc.ir.plan import Plan

Write: TypeAlias = Callable[[Any, "_Table"], Any]
Read: TypeAlias = Callable[[Any, Sequence[Dim]], Any]

_PLACE = re.compile("[0-9]{1,9}")
_MAX_NAME = 64  # characters of a symbol
_MAX_TERMS, _MAX_FACTORS, _MAX_DEPTH = 512, 32, 64  # of one size


class _Codec(NamedTuple):
    """How values of one declared type are written and read."""

    write: Write
    read: Read


class _Table:
    """The expressions met while writing."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self._at: dict[Expr, int] = {}

    def place(self, size: Dim) -> int | str:
        """A number as it is, an expression as its place."""
        if isinstance(size, int):
            return size
        if size not in self._at:
            self._at[size] = len(self._at)
            self.rows.append(_terms(size))
        return str(self._at[size])


def plan_to_json(plan: Plan) -> Any:
    """The plan as lists, texts and numbers: [sizes, plan]."""
    table = _Table()
    body = _PLAN.write(plan, table)
    return [table.rows, body]


def plan_from_json(value: Any) -> Plan:
    """The inverse of `plan_to_json`. Raises ArtifactError."""
    try:
        rows, body = _listed(value, 2)
        plan: Plan = _PLAN.read(body, [_size(row) for row in _listed(rows)])
    except (GraphError, RecursionError) as error:
        raise ArtifactError(f"the plan does not read: {clean(error)}") from None
    return plan


def _wrong(value: Any, wanted: str) -> ArtifactError:
    return ArtifactError(f"the plan holds {clean(repr(value)[:40])} where {wanted} belongs")


def _listed(value: Any, count: int | None = None) -> list[Any]:
    if type(value) is not list or count not in (None, len(value)):
        raise _wrong(value, "a list" if count is None else f"a list of {count}")
    return value


# ------------------------------------------------------- sizes: [[coefficient, factor, …], …]


def _terms(size: Dim) -> Any:
    """An expression as its terms; a factor is a symbol or [kind, size, size]."""
    if isinstance(size, int):
        return size
    return [[c, *map(_factor, atoms)] for atoms, c in size.terms]


def _factor(atom: Sym | Call) -> Any:
    return atom.name if isinstance(atom, Sym) else [atom.kind, _terms(atom.a), _terms(atom.b)]


def _size(value: Any, depth: int = 0) -> Dim:
    """The inverse of `_terms`."""
    if type(value) is int:
        return _whole(value)
    if len(_listed(value)) > _MAX_TERMS or depth > _MAX_DEPTH:
        raise _wrong(value, "a size of moderate length")
    total: Dim = 0
    for term in value:
        coefficient, *factors = _listed(term) or [None]
        if len(factors) > _MAX_FACTORS:
            raise _wrong(term, "a term of moderate length")
        read = [_read_factor(factor, depth + 1) for factor in factors]
        total = total + product(read) * _whole(coefficient)
    return total


def _read_factor(value: Any, depth: int) -> Dim:
    if type(value) is str:
        if not value.isidentifier() or len(value) > _MAX_NAME:
            raise _wrong(value, "the name of a size")
        return sym(value)
    kind, a, b = _listed(value, 3)
    x, y = _size(a, depth), _size(b, depth)
    match kind:
        case "floordiv":
            return _divided(x, y)
        case "min":
            return least(x, y)
        case "max":
            return most(x, y)
    raise _wrong(kind, "floordiv, min or max")


def _divided(a: Dim, b: Dim) -> Dim:
    if isinstance(b, int) and b <= 0:
        raise _wrong(b, "a divisor")
    return a // b


def _whole(value: Any, sizes: Sequence[Dim] = ()) -> int:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise _wrong(value, "a whole number of 64 bits")
    return value


def _placed(value: Any, sizes: Sequence[Dim]) -> Dim:
    """A number, or the expression at a place."""
    if type(value) is int:
        return _whole(value)
    if type(value) is not str or not _PLACE.fullmatch(value):
        raise _wrong(value, "a size")
    if int(value) >= len(sizes):
        raise _wrong(value, f"one of {len(sizes)} sizes")
    return sizes[int(value)]


# ------------------------------------------------------------------------- everything else


@functools.cache
def _codec(hint: Any) -> _Codec:
    """The codec of a declared type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(parts)
    if origin is tuple:
        return _many(_codec(parts[0])) if parts[1:] == (...,) else _row(list(map(_codec, parts)))
    if hint is int:
        return _Codec(_same, _whole)
    if hint in (str, bool, float):
        return _Codec(_same, functools.partial(_exactly, hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _Codec(lambda member, table: member.value, functools.partial(_member, hint))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _record(hint)
    raise TypeError(f"a plan cannot hold {hint}")


def _same(value: Any, table: _Table) -> Any:
    return value


def _exactly(kind: type, value: Any, sizes: Sequence[Dim]) -> Any:
    if type(value) is not kind:
        raise _wrong(value, f"a {kind.__name__}")
    return value


def _member(kind: type[Enum], value: Any, sizes: Sequence[Dim]) -> Enum:
    try:
        return kind(value)
    except ValueError:
        raise _wrong(value, f"a {kind.__name__}") from None


def _many(item: _Codec) -> _Codec:
    return _Codec(
        lambda value, table: [item.write(v, table) for v in value],
        lambda value, sizes: tuple([item.read(v, sizes) for v in _listed(value)]),
    )


def _row(items: Sequence[_Codec], make: Callable[..., Any] = lambda *parts: parts) -> _Codec:
    """A list with one value of each of these types, made into something."""
    count, readers = len(items), [item.read for item in items]

    def read(value: Any, sizes: Sequence[Dim]) -> Any:
        if type(value) is not list or len(value) != count:
            raise _wrong(value, f"a list of {count}")
        return make(*[r(v, sizes) for r, v in zip(readers, value, strict=True)])

    def write(value: Any, table: _Table) -> Any:
        return [item.write(v, table) for item, v in zip(items, value, strict=True)]

    return _Codec(write, read)


def _record(kind: type) -> _Codec:
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    row = _row([_codec(hints[name]) for name in names], kind)
    return _Codec(
        lambda value, table: row.write([getattr(value, name) for name in names], table),
        row.read,
    )


def _union(parts: tuple[Any, ...]) -> _Codec:
    if set(parts) == {int, Expr}:
        return _Codec(lambda value, table: table.place(value), _placed)
    kinds = [part for part in parts if part is not types.NoneType]
    if len(kinds) == 1:
        (one,) = (_codec(kind) for kind in kinds)
        return _Codec(
            lambda value, table: None if value is None else one.write(value, table),
            lambda value, sizes: None if value is None else one.read(value, sizes),
        )
    return _tagged({kind.__name__: _codec(kind) for kind in kinds})


def _tagged(members: dict[str, _Codec]) -> _Codec:
    readers = {name: codec.read for name, codec in members.items()}

    def write(value: Any, table: _Table) -> Any:
        name = type(value).__name__
        return [name, *members[name].write(value, table)]

    def read(value: Any, sizes: Sequence[Dim]) -> Any:
        name = value[0] if type(value) is list and value else None
        if type(name) is not str or name not in readers:
            raise _wrong(value, f"one of {', '.join(readers)}")
        return readers[name](value[1:], sizes)

    return _Codec(write, read)


_PLAN = _codec(Plan)
