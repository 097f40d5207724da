"""The order in which kernels run on several devices: what can begin first goes first.

List scheduling on a clock of typical devices (Graham, SIAM J. Appl. Math. 17(2), 1969): of the
ready kernels the one that can begin earliest goes next, ties by a given order. On a processor
copies take the device's own time; elsewhere they run beside its kernels.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from functools import cached_property

from netc.ir.cost import bytes_of, default_sizes
from netc.ir.device import Device
from netc.ir.dims import evaluate
from netc.ir.graph import Graph, Node
from netc.ir.machine import Machine
from netc.ir.queues import stream_of
from netc.ir.verify import is_copy
from netc.passes.facts import is_kernel

CPU = Device("cpu")
Needs = Mapping[Node, set[Node]]  # kernel -> the kernels whose results it reads


def on_several(graph: Graph) -> bool:
    """Whether kernels are on more devices than one."""
    return len({n.device for n in graph.nodes if is_kernel(n)}) > 1


class DeviceClock:
    """When kernels begin and end, on devices as they are typically."""

    def __init__(self, graph: Graph, needs: Needs, sizes: Mapping[str, int] | None = None) -> None:
        self.needs = needs
        known = default_sizes(graph, sizes)
        devices = dict.fromkeys(n.device or CPU for n in graph.nodes)
        machine = Machine.typical(tuple(devices))
        self.seconds = {n: _seconds(n, machine, known) for n in needs}
        self.queue = {n: stream_of(n.device or CPU, is_copy(n.op)) for n in needs}

    @cached_property
    def readers(self) -> Mapping[Node, Sequence[Node]]:
        """The kernels that read a kernel's results."""
        found: dict[Node, list[Node]] = {n: [] for n in self.needs}
        for node, needed in self.needs.items():
            for made in needed:
                found[made].append(node)
        return found

    def makespan(self, order: Sequence[Node]) -> float:
        """How long a run in this order takes; each queue keeps to it."""
        free: dict[object, float] = {}
        ends: dict[Node, float] = {}
        for n in order:
            begin = max((ends[m] for m in self.needs[n]), default=0.0)
            ends[n] = max(begin, free.get(self.queue[n], 0.0)) + self.seconds[n]
            free[self.queue[n]] = ends[n]
        return max(ends.values(), default=0.0)

    def longest_way_first(self, order: Sequence[Node]) -> list[Node]:
        """The kernels by the time from their beginning to the end of all, the longest first."""
        way: dict[Node, float] = {}
        for n in reversed(order):
            way[n] = self.seconds[n] + max((way[m] for m in self.readers[n]), default=0.0)
        return sorted(order, key=lambda n: -way[n])

    def earliest_first(self, ties: Sequence[Node]) -> list[Node]:
        """Of the ready kernels always the one that can begin first, ties by this order."""
        place = {n: i for i, n in enumerate(ties)}
        missing = {n: len(needed) for n, needed in self.needs.items()}
        lines = {q: _Line() for q in dict.fromkeys(self.queue.values())}
        for n in ties:
            if not missing[n]:
                lines[self.queue[n]].add(0.0, place[n])
        ends: dict[Node, float] = {}
        while len(ends) < len(ties):
            line = min(lines.values(), key=_Line.first)
            begin, at = line.first()
            n = ties[int(at)]
            ends[n] = line.take(begin + self.seconds[n])
            for m in self.readers[n]:
                missing[m] -= 1
                if not missing[m]:
                    ready = max(ends[made] for made in self.needs[m])
                    lines[self.queue[m]].add(ready, place[m])
        return list(ends)


class _Line:
    """The kernels of a queue whose operands are known to come, and when the queue is free."""

    def __init__(self) -> None:
        self.free = 0.0
        self.waiting: list[tuple[float, int]] = []  # when operands are there, place in the order
        self.ready: list[int] = []  # places of those that could begin when the queue is free

    def add(self, there: float, place: int) -> None:
        """A kernel whose operands are there at a time."""
        if there <= self.free:
            heapq.heappush(self.ready, place)
        else:
            heapq.heappush(self.waiting, (there, place))

    def first(self) -> tuple[float, float]:
        """When the next kernel can begin, and its place; never where there is none."""
        if self.ready:
            return self.free, self.ready[0]
        return self.waiting[0] if self.waiting else (math.inf, math.inf)

    def take(self, end: float) -> float:
        """The next kernel runs until then."""
        if self.ready:
            heapq.heappop(self.ready)
        else:
            heapq.heappop(self.waiting)
        self.free = end
        while self.waiting and self.waiting[0][0] <= end:
            heapq.heappush(self.ready, heapq.heappop(self.waiting)[1])
        return end


def _seconds(node: Node, machine: Machine, sizes: Mapping[str, int]) -> float:
    """The time of a kernel, or of a copy."""
    here = node.device or CPU
    if is_copy(node.op):
        size = evaluate(bytes_of(node.types[0]), sizes)
        return machine.transfer(size, node.inputs[0].node.device or CPU, here)
    return machine.seconds(node, here, sizes)
