"""Pipeline stages: contiguous runs of items, one a device, by dynamic programming.

With f(j, d) the cost of the first j items when device d has the last of them,
    f(j, d) = min over i < j and earlier devices c of  max(f(i, c), copies over cut i, work i…j)
for the critical resource (the interval of a full pipeline), and the sum for a single run. An item
that must be elsewhere goes there from within its stage.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from netc.passes.partition.greedy import mostly_on
from netc.passes.partition.placement import Placement, result, simulate
from netc.passes.partition.problem import Floats, Problem, Where

Goal = Literal["interval", "makespan"]
Join = Callable[[Floats, Floats], Floats]  # of costs one after the other
ORDERS = 50_000  # items times orders of the devices tried


def stages(problem: Problem, goal: Goal = "interval", asked: str = "stages") -> Placement:
    """Stages in the order of the items: of least interval, or of least time for one run.

    `asked` is the strategy that an error names.
    """
    best = _best(problem, np.maximum if goal == "interval" else np.add, asked)
    used = list(dict.fromkeys(best))
    work = {d: sum(problem.seconds[i, d] for i, w in enumerate(best) if w == d) for d in used}
    why = [
        f"stage {used.index(d) + 1} of {len(used)}: {work[d] * 1e6:.1f} µs of work" for d in best
    ]
    return result(problem, best, "stages", why)


def _best(problem: Problem, join: Join, asked: str) -> Where:
    """The cheapest stages of those whose links there are; where there are none, one device.

    The costs are of links from stage to stage: a value that skips one may need another link.
    """
    best, least = None, np.inf
    others: list[Where] = []
    for order in _orders(problem):
        score, where = _Table(problem, order, join).best()
        if not score < least * (1 - 1e-12):
            continue
        if problem.unlinked(where) is None:
            best, least = where, score
        else:
            others.append(where)
    if best is not None:
        return best
    alone = (mostly_on(problem, d) for d in range(len(problem.devices)))
    fitting = [where for where in (*alone, *others) if problem.fits(where)]
    if not fitting:
        raise problem.too_large(asked)
    return min(fitting, key=lambda where: simulate(problem, where).makespan)


def _orders(problem: Problem) -> Iterator[tuple[int, ...]]:
    """The orders of devices to try: all of them where that is little work."""
    k = len(problem.devices)
    alike = all(np.array_equal(problem.seconds[:, 0], column) for column in problem.seconds.T)
    if (
        alike
        and len({*problem.memory}) == 1
        and len({*problem.latency[~np.eye(k, dtype=bool)]}) < 2
    ):
        yield tuple(range(k))
    elif math.factorial(k) * len(problem.items) <= ORDERS:
        yield from itertools.permutations(range(k))
    else:
        yield tuple(range(k))
        yield tuple(reversed(range(k)))


class _Table:
    """The dynamic program for one order of the devices."""

    def __init__(self, problem: Problem, order: Sequence[int], join: Join) -> None:
        self.problem, self.order, self.join = problem, order, join
        n, k = len(problem.items), len(problem.devices)
        self.cost = np.full((n + 1, k), np.inf)  # by position in the order
        self.cost[0] = 0.0
        self.start = np.full((n + 1, k), np.inf)  # the cost before a stage that starts there
        self.before = np.full((n + 1, k), -1)
        self.cut = np.zeros((n + 1, k), int)
        self.bytes, self.count = _crossing(problem)

    def best(self) -> tuple[float, Where]:
        """The least cost, and the device of each item."""
        problem, n = self.problem, len(self.problem.items)
        zero = np.zeros((1, len(problem.devices)))
        work = np.vstack([zero, _with_detours(problem).cumsum(axis=0)])
        weights = np.concatenate([[0.0], problem.weights.cumsum()])
        working = np.zeros(n + 1)
        self.start[0] = 0.0
        for j in range(1, n + 1):
            working[:j] = np.maximum(working[:j], problem.working[j - 1])
            need = weights[j] - weights[:j] + working[:j]
            for p, d in enumerate(self.order):
                costs = self.join(self.start[:j, p], work[j, d] - work[:j, d])
                costs = np.where(need <= problem.memory[d], costs, np.inf)
                i = int(costs.argmin())
                self.cost[j, p], self.cut[j, p] = costs[i], i
            self._open(j)
        return self._read(n)

    def _open(self, j: int) -> None:
        """The cost before a stage that starts at item j, by its device."""
        problem = self.problem
        for p, d in enumerate(self.order):
            for q in range(p):
                c = self.order[q]
                crossing = 0.0
                if self.count[j]:  # else there need be no link
                    crossing = self.count[j] * problem.latency[c, d]
                    crossing += self.bytes[j] * problem.slope[c, d]
                total = float(self.join(self.cost[j, q], np.asarray(crossing)))
                if total < self.start[j, p]:
                    self.start[j, p], self.before[j, p] = total, q

    def _read(self, n: int) -> tuple[float, Where]:
        p = int(self.cost[n].argmin())
        score = float(self.cost[n, p])
        where = [0] * n
        j = n if np.isfinite(score) else 0
        while j > 0:
            i = int(self.cut[j, p])
            for item in range(i, j):
                where[item] = _nearest(self.problem, item, self.order[p])
            j, p = i, int(self.before[i, p])
        return score, tuple(where)


def _nearest(problem: Problem, i: int, d: int) -> int:
    """Device d for item i, or the fastest where it must not be there."""
    return d if np.isfinite(problem.seconds[i, d]) else int(problem.seconds[i].argmin())


def _with_detours(problem: Problem) -> Floats:
    """The time of each item in a stage on each device; what must be elsewhere goes and returns."""
    latency, slope = problem.mean_transfer
    away = problem.seconds.min(axis=1)
    for i in range(len(problem.items)):
        moves = (*problem.read[i], *problem.made[i])
        away[i] += sum(latency + m.size * slope for m in moves)
    return np.where(np.isfinite(problem.seconds), problem.seconds, away[:, None])


def _crossing(problem: Problem) -> tuple[Floats, Floats]:
    """Bytes and number of values made before and read from item j on, for every j."""
    n = len(problem.items)
    size, count = np.zeros(n + 1), np.zeros(n + 1)
    for m in problem.moves:
        size[m.source + 1 : max(m.readers) + 1] += m.size
        count[m.source + 1 : max(m.readers) + 1] += 1
    return size, count
