"""Collectives as what they are made of: copies, and a concat or a sum on each device that asks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from netc.ir.graph import Graph, Node, Stage, Value
from netc.ir.ops.devices import AllGather, AllReduce
from netc.ir.ops.elementwise import Add
from netc.ir.ops.shape import Concat
from netc.passes.base import Context, Fired
from netc.passes.insert_copies import Copies
from netc.passes.rewrite import rebuilt


@dataclass(frozen=True)
class Collectives:
    """all_gather is concat and all_reduce add, of copies, one for each value and device."""

    name: ClassVar[str] = "collectives"
    needs: ClassVar[tuple[Stage, ...]] = (Stage.NET,)
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph without collectives; itself where it has none."""
        found = [n for n in graph.nodes if isinstance(n.op, AllGather | AllReduce)]
        for node in found:
            ctx.fired.append(Fired(self.name, node.op.name, node.name))
        return _Expander(graph).run() if found else graph


class _Expander(Copies):
    """Walks the graph, producers first."""

    def __init__(self, graph: Graph) -> None:
        super().__init__({n.name for n in graph.nodes})
        self.before = graph
        self.new: dict[Value, Value] = {}

    def run(self) -> Graph:
        """The whole graph."""
        for node in self.before.nodes:
            inputs = tuple(self.new[v] for v in node.inputs)
            if isinstance(node.op, AllGather | AllReduce):
                self.new[node.out] = self._expanded(node, inputs)
                continue
            made = node if inputs == node.inputs else replace(node, inputs=inputs)
            self.new.update(zip(node.results, made.results, strict=True))
        return rebuilt(self.before, self.new)

    def _expanded(self, node: Node, inputs: tuple[Value, ...]) -> Value:
        here = tuple(v if v.node.device is None else self.brought(v, node.device) for v in inputs)
        if len(here) == 1:
            return here[0]
        if isinstance(node.op, AllGather):
            return replace(node, op=Concat(node.op.axis), inputs=here).out
        total = here[0]
        for v in here[1:-1]:
            with self.at(node.loc), self.on(node.device):
                total = self(Add(), total, v, name=f"{node.name}.sum").out
        return replace(node, op=Add(), inputs=(total, here[-1])).out
