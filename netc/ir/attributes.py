"""What an op's attributes are declared to be, and whether a value is that."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, replace
from enum import Enum
from functools import cache
from typing import Any, cast

from netc.errors import clean
from netc.ir.dims import Dim, Expr, evaluate, substitute, symbols
from netc.ir.op import Op, attributes


def declared(op: type[Op]) -> Mapping[str, Any]:
    """Attribute name -> type, in the order of the fields."""
    return _declared(cast(Any, op))


@cache
def _declared(op: Any) -> Mapping[str, Any]:
    from netc.ir.graph import Graph

    hints = typing.get_type_hints(op, localns={"Graph": Graph})
    return types.MappingProxyType({f.name: hints[f.name] for f in fields(op)})


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a declared type. An int may stand for a float; a bool is no int."""
    if hint is float:
        return type(value) in (int, float)
    if hint in (int, str, bool):
        return type(value) is hint
    if hint is None or hint is types.NoneType:
        return value is None
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, h) for h in inner)
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return type(value) is tuple and all(fits(v, inner[0]) for v in value)
    return isinstance(hint, type) and isinstance(value, hint)


def readable(hint: Any) -> str:
    """A declared type as an error may name it."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(str(m.value) for m in hint)
    name = hint.__name__ if type(hint) is type else str(hint)
    return name.replace("netc.ir.dims.", "").replace("int | Expr", "size")


def misfit(op: Op) -> str:
    """Why an attribute of `op` is not what its class declares, or an empty string."""
    for name, hint in declared(type(op)).items():
        value = getattr(op, name)
        if not fits(value, hint):
            return f"{op.name}: {name} is {clean(repr(value))}, not {readable(hint)}"
    return ""


def bound(op: Op, sizes: Mapping[str, int]) -> Op:
    """The op with the symbols in its attributes replaced by sizes; itself where there are none."""
    return mapped(op, lambda d: evaluate(d, sizes))


def renamed(op: Op, sizes: Mapping[str, Dim]) -> Op:
    """The op with some symbols in its attributes replaced by other sizes."""
    return mapped(op, lambda d: substitute(d, sizes))


def symbols_of(op: Op) -> frozenset[str]:
    """The symbols in the op's attributes."""
    found: set[str] = set()

    def seen(d: Dim) -> Dim:
        found.update(symbols(d))
        return d

    mapped(op, seen)
    return frozenset(found)


def mapped(op: Op, change: typing.Callable[[Dim], Dim]) -> Op:
    """The op with other sizes in its attributes, where these are not numbers."""
    changed: dict[str, Any] = {}
    for name, value in attributes(op):
        if isinstance(value, Expr):
            changed[name] = change(value)
        elif type(value) is tuple and any(isinstance(v, Expr) for v in value):
            changed[name] = tuple(change(v) if isinstance(v, Expr) else v for v in value)
    return replace(cast(Any, op), **changed) if changed else op
