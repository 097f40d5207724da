"""The batch over devices: f(x) = concat(f(x[share]) for every share), for nets of independent rows.

`Replicate` runs the whole net on every device; `Pipeline` runs stages on devices and lets
micro-batches follow one another through them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from netc.errors import GraphError, clean
from netc.ir.device import Device
from netc.ir.graph import Graph, Node, Stage, Value
from netc.ir.machine import Machine
from netc.ir.ops.sources import Const, Input, Param
from netc.passes.base import Context, Fired
from netc.passes.partition.problem import problem_of
from netc.passes.partition.stages import stages
from netc.passes.shard import Parts, Sharder, listed
from netc.passes.shard_follow import Cut, Follow


@dataclass(frozen=True)
class Replicate:
    """The batch in equal shares over devices, results gathered on the first."""

    devices: tuple[Device, ...]
    name: ClassVar[str] = "replicate"
    needs: ClassVar[tuple[Stage, ...]] = (Stage.NET,)
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph with a share of every node on each device."""
        if len(self.devices) < 2:
            return graph
        for node in graph.nodes:
            if node.device is not None and not isinstance(node.op, Param | Const):
                raise _contradiction(node, f"replicate runs it on each of {listed(self.devices)}")
        made = _Replicas(graph, self.devices).run()
        ctx.fired.append(Fired("replicate", f"over {listed(self.devices)}", graph.name))
        return made


@dataclass(frozen=True)
class Pipeline:
    """Stages over devices, and the batch in equal micro-batches that follow one another.

    Stages come from annotations and, for the rest, from `stages` on the machine, by the cost of one
    micro-batch: each reads the weights again.
    """

    devices: tuple[Device, ...]
    micro_batches: int = 2
    machine: Machine | None = None
    name: ClassVar[str] = "pipeline"
    needs: ClassVar[tuple[Stage, ...]] = (Stage.NET,)
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph with every micro-batch of every node on its stage's device."""
        if len(self.devices) < 2:
            return graph
        for node in graph.nodes:
            if node.device not in (None, *self.devices) and not isinstance(node.op, Param | Const):
                raise _contradiction(node, f"its pipeline is over {listed(self.devices)}")
        machine = self.machine or Machine.uniform(self.devices)
        one = _OneShare(graph, self.micro_batches)
        placement = stages(problem_of(one.run(), machine, self.devices))
        stage = {n.name: placement.devices[one.named(n)] for n in graph.nodes if one.runs(n)}
        made = _MicroBatches(graph, stage, self.micro_batches).run()
        said = f"over {listed(self.devices)}, {self.micro_batches} micro-batches"
        ctx.fired.append(Fired("pipeline", said, graph.name))
        return made


def _contradiction(node: Node, why: str) -> GraphError:
    message = f"%{clean(node.name)} is placed on {node.device}, but {why}"
    return GraphError(message, node.loc, "take the placement away, or the sharding")


class _Batches(Sharder):
    """Cuts every input that has the batch of the first one into `count` equal shares."""

    def __init__(self, graph: Graph, count: int, what: str) -> None:
        super().__init__(graph)
        self.count = count
        self.batch = self._batch(what)

    def _batch(self, what: str) -> int:
        if not self.before.inputs:
            raise GraphError(f"@{clean(self.before.name)} has no input whose batch could be shared")
        node = self.before.inputs[0]
        name, shape = clean(node.name), node.types[0].shape
        size = shape[0] if shape else 1
        if not isinstance(size, int):
            fitting = ",".join(map(str, (self.count, *shape[1:])))
            fits = f"give a fixed batch, a multiple of {self.count}, as shape {name}={fitting} does"
            message = f"the batch of %{name} is {size}, not known; {what} need equal shares"
            raise GraphError(message, node.loc, fits)
        if size % self.count or not size:
            below = size - size % self.count
            fits = f"{below} or {below + self.count}" if below else str(self.count)
            message = f"the batch of %{name} is {size}, which {self.count} {what} cannot share"
            raise GraphError(message, node.loc, f"a batch of {fits} would fit")
        return size

    def cut(self, node: Node) -> Parts | None:
        """Shares of an input."""
        if not self.shared(node):
            return None
        self.unsharded(node)
        cut = Cut(0, (self.batch // self.count,) * self.count)
        ranks = range(self.count)
        return Parts(
            0, tuple(self.part(node.out, cut, r, self.rank_device(node, r)) for r in ranks)
        )

    def shared(self, node: Node) -> bool:
        """Whether a node is an input with the batch."""
        shape = node.types[0].shape
        return isinstance(node.op, Input) and shape[:1] == (self.batch,) and self.count > 1


class _Replicas(_Batches):
    """Rank r is device r."""

    def __init__(self, graph: Graph, devices: tuple[Device, ...], what: str = "replicas") -> None:
        self.devices = devices
        super().__init__(graph, len(devices), what)

    def home(self, node: Node) -> Device:
        """What needs the whole batch runs on the first device."""
        return self.devices[0]

    def rank_device(self, node: Node, rank: int) -> Device:
        """Rank r is device r."""
        return self.devices[rank]


class _MicroBatches(_Batches):
    """Every micro-batch of a node is where its stage is."""

    def __init__(self, graph: Graph, stage: Mapping[str, Device], count: int) -> None:
        self.stage = stage
        super().__init__(graph, count, "micro-batches")

    def home(self, node: Node) -> Device:
        """The node's stage."""
        return self.stage.get(node.name, next(iter(self.stage.values())))

    def rank_device(self, node: Node, rank: int) -> Device | None:
        """The node's stage."""
        return self.home(node)


class _OneShare(_Batches):
    """The graph for one of the shares, which stands for all where the batch is gathered.

    It is to be costed, not run: nothing is copied, and nodes stay where the net says, if it does.
    """

    def __init__(self, graph: Graph, count: int) -> None:
        super().__init__(graph, count, "micro-batches")

    def home(self, node: Node) -> Device | None:
        """Where the net says."""
        return node.device

    def rank_device(self, node: Node, rank: int) -> Device | None:
        """Where the net says."""
        return node.device

    def cut(self, node: Node) -> Parts | None:
        """The first share of an input, for all."""
        if not self.shared(node):
            return None
        shape = (self.batch // self.count, *node.types[0].shape[1:])
        share = node.types[0].with_shape(shape)
        made = replace(node, op=Input(share), types=(share,))
        return Parts(0, made.results * self.count)

    def apply(self, node: Node, rule: Follow) -> Parts:
        """The first part of a node, for all."""
        made = super().apply(node, replace(rule, ops=rule.ops[:1]))
        return replace(made, values=made.values * self.count)

    def brought(self, value: Value, device: Device | None) -> Value:
        """The value."""
        return value

    def given(self, node: Node) -> Node:
        """An input of a share."""
        found = self.parts.get(node.out)
        return found.values[0].node if found else super().given(node)

    def runs(self, node: Node) -> bool:
        """Whether a node has a place."""
        return not isinstance(node.op, Param | Const)

    def named(self, node: Node) -> str:
        """What a node is called here."""
        found = self.parts.get(node.results[0])
        return found.values[0].node.name if found else node.name
