"""Collectives as what they are made of: copies, and a concat or a sum on each device that asks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from netc.ir.device import Device
from netc.ir.graph import Builder, Graph, Node, Stage, Value
from netc.ir.ops.devices import AllGather, AllReduce, Copy
from netc.ir.ops.elementwise import Add
from netc.ir.ops.shape import Concat
from netc.ir.ops.sources import Const, Param
from netc.passes.base import Context, Fired
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


class Copies(Builder):
    """Makes nodes, and one copy of each value for each device that wants it."""

    def __init__(self, names: set[str]) -> None:
        super().__init__(names)
        self._made: dict[tuple[Value, Device | None], Value] = {}

    def brought(self, value: Value, device: Device | None) -> Value:
        """A value on a device: itself, or its one copy there. What has no place is everywhere."""
        free = value.node.device is None or isinstance(value.op, Param | Const)
        if free or value.node.device == device or device is None:
            return value
        key = (value, device)
        if key not in self._made:
            name = f"{value.node.name}_{device}".replace(":", "")
            with self.at(value.node.loc), self.on(device):
                self._made[key] = self(Copy(), value, name=name).out
        return self._made[key]


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
        here = tuple(self.brought(v, node.device) for v in inputs)
        if len(here) == 1:
            return here[0]
        if isinstance(node.op, AllGather):
            return replace(node, op=Concat(node.op.axis), inputs=here).out
        total = here[0]
        for v in here[1:-1]:
            with self.at(node.loc), self.on(node.device):
                total = self(Add(), total, v, name=f"{node.name}.sum").out
        return replace(node, op=Add(), inputs=(total, here[-1])).out
