"""Which device each node runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from netc.errors import GraphError, clean
from netc.ir.device import Device
from netc.ir.graph import Graph, Node, Stage
from netc.ir.ops.sources import Const, Input, Param
from netc.passes.base import Context, at_stage
from netc.passes.insert_copies import with_copies
from netc.passes.rewrite import changed

CPU = Device("cpu")


def default_device(graph: Graph, devices: Sequence[Device] = (), kind: str = "") -> Device:
    """Where nodes run that say nothing: the first of the devices, or of those of a kind.

    Raises GraphError for a node on a device that is not among them; with none given the net may
    name its own.
    """
    for node in graph.nodes:
        named = [] if node.device is None else [node.device]
        named += [d for s in node.shards for d in s.devices]
        for device in named if devices else ():
            if device in devices:
                continue
            fits = f"the devices are {', '.join(map(str, devices))}"
            where = f"%{clean(node.name)} is on {device}, which is not there"
            raise GraphError(where, node.loc, fits)
    if not kind:
        return devices[0] if devices else CPU
    return next((d for d in devices if d.kind == kind), Device(kind))


@dataclass(frozen=True)
class Place:
    """Nodes run where the net says, the rest on `default`; sources lie where they are read first.

    What is read on another device goes through a copy.
    """

    default: Device = CPU
    name: ClassVar[str] = "place"
    needs: ClassVar[tuple[Stage, ...]] = (Stage.NET,)
    gives: ClassVar[Stage | None] = Stage.PLACED

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph with a device on every node."""

        def placed(node: Node) -> Node:
            if node.shards:
                message = f"%{clean(node.name)} is still to be shared by devices: {node.place}"
                raise GraphError(message, node.loc, "run the pass shard first")
            if node.device is not None:
                return node
            return replace(node, device=self._of_reader(graph, node) or self.default)

        return at_stage(with_copies(changed(graph, placed)), Stage.PLACED)

    @staticmethod
    def _of_reader(graph: Graph, node: Node) -> Device | None:
        """Where an input, parameter or constant is read first."""
        if not isinstance(node.op, Input | Param | Const):
            return None
        return next((user.device for user in graph.uses[node.out] if user is not None), None)
