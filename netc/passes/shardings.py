"""What a net says of devices that share its nodes, done: channels first, then the batch.

`annotated` puts on the nodes what options say; `Shardings` does all that the nodes say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from netc.errors import GraphError, clean
from netc.ir.device import Device
from netc.ir.graph import Graph, Node, Stage
from netc.ir.machine import Machine
from netc.ir.ops.convolution import PRODUCTS
from netc.ir.shards import Shard, contradiction, listed, within
from netc.passes.base import Context
from netc.passes.facts import SOURCES
from netc.passes.rewrite import changed
from netc.passes.shard import contradicting
from netc.passes.shard_batch import Pipeline, Replicate
from netc.passes.shard_channels import SplitChannels


@dataclass(frozen=True)
class Sharding:
    """What options say: a way for the whole net, and layers whose channels are split."""

    whole: Shard | None = None
    split: SplitChannels | None = None

    @property
    def devices(self) -> tuple[Device, ...]:
        """Those that it names."""
        ways = (*((self.whole,) if self.whole else ()), *(self.split.each if self.split else ()))
        return tuple(dict.fromkeys(d for way in ways for d in way.devices))


def annotated(graph: Graph, said: Sharding) -> Graph:
    """The graph whose nodes also say what options do. Raises GraphError where they contradict."""
    ways = said.split.ways(graph) if said.split else {}

    def shared(node: Node) -> Node:
        shards: tuple[Shard, ...] = ()
        own = (ways[node.name],) if node.name in ways else ()
        computes = not isinstance(node.op, SOURCES)
        whole = (said.whole,) if said.whole and computes else ()
        for shard in (*whole, *node.shards, *own):
            try:
                shards = within(shards, shard)
            except GraphError:
                other = next(iter((*own, *whole)))
                message = f"%{clean(node.name)} is {node.place} by the net, and {other} by options"
                raise GraphError(message, node.loc, "leave out one of them") from None
        return node if shards == node.shards else replace(node, shards=shards)

    return changed(graph, shared)


def sharding_devices(graph: Graph) -> tuple[Device, ...]:
    """The devices that the shardings of a net name, in the order of its nodes."""
    return tuple(dict.fromkeys(d for n in graph.nodes for s in n.shards for d in s.devices))


@dataclass(frozen=True)
class Shardings:
    """Every node in shares on the devices that the net says share it.

    What is shared by none, and has no place, is on the first device that is named.
    """

    machine: Machine | None = None
    name: ClassVar[str] = "shard"
    needs: ClassVar[tuple[Stage, ...]] = (Stage.NET,)
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph without shardings: their shares, and copies between devices."""
        named = sharding_devices(graph)
        if not named:
            return graph
        _check(graph)
        batches = dict.fromkeys(s for n in graph.nodes for s in n.shards if s.way != "split")
        everything = {s for s in batches if _covers(graph, s)}
        graph = _split(changed(graph, _on_one), named[0], ctx)
        for shard in batches:
            names = frozenset(n.name for n in graph.nodes if shard in n.shards)
            if names:
                meant = None if shard in everything else names
                graph = self._batch(shard, meant, named[0]).run(graph, ctx)
        return graph

    def _batch(
        self, shard: Shard, names: frozenset[str] | None, first: Device
    ) -> Replicate | Pipeline:
        if shard.way == "replicate":
            return Replicate(shard.devices, names, first)
        known = self.machine
        table = Machine.typical(shard.devices) if known is None else known.only(shard.devices)
        assert shard.micro_batches is not None
        return Pipeline(shard.devices, shard.micro_batches, table, names, first)


def _covers(graph: Graph, shard: Shard) -> bool:
    return all(shard in n.shards for n in graph.nodes if not isinstance(n.op, SOURCES))


def _on_one(node: Node) -> Node:
    """What one device shares is placed there."""
    alone = [s for s in node.shards if len(s.devices) == 1]
    if not alone:
        return node
    rest = tuple(s for s in node.shards if s not in alone)
    placing = [s.devices[0] for s in alone if s.way != "split" or isinstance(node.op, PRODUCTS)]
    return replace(node, shards=rest, device=node.device or next(iter(placing), None))


def _split(graph: Graph, first: Device, ctx: Context) -> Graph:
    """The channels in shares, no node asking for it any more."""
    ways = {
        n.name: s
        for n in graph.nodes
        for s in n.shards
        if s.way == "split" and isinstance(n.op, PRODUCTS)
    }
    if not ways:
        return graph
    devices, by = zip(*((s.devices, s.by) for s in ways.values()), strict=True)
    return SplitChannels(tuple(ways), devices, by, first).run(graph, ctx)


def _check(graph: Graph) -> None:
    """Raise GraphError where a place and a sharding contradict, or nothing can be split."""
    split = {s for n in graph.nodes if isinstance(n.op, PRODUCTS) for s in n.shards}
    for node in graph.nodes:
        why = contradiction(node.shards, node.device)
        for shard in node.shards if not why else ():
            if shard.way == "split" and shard not in split:
                message = f"nothing in {shard} has channels to split"
                fits = "conv, conv_transpose and fc have channels to split"
                raise GraphError(message, node.loc, fits)
            if shard.way == "split" and node.device and isinstance(node.op, PRODUCTS):
                why = f"is split over {listed(shard.devices)}"
        if why:
            raise contradicting(node, why)
