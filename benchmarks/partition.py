"""Predicted times of every strategy's placements against the optimum, or a bound below it.

    python -m benchmarks.partition [--random 30] [--seconds 2]

Random nets have 8 to 14 convolutions in parallel branches, on 2 to 4 devices of unequal speed;
real nets are those in examples/ and, where the shared folder is there, the prototxts that netc
imports. `greedy`, `min_cut` and `milp` are compared by the time of one run with the bound of the
mixed integer program; `stages` by the interval of a full pipeline with the bound on that, and,
asked for least time, by the time of one run as well. `min_cut` minimizes the sum of all work and
copies, which is compared with all placements where there are at most 2^14. Last, what the costs
are worth: `benchmarks.costs`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import netc
from benchmarks import costs, zoo
from netc.errors import NetcError
from netc.ir.graph import Graph
from netc.ir.machine import two_cpus
from netc.passes.partition.greedy import greedy
from netc.passes.partition.milp import least_interval, milp
from netc.passes.partition.min_cut import min_cut, total
from netc.passes.partition.placement import Placement
from netc.passes.partition.problem import Problem, problem_of
from netc.passes.partition.stages import stages
from tests.conftest import shared_or_none
from tests.passes.partition.nets import random_machine, random_net

COLUMNS = ("greedy", "stages", "stages, one run", "min_cut", "milp")
SMALL = 14  # items up to which all placements on two devices are tried


@dataclass
class Row:
    """One net on one machine: how far each strategy is above its bound, as a share."""

    name: str
    items: int
    devices: int
    above: dict[str, float] = field(default_factory=dict)
    exact: bool | None = None  # whether min_cut's total is the least of all


def random_problems(count: int) -> Iterator[tuple[str, Problem]]:
    """Seeded nets and machines."""
    for seed in range(count):
        graph = random_net(seed, 8 + seed % 7, channels=32)
        yield f"random {seed}", problem_of(graph, random_machine(seed, 2 + seed % 3))


def real_problems() -> Iterator[tuple[str, Problem]]:
    """The examples, and what can be imported of the shared nets, on two halves of a processor."""
    machine = two_cpus()
    for name in zoo.NAMES:
        yield name, problem_of(zoo.graph_of(name), machine)
    folder = shared_or_none()
    for path in sorted((folder / "nets").glob("*.prototxt")) if folder else ():
        graph = imported(path)
        if graph is not None:
            yield path.stem.partition("__")[2][:28], problem_of(graph, machine)


def imported(path: Path) -> Graph | None:
    """The net, None where netc does not import it."""
    try:
        return netc.from_caffe(path, warn=lambda *_: None)
    except NetcError:
        return None


def measured(name: str, problem: Problem, seconds: float) -> Row:
    """Every strategy on one problem."""
    row = Row(name, len(problem.items), len(problem.devices))
    best = milp(problem, seconds)
    bound = best.bound or best.seconds
    row.above["milp"] = best.seconds / bound - 1
    row.above["greedy"] = greedy(problem).seconds / bound - 1
    row.above["stages, one run"] = stages(problem, "makespan").seconds / bound - 1
    least = least_interval(problem, seconds)
    row.above["stages"] = stages(problem).interval / least - 1
    if row.devices == 2:
        cut = min_cut(problem)
        row.above["min_cut"] = cut.seconds / bound - 1
        row.exact = is_least(problem, cut) if row.items <= SMALL else None
    return row


def is_least(problem: Problem, cut: Placement) -> bool:
    """Whether no placement on two devices has less work and copies."""
    number = {d: i for i, d in enumerate(problem.devices)}
    found = total(problem, [number[cut.devices[item.name]] for item in problem.items])
    every = itertools.product(range(2), repeat=len(problem.items))
    return found <= min(total(problem, where) for where in every) * (1 + 1e-9)


def show(title: str, rows: Sequence[Row]) -> None:
    """A table, and the medians."""
    print(f"\n{title}\n{'':30}{'items':>6}{'on':>4}", *(f"{c:>16}" for c in COLUMNS), "  exact cut")
    for row in rows:
        shares = (percent(row.above.get(c)) for c in COLUMNS)
        exact = {None: "", True: "  yes", False: "  no"}[row.exact]
        print(f"{row.name:30}{row.items:6}{row.devices:4}", *(f"{s:>16}" for s in shares), exact)
    medians = [[r.above[c] for r in rows if c in r.above] for c in COLUMNS]
    shown = (percent(statistics.median(m) if m else None) for m in medians)
    print(f"{'median':40}", *(f"{s:>16}" for s in shown))


def percent(share: float | None) -> str:
    """A share above a bound."""
    return "" if share is None else f"{max(0.0, share):.1%}"


def default_speed() -> str:
    """How long the default strategy takes for 2,000 nodes on eight devices."""
    problem = problem_of(random_net(0, 900), random_machine(0, 8))
    start = time.perf_counter()
    greedy(problem)
    spent = time.perf_counter() - start
    count = sum(len(item.nodes) for item in problem.items)
    return f"greedy, {count} nodes on 8 devices: {spent:.2f} s"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.partition", description=__doc__)
    parser.add_argument("--random", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=1.5, help="the solver's limit a program")
    given = parser.parse_args()
    rows = [measured(name, p, given.seconds) for name, p in random_problems(given.random)]
    show("random nets, percent above the bound", rows)
    show("real nets, percent above the bound",
         [measured(name, p, given.seconds) for name, p in real_problems()])  # fmt: skip
    print(f"\n{default_speed()}")
    costs.show(zoo.NAMES, 1, given.seconds)


if __name__ == "__main__":
    main()
