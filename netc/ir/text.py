"""IR text: `show` writes a graph, `parse` reads it back equal.

    graph @lenet(input %data: f32[N,1,28,28], param %w: f32[20,1,5,5] = xavier()) {
      %conv1 = conv(%data, %w, stride=(1, 1)) : f32[N,20,24,24] @ cuda:0
      return %conv1
    }

Names that are more than letters, digits and `_ . / -` are quoted and escaped. Attributes at their
default are left out. Arrays of parameters are not in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import Enum
from typing import Any, cast

from netc.errors import NOWHERE, GraphError
from netc.ir.attributes import declared
from netc.ir.dims import Expr
from netc.ir.graph import Graph, Node, Stage, Value
from netc.ir.op import Array, Op
from netc.ir.ops.sources import Initializer, Input, Param
from netc.ir.types import TensorType

_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")


def quoted(text: str) -> str:
    """The text as a string literal; what cannot be printed is escaped."""
    out = json.dumps(text, ensure_ascii=False)
    return out if out.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in out)


def _escape(c: str) -> str:
    return json.dumps(c)[1:-1] if c != "\x7f" else "\\u007f"


def named(name: str) -> str:
    """A name, quoted where it must be."""
    return name if _PLAIN.fullmatch(name) else quoted(name)


def reference(v: Value) -> str:
    """How a node names an operand: `%name`, or `%name#1` for a second result."""
    return f"%{named(v.node.name)}" + (f"#{v.index}" if v.index else "")


def show(graph: Graph, locations: bool = False) -> str:
    """The graph as text. Equal text means equal graphs but for the arrays of parameters."""
    return "\n".join(_lines(graph, locations)) + "\n"


def _lines(graph: Graph, locations: bool) -> list[str]:
    inputs = set(graph.inputs)
    params = [n for n in graph.nodes if isinstance(n.op, Param) and n not in inputs]
    heads = [f"{_head(n)}{_tail(n, locations)}" for n in (*graph.inputs, *params)]
    stage = "" if graph.stage is Stage.NET else f" stage {graph.stage.value}"
    first, last = f"graph @{named(graph.name)}(", f"){stage} {{"
    if sum(map(len, heads)) + len(first + last) > 90:
        out = [first, *(f"  {h}," for h in heads), last]
    else:
        out = [first + ", ".join(heads) + last]
    given = {*inputs, *params}
    for node in graph.nodes:
        if node not in given:
            out.append(f"  {_node(node, locations)}{_tail(node, locations)}")
    out += [f"  label {quoted(text)}" for text in graph.labels]
    out += [f"  usual {quoted(symbol)} = {size}" for symbol, size in graph.usual.items()]
    out += [f"  note {quoted(text)}" for text in graph.notes]
    out += [f"  update {quoted(k)} = {reference(v)}" for k, v in graph.updates.items()]
    returned = (
        reference(v) if k == v.name else f"{quoted(k)} = {reference(v)}"
        for k, v in graph.outputs.items()
    )
    return [*out, f"  return {', '.join(returned)}".rstrip(), "}"]


def _head(node: Node) -> str:
    word = "input" if isinstance(node.op, Input) else "param"
    init = ""
    if isinstance(node.op, Param) and node.op.init != Initializer():
        init = f" = {_initializer(node.op.init)}"
    return f"{word} %{named(node.name)}: {node.types[0]}{init}"


def _tail(node: Node, locations: bool) -> str:
    out = f" @ {node.place}" if node.place else ""
    if locations and node.loc != NOWHERE:
        out += f" at {quoted(node.loc.file)}:{node.loc.line}:{node.loc.column}"
    return out


def _node(node: Node, locations: bool) -> str:
    args = [reference(v) for v in node.inputs]
    args += [f"{k}={v}" for k, v in shown_attributes(node.op, locations)]
    shown = ", ".join(map(str, node.types))
    types = shown if len(node.types) == 1 else f"({shown})"
    return f"%{named(node.name)} = {node.op.name}({', '.join(args)}) : {types}"


def shown_attributes(op: Op, locations: bool = False) -> list[tuple[str, str]]:
    """The attributes that are not at their default, as text."""
    hints, out = declared(type(op)), []
    for f in fields(cast(Any, op)):
        value = getattr(op, f.name)
        if f.default is MISSING or not _same(value, f.default):
            out.append((f.name, _value(value, hints[f.name], locations)))
    return out


def _same(a: Any, b: Any) -> bool:
    """Equality that tells 0.0 from −0.0; text must."""
    return bool(a == b) and repr(a) == repr(b)


def _value(value: Any, hint: Any, locations: bool) -> str:
    match value:
        case None | bool():
            return str(value).lower()
        case Enum():
            return str(value.value)
        case int():
            return repr(float(value)) if hint is float else repr(int(value))
        case float():
            return repr(float(value))
        case str():
            return quoted(value)
        case Expr():
            return f"<{value}>"
        case tuple():
            inner = getattr(hint, "__args__", (None,))[0]
            shown = [_value(v, inner, locations) for v in value]
            return f"({shown[0]},)" if len(shown) == 1 else f"({', '.join(shown)})"
        case TensorType():
            return str(value)
        case Initializer():
            return _initializer(value)
        case Graph():
            return "\n  ".join(_lines(value, locations))
    raise GraphError(f"an attribute of {type(value)} has no text form")


def _initializer(init: Initializer) -> str:
    shown = [
        f"{f.name}={_value(getattr(init, f.name), float if f.name in 'ab' else None, False)}"
        for f in fields(init)
        if f.name != "kind" and not _same(getattr(init, f.name), f.default)
    ]
    return f"{init.kind}({', '.join(shown)})"


def parse(text: str, name: str = "<ir>", weights: Mapping[str, Array] | None = None) -> Graph:
    """The graph a text stands for (see `netc.ir.parse`, loaded when first needed)."""
    from netc.ir.parse import parse

    return parse(text, name, weights)
