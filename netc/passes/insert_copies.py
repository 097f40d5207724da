"""Copies between devices, made explicit: nothing later infers a transfer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from netc.ir.device import Device
from netc.ir.graph import Builder, Graph, Node, Value
from netc.ir.ops.devices import Copy
from netc.ir.ops.sources import Const, Input, Param
from netc.passes.rewrite import rebuilt


def with_copies(graph: Graph) -> Graph:
    """The graph in which whatever is read on another device goes through one `copy` per device.

    A constant is made again where it is read; parameters have no place. Copies that are there
    already serve every reader on their device. A graph on one device is given back as it is.
    """
    if len({n.device for n in graph.nodes}) < 2:
        return graph
    return _Copier(graph).run()


class Copies(Builder):
    """Makes nodes, and one copy of each value for each device that wants it."""

    def __init__(self, names: set[str]) -> None:
        super().__init__(names)
        self._made: dict[tuple[Value, Device], Value] = {}

    @contextmanager
    def like(self, node: Node, device: Device | None) -> Iterator[None]:
        """Nodes made within stand where a node stands in the text, and run on a device."""
        with self.at(node.loc), self.on(device):
            yield

    def brought(self, value: Value, device: Device | None) -> Value:
        """A value on a device: itself, or its one copy there."""
        if device in (None, value.node.device) or isinstance(value.op, Param | Const):
            return value
        key = (value, device)
        if key not in self._made:
            with self.like(value.node, device):
                self._made[key] = self(Copy(), value, name=copied(value, device)).out
        return self._made[key]


def copied(value: Value, device: Device | None) -> str:
    """What a value is called on another device."""
    return f"{value.node.name}_{device}".replace(":", "")


class _Copier:
    """Walks the graph producers first; `here` knows each value's copy on each device."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.b = Builder({n.name for n in graph.nodes})
        self.new: dict[Value, Value] = {}
        self.here: dict[tuple[Value, Device | None], Value] = {}

    def run(self) -> Graph:
        """The whole graph."""
        for node in self.graph.nodes:
            if isinstance(node.op, Copy):
                inputs = tuple(self.new[v] for v in node.inputs)
            else:
                inputs = tuple(self.there(self.new[v], node) for v in node.inputs)
            made = node if inputs == node.inputs else replace(node, inputs=inputs)
            self.new.update(zip(node.results, made.results, strict=True))
            if isinstance(made.op, Copy):
                self.here.setdefault((inputs[0], made.device), made.out)
        return rebuilt(self.graph, self.new)

    def there(self, value: Value, reader: Node) -> Value:
        """The value on its reader's device."""
        if value.node.device == reader.device or isinstance(value.op, Param):
            return value
        key = value, reader.device
        if key not in self.here:
            self.here[key] = self._brought(value, reader)
        return self.here[key]

    def _brought(self, value: Value, reader: Node) -> Value:
        """A copy, or for a constant the constant again."""
        name = self.b.unique(copied(value, reader.device))
        if isinstance(value.op, Const):
            return replace(value.node, name=name, device=reader.device).out
        loc = reader.loc if isinstance(value.op, Input) else value.node.loc
        return Node(Copy(), (value,), (value.type,), name, loc, reader.device).out
