"""Values in parts on several devices: the machinery that the sharding passes share.

A value is whole on one device, or in parts along an axis, one per rank, or a sum of such. An op
that works on parts follows; any other reads whole operands, gathered or summed on its device.
Every crossing is a `copy`, an `all_gather` or an `all_reduce`; nothing is left to infer.
Parameters have no place: each device that reads one, or a slice of one, keeps it.

A pass does one way of sharding, and may leave others that nodes ask for to later ones: what is
still to be sharded has no device until then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from netc.errors import GraphError, clean
from netc.ir.device import Device
from netc.ir.dims import Dim, ceil_div
from netc.ir.graph import Graph, Node, Value
from netc.ir.ops.devices import CROSSING, Copy
from netc.ir.ops.sources import Const, Param
from netc.ir.parts import Cut, Follow, Sizes, bounds, follow
from netc.ir.shards import Shard, Way
from netc.passes.insert_copies import Copies
from netc.passes.rewrite import rebuilt


@dataclass(frozen=True)
class Parts:
    """A value in parts along an axis, in order."""

    axis: int
    values: tuple[Value, ...]

    @property
    def sizes(self) -> Sizes:
        """The size of each part along the axis."""
        return tuple(v.type.shape[self.axis] for v in self.values)


class Sharder(Copies):
    """Rebuilds a graph, producers first; subclasses say where nodes run and what is cut."""

    way: ClassVar[Way]

    def __init__(self, graph: Graph, first: Device | None) -> None:
        super().__init__({n.name for n in graph.nodes})
        self.before, self.first = graph, first
        self.parts: dict[Value, Parts] = {}
        self.terms: dict[Value, tuple[Value, ...]] = {}  # what a value is the sum of
        self.wholes: dict[Value, Value] = {}  # where they were made
        self._gathered: dict[tuple[Value, Device | None], Value] = {}
        self._slices: dict[tuple[Value, Cut, int, Device | None], Value] = {}

    def inside(self, node: Node) -> bool:
        """Whether the pass shards a node."""
        return True

    def left(self, node: Node) -> tuple[Shard, ...]:
        """The shardings of a node that are left to other passes."""
        return tuple(s for s in node.shards if s.way != self.way or not self.inside(node))

    def home(self, node: Node) -> Device | None:
        """Where a node runs that is not cut; None where a later pass decides that."""
        return node.device or (None if self.left(node) else self.first)

    def places(self, node: Node, followed: Parts) -> Sequence[Device | None]:
        """Where each part of a node runs that follows another's."""
        return [v.node.device for v in followed.values]

    def cut(self, node: Node) -> Parts | None:
        """The parts of a node that the pass cuts by itself; None where it does not."""
        return None

    def follows(self, node: Node) -> bool:
        """Whether a node may work on parts because its operands are in parts."""
        return self.inside(node)

    def run(self) -> Graph:
        """The whole graph."""
        for node in self.before.nodes:
            self.loc = node.loc
            if isinstance(node.op, Param | Const):
                self.wholes[node.out] = node.out
                continue
            found = self.cut(node)
            if found is None and self.follows(node):
                found = self.following(node)
            if found is not None:
                self.parts[node.out] = found
            else:
                self.unsharded(node)
        roots = (*self.before.outputs.values(), *self.before.updates.values())
        new = {v: self.whole(v, self.home(v.node)) for v in roots}
        inputs = tuple(map(self.given, self.before.inputs))
        return replace(rebuilt(self.before, new), inputs=inputs)

    def given(self, node: Node) -> Node:
        """What an input is now."""
        return self.wholes[node.out].node

    def unsharded(self, node: Node) -> None:
        """The node as it is, on its device, over whole operands."""
        device = self.home(node)
        if isinstance(node.op, CROSSING):
            inputs = tuple(self._source(v, device) for v in node.inputs)
            if isinstance(node.op, Copy) and inputs[0].node.device == device is not None:
                self.wholes[node.out] = inputs[0]
                return
        else:
            inputs = tuple(self.whole(v, device) for v in node.inputs)
        left = self.left(node)
        same = (device, inputs, left) == (node.device, node.inputs, node.shards)
        now = node if same else replace(node, inputs=inputs, device=device, shards=left)
        self.wholes.update(zip(node.results, now.results, strict=True))

    def _source(self, v: Value, device: Device | None) -> Value:
        """What a crossing to a device reads: a value where it was made, or all of it there."""
        return self.wholes[v] if v in self.wholes else self.whole(v, device)

    def following(self, node: Node) -> Parts | None:
        """The node in parts, where an operand is and the op allows it."""
        for i, v in enumerate(node.inputs):
            known = self.parts.get(v)
            if known is None or len(known.values) < 2:
                continue
            places = self.places(node, known)
            if isinstance(node.op, Copy):
                brought = map(self.brought, known.values, places)
                return Parts(known.axis, tuple(brought))
            rule = follow(node, i, Cut(known.axis, known.sizes))
            if rule is not None:
                return self.apply(node, rule, places)
        return None

    def apply(self, node: Node, rule: Follow, places: Sequence[Device | None]) -> Parts:
        """Every part of a node by a rule."""
        values = []
        for rank, (op, device) in enumerate(zip(rule.ops, places, strict=True)):
            operands = []
            for v, cut in zip(node.inputs, rule.operands, strict=True):
                near = not isinstance(op, CROSSING) or isinstance(v.op, Param | Const)
                at = device if near else None  # what crosses reads a value where it lies
                operands.append(self.whole(v, at) if cut is None else self.part(v, cut, rank, at))
            with self.like(node, device, self.left(node)):
                values.append(self(op, *operands, name=f"{node.name}.{rank}").out)
        return Parts(rule.axis, tuple(values))

    @contextmanager
    def like(
        self, node: Node, device: Device | None, shards: Sequence[Shard] | None = None
    ) -> Iterator[None]:
        """Nodes made within stand where a node stands in the text, and run on a device.

        What moves the values of a pipeline is part of it, where no other shardings are given.
        """
        if shards is None:
            shards = [s for s in self.left(node) if s.way == "pipeline"]
        with self.at(node.loc), self.on(device), self.sharded(tuple(shards)):
            yield

    def whole(self, v: Value, device: Device | None) -> Value:
        """All of a value on a device: a copy, its parts gathered, or its terms summed."""
        if v in self.wholes:
            return self.brought(self.wholes[v], device)
        device = device or self.home(v.node)
        key = (v, device)
        if key not in self._gathered:
            with self.like(v.node, device):
                self._gathered[key] = self._joined(v, device)
        return self._gathered[key]

    def _joined(self, v: Value, device: Device | None) -> Value:
        if v in self.terms:
            return self.all_reduce(*self.terms[v], name=v.node.name)
        known = self.parts[v]
        near = all(part.node.device == device for part in known.values)
        join = self.concat if near else self.all_gather
        return join(*known.values, axis=known.axis, name=v.node.name)

    def part(self, v: Value, cut: Cut, rank: int, device: Device | None) -> Value:
        """Part `rank` of a value on a device: the part there is, or a slice of the whole."""
        known = self.parts.get(v)
        if known is not None and known.axis == cut.axis and known.sizes == cut.sizes:
            return self.brought(known.values[rank], device)
        source = self.wholes[v] if v in self.wholes else self.whole(v, device)
        local = isinstance(source.op, Param | Const)
        at = device if local or source.node.device is None else source.node.device
        key = (source, cut, rank, at)
        if key not in self._slices:
            start, stop = bounds(cut.sizes)[rank]
            with self.like(v.node, at):
                self._slices[key] = self.slice(
                    source, axis=cut.axis, start=start, stop=stop, name=f"{v.node.name}.{rank}"
                )
        return self.brought(self._slices[key], device)


def contradicting(node: Node, why: str) -> GraphError:
    """The error for a node whose place and sharding do not go together."""
    message = f"%{clean(node.name)} is placed on {node.device}, but {why}"
    return GraphError(message, node.loc, "take the placement away, or the sharding")


def shares(count: Dim, ranks: int) -> Sizes:
    """A count in shares that differ by one at most."""
    ends = [ceil_div(count * rank, ranks) for rank in range(ranks + 1)]
    return tuple(stop - start for start, stop in pairwise(ends))
