"""Plans as JSON, by their own declarations: a class is the list of its fields' values.

A member of a union of classes is preceded by its class's name. Reading checks every type, so what
is read has the form that `netc.ir.plan` declares, and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from netc.errors import ArtifactError, GraphError, clean
from netc.ir.dims import Expr, parse_dim
from netc.ir.plan import Plan
from netc.ir.types import TensorType

Convert: TypeAlias = Callable[[Any], Any]


class _Codec(NamedTuple):
    """How values of one declared type are written and read."""

    write: Convert
    read: Convert


def plan_to_json(plan: Plan) -> Any:
    """The plan as lists, texts and numbers."""
    return _codec(Plan).write(plan)


def plan_from_json(value: Any) -> Plan:
    """The inverse of `plan_to_json`. Raises ArtifactError."""
    try:
        plan: Plan = _codec(Plan).read(value)
    except (GraphError, RecursionError) as error:
        raise ArtifactError(f"the plan does not read: {clean(error)}") from None
    return plan


@functools.cache
def _codec(hint: Any) -> _Codec:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(parts)
    if origin is tuple:
        return _many(_codec(parts[0])) if parts[1:] == (...,) else _row(list(map(_codec, parts)))
    if isinstance(hint, type) and hint in _PLAIN:
        return _PLAIN[hint]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _Codec(lambda member: member.value, functools.partial(_member, hint))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _record(hint)
    raise TypeError(f"a plan cannot hold {hint}")


def _wrong(value: Any, wanted: str) -> ArtifactError:
    return ArtifactError(f"the plan holds {clean(repr(value)[:40])} where {wanted} belongs")


def _whole(value: Any) -> int:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise _wrong(value, "a whole number of 64 bits")
    return value


def _exactly(kind: type) -> Convert:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise _wrong(value, f"a {kind.__name__}")
        return value

    return read


def _expression(value: Any) -> Any:
    if type(value) is not str:
        raise _wrong(value, "a size")
    return parse_dim(value)


def _type(value: Any) -> TensorType:
    if type(value) is not str:
        raise _wrong(value, "a type")
    return TensorType.parse(value)


def _member(kind: type[Enum], value: Any) -> Enum:
    try:
        return kind(value)
    except ValueError:
        raise _wrong(value, f"a {kind.__name__}") from None


def _same(value: Any) -> Any:
    return value


def _listed(value: Any, count: int | None = None) -> list[Any]:
    if type(value) is not list or count not in (None, len(value)):
        raise _wrong(value, "a list" if count is None else f"a list of {count}")
    return value


def _many(item: _Codec) -> _Codec:
    return _Codec(
        lambda value: [item.write(v) for v in value],
        lambda value: tuple([item.read(v) for v in _listed(value)]),
    )


def _row(items: Sequence[_Codec]) -> _Codec:
    return _Codec(
        lambda value: [c.write(v) for c, v in zip(items, value, strict=True)],
        lambda value: tuple(
            [c.read(v) for c, v in zip(items, _listed(value, len(items)), strict=True)]
        ),
    )


def _record(kind: type) -> _Codec:
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    row = _row([_codec(hints[name]) for name in names])
    return _Codec(
        lambda value: row.write([getattr(value, name) for name in names]),
        lambda value: kind(*row.read(value)),
    )


def _union(parts: tuple[Any, ...]) -> _Codec:
    if set(parts) == {int, Expr}:
        return _Codec(
            lambda value: value if type(value) is int else str(value),
            lambda value: _whole(value) if type(value) is int else _expression(value),
        )
    kinds = [part for part in parts if part is not types.NoneType]
    if len(kinds) == 1:
        (one,) = (_codec(kind) for kind in kinds)
        return _Codec(
            lambda value: None if value is None else one.write(value),
            lambda value: None if value is None else one.read(value),
        )
    return _tagged({kind.__name__: _codec(kind) for kind in kinds})


def _tagged(members: dict[str, _Codec]) -> _Codec:
    def write(value: Any) -> Any:
        name = type(value).__name__
        return [name, *members[name].write(value)]

    def read(value: Any) -> Any:
        name = value[0] if type(value) is list and value else None
        if type(name) is not str or name not in members:
            raise _wrong(value, f"one of {', '.join(members)}")
        return members[name].read(value[1:])

    return _Codec(write, read)


_PLAIN: dict[type, _Codec] = {
    int: _Codec(_same, _whole),
    str: _Codec(_same, _exactly(str)),
    bool: _Codec(_same, _exactly(bool)),
    float: _Codec(_same, _exactly(float)),
    Expr: _Codec(str, _expression),
    TensorType: _Codec(str, _type),
}
