"""Two devices: the least sum of work and copies, exactly, as a minimum cut (Stone, 1977).

Item i is joined to one terminal by its time on the other device, so that a cut pays the time on
the side where i ends up. A value read by several items is copied once: a node of its own lies
between its maker and its readers, one for each direction. Where a device's memory is too
small the cut is no longer exact: bytes on that device get a price, or the order of the items is
cut in two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from netc.errors import UsageError
from netc.passes.partition.greedy import mostly_on
from netc.passes.partition.placement import Placement, result, where_of
from netc.passes.partition.problem import Problem, Where
from netc.passes.partition.stages import stages

ROUNDS = 40  # halvings of the price of memory


def min_cut(problem: Problem) -> Placement:
    """The placement on two devices of least total time, its memory paid for where it is short."""
    if len(problem.devices) != 2:
        fits = "greedy, stages and milp take any number"
        raise UsageError(f"min_cut takes two devices, not {len(problem.devices)}", help=fits)
    where = cheapest(problem, (0.0, 0.0))
    short = problem.needs(where) > problem.memory
    if short.any():
        where = _within_memory(problem, int(short.argmax()))
    spent = total(problem, where)
    why = [f"this side of the cheapest cut: {spent * 1e6:.1f} µs of work and copies"] * len(where)
    return result(problem, where, "min_cut", why)


def total(problem: Problem, where: Sequence[int]) -> float:
    """All work and all copies of a placement, one after another."""
    out = sum(float(problem.seconds[i, d]) for i, d in enumerate(where))
    for m in problem.moves:
        a = where[m.source]
        out += sum(problem.transfer(m.size, a, b) for b in {where[j] for j in m.readers} - {a})
    return out


def _within_memory(problem: Problem, short: int) -> Where:
    """The cheapest cut under the least price per byte on the short device that makes it fit."""
    worth = sum(t for t in problem.seconds.ravel().tolist() if math.isfinite(t))
    low, high, found = 0.0, worth, None
    for _ in range(ROUNDS):
        price = (low + high) / 2
        where = cheapest(problem, (price, 0.0) if short == 0 else (0.0, price))
        if problem.fits(where):
            high, found = price, where
        elif problem.needs(where)[short] > problem.memory[short]:
            low = price
        else:
            high = price
    return found if found is not None else _two_stages(problem)


def _two_stages(problem: Problem) -> Where:
    """A price moves all or none of items that weigh the same; their order is cut in two then."""
    return where_of(problem, stages(problem, "makespan", "min_cut"))


def cheapest(problem: Problem, prices: tuple[float, float]) -> Where:
    """The placement of least work and copies, with a price per byte of parameters by device.

    Where every cut has a link that is not there, so has any placement.
    """
    import networkx as nx

    net = nx.DiGraph()
    net.add_nodes_from(("first", "second"))
    for i in range(len(problem.items)):
        first, second = (
            _capacity(float(problem.seconds[i, d]) + prices[d] * float(problem.weights[i]))
            for d in (0, 1)
        )
        net.add_edge("first", i, **second)
        net.add_edge(i, "second", **first)
    for n, m in enumerate(problem.moves):
        there, back = ("there", n), ("back", n)
        net.add_edge(m.source, there, **_capacity(problem.transfer(m.size, 0, 1)))
        net.add_edge(back, m.source, **_capacity(problem.transfer(m.size, 1, 0)))
        for j in m.readers:
            net.add_edge(there, j)
            net.add_edge(j, back)
    try:
        _, (side, _) = nx.minimum_cut(net, "first", "second")
    except nx.NetworkXUnbounded:
        return mostly_on(problem, 0)
    return tuple(0 if i in side else 1 for i in range(len(problem.items)))


def _capacity(seconds: float) -> dict[str, int]:
    """A capacity in femtoseconds, so that sums are exact; none where it is infinite."""
    return {"capacity": round(seconds * 1e15)} if math.isfinite(seconds) else {}
