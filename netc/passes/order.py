"""The order in which kernels run: the least peak of memory found, never more than the default's.
On several devices the least time found (device_order.py), which may take more memory.

Memory is that of roots: a view has none of its own, the parts of a concat lie in the concat, and
inputs, parameters and outputs are not the arena's. A root lives from its first writer to its last
reader. Three orders are tried beside the default: always the kernel with the least peak (Shin et
al., DAC 2006, §4), always the one with the least growth, and operands by what they need beyond
what they leave (Sethi and Ullman, JACM 17(4), 1970; best for trees).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import NamedTuple, TypeAlias

from netc.ir.graph import Graph, Node, Value
from netc.ir.ops.shape import Concat
from netc.passes.device_order import DeviceClock, on_several
from netc.passes.facts import SOURCES, VIEWS, bytes_of, is_kernel


def schedule(graph: Graph, sizes: Mapping[str, int] | None = None) -> tuple[Node, ...]:
    """Every node, producers first, in the order of the least peak; symbols count as `sizes`."""
    memory = Memory(graph, sizes)
    best = least_memory(memory)
    if on_several(graph):
        best = _in_parallel(DeviceClock(graph, memory.needs, sizes), best)
    return _with_views(graph, best)


def least_memory(memory: Memory) -> list[Node]:
    """The kernels in the order of the least peak found."""
    default = [n for n in memory.graph.nodes if is_kernel(n)]
    greedy = (memory.greedy(_least_peak), memory.greedy(_least_growth))
    return min((default, *greedy, memory.hungriest_first()), key=memory.peak)


def _in_parallel(clock: DeviceClock, order: list[Node]) -> list[Node]:
    """An order in which devices wait less for one another; the given one where that is as fast."""
    others = (clock.earliest_first(order), clock.earliest_first(clock.longest_way_first(order)))
    return min((order, *others), key=clock.makespan)


def peak_bytes(graph: Graph, order: Sequence[Node], sizes: Mapping[str, int] | None = None) -> int:
    """The most bytes that live values take while the kernels run in this order."""
    return Memory(graph, sizes).peak([n for n in order if is_kernel(n)])


class Step(NamedTuple):
    """What running a kernel next would do to memory."""

    taken: int  # bytes
    growth: int  # bytes taken beyond those freed
    place: int  # in the default order


Key: TypeAlias = Callable[[Step, "State"], tuple[int, ...]]  # rises with growth, then with place


def _least_peak(step: Step, state: State) -> tuple[int, ...]:
    return (max(state.peak, state.live + step.taken), step.growth, step.place)


def _least_growth(step: Step, state: State) -> tuple[int, ...]:
    return (step.growth, step.taken, step.place)


class Memory:
    """Who writes and reads each root, and how large it is."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int] | None = None) -> None:
        self.graph = graph
        self.index = {n: i for i, n in enumerate(graph.nodes)}
        self.root = self._roots()
        outside = {self.root[v] for v in graph.outputs.values()}
        self.size = {
            r: 0 if isinstance(r.op, SOURCES) or r in outside else bytes_of(r.type, sizes)
            for r in self.root.values()
        }
        self.kernels = [n for n in graph.nodes if is_kernel(n)]
        self.writes = {n: self._distinct(n.results) for n in self.kernels}
        self.reads = {n: self._distinct(n.inputs) for n in self.kernels}
        self.needs = self._needs()

    def _roots(self) -> dict[Value, Value]:
        """Value -> the value in whose memory it lies."""
        inside: dict[Value, Value] = {}  # a part of a concat -> the concat
        for node in self.graph.nodes:
            if isinstance(node.op, Concat):
                for v in node.inputs:
                    inside.setdefault(v, node.out)
        root: dict[Value, Value] = {}
        for node in reversed(self.graph.nodes):
            if isinstance(node.op, Concat) or not isinstance(node.op, VIEWS):
                root.update((v, root[inside[v]] if v in inside else v) for v in node.results)
        for node in self.graph.nodes:
            if isinstance(node.op, VIEWS) and not isinstance(node.op, Concat):
                root[node.out] = root[node.inputs[0]]
        return root

    def _distinct(self, values: Sequence[Value]) -> tuple[Value, ...]:
        return tuple(dict.fromkeys(self.root[v] for v in values))

    def _needs(self) -> dict[Node, set[Node]]:
        """The kernels whose results each node reads, through views too."""
        behind: dict[Node, set[Node]] = {}
        for node in self.graph.nodes:
            made: set[Node] = set()
            for v in node.inputs:
                made |= {v.node} if is_kernel(v.node) else behind[v.node]
            behind[node] = made
        return {n: behind[n] for n in self.kernels}

    def peak(self, order: Sequence[Node]) -> int:
        """The most bytes alive at once."""
        state = State(self)
        for node in order:
            state.run(node)
        return state.peak

    def hungriest_first(self) -> list[Node]:
        """Depth first, of a kernel's operands those first that need most beyond what they leave."""
        left = {n: sum(self.size[r] for r in self.writes[n]) for n in self.kernels}
        need: dict[Node, int] = {}
        operands: dict[Node, list[Node]] = {}
        for n in self.kernels:
            first = sorted(self.needs[n], key=lambda m: (left[m] - need[m], self.index[m]))
            held = need[n] = 0
            for m in first:
                need[n] = max(need[n], held + need[m])
                held += left[m]
            need[n] = max(need[n], held + left[n])
            operands[n] = first
        read = {m for first in operands.values() for m in first}
        untried = {n: iter(first) for n, first in operands.items()}
        done: dict[Node, None] = {}
        for n in self.kernels:
            stack = [] if n in read else [n]  # from the kernels that none reads
            while stack:
                missing = next((m for m in untried[stack[-1]] if m not in done), None)
                if missing is not None:
                    stack.append(missing)
                else:
                    done[stack.pop()] = None
        return list(done)

    def greedy(self, key: Key) -> list[Node]:
        """Always the ready kernel with the smallest key."""
        state = State(self)
        waiting = {n: len(needed) for n, needed in self.needs.items()}
        readers: dict[Node, list[Node]] = {n: [] for n in self.kernels}
        for node, needed in self.needs.items():
            for made in needed:
                readers[made].append(node)
        ready = Ready(state)
        for node in self.kernels:
            if not waiting[node]:
                ready.add(node)
        order: list[Node] = []
        while ready.steps:
            order.append(ready.pop(key))
            for reader in readers[order[-1]]:
                waiting[reader] -= 1
                if not waiting[reader]:
                    ready.add(reader)
        return order


class State:
    """Memory while kernels run."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.users: dict[Value, list[Node]] = {r: [] for r in memory.size}
        self.left: dict[Value, int] = dict.fromkeys(memory.size, 0)
        for uses in (memory.reads, memory.writes):
            for node, roots in uses.items():
                for r in roots:
                    self.left[r] += 1
                    self.users[r].append(node)
        self.alive: set[Value] = set()
        self.live = self.peak = 0

    def look(self, node: Node) -> Step:
        """What running the kernel would do."""
        writes, reads = self.memory.writes[node], self.memory.reads[node]
        taken = sum(self.memory.size[r] for r in writes if r not in self.alive)
        freed = 0
        for r in dict.fromkeys((*writes, *reads)):
            if self.left[r] == (r in writes) + (r in reads):
                freed += self.memory.size[r]
        return Step(taken, taken - freed, self.memory.index[node])

    def run(self, node: Node) -> list[Node]:
        """Run the kernel: allocate what it writes first, free what it reads last.

        Gives the kernels of which `look` may now say another thing.
        """
        step, writes = self.look(node), self.memory.writes[node]
        self.peak = max(self.peak, self.live + step.taken)
        self.live += step.growth
        new = [r for r in writes if r not in self.alive]
        self.alive.update(new)
        used = (*writes, *self.memory.reads[node])
        for r in used:
            self.left[r] -= 1
        last = [r for r in used if self.left[r] in (1, 2)]  # one kernel may read and write it
        return [user for r in (*new, *last) for user in self.users[r]]


class Ready:
    """The kernels that may run next, apart by what they take: the best of each kind is known."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.steps: dict[Node, Step] = {}
        self.heaps: dict[int, list[Step]] = {}  # with steps of before, too

    def add(self, node: Node) -> None:
        """A kernel that may run, or whose step may be another."""
        step = self.state.look(node)
        if self.steps.get(node) != step:
            self.steps[node] = step
            heappush(self.heaps.setdefault(step.taken, []), step)

    def pop(self, key: Key) -> Node:
        """The kernel with the smallest key, which is run."""
        best = min((heap[0] for heap in self._current()), key=lambda step: key(step, self.state))
        node = self._node(best)
        del self.steps[node]
        for user in self.state.run(node):
            if user in self.steps:
                self.add(user)
        return node

    def _current(self) -> Iterator[list[Step]]:
        """The heaps, each with a step on top that holds."""
        for taken, heap in [*self.heaps.items()]:
            while heap and self.steps.get(self._node(heap[0])) != heap[0]:
                heappop(heap)
            if heap:
                yield heap
            else:
                del self.heaps[taken]

    def _node(self, step: Step) -> Node:
        return self.state.memory.graph.nodes[step.place]


def _with_views(graph: Graph, kernels: Sequence[Node]) -> tuple[Node, ...]:
    """Sources first, then the kernels, each view where the first kernel needs it."""
    done = dict.fromkeys(n for n in graph.nodes if isinstance(n.op, SOURCES))
    for target in (*kernels, *(n for n in graph.nodes if isinstance(n.op, VIEWS))):
        stack = [target]
        while stack:
            node = stack[-1]
            missing = [v.node for v in node.inputs if v.node not in done]
            stack += missing
            if not missing:
                done[stack.pop()] = None
    return tuple(done)
