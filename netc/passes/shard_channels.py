"""The channels of convolutions and inner products over devices.

by output: conv(x, w) = concat(conv(x, w[share of rows])): what follows channel by channel stays
    in parts, up to an op that looks across channels;
by input: conv(x, w) + b = Σ conv(x[share], w[:, share]) + b, summed where it is read in the order
    of ranks, the bias in the first share.
A convolution in groups is cut at groups, and reads and gives parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

from netc.errors import GraphError, clean
from netc.ir.device import Device
from netc.ir.graph import Graph, Node, Stage, Value
from netc.ir.ops.convolution import PRODUCTS, ConvTranspose, Fc, Windowed
from netc.ir.ops.windows import axis_of
from netc.ir.parts import Cut, Follow, Sizes, by_groups
from netc.ir.shards import By, Shard, listed
from netc.passes.base import Context, Fired
from netc.passes.layers import layer
from netc.passes.shard import Parts, Sharder, contradicting, shares

Devices = tuple[Device, ...]


@dataclass(frozen=True)
class SplitChannels:
    """Convolutions and inner products in shares of channels, one a device.

    `layers` are named as in `netc.passes.layers`; of a path, what has channels is split. `devices`
    are for all of them, or a tuple for each, and so is `by`. What has no place is on `first`.
    """

    layers: tuple[str, ...]
    devices: Devices | tuple[Devices, ...]
    by: By | tuple[By, ...] = "output"
    first: Device | None = None
    name: ClassVar[str] = "split_channels"
    needs: ClassVar[tuple[Stage, ...]] = (Stage.NET,)
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph with the shares, and what follows them in parts."""
        ways = {n: way for n, way in self.ways(graph).items() if len(way.devices) > 1}
        if not ways:
            return graph
        made = _Channels(graph, ways, self.first or self.each[0].devices[0]).run()
        for name, way in ways.items():
            said = f"by {way.by} over {listed(way.devices)}"
            ctx.fired.append(Fired("split_channels", said, name))
        return made

    @property
    def each(self) -> tuple[Shard, ...]:
        """The sharding of each layer."""
        alike = all(isinstance(d, Device) for d in self.devices)
        devices = (self.devices,) * len(self.layers) if alike else self.devices
        by = (self.by,) * len(self.layers) if isinstance(self.by, str) else self.by
        pairs = zip(cast(tuple[Devices, ...], devices), by, strict=True)
        return tuple(Shard("split", d, b) for d, b in pairs)

    def ways(self, graph: Graph) -> dict[str, Shard]:
        """How each node that is meant is cut."""
        ways: dict[str, Shard] = {}
        for name, way in zip(self.layers, self.each, strict=True):
            for node in _meant(graph, name, way):
                known = ways.setdefault(node.name, way)
                if known != way:
                    both = f"{known.by} and by {way.by}" if known.by != way.by else known.by
                    if known.devices != way.devices:
                        both += f", over {listed(known.devices)} and over {listed(way.devices)}"
                    message = f"%{clean(node.name)} is split by {both}"
                    raise GraphError(message, node.loc, "name it once")
        return ways


def _meant(graph: Graph, name: str, way: Shard) -> list[Node]:
    """The nodes with channels of a layer, none of them placed."""
    found = layer(graph, name, "to split")
    cut = [n for n in found if isinstance(n.op, PRODUCTS)]
    if not cut:
        message = f"no node of layer {clean(name)!r} has channels to split"
        if [n.name for n in found] == [name]:
            message = f"%{clean(name)} is {found[0].op.name}"
        fits = "conv, conv_transpose and fc have channels to split"
        raise GraphError(message, found[0].loc, fits)
    for node in cut:
        if node.device is not None:
            raise contradicting(node, f"is split over {listed(way.devices)}")
    return cut


class _Channels(Sharder):
    """Cuts the named nodes; what follows and has no place of its own follows in parts."""

    way = "split"

    def __init__(self, graph: Graph, ways: Mapping[str, Shard], first: Device) -> None:
        super().__init__(graph, first)
        self.ways = ways

    def home(self, node: Node) -> Device | None:
        """Where its first part is, or where the net says, else the first device."""
        if node.name in self.ways:
            return self.ways[node.name].devices[0]
        known = self.parts.get(node.results[0])
        return known.values[0].node.device if known else super().home(node)

    def follows(self, node: Node) -> bool:
        """What has no place of its own follows; the named nodes are cut, the batch is not here."""
        replicated = any(s.way == "replicate" for s in node.shards)
        return node.device is None and node.name not in self.ways and not replicated

    def cut(self, node: Node) -> Parts | None:
        """The shares of a named node; by input it is whole again."""
        if node.name not in self.ways:
            return None
        way = self.ways[node.name]
        if isinstance(node.op, Windowed) and node.op.groups > 1:
            return self.apply(node, self._grouped(node), way.devices)
        return self.apply(node, self._by_output(node), way.devices) if way.by == "output" else None

    def _grouped(self, node: Node) -> Follow:
        """Whole groups on each device: no operand is needed twice."""
        op, channels = cast(Windowed, node.op), node.inputs[0].type.shape[1]
        depth = self._number(node, channels, "input channels") // op.groups
        groups = self._shared(node, op.groups, "groups")
        rule = by_groups(node, tuple(g * depth for g in groups))
        if rule is None:
            raise GraphError(f"%{clean(node.name)} has groups without channels", node.loc)
        return rule

    def _by_output(self, node: Node) -> Follow:
        """conv(x, w)[share] = conv(x, w[share])."""
        rank = node.types[0].rank
        axis = 1 if isinstance(node.op, Windowed) else rank - 1
        out = self._number(node, node.types[0].shape[axis], "output channels")
        sizes = self._shared(node, out, "output channels")
        rows = Cut(1 if isinstance(node.op, ConvTranspose) else 0, sizes)
        bias = (Cut(0, sizes),) * (len(node.inputs) - 2)
        return Follow((None, rows, *bias), axis, (node.op,) * len(sizes))

    def unsharded(self, node: Node) -> None:
        """A named node by input is a sum of shares; any other stays."""
        grouped = isinstance(node.op, Windowed) and node.op.groups > 1
        way = self.ways.get(node.name)
        if way is None or way.by == "output" or grouped:
            super().unsharded(node)
            return
        self.terms[node.out] = self._terms(node, way.devices)

    def _terms(self, node: Node, devices: Devices) -> tuple[Value, ...]:
        """conv(x[share], w[:, share]), the first with the bias."""
        x, w, *bias = node.inputs
        axis, inner = self._inner(node)
        channels = self._number(node, x.type.shape[axis], "input channels")
        sizes = self._shared(node, channels, "input channels")
        known = self.parts.get(x)
        if known is not None and known.axis == axis and len(known.values) == len(sizes):
            sizes = known.sizes
        columns = Cut(0 if isinstance(node.op, ConvTranspose) else 1, _times(sizes, inner))
        terms = []
        for rank, device in enumerate(devices):
            operands = [
                self.part(x, Cut(axis, sizes), rank, device),
                self.part(w, columns, rank, device),
                *(self.whole(b, device) for b in bias if rank == 0),
            ]
            with self.like(node, device, self.left(node)):
                terms.append(self(node.op, *operands, name=f"{node.name}.{rank}").out)
        return tuple(terms)

    def _inner(self, node: Node) -> tuple[int, int]:
        """The axis of x that is summed, and the columns of w for each element of it."""
        x, w = (v.type for v in node.inputs[:2])
        if isinstance(node.op, Windowed):
            return 1, 1
        axis = axis_of(cast(Fc, node.op).axis, x.rank)
        channels = self._number(node, x.shape[axis], "input channels")
        columns = self._number(node, w.shape[1], "columns")
        return axis, columns // channels if channels else 1

    def _number(self, node: Node, size: object, what: str) -> int:
        if not isinstance(size, int):
            raise GraphError(f"%{clean(node.name)} has {size} {what}, not known", node.loc)
        return size

    def _shared(self, node: Node, count: int, what: str) -> Sizes:
        """Shares of channels or groups; an error where a device would have none."""
        ranks = len(self.ways[node.name].devices)
        if count < ranks:
            fits = f"at most {count} devices" if count else "nothing"
            message = f"%{clean(node.name)} has {count} {what} for {ranks} devices"
            raise GraphError(message, node.loc, f"{fits} would fit")
        return shares(count, ranks)


def _times(sizes: Sizes, factor: int) -> Sizes:
    return tuple(size * factor for size in sizes)
