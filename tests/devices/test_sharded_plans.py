"""Plans of sharded nets: right ones pass, and every mutant that could go wrong is caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

import netc
from netc.ir.graph import Graph
from netc.ir.ops.convolution import Conv, Fc
from netc.ir.plan import Plan, Step
from netc.ir.plan_check import problems
from netc.ir.queues import COPY, Queue, queue_of
from netc.runtime.sim import races

from .nets import BRANCHES
from .test_plan_check import (
    dropped_waits,
    early_waits,
    moved_buffers,
    removed_copies,
    short_lives,
    swapped_steps,
    with_steps,
)

pytestmark = pytest.mark.filterwarnings("ignore")
CPUS = ("cpu:0", "cpu:1", "cpu:2", "cpu:3")
SHARDED: dict[str, dict[str, Any]] = {
    "replicate 2": {"replicate": CPUS[:2]},
    "replicate 4": {"replicate": CPUS},
    "pipeline 2": {"pipeline": CPUS[:2], "micro_batches": 4},
    "pipeline 3": {"pipeline": CPUS[:3], "micro_batches": 2},
    "output 2": {"split": ("output",), "over": CPUS[:2]},
    "output 4": {"split": ("output",), "over": CPUS},
    "halves": {"split": ("output", "input"), "over": CPUS[:2]},
    "input 3": {"split": ("input",), "over": CPUS[:3]},
}


def net() -> Graph:
    """The branches, for four images of at least four channels."""
    return netc.parse(BRANCHES.replace("[N, 3,", "[4, 4,"))


@cache
def plan_of(name: str) -> Plan:
    """The plan of one sharding; ways of splitting are dealt out to the layers."""
    graph, said = net(), dict(SHARDED[name])
    if over := said.pop("over", None):
        ways = said["split"]
        layers = [n.name for n in graph.nodes if isinstance(n.op, Conv | Fc)]
        said["split"] = {n: (over, ways[i % len(ways)]) for i, n in enumerate(layers)}
    flat = netc.compile(graph, **said).plan
    return Plan(flat.inputs, flat.outputs, flat.buffers, flat.steps, flat.conditions)


def ordered(plan: Plan) -> list[int] | None:
    """For each step those that are done when it begins, as bits; None where some never begin.

    Queue by queue, with no word of clocks: a step knows what was done at its queue's last barrier,
    and what it waits for, each with all that is before it in its queue.
    """
    queues: dict[Queue, list[int]] = {}
    for i, step in enumerate(plan.steps):
        queues.setdefault(queue_of(step), []).append(i)
    met = dict.fromkeys(queues, 0)  # at the last barrier, or waited for
    begun = dict.fromkeys(queues, 0)  # with what is behind it
    known: dict[int, int] = {}
    after: dict[int, int] = {}
    while len(known) < len(plan.steps):
        ready = [(q, left[0]) for q, left in queues.items() if left]
        ready = [(q, i) for q, i in ready if all(w in after for w in plan.steps[i].waits)]
        if not ready:
            return None
        for q, i in ready:
            queues[q].pop(0)
            known[i] = met[q]
            for w in plan.steps[i].waits:
                known[i] |= after[w]
            met[q] = known[i]  # the whole queue has waited
            begun[q] |= known[i] | 1 << i
            after[i] = begun[q]
            if plan.steps[i].barrier:
                met[q] = begun[q]
    return [known[i] for i in range(len(plan.steps))]


def conflicts(steps: Sequence[Step]) -> Iterator[tuple[int, int]]:
    """Steps that touch a buffer, one of them to write it, unless they write parts of it."""
    for j, step in enumerate(steps):
        for i, other in enumerate(steps[:j]):
            read = {*other.writes} & {*step.reads} or {*other.reads} & {*step.writes}
            if read or ({*other.writes} & {*step.writes} and queue_of(other) != queue_of(step)):
                yield i, j


def exchanged(plan: Plan, i: int, j: int) -> Plan:
    """Two steps in each other's place; whoever waits for one still waits for it."""
    at = {i: j, j: i}
    steps = list(plan.steps)
    steps[i], steps[j] = steps[j], steps[i]
    moved = [replace(s, waits=tuple(sorted(at.get(w, w) for w in s.waits))) for s in steps]
    return with_steps(plan, moved)


def harmless(pairs: Sequence[tuple[int, int]], mutant: Plan, i: int, j: int) -> bool:
    """Whether these conflicts are ordered in the plan with two steps exchanged.

    Then every step reads what it read before, whatever the speed of the devices.
    """
    known = ordered(mutant)
    at = {i: j, j: i}
    return known is not None and all(known[at.get(b, b)] >> at.get(a, a) & 1 for a, b in pairs)


def swapped_copies(plan: Plan) -> Iterator[Plan]:
    """Two copies that follow each other in a queue change places: gathers in another order."""
    pairs = list(conflicts(plan.steps))
    for device in dict.fromkeys(s.device for s in plan.steps):
        queue = [i for i, s in enumerate(plan.steps) if queue_of(s) == (device, COPY)]
        for i, j in pairwise(queue):
            mutant = exchanged(plan, i, j)
            if not harmless(pairs, mutant, i, j):
                yield mutant


def misdirected_copies(plan: Plan) -> Iterator[Plan]:
    """Two copies change places, but not those who wait: these go on with what is not there.

    Where everyone who waits for the first knows the second as well, nothing is lost.
    """
    known, pairs = ordered(plan), list(conflicts(plan.steps))
    assert known is not None
    for device in dict.fromkeys(s.device for s in plan.steps):
        queue = [i for i, s in enumerate(plan.steps) if queue_of(s) == (device, COPY)]
        for i, j in pairwise(queue):
            readers = [b for a, b in pairs if a == i]
            if all(known[r] >> j & 1 for r in readers):
                continue
            steps = list(plan.steps)
            steps[i] = replace(plan.steps[j], waits=plan.steps[i].waits)
            steps[j] = replace(plan.steps[i], waits=plan.steps[j].waits)
            yield with_steps(plan, steps)


def locked_steps(plan: Plan) -> Iterator[Plan]:
    """Two queues wait for each other: one for a later step of the other, and the reverse."""
    for j, step in enumerate(plan.steps):
        for i in step.waits:
            mine = [n for n, s in enumerate(plan.steps) if queue_of(s) == queue_of(step)]
            other = [n for n, s in enumerate(plan.steps) if queue_of(s) == queue_of(plan.steps[i])]
            late = next((n for n in mine if n >= j and plan.steps[n].barrier), None)
            if late is None:
                continue
            steps = list(plan.steps)
            first = steps[other[0]]
            steps[other[0]] = replace(first, waits=(*first.waits, late))
            mutant = with_steps(plan, steps)
            assert ordered(mutant) is None, "it runs to its end"
            yield mutant


KINDS = (
    dropped_waits, early_waits, removed_copies, moved_buffers, swapped_steps, short_lives,
    swapped_copies, misdirected_copies, locked_steps,
)  # fmt: skip


@pytest.mark.parametrize("name", SHARDED)
def test_sharded_plans_are_right(name: str) -> None:
    plan = plan_of(name)
    assert problems(plan) == []
    assert list(races(plan, {})) == []
    known = ordered(plan)
    assert known is not None
    assert all(known[b] >> a & 1 for a, b in conflicts(plan.steps))


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_every_mutant_is_caught(kind: Callable[[Plan], Iterator[Plan]]) -> None:
    count = 0
    for name in SHARDED:
        for n, mutant in enumerate(kind(plan_of(name))):
            assert problems(mutant), f"{n} of {name} is not seen"
            count += 1
    assert count >= 25, count
