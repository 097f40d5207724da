"""Common subexpressions: equal ops on equal inputs are one node."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import ClassVar

from netc.ir.graph import Graph, Node, Stage, Value
from netc.ir.op import attributes
from netc.ir.ops.elementwise import Add, Equal, Mul
from netc.ir.ops.sources import Input, Param
from netc.passes.base import BEFORE_KERNELS, Context, Fired
from netc.passes.rewrite import rebuilt


@dataclass(frozen=True)
class Cse:
    """f(x) computed twice on one device = f(x) once; x + y = y + x and x · y = y · x."""

    name: ClassVar[str] = "cse"
    needs: ClassVar[tuple[Stage, ...]] = BEFORE_KERNELS
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph in which no two nodes say the same."""
        first: dict[Hashable, Node] = {}
        new: dict[Value, Value] = {}
        changed = False
        for node in graph.nodes:
            inputs = tuple(new[v] for v in node.inputs)
            current = node if inputs == node.inputs else replace(node, inputs=inputs)
            if not isinstance(node.op, Input | Param):
                kept = first.setdefault(key(current), current)
                if kept is not current:
                    changed = True
                    ctx.fired.append(Fired(self.name, f"is %{kept.name}", node.name))
                current = kept
            new.update(zip(node.results, current.results, strict=True))
        return rebuilt(graph, new) if changed else graph


def key(node: Node) -> Hashable:
    """Equal for nodes that compute the same. Attributes go by `repr`: −0.0 is not 0.0."""
    inputs: Hashable = node.inputs
    if isinstance(node.op, Add | Mul | Equal):
        inputs = frozenset((v, node.inputs.count(v)) for v in node.inputs)
    said = tuple(repr(value) for _, value in attributes(node.op))
    return (type(node.op), said, inputs, node.device, node.shards)
