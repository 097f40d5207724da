"""A placement, and the time it takes by simulation of its list schedule.

Every device has a compute stream and a copy stream. A device runs, of the items that are ready,
the one with the longest way to the end; a value goes once to every device that reads it, over the
copy stream of the device that made it, in the order in which values are made.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netc.ir.device import Device
from netc.ir.graph import Graph
from netc.ir.machine import Machine
from netc.passes.partition.problem import Floats, Problem, Where, problem_of


@dataclass(frozen=True)
class Placement:
    """Where nodes run and what that is predicted to cost.

    `seconds` is the time of one run, `interval` that of the busiest stream, so the time per run of
    an endless pipeline. `bound` is below what any placement can reach, where that is known.
    """

    devices: Mapping[str, Device]  # by node name; parameters follow their readers
    seconds: float
    memory: Mapping[Device, int]  # bytes
    why: Mapping[str, str]  # by node name
    interval: float
    strategy: str = ""
    bound: float | None = None

    @property
    def gap(self) -> float | None:
        """How far above the bound the time is, as a share of it."""
        return self.seconds / self.bound - 1 if self.bound else None


@dataclass(frozen=True)
class Schedule:
    """When each item starts and ends, and how long each stream is busy."""

    starts: Floats
    ends: Floats
    busy: Floats  # by device
    copying: Floats  # by device

    @property
    def makespan(self) -> float:
        """The end of the last item."""
        return float(self.ends.max(initial=0.0))

    @property
    def interval(self) -> float:
        """The time of the busiest stream."""
        return float(max(self.busy.max(initial=0.0), self.copying.max(initial=0.0)))


class _Run:
    """One simulation."""

    def __init__(self, problem: Problem, where: Sequence[int], priority: Sequence[float]) -> None:
        self.problem, self.where, self.priority = problem, where, priority
        n, k = len(problem.items), len(problem.devices)
        self.starts, self.ends = [0.0] * n, [0.0] * n
        self.missing = [len(moves) for moves in problem.read]
        self.arrival = [0.0] * n
        self.free, self.copy_free = [0.0] * k, [0.0] * k
        self.busy, self.copying = [0.0] * k, [0.0] * k
        self.waiting: list[list[tuple[float, int]]] = [[] for _ in range(k)]
        self.ready: list[list[tuple[float, int]]] = [[] for _ in range(k)]
        self.events: list[tuple[float, int]] = []
        self.seconds = [float(problem.seconds[i, d]) for i, d in enumerate(where)]

    def schedule(self) -> Schedule:
        """Run to the end."""
        for i, count in enumerate(self.missing):
            if not count:
                self.arrive(i)
        while self.events:
            now, d = heapq.heappop(self.events)
            waiting, ready = self.waiting[d], self.ready[d]
            while waiting and waiting[0][0] <= now:
                i = heapq.heappop(waiting)[1]
                heapq.heappush(ready, (-self.priority[i], i))
            if ready and self.free[d] <= now:
                self.start(heapq.heappop(ready)[1], d, now)
        kept = (self.starts, self.ends, self.busy, self.copying)
        return Schedule(*(np.asarray(values) for values in kept))

    def arrive(self, i: int) -> None:
        """All operands of item i are known to arrive."""
        d = self.where[i]
        heapq.heappush(self.waiting[d], (self.arrival[i], i))
        heapq.heappush(self.events, (self.arrival[i], d))

    def start(self, i: int, d: int, now: float) -> None:
        """Item i runs on device d from now on; its results go where they are read."""
        end = now + self.seconds[i]
        self.starts[i], self.ends[i], self.free[d] = now, end, end
        self.busy[d] += self.seconds[i]
        heapq.heappush(self.events, (end, d))
        for move in self.problem.made[i]:
            there = {d: end}
            for j in move.readers:
                b = self.where[j]
                if b not in there:
                    there[b] = self.copy(move.size, d, b, end)
                self.arrival[j] = max(self.arrival[j], there[b])
                self.missing[j] -= 1
                if not self.missing[j]:
                    self.arrive(j)

    def copy(self, size: int, a: int, b: int, made: float) -> float:
        """When a value that device a has made is on device b."""
        spent = self.problem.transfer(size, a, b)
        end = max(made, self.copy_free[a]) + spent
        self.copy_free[a] = end
        self.copying[a] += spent
        return end


def simulate(
    problem: Problem, where: Sequence[int], priority: Sequence[float] | None = None
) -> Schedule:
    """The list schedule of a placement; items with the higher priority go first."""
    given = problem.ranks.tolist() if priority is None else priority
    return _Run(problem, where, given).schedule()


def result(
    problem: Problem,
    where: Sequence[int],
    strategy: str,
    why: Sequence[str],
    bound: float | None = None,
    priority: Sequence[float] | None = None,
) -> Placement:
    """The placement of a strategy that put item i on device `where[i]` for the reason `why[i]`."""
    if not problem.fits(where):
        raise problem.too_large(strategy)
    schedule = simulate(problem, where, priority)
    devices, reasons = {}, {}
    for i, item in enumerate(problem.items):
        said = f"the net says {item.device}" if item.device is not None else why[i]
        devices.update(dict.fromkeys((n.name for n in item.nodes), problem.devices[where[i]]))
        reasons.update(dict.fromkeys((n.name for n in item.nodes), said))
    memory = {d: int(m) for d, m in zip(problem.devices, problem.needs(where), strict=True)}
    return Placement(
        devices, schedule.makespan, memory, reasons, schedule.interval, strategy, bound
    )


def where_of(problem: Problem, placement: Placement) -> Where:
    """The number of each item's device under a placement."""
    number = {d: i for i, d in enumerate(problem.devices)}
    return tuple(number[placement.devices[item.name]] for item in problem.items)


def evaluate(graph: Graph, placement: Placement, machine: Machine) -> float:
    """The predicted time of one run of the graph under a placement."""
    problem = problem_of(graph, machine)
    return simulate(problem, where_of(problem, placement)).makespan


def lower_bound(problem: Problem) -> float:
    """No placement is faster: the longest path, and all work spread evenly, at the best speeds."""
    best = problem.seconds.min(axis=1) if len(problem.items) else np.zeros(0)
    path = np.zeros(len(problem.items))
    for i in reversed(range(len(problem.items))):
        after = [path[j] for m in problem.made[i] for j in m.readers]
        path[i] = best[i] + max(after, default=0.0)
    return float(max(path.max(initial=0.0), best.sum() / len(problem.devices)))
