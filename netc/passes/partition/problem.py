"""What a strategy is given: likely kernels, what each costs where, and what flows between them.

Nodes that fusion will join move as one item: an element-wise node or a view follows the item that
makes its operand, where nothing else reads that. Nothing leaves such a chain but through its
last node, so items have an order as nodes have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from netc.errors import Diagnostic, GraphError, clean
from netc.ir.cost import bytes_of, cost, default_sizes
from netc.ir.device import Device
from netc.ir.dims import evaluate
from netc.ir.graph import Graph, Node, Value
from netc.ir.machine import DeviceSpec, Machine
from netc.ir.ops.shape import Flatten, Reshape
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.scalar import Elementwise

Floats: TypeAlias = NDArray[np.float64]
Where: TypeAlias = tuple[int, ...]  # item -> number of its device

# A node and a device -> why the device's back end has no kernel for it, or None.
AcceptsNode = Callable[[Node, Device], "str | None"]


def everywhere(node: Node, device: Device) -> str | None:
    """Every device takes every node."""
    return None


@dataclass(frozen=True, eq=False)
class Item:
    """Nodes that are placed together, producers first, and where the user wants them."""

    nodes: tuple[Node, ...]
    device: Device | None

    @property
    def name(self) -> str:
        """The name of what computes first in it."""
        return self.nodes[0].name


@dataclass(frozen=True)
class Move:
    """A value of `size` bytes that item `source` makes and other items read."""

    source: int
    size: int
    readers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Problem:
    """Items in topological order; `seconds[i, d]` is ∞ where item i must not be on device d."""

    graph: Graph
    devices: tuple[Device, ...]
    items: tuple[Item, ...]
    moves: tuple[Move, ...]
    seconds: Floats  # item × device
    weights: Floats  # bytes of parameters, by item
    working: Floats  # bytes an item reads and writes beside its parameters
    memory: Floats  # bytes, by device
    latency: Floats  # seconds, from device × to device
    slope: Floats  # seconds a byte, from device × to device

    def transfer(self, size: int, a: int, b: int) -> float:
        """The time of a copy from device number a to device number b."""
        return 0.0 if a == b else float(self.latency[a, b] + size * self.slope[a, b])

    @cached_property
    def made(self) -> tuple[tuple[Move, ...], ...]:
        """The moves that each item starts."""
        return self._by_item(lambda m: (m.source,))

    @cached_property
    def read(self) -> tuple[tuple[Move, ...], ...]:
        """The moves that each item waits for."""
        return self._by_item(lambda m: m.readers)

    def _by_item(self, ends: Callable[[Move], Sequence[int]]) -> tuple[tuple[Move, ...], ...]:
        lists: list[list[Move]] = [[] for _ in self.items]
        for move in self.moves:
            for i in ends(move):
                lists[i].append(move)
        return tuple(map(tuple, lists))

    @cached_property
    def mean_transfer(self) -> tuple[float, float]:
        """Latency and seconds a byte, on average over the links there are."""
        joined = np.isfinite(self.latency) & ~np.eye(len(self.devices), dtype=bool)
        if not joined.any():
            return 0.0, 0.0
        return float(self.latency[joined].mean()), float(self.slope[joined].mean())

    @cached_property
    def ranks(self) -> Floats:
        """The mean time from the start of each item to the end of all, transfers included."""
        rank = np.zeros(len(self.items))
        mean = np.where(np.isfinite(self.seconds), self.seconds, np.nan)
        own = np.nanmean(mean, axis=1) if len(self.items) else rank
        latency, slope = self.mean_transfer
        for i in reversed(range(len(self.items))):
            after = 0.0
            for m in self.made[i]:
                cross = latency + m.size * slope
                after = max([after, *(cross + rank[j] for j in m.readers)])
            rank[i] = own[i] + after
        return rank

    def needs(self, where: Sequence[int]) -> Floats:
        """Bytes each device needs: its items' parameters and the largest working set."""
        of = np.asarray(where, int)
        need = np.bincount(of, self.weights, len(self.devices)).astype(float)
        largest = np.zeros(len(self.devices))
        np.maximum.at(largest, of, self.working)
        return need + largest

    def fits(self, where: Sequence[int]) -> bool:
        """Whether every device has memory for its items."""
        return bool((self.needs(where) <= self.memory).all())

    def unlinked(self, where: Sequence[int]) -> tuple[int, int] | None:
        """An item, and one that reads its result where no link brings it; None where all have."""
        crossing = ((m.source, j) for m in self.moves for j in m.readers)
        ends = ((i, j) for i, j in crossing if not np.isfinite(self.latency[where[i], where[j]]))
        return next(ends, None)

    def check_links(self, where: Sequence[int], strategy: str = "") -> None:
        """Raise GraphError where no link brings what an item reads; a strategy may have chosen."""
        ends = self.unlinked(where)
        if ends is None:
            return
        made, reader = (self.items[i] for i in ends)
        a, b = (self.devices[where[i]] for i in ends)
        message = f"{strategy} finds no placement that links join: " if strategy else ""
        message += f"%{clean(reader.name)} on {b} reads %{clean(made.nodes[-1].name)}, "
        message += f"and there is no link from {a} to {b}"
        help = "such a link in the machine's table, or other places, would fit"
        raise GraphError(message, reader.nodes[0].loc, help)

    def too_large(self, strategy: str) -> GraphError:
        """The error of a strategy that finds no placement within the memories."""
        heaviest = int(np.argmax(self.weights + self.working)) if len(self.items) else 0
        node, total = self.items[heaviest].nodes[0], self.weights.sum() + self.working.max()
        have = ", ".join(f"{d} {_size(m)}" for d, m in zip(self.devices, self.memory, strict=True))
        largest = _size(self.weights[heaviest] + self.working[heaviest])
        message = f"{strategy} finds no placement that fits: the net needs {_size(total)}"
        message += f", %{clean(node.name)} alone {largest}"
        return GraphError(message, node.loc, f"there are {have}")

    def too_small(self, device: Device, need: float, there: Sequence[int]) -> GraphError:
        """The error for a device whose memory does not hold these items."""
        heaviest = max(there, key=lambda i: self.weights[i] + self.working[i])
        node, alone = self.items[heaviest].nodes[0], self.weights + self.working
        has = self.memory[self.devices.index(device)]
        message = f"{device} has {_size(has)} of memory, and its share of the net needs "
        message += f"{_size(need)}, %{clean(node.name)} alone {_size(alone[heaviest])}"
        help = "more devices, other placements or a smaller batch would fit"
        return GraphError(message, node.loc, help)


def _size(count: float) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 1 << 20 else f"{count / 2**10:.1f} KiB"


def items_of(graph: Graph) -> tuple[Item, ...]:
    """The graph's nodes but parameters and constants, in items."""
    chains: dict[Node, list[Node]] = {}
    of: dict[Node, Node] = {}  # node -> the head of its chain
    order = {n: i for i, n in enumerate(graph.nodes)}
    for node in graph.nodes:
        if isinstance(node.op, Param | Const):
            continue
        head = _joined(graph, node, of, chains, order)
        of[node] = head
        chains.setdefault(head, []).append(node)
    made = [Item(tuple(nodes), head.device) for head, nodes in chains.items()]
    return tuple(_ordered(made))


def _joined(
    graph: Graph,
    node: Node,
    of: Mapping[Node, Node],
    chains: Mapping[Node, list[Node]],
    order: Mapping[Node, int],
) -> Node:
    """The head of the chain the node continues, else the node itself."""
    if not isinstance(node.op, Elementwise | Reshape | Flatten):
        return node
    found = [
        v.node
        for v in dict.fromkeys(node.inputs)
        if v.node in of
        and len(v.node.types) == 1
        and set(graph.uses[v]) == {node}
        and chains[of[v.node]][-1] is v.node
        and node.device in (None, of[v.node].device)
    ]
    return of[max(found, key=order.__getitem__)] if found else node


def _ordered(items: Sequence[Item]) -> list[Item]:
    """Items by where their last nodes stand, which is a topological order of items."""
    of = {n: i for i in items for n in i.nodes}
    done: dict[Item, None] = {}
    for item in items:
        stack = [item]
        while stack:
            top = stack[-1]
            missing = [
                of[v.node]
                for n in top.nodes
                for v in n.inputs
                if v.node in of and of[v.node] is not top and of[v.node] not in done
            ]
            if missing and top not in done:
                stack += missing
                continue
            done[stack.pop()] = None
    return list(done)


def problem_of(
    graph: Graph,
    machine: Machine,
    devices: Sequence[Device] | None = None,
    sizes: Mapping[str, int] | None = None,
    accepts: AcceptsNode = everywhere,
) -> Problem:
    """The problem of placing a graph; GraphError where an annotation or a node fits no device."""
    chosen = tuple(machine.devices if devices is None else devices)
    known = default_sizes(graph, sizes)
    items = items_of(graph)
    number = {n: i for i, item in enumerate(items) for n in item.nodes}
    weights = np.array([_weights(item, known) for item in items], float)
    working = np.array([_working(item, known) for item in items], float)
    touched = float(weights.sum() + working.max(initial=0.0))
    seconds = [_seconds(item, machine, chosen, known, accepts, touched) for item in items]
    latency, slope = _links(machine, chosen)
    ends = _ends(graph, items, chosen, known, latency, slope)
    return Problem(
        graph, chosen, items, _moves(graph, number, known),
        np.array(seconds).reshape(len(items), len(chosen)) + ends, weights, working,
        np.array([machine.spec(d).memory for d in chosen], float),
        latency, slope,
    )  # fmt: skip


def _ends(
    graph: Graph,
    items: Sequence[Item],
    devices: Sequence[Device],
    sizes: Mapping[str, int],
    latency: Floats,
    slope: Floats,
) -> Floats:
    """What bringing inputs to other hosts takes, and results back, by item and device.

    Within a host the caller's arrays are near to every device.
    """
    added = np.zeros((len(items), len(devices)))
    here = next((i for i, d in enumerate(devices) if not d.host), None)
    far = [i for i, d in enumerate(devices) if d.host]
    if here is None or not far:
        return added
    outputs = set(graph.outputs.values())
    for row, item in zip(added, items, strict=True):
        given = [n.out for n in item.nodes if isinstance(n.op, Input)]
        taken = [v for n in item.nodes for v in n.results if v in outputs]
        for d in far:
            row[d] += sum(latency[here, d] + _bytes(v, sizes) * slope[here, d] for v in given)
            row[d] += sum(latency[d, here] + _bytes(v, sizes) * slope[d, here] for v in taken)
    return added


def _moves(graph: Graph, number: Mapping[Node, int], sizes: Mapping[str, int]) -> tuple[Move, ...]:
    moves = []
    for node, source in number.items():
        for v in node.results:
            users = {number[u] for u in graph.uses[v] if u is not None}
            if readers := tuple(sorted(users - {source})):
                moves.append(Move(source, _bytes(v, sizes), readers))
    return tuple(sorted(moves, key=lambda m: (m.source, m.readers)))


def _links(machine: Machine, devices: Sequence[Device]) -> tuple[Floats, Floats]:
    """Latency and seconds a byte of every pair; ∞ where there is no link."""
    from netc.errors import UsageError

    large = 1 << 30
    latency, slope = (np.zeros((len(devices), len(devices))) for _ in range(2))
    for i, a in enumerate(devices):
        for j, b in enumerate(devices):
            try:
                latency[i, j] = machine.transfer(0, a, b)
                slope[i, j] = (machine.transfer(large, a, b) - latency[i, j]) / large
            except UsageError:
                latency[i, j] = np.inf
    return latency, slope


def _seconds(
    item: Item,
    machine: Machine,
    devices: Sequence[Device],
    sizes: Mapping[str, int],
    accepts: AcceptsNode,
    touched: float,
) -> list[float]:
    """The item's time on each device, in a run that touches so many bytes."""
    head = item.nodes[0]
    if item.device is not None and item.device not in devices:
        fits = f"there are {', '.join(map(str, devices))}"
        message = f"%{clean(head.name)} is placed on {item.device}, which is not there"
        raise GraphError(message, head.loc, fits)
    known: dict[DeviceSpec, float] = {}
    out, reasons = [], []
    for d in devices:
        why = next((w for n in item.nodes if (w := accepts(n, d))), None)
        if item.device not in (None, d) or why:
            reasons += [f"{d}: {why}"] if why and item.device in (None, d) else []
            out.append(float("inf"))
            continue
        spec = machine.spec(d)
        if spec not in known:
            alone = machine.seconds(head, d, sizes, touched)
            known[spec] = alone + _followers(item, spec, sizes, touched)
        out.append(known[spec])
    if not np.isfinite(out).any():
        help = "; ".join(reasons)
        raise GraphError(Diagnostic(f"no device takes %{clean(head.name)}", head.loc, help))
    return out


def _followers(item: Item, spec: DeviceSpec, sizes: Mapping[str, int], touched: float) -> float:
    """What element-wise followers add to their kernel: operations, and operands of their own."""
    total, inside = 0.0, set(item.nodes)
    for node in item.nodes[1:]:
        extra = sum(_bytes(v, sizes) for v in set(node.inputs) if v.node not in inside)
        total += spec.seconds(evaluate(cost(node).flops, sizes), extra, touched) - spec.launch
    return total


def _weights(item: Item, sizes: Mapping[str, int]) -> int:
    read = {v for n in item.nodes for v in n.inputs if isinstance(v.op, Param)}
    return sum(_bytes(v, sizes) for v in read)


def _working(item: Item, sizes: Mapping[str, int]) -> int:
    inside = set(item.nodes)
    read = {v for n in item.nodes for v in n.inputs if v.node not in inside}
    given = item.nodes[-1].results
    return sum(_bytes(v, sizes) for v in {*read, *given} if not isinstance(v.op, Param))


def _bytes(v: Value, sizes: Mapping[str, int]) -> int:
    return evaluate(bytes_of(v.type), sizes)


def placed(problem: Problem, where: Sequence[int]) -> Graph:
    """The graph with the devices of a placement on its nodes; parameters follow their readers."""
    device = {
        n: problem.devices[where[i]] for i, item in enumerate(problem.items) for n in item.nodes
    }
    return with_devices(problem.graph, device)


def with_devices(graph: Graph, device: Mapping[Node, Device]) -> Graph:
    """The graph with other devices on some of its nodes; itself where none changes."""
    from netc.passes.rewrite import changed

    def there(node: Node) -> Node:
        wanted = device.get(node, node.device)
        return node if wanted == node.device else replace(node, device=wanted)

    return changed(graph, there)
