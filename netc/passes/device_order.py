"""The order in which kernels run on several devices: what can begin first goes first.

List scheduling on a clock of typical devices (Graham, SIAM J. Appl. Math. 17(2), 1969): of the
ready kernels the one that can begin earliest goes next, ties by a given order. On a processor
copies take the device's own time; elsewhere they run beside its kernels.
"""

from __future__ import annotations

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
        ready = {n: 0.0 for n in ties if not missing[n]}  # and when their operands are there
        free: dict[object, float] = {}
        ends: dict[Node, float] = {}

        def key(n: Node) -> tuple[float, int]:
            return max(ready[n], free.get(self.queue[n], 0.0)), place[n]

        while ready:
            n = min(ready, key=key)
            ends[n] = free[self.queue[n]] = key(n)[0] + self.seconds[n]
            del ready[n]
            for m in self.readers[n]:
                missing[m] -= 1
                if not missing[m]:
                    ready[m] = max(ends[made] for made in self.needs[m])
        return list(ends)


def _seconds(node: Node, machine: Machine, sizes: Mapping[str, int]) -> float:
    """The time of a kernel, or of a copy."""
    here = node.device or CPU
    if is_copy(node.op):
        size = evaluate(bytes_of(node.types[0]), sizes)
        return machine.transfer(size, node.inputs[0].node.device or CPU, here)
    return machine.seconds(node, here, sizes)
