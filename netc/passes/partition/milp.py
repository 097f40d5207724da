"""k devices within their memories, the least time of a run, as a mixed integer program.

x[i, d] = 1 where item i is on device d, s[i] when it starts, T the end of all:
    Σ_d x[i, d] = 1,   Σ_i weights[i]·x[i, d] + working[j]·x[j, d] ≤ memory[d] for every j,
    s[j] ≥ s[i] + Σ_d seconds[i, d]·x[i, d] + t[i, j],   t ≥ transfer(a, b)·(x[i, a] + x[j, b] − 1),
    Σ_i seconds[i, d]·x[i, d] ≤ T,   s[i] + Σ_d seconds[i, d]·x[i, d] ≤ T,
and, for items that no path orders, one of both goes first where they share a device:
    s[j] ≥ s[i] + seconds[i, d] − M·(3 − o[i, j] − x[i, d] − x[j, d])   and the reverse with 1 − o.
Where there are too many such pairs they are left out: what remains is a bound still. Contention
of copies is left out too. The result is the best of the solver's placements, the
heuristics' and what moves make of it, by simulation; `bound` is the solver's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np

from netc.errors import NetcError, UnsupportedError
from netc.passes.partition.greedy import greedy, improved, reasons
from netc.passes.partition.placement import Placement, lower_bound, result, simulate, where_of
from netc.passes.partition.problem import Floats, Problem, Where
from netc.passes.partition.stages import stages

PAIRS = 600  # unordered pairs times devices that the program may hold
Goal = Literal["makespan", "interval"]


def milp(problem: Problem, seconds: float = 10.0, gap: float = 1e-4) -> Placement:
    """The placement of least time, to within `gap` of the optimum where the limit allows."""
    program = _Program(problem, "makespan")
    answer = program.solve(seconds, gap)
    starts = _heuristics(problem)
    if answer.where is not None:
        starts.append(improved(problem, answer.where))
    fitting = [w for w in starts if problem.fits(w)]
    if not fitting:
        raise problem.too_large("milp")
    best = min(fitting, key=lambda w: simulate(problem, w).makespan)
    bound = max(answer.bound, lower_bound(problem))
    spent = simulate(problem, best).makespan
    why = [f"{_quality(spent, bound)}; {text}" for text in reasons(problem, best)]
    return result(problem, best, "milp", why, min(bound, spent))


def _quality(spent: float, bound: float) -> str:
    """How good a placement is that takes so long, no time below the bound being possible."""
    if bound <= 0 < spent:
        return "the best found"
    above = spent / bound - 1 if spent > bound else 0.0
    return f"the best found, at most {above:.1%} above the optimum"


def least_interval(problem: Problem, seconds: float = 10.0, gap: float = 1e-4) -> float:
    """A bound on the interval of any pipeline: the busiest compute stream, within memory."""
    return _Program(problem, "interval").solve(seconds, gap).bound


def _heuristics(problem: Problem) -> list[Where]:
    out = []
    for found in (greedy, lambda p: stages(p, "makespan")):
        try:
            out.append(where_of(problem, found(problem)))
        except NetcError:  # a heuristic may miss what the program finds
            continue
    return out


@dataclass
class _Answer:
    """What the solver says: a placement if it has one, and a bound."""

    where: Where | None
    bound: float


@dataclass
class _Rows:
    """Sparse constraints Σ c·x ≤ limit, row by row."""

    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)

    def at_most(self, terms: Iterable[tuple[int, float]], limit: float) -> None:
        """One more constraint."""
        for column, value in terms:
            self.rows.append(len(self.limits))
            self.columns.append(column)
            self.values.append(value)
        self.limits.append(limit)


class _Program:
    """The variables x[i, d], then s[i], then T, then t and o as they come."""

    def __init__(self, problem: Problem, goal: Goal) -> None:
        self.problem, self.goal = problem, goal
        n, k = len(problem.items), len(problem.devices)
        self.n, self.k = n, k
        self.finite = np.isfinite(problem.seconds)
        self.seconds: Floats = np.where(self.finite, problem.seconds, 0.0)
        worst = self.seconds.max(axis=1, initial=0.0).sum()
        latency, slope = problem.mean_transfer
        moved = sum((latency + m.size * slope) * len(m.readers) for m in problem.moves)
        self.horizon = float(worst + moved) or 1.0
        self.scale = 1 / self.horizon  # times are shares of the horizon
        self.end = n * k + n
        self.count = self.end + 1
        self.integer = [1] * (n * k) + [0] * (n + 1)
        self.rows = _Rows()
        self._place()
        if goal == "makespan":
            self._order()

    def x(self, i: int, d: int) -> int:
        """The variable that is 1 where item i is on device d."""
        return i * self.k + d

    def s(self, i: int) -> int:
        """The variable for the start of item i."""
        return self.n * self.k + i

    def variable(self, integer: int) -> int:
        """One more variable."""
        self.integer.append(integer)
        self.count += 1
        return self.count - 1

    def spent(self, i: int, sign: float = 1.0) -> list[tuple[int, float]]:
        """± the time of item i where it is."""
        return [(self.x(i, d), sign * self.seconds[i, d] * self.scale) for d in range(self.k)]

    def _place(self) -> None:
        """One device an item, memory, and the work of each device before the end."""
        problem, rows = self.problem, self.rows
        for i in range(self.n):
            ones = [(self.x(i, d), 1.0) for d in range(self.k)]
            rows.at_most(ones, 1.0)
            rows.at_most([(c, -v) for c, v in ones], -1.0)
        for d, room in enumerate(problem.memory):
            load = [(self.x(i, d), self.seconds[i, d] * self.scale) for i in range(self.n)]
            rows.at_most([*load, (self.end, -1.0)], 0.0)
            if problem.weights.sum() + problem.working.max(initial=0) <= room:
                continue
            held = problem.weights / room
            for j in range(self.n):
                terms = {self.x(i, d): float(held[i]) for i in range(self.n)}
                terms[self.x(j, d)] += float(problem.working[j] / room)
                rows.at_most(terms.items(), 1.0)

    def _order(self) -> None:
        """Items after their operands, and one at a time on a device."""
        problem, rows = self.problem, self.rows
        for i in range(self.n):
            rows.at_most([(self.s(i), 1.0), *self.spent(i), (self.end, -1.0)], 0.0)
        for m in problem.moves:
            for j in m.readers:
                self._precede(m.source, j, m.size)
        pairs = self._unordered()
        if len(pairs) * self.k <= PAIRS:
            for i, j in pairs:
                self._apart(i, j, self.variable(1))

    def _precede(self, i: int, j: int, size: int) -> None:
        """s[j] ≥ s[i] + work + copy, the copy priced for each pair of devices."""
        t = self.variable(0)
        self.rows.at_most([(self.s(i), 1.0), *self.spent(i), (t, 1.0), (self.s(j), -1.0)], 0.0)
        for a in range(self.k):
            others = [b for b in range(self.k) if b != a]
            least = min((self.problem.transfer(size, a, b) for b in others), default=0.0)
            if np.isfinite(least):  # whatever device the reader is on, but for a itself
                cost = least * self.scale
                self.rows.at_most([(self.x(i, a), cost), (self.x(j, a), -cost), (t, -1.0)], 0.0)
            for b in others:
                cost = self.problem.transfer(size, a, b)
                if not np.isfinite(cost):
                    self.rows.at_most([(self.x(i, a), 1.0), (self.x(j, b), 1.0)], 1.0)
                elif cost > least:
                    cost *= self.scale
                    terms = [(self.x(i, a), cost), (self.x(j, b), cost), (t, -1.0)]
                    self.rows.at_most(terms, cost)

    def _unordered(self) -> list[tuple[int, int]]:
        """Pairs of items with no path between them."""
        below = [0] * self.n
        for i in reversed(range(self.n)):
            for m in self.problem.made[i]:
                for j in m.readers:
                    below[i] |= below[j] | 1 << j
        pairs = combinations(range(self.n), 2)
        return [(i, j) for i, j in pairs if not (below[i] >> j | below[j] >> i) & 1]

    def _apart(self, i: int, j: int, first: int) -> None:
        """On one device i is before j where `first` is 1, behind it where it is 0."""
        for d in range(self.k):
            both = [(self.x(i, d), 1.0), (self.x(j, d), 1.0)]
            here, there = (float(self.seconds[q, d] * self.scale) for q in (i, j))
            before = [(self.s(i), 1.0), (self.s(j), -1.0), (first, 1.0), *both]
            self.rows.at_most(before, 3.0 - here)
            behind = [(self.s(j), 1.0), (self.s(i), -1.0), (first, -1.0), *both]
            self.rows.at_most(behind, 2.0 - there)

    def solve(self, seconds: float, gap: float) -> _Answer:
        """Run the solver, HiGHS through scipy."""
        try:
            from scipy import optimize, sparse
        except ImportError:
            help = "pip install netc[partition]; greedy, stages and min_cut do without"
            raise UnsupportedError("the milp strategy needs scipy", help=help) from None

        rows, shape = self.rows, (len(self.rows.limits), self.count)
        matrix = sparse.csr_matrix((rows.values, (rows.rows, rows.columns)), shape=shape)
        top = np.full(self.count, 1.0)
        top[: self.n * self.k] = self.finite.ravel()
        goal = np.zeros(self.count)
        goal[self.end] = 1.0
        answer: Any = optimize.milp(
            goal,
            integrality=np.array(self.integer),
            bounds=optimize.Bounds(np.zeros(self.count), top),
            constraints=optimize.LinearConstraint(matrix, -np.inf, np.array(rows.limits)),
            options={"time_limit": seconds, "mip_rel_gap": gap},
        )
        return self._read(answer)

    def _read(self, answer: Any) -> _Answer:
        known = getattr(answer, "mip_dual_bound", None)
        bound = float(known) * self.horizon if known is not None and np.isfinite(known) else 0.0
        if answer.x is None:
            return _Answer(None, bound)
        chosen = np.asarray(answer.x)[: self.n * self.k].reshape(self.n, self.k)
        return _Answer(tuple(int(d) for d in chosen.argmax(axis=1)), bound)
