"""IR text to a graph, node by node, every type inferred again and compared with the written one.

A wrong text is a `ParseError`, a right text of a wrong graph a `GraphError`; both say where.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, replace
from enum import Enum
from typing import Any, cast

from lark import Token

from netc.errors import NOWHERE, GraphError, ParseError, Source, Span, clean
from netc.ir.attributes import declared, misfit
from netc.ir.device import Device
from netc.ir.graph import Builder, Graph, Node, Value
from netc.ir.op import REGISTRY, Array, Op
from netc.ir.ops.sources import KINDS, Initializer, Input, Param
from netc.ir.shards import within
from netc.ir.tree import Call, Line, Tree, Word, at, placed, read_name, read_tree, split_reference


def parse(text: str, name: str = "<ir>", weights: Mapping[str, Array] | None = None) -> Graph:
    """The graph a text stands for, with the given arrays for its parameters.

    Nodes are located where they stand in this text, unless it says `at "file":line:column`.
    Raises ParseError or GraphError, each with its place in `name`.
    """
    source = Source(name, text)
    tree = read_tree(source)
    try:
        return _Reader(source, weights or {}).graph(tree)
    except ParseError as e:
        raise placed(e, source) from None


class _Reader:
    """Builds the graphs of one source."""

    def __init__(self, source: Source, weights: Mapping[str, Array]) -> None:
        self.source, self.weights = source, weights
        self.located = False  # the text says itself where its nodes come from

    def span(self, t: Token) -> Span:
        return Span(self.source.name, t.line or 0, t.column or 0, self.source)

    def graph(self, tree: Tree) -> Graph:
        b, nodes = Builder(), dict[str, Node]()
        self.located |= any(line.loc for line in tree.lines)
        for line in tree.lines:
            node = self.node(b, line, nodes)
            nodes[node.name] = node
            if isinstance(node.op, Input):
                b.inputs.append(node)
        b.weights.update(self.weights)
        outputs, updates = (
            {name: self.value(t, nodes) for name, t in pairs}
            for pairs in (tree.outputs, tree.updates)
        )
        return b.graph(
            tree.name, outputs, updates=updates, stage=tree.stage, labels=tree.labels,
            usual=tree.usual, notes=tree.notes,
        )  # fmt: skip

    def node(self, b: Builder, line: Line, nodes: Mapping[str, Node]) -> Node:
        here = self.span(line.at)
        written = line.at[1:].rstrip("= \t\r\n") if line.word == "node" else line.at[1:]
        name = at(line.at, read_name, written)
        if name in nodes:
            raise GraphError(f"a second %{clean(name)}", here)
        op = self.op(line, here)
        inputs = [self.value(t, nodes) for t in line.operands]
        b.loc = here
        b.device = Device.parse(line.device, here) if line.device else None
        b.shards = ()
        for shard in line.shards:
            b.shards = within(b.shards, shard, here)
        node = b(op, *inputs, name=name)
        if list(node.types) != line.types:
            gives, said = (", ".join(map(str, ts)) for ts in (node.types, line.types))
            raise GraphError(f"%{clean(name)} is written as {said}, {op.name} gives {gives}", here)
        return replace(node, loc=line.loc or NOWHERE) if self.located else node

    def value(self, t: Token, nodes: Mapping[str, Node]) -> Value:
        name, index = at(t, split_reference, t)
        node = nodes.get(name)
        if node is None or index >= len(node.types):
            near = difflib.get_close_matches(name, list(nodes), 3) if node is None else []
            fits = f"did you mean {', '.join('%' + clean(n) for n in near)}?" if near else ""
            raise GraphError(f"no {clean(t)} so far", self.span(t), fits)
        return Value(node, index)

    def op(self, line: Line, here: Span) -> Op:
        if line.op is None:
            if line.word == "input":
                return Input(line.types[0])
            init = line.attributes.get("init")
            return Param(line.types[0], self.fit(init, Initializer) if init else Initializer())
        here = self.span(line.op)
        return self.called(line, line.op[:-1], here)

    def called(self, line: Line, name: str, here: Span) -> Op:
        if name not in REGISTRY or name in ("input", "param"):
            raise GraphError(f"no op {clean(name)!r}", here, _near(name, REGISTRY))
        cls = REGISTRY[name]
        hints = declared(cls)
        unknown = [k for k in line.attributes if k not in hints]
        if unknown:
            message = f"{name} has no attribute {clean(unknown[0])!r}"
            raise GraphError(message, here, _near(unknown[0], hints))
        missing = [
            f.name
            for f in fields(cast(Any, cls))
            if f.default is MISSING and f.name not in line.attributes
        ]
        if missing:
            raise GraphError(f"{name} needs {', '.join(missing)}", here)
        try:
            op = cls(**{k: self.fit(v, hints[k]) for k, v in line.attributes.items()})
        except GraphError as e:
            raise e if e.span.line else GraphError(e.diagnostics[0].message, here) from None
        wrong = misfit(op)
        if wrong:
            raise GraphError(wrong, here)
        return op

    def fit(self, value: Any, hint: Any) -> Any:
        """A value as written, made what the attribute is declared to be where that is exact."""
        if isinstance(value, Tree):
            return self.graph(value)
        if isinstance(value, Call):
            return self.initializer(value)
        if hint is float and type(value) is int:
            return float(value)
        if isinstance(value, Word) and isinstance(hint, type) and issubclass(hint, Enum):
            known = {str(m.value): m for m in hint}
            if value.text not in known:
                raise GraphError(f"no {clean(value.text)!r}; there are {', '.join(known)}")
            return known[value.text]
        if isinstance(value, Word):
            raise GraphError(f"{value.text!r} fits nowhere here; a string needs quotes")
        if isinstance(value, tuple):
            inner = getattr(hint, "__args__", (None,))[0]
            return tuple(self.fit(v, inner) for v in value)
        return value

    def initializer(self, call: Call) -> Initializer:
        kind = call.kind[:-1]
        if kind not in KINDS:
            message = f"no initializer {clean(kind)!r}"
            raise GraphError(message, self.span(call.kind), _near(kind, KINDS))
        known = {"a": float, "b": float, "fan": str, "sparse": int}
        for k, v in call.attributes.items():
            if k not in known or not isinstance(v, int if known[k] is int else (int, known[k])):
                fits = "a=, b=, fan=, sparse="
                raise GraphError(f"{kind} does not take {k}", self.span(call.kind), fits)
        return Initializer(kind, **{k: known[k](v) for k, v in call.attributes.items()})


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 3)
    return f"did you mean {', '.join(near)}?" if near else ""
