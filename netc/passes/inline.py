"""From kernels back to a net: what was fused, laid out and placed for one machine, undone.

A file holds the kernels of the devices it was compiled for. The net within them is what other
devices are compiled for: bodies are inlined, devices and what brings values from one to another
or from layout to layout are dropped. Weights stay as they were folded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from netc.ir.graph import Builder, Graph, Node, Stage, Value
from netc.ir.op import typed
from netc.ir.ops.devices import Copy
from netc.ir.ops.fused import Fused
from netc.ir.ops.layout import ToBlocked, ToPlain
from netc.ir.ops.sources import Const, Input, Param

MOVES = (Copy, ToBlocked, ToPlain)


def net_of(graph: Graph) -> Graph:
    """The net of a graph at any stage, with the same inputs, parameters and outputs."""
    named = {n.name for n in graph.nodes if isinstance(n.op, Input | Param)}
    return _Inliner(Builder(named)).run(graph)


class _Inliner:
    """Rebuilds nodes over values of the net; names inside bodies stay where they are free."""

    def __init__(self, b: Builder) -> None:
        self.b = b

    def run(self, graph: Graph) -> Graph:
        """The whole graph."""
        new: dict[Value, Value] = {}
        for node in graph.nodes:
            made = self.node(node, [new[v] for v in node.inputs])
            new.update(zip(node.results, made, strict=True))
        return replace(
            graph,
            inputs=tuple(new[n.out].node for n in graph.inputs),
            outputs={name: new[v] for name, v in graph.outputs.items()},
            updates={name: new[v] for name, v in graph.updates.items()},
            stage=Stage.NET,
        )

    def node(self, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
        """What a node gives, over these inputs."""
        if isinstance(node.op, MOVES):
            return inputs
        if isinstance(node.op, Fused):
            return self.body(node.op.body, inputs)
        name = node.name if isinstance(node.op, Input | Param) else self.b.unique(node.name)
        op = node.op
        if isinstance(op, Const):
            op = replace(op, type=op.type.plain())
        types = typed(op, tuple(v.type for v in inputs))
        return Node(op, tuple(inputs), types, name, node.loc).results

    def body(self, body: Graph, inputs: Sequence[Value]) -> Sequence[Value]:
        """What a kernel gives, node by node."""
        new = dict(zip((n.out for n in body.inputs), inputs, strict=True))
        for node in body.nodes:
            if node not in body.inputs:
                made = self.node(node, [new[v] for v in node.inputs])
                new.update(zip(node.results, made, strict=True))
        return [new[v] for v in body.outputs.values()]
