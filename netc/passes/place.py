"""Which device each node runs on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from netc.ir.device import Device
from netc.ir.graph import Graph, Stage, Value
from netc.passes.base import Context, at_stage
from netc.passes.rewrite import rebuilt

CPU = Device("cpu")


@dataclass(frozen=True)
class Place:
    """Nodes run where the net says; the rest, sources included, on `default`."""

    default: Device = CPU
    name: ClassVar[str] = "place"
    needs: ClassVar[tuple[Stage, ...]] = (Stage.NET,)
    gives: ClassVar[Stage | None] = Stage.PLACED

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph with a device on every node."""
        new: dict[Value, Value] = {}
        for node in graph.nodes:
            inputs = tuple(new[v] for v in node.inputs)
            placed = node
            if inputs != node.inputs or node.device is None:
                placed = replace(node, inputs=inputs, device=node.device or self.default)
            new.update(zip(node.results, placed.results, strict=True))
        inputs_now = tuple(new[n.out].node for n in graph.inputs)
        return at_stage(replace(rebuilt(graph, new), inputs=inputs_now), Stage.PLACED)
