"""Earliest finish first (HEFT: Topcuoglu, Hariri and Wu, 2002), then moves that help.

Items go, the one with the longest way to the end first, where they end earliest. The result is
compared with each device alone, and improved while moving one item, or all items of a device's
run of neighbours, shortens the simulated time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from netc.passes.partition.placement import Placement, result, simulate
from netc.passes.partition.problem import Floats, Problem, Where

STEPS = 200_000  # items simulated while improving: about two seconds


def greedy(problem: Problem) -> Placement:
    """The placement of least simulated time that moves of single items reach from HEFT's."""
    candidates = [w for w in _candidates(problem) if w is not None and problem.fits(w)]
    if not candidates:
        raise problem.too_large("greedy")
    scored = [(simulate(problem, w).makespan, i) for i, w in enumerate(candidates)]
    best = candidates[min(scored)[1]]
    best = improved(problem, best)
    return result(problem, best, "greedy", reasons(problem, best))


def _candidates(problem: Problem) -> Iterator[Where | None]:
    yield earliest_finish(problem, problem.ranks)
    worst = np.where(np.isfinite(problem.seconds), problem.seconds, 0).max(axis=1, initial=0)
    yield earliest_finish(problem, problem.ranks, reach=0.5 * float(worst.sum()))
    for d in range(len(problem.devices)):
        yield mostly_on(problem, d)


def mostly_on(problem: Problem, d: int) -> Where:
    """Everything on one device but what must be elsewhere."""
    best = problem.seconds.argmin(axis=1).tolist()
    allowed = np.isfinite(problem.seconds[:, d]).tolist()
    return tuple(d if ok else int(other) for ok, other in zip(allowed, best, strict=True))


def earliest_finish(problem: Problem, ranks: Floats, reach: float = 0.0) -> Where | None:
    """Each item where it ends earliest and memory is left; None where none has memory.

    With `reach`, an item that must wait for a copy counts as that much later, so neighbours stay
    together.
    """
    state = _Finish(problem, reach)
    for i in sorted(range(len(problem.items)), key=lambda i: (-ranks[i], i)):
        if not state.put(i):
            return None
    return tuple(state.where)


class _Finish:
    """A schedule that grows item by item."""

    def __init__(self, problem: Problem, reach: float) -> None:
        n, k = len(problem.items), len(problem.devices)
        self.problem, self.reach = problem, reach
        self.where, self.ends = [-1] * n, [0.0] * n
        self.free, self.copy_free = np.zeros(k), np.zeros(k)
        self.weights, self.largest = np.zeros(k), np.zeros(k)
        self.there: dict[tuple[int, tuple[int, ...], int], float] = {}

    def put(self, i: int) -> bool:
        """Place item i; whether there is a device for it."""
        problem = self.problem
        start = self.free.copy()
        crossing = np.zeros(len(start))
        for move in problem.read[i]:
            start = np.maximum(start, self._arrivals(move.source, move.readers, move.size))
            crossing += np.arange(len(start)) != self.where[move.source]
        ends = start + problem.seconds[i]
        need = self.weights + problem.weights[i] + np.maximum(self.largest, problem.working[i])
        judged = np.where(need <= problem.memory, ends + self.reach * (crossing > 0), np.inf)
        d = int(judged.argmin())
        if not math.isfinite(judged[d]):
            return False
        for move in problem.read[i]:
            self._bring(move.source, move.readers, move.size, d)
        self.where[i], self.ends[i], self.free[d] = d, float(ends[d]), ends[d]
        self.weights[d] += problem.weights[i]
        self.largest[d] = max(self.largest[d], problem.working[i])
        return True

    def _arrivals(self, source: int, readers: tuple[int, ...], size: int) -> Floats:
        a, problem = self.where[source], self.problem
        out = max(self.ends[source], self.copy_free[a]) + (
            problem.latency[a] + size * problem.slope[a]
        )
        out[a] = self.ends[source]
        for b in range(len(out)):
            out[b] = self.there.get((source, readers, b), out[b])
        return np.asarray(out)

    def _bring(self, source: int, readers: tuple[int, ...], size: int, b: int) -> None:
        a, key = self.where[source], (source, readers, b)
        if a != b and key not in self.there:
            start = max(self.ends[source], self.copy_free[a])
            self.there[key] = start + self.problem.transfer(size, a, b)
            self.copy_free[a] = self.there[key]


def improved(problem: Problem, where: Where, steps: int = STEPS) -> Where:
    """The placement after moves that each shorten the simulated time, within a budget."""
    best, left = simulate(problem, where), steps
    changed = True
    while changed and left > 0:
        changed = False
        for moved in _neighbours(problem, where):
            left -= len(problem.items)
            if left <= 0:
                break
            if not problem.fits(moved):
                continue
            now = simulate(problem, moved)
            if now.makespan < best.makespan * (1 - 1e-9):
                where, best, changed = moved, now, True
                break
    return where


def _neighbours(problem: Problem, where: Where) -> Iterator[Where]:
    """Placements with one item elsewhere, or one item and the reader or producer beside it."""
    for i in sorted(range(len(where)), key=lambda i: (-problem.ranks[i], i)):
        beside = [m.source for m in problem.read[i] if where[m.source] == where[i]]
        for group in ((i,), (i, *beside)) if beside else ((i,),):
            for d in range(len(problem.devices)):
                if d != where[i] and np.isfinite(problem.seconds[list(group), d]).all():
                    yield tuple(d if j in group else w for j, w in enumerate(where))


def reasons(problem: Problem, where: Sequence[int]) -> list[str]:
    """Why each item is where it is: its time there, and at the best other device."""
    out = []
    for i, d in enumerate(where):
        own = problem.seconds[i].copy()
        here, own[d] = own[d], np.inf
        other = int(own.argmin())
        away = {problem.devices[where[m.source]] for m in problem.read[i]} - {problem.devices[d]}
        text = f"ends earliest here, {here * 1e6:.1f} µs"
        if np.isfinite(own[other]):
            text += f"; {own[other] * 1e6:.1f} µs on {problem.devices[other]}"
        out.append(text + (f", waits for copies from {', '.join(map(str, sorted(away)))}"
                           if away else ""))  # fmt: skip
    return out
