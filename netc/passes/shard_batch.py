"""The batch over devices: f(x) = concat(f(x[share]) for every share), for nets of independent rows.

`Replicate` runs a net, or some nodes of it, on every device; `Pipeline` runs stages on devices and
lets micro-batches follow one another through them. Where only some nodes are meant, these cut what
they read, and their results are gathered where other nodes read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from netc.errors import GraphError, clean
from netc.ir.device import Device
from netc.ir.dims import Dim, symbols
from netc.ir.graph import Graph, Node, Stage, Value
from netc.ir.machine import Machine
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.parts import Cut, Follow, follow
from netc.ir.shards import listed
from netc.passes.base import Context, Fired
from netc.passes.partition.problem import problem_of
from netc.passes.partition.stages import stages
from netc.passes.rewrite import rebuilt
from netc.passes.shard import Parts, Sharder, contradicting, shares

Names = frozenset[str]


@dataclass(frozen=True)
class Replicate:
    """The batch in equal shares over devices, results gathered on the first.

    `nodes` names those that are meant, where not all are; what then has no place is on `first`.
    """

    devices: tuple[Device, ...]
    nodes: Names | None = None
    first: Device | None = None
    name: ClassVar[str] = "replicate"
    needs: ClassVar[tuple[Stage, ...]] = (Stage.NET,)
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph with a share of every node on each device."""
        if len(self.devices) < 2:
            return graph
        each = _Replicas(graph, self.devices, self.nodes, self.first)
        for node in graph.nodes:
            placed = node.device is not None and not isinstance(node.op, Param | Const)
            if placed and each.inside(node):
                raise contradicting(node, f"replicate runs it on each of {listed(self.devices)}")
        made = each.run()
        ctx.fired.append(Fired("replicate", f"over {listed(self.devices)}", each.named))
        return made


@dataclass(frozen=True)
class Pipeline:
    """Stages over devices, and the batch in equal micro-batches that follow one another.

    Stages come from annotations and, for the rest, from `stages` on the machine, by the cost of one
    micro-batch: each reads the weights again. `nodes` and `first` are as for `Replicate`.
    """

    devices: tuple[Device, ...]
    micro_batches: int = 2
    machine: Machine | None = None
    nodes: Names | None = None
    first: Device | None = None
    name: ClassVar[str] = "pipeline"
    needs: ClassVar[tuple[Stage, ...]] = (Stage.NET,)
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph with every micro-batch of every node on its stage's device."""
        if len(self.devices) < 2:
            return graph
        machine = self.machine or Machine.uniform(self.devices)
        each = _MicroBatches(graph, self.micro_batches, self.nodes, self.first)
        one = _OneShare(_alone(graph, self.nodes, self.devices), self.micro_batches, each.batch)
        sizes = dict.fromkeys(symbols(each.batch), self.micro_batches)  # an image for each
        placement = stages(problem_of(one.run(), machine, self.devices, sizes))
        where = placement.devices
        each.stage = {name: where[now] for name, now in one.renamed() if now in where}
        made = each.run()
        said = f"over {listed(self.devices)}, {self.micro_batches} micro-batches"
        ctx.fired.append(Fired("pipeline", said, each.named))
        return made


def _alone(graph: Graph, names: Names | None, devices: Sequence[Device]) -> Graph:
    """The named nodes as a net; what is on none of the devices may be on any."""
    new: dict[Value, Value] = {}
    for node in graph.nodes:
        read = tuple(new[v] for v in node.inputs)
        fixed = isinstance(node.op, Param | Const) or all(isinstance(v.op, Param) for v in read)
        if isinstance(node.op, Param | Const):
            made = node.results
        elif names is None or node.name in names or isinstance(node.op, Input):
            device = node.device if node.device in devices else None
            made = replace(node, inputs=read, device=device).results
        else:  # it comes from without
            kind = Param if fixed else Input
            given = (Node(kind(v.type), (), (v.type,), v.name, node.loc) for v in node.results)
            made = tuple(n.out for n in given)
        new.update(zip(node.results, made, strict=True))
    roots = {v.name: new[v] for n in graph.nodes if names and n.name in names for v in n.results}
    inputs = tuple(
        n for n in dict.fromkeys(v.node for v in new.values()) if isinstance(n.op, Input)
    )
    if names is None:
        return replace(rebuilt(graph, new), inputs=inputs)
    return Graph(graph.name, inputs, roots)


class _Batches(Sharder):
    """Cuts every input that has the batch of the first one into `count` equal shares.

    Shares of a batch known only at run time differ by one at most, and may be empty. Where nodes
    are named, these cut what they read.
    """

    what: ClassVar[str]

    def __init__(
        self,
        graph: Graph,
        count: int,
        nodes: Names | None = None,
        first: Device | None = None,
        batch: Dim | None = None,
    ) -> None:
        super().__init__(graph, first)
        self.count, self.nodes = count, nodes
        self.batch = self._batch() if batch is None else batch
        self.shares = Cut(0, shares(self.batch, self.count))

    @property
    def named(self) -> str:
        """What is sharded, in a word."""
        inside = (n.name for n in self.before.nodes if self.nodes and self.inside(n))
        return next(inside, self.before.name)

    def inside(self, node: Node) -> bool:
        """Whether a node is meant."""
        return self.nodes is None or node.name in self.nodes

    def ranks(self, node: Node) -> Sequence[Device | None]:
        """Where each share of a node runs."""
        raise NotImplementedError

    def places(self, node: Node, followed: Parts) -> Sequence[Device | None]:
        """Where each share of a node runs."""
        return self.ranks(node)

    def _batch(self) -> Dim:
        if not self.before.inputs:
            raise GraphError(f"@{clean(self.before.name)} has no input whose batch could be shared")
        node = self.before.inputs[0]
        name, shape = clean(node.name), node.types[0].shape
        if not shape and self.count > 1:
            message = f"%{name} has no batch, which {self.count} {self.what} could share"
            raise GraphError(message, node.loc, "the batch is the first axis of the first input")
        size = shape[0] if shape else 1
        if isinstance(size, int) and (size % self.count or not size):
            below = size - size % self.count
            fits = f"{below} or {below + self.count}" if below else str(self.count)
            message = f"the batch of %{name} is {size}, which {self.count} {self.what} cannot share"
            raise GraphError(message, node.loc, f"a batch of {fits} would fit")
        return size

    def cut(self, node: Node) -> Parts | None:
        """Shares of an input."""
        if not self.shared(node):
            return None
        self.unsharded(node)
        places = enumerate(self.ranks(node))
        return Parts(0, tuple(self.part(node.out, self.shares, r, d) for r, d in places))

    def shared(self, node: Node) -> bool:
        """Whether a node is an input with the batch."""
        given = isinstance(node.op, Input) and self.inside(node)
        return given and self.count > 1 and node.types[0].shape[:1] == (self.batch,)

    def following(self, node: Node) -> Parts | None:
        """The node in shares: of what it reads in parts or, where it is named, whole."""
        found = super().following(node)
        if found is not None or self.nodes is None or self.count < 2:
            return found
        for i, v in enumerate(node.inputs):
            if isinstance(v.op, Param | Const) or v.type.shape[:1] != (self.batch,):
                continue
            if (rule := follow(node, i, self.shares)) is not None:
                return self.apply(node, rule, self.ranks(node))
        return None


class _Replicas(_Batches):
    """Rank r is device r."""

    way, what = "replicate", "replicas"

    def __init__(
        self, graph: Graph, devices: tuple[Device, ...], nodes: Names | None, first: Device | None
    ) -> None:
        self.devices = devices
        super().__init__(graph, len(devices), nodes, first or devices[0])

    def home(self, node: Node) -> Device | None:
        """What needs the whole batch runs on the first device."""
        return self.devices[0] if self.inside(node) else super().home(node)

    def ranks(self, node: Node) -> Sequence[Device | None]:
        """Rank r is device r."""
        return self.devices


class _MicroBatches(_Batches):
    """Every micro-batch of a node is where its stage is."""

    way, what = "pipeline", "micro-batches"
    stage: Mapping[str, Device]

    def home(self, node: Node) -> Device | None:
        """The node's stage."""
        if not self.inside(node):
            return super().home(node)
        return node.device or self.stage.get(node.name, next(iter(self.stage.values())))

    def ranks(self, node: Node) -> Sequence[Device | None]:
        """The node's stage."""
        return (self.home(node),) * self.count


class _OneShare(_Batches):
    """The graph for one of the shares, which stands for all where the batch is gathered.

    It is to be costed, not run: nothing is copied, and nodes stay where the net says, if it does.
    """

    way, what = "pipeline", "micro-batches"

    def __init__(self, graph: Graph, count: int, batch: Dim) -> None:
        super().__init__(graph, count, batch=batch)

    def home(self, node: Node) -> Device | None:
        """Where the net says."""
        return node.device

    def ranks(self, node: Node) -> Sequence[Device | None]:
        """Where the net says."""
        return (node.device,) * self.count

    def cut(self, node: Node) -> Parts | None:
        """The first share of an input, for all."""
        if not self.shared(node):
            return None
        share = node.types[0].with_shape((self.shares.sizes[0], *node.types[0].shape[1:]))
        made = replace(node, op=Input(share), types=(share,))
        return Parts(0, made.results * self.count)

    def apply(self, node: Node, rule: Follow, places: Sequence[Device | None]) -> Parts:
        """The first part of a node, for all."""
        made = super().apply(node, replace(rule, ops=rule.ops[:1]), places[:1])
        return replace(made, values=made.values * self.count)

    def brought(self, value: Value, device: Device | None) -> Value:
        """The value."""
        return value

    def given(self, node: Node) -> Node:
        """An input of a share."""
        found = self.parts.get(node.out)
        return found.values[0].node if found else super().given(node)

    def renamed(self) -> Iterator[tuple[str, str]]:
        """Every node that has a place, and what it is called here."""
        for node in self.before.nodes:
            if not isinstance(node.op, Param | Const):
                found = self.parts.get(node.results[0])
                now = found.values[0] if found else self.wholes[node.results[0]]
                yield node.name, now.node.name
