"""The check of plans: right ones pass, and every mutant is caught."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

import netc
from netc.errors import UsageError
from netc.ir.machine import CPU, Machine
from netc.ir.plan import ALIGN, Plan, Space, Step
from netc.ir.plan_check import layout_problems, memory_problems, needs, problems
from netc.runtime.flat_plan import flatten
from netc.runtime.layout import plan_layout

from .nets import alternating

pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def plan_of(count: int, run: int) -> Plan:
    flat = netc.compile(alternating(count, run)).plan
    return Plan(flat.inputs, flat.outputs, flat.buffers, flat.steps, flat.conditions)


PLANS = [(2, 1), (2, 3), (3, 1), (3, 2), (4, 2), (5, 1), (8, 1)]


@pytest.mark.parametrize(("count", "run"), PLANS)
def test_compiled_plans_are_right(count: int, run: int) -> None:
    assert problems(plan_of(count, run)) == []


def test_plans_of_one_device_are_right() -> None:
    assert problems(netc.compile(alternating(1)).plan) == []


def with_steps(plan: Plan, steps: list[Step]) -> Plan:
    return replace(plan, steps=tuple(steps))


def without(plan: Plan, gone: int) -> Plan:
    """The plan without a step; indices after it are one less."""

    def moved(i: int) -> int:
        return i - (i > gone)

    steps = [
        replace(s, waits=tuple(moved(w) for w in s.waits if w != gone))
        for i, s in enumerate(plan.steps)
        if i != gone
    ]
    buffers = tuple(replace(b, first=moved(b.first), last=moved(b.last)) for b in plan.buffers)
    return replace(plan, steps=tuple(steps), buffers=buffers)


def dropped_waits(plan: Plan) -> Iterator[Plan]:
    for i, step in enumerate(plan.steps):
        for w in step.waits:
            steps = list(plan.steps)
            steps[i] = replace(step, waits=tuple(x for x in step.waits if x != w))
            yield with_steps(plan, steps)


def early_waits(plan: Plan) -> Iterator[Plan]:
    """A wait for the step before the right one."""
    for i, step in enumerate(plan.steps):
        for w in step.waits:
            before = [j for j in range(w) if plan.steps[j].barrier
                      and plan.steps[j].device == plan.steps[w].device]  # fmt: skip
            if before:
                steps = list(plan.steps)
                kept = [x for x in step.waits if x != w]
                steps[i] = replace(step, waits=(*kept, before[-1]))
                yield with_steps(plan, steps)


def removed_copies(plan: Plan) -> Iterator[Plan]:
    for i, step in enumerate(plan.steps):
        if step.stream == "copy" and step.reads:
            yield without(plan, i)


def moved_buffers(plan: Plan) -> Iterator[Plan]:
    devices = sorted({s.device for s in plan.steps})
    used = {b for s in plan.steps for b in (*s.writes, *(() if s.stream == "copy" else s.reads))}
    for i in sorted(used):
        other = next(d for d in devices if d != plan.buffers[i].device)
        buffers = list(plan.buffers)
        buffers[i] = replace(buffers[i], device=other)
        yield replace(plan, buffers=tuple(buffers))


def swapped_steps(plan: Plan) -> Iterator[Plan]:
    """A step and the one of another queue that it waits for change places."""
    for j, step in enumerate(plan.steps):
        for i in step.waits:
            steps = list(plan.steps)
            steps[i], steps[j] = steps[j], steps[i]
            yield with_steps(plan, steps)


def short_lives(plan: Plan) -> Iterator[Plan]:
    """A buffer given up before its last user."""
    for i, buffer in enumerate(plan.buffers):
        users = [n for n, s in enumerate(plan.steps) if i in (*s.reads, *s.writes)]
        if buffer.space is Space.ARENA and users and users[-1] > buffer.first:
            buffers = list(plan.buffers)
            buffers[i] = replace(buffer, last=users[-1] - 1)
            yield replace(plan, buffers=tuple(buffers))


KINDS = (dropped_waits, early_waits, removed_copies, moved_buffers, swapped_steps, short_lives)


def test_every_mutant_is_caught() -> None:
    count = 0
    for kind in KINDS:
        of_kind = 0
        for size in PLANS:
            for n, mutant in enumerate(kind(plan_of(*size))):
                assert problems(mutant), f"{kind.__name__} {n} of {size} is not seen"
                of_kind += 1
        assert of_kind > 10, kind
        count += of_kind
    assert count >= 200, count


def test_memory_of_each_device() -> None:
    plan = plan_of(2, 3)
    found = needs(plan, {"N": 2})
    assert sorted(found) == ["cpu:0", "cpu:1"]
    machine = Machine.uniform(["cpu:0", "cpu:1"])
    assert memory_problems(plan, machine, {"N": 2}) == []
    least = min(need.total for need in found.values())
    small = Machine.uniform(["cpu:0", "cpu:1"], replace(CPU, memory=least - 1))
    assert len(memory_problems(plan, small, {"N": 2})) == 2
    assert "has" in memory_problems(plan, small, {"N": 2})[0]
    with pytest.raises(UsageError, match="has no cpu:1"):
        memory_problems(plan, Machine.uniform(["cpu:0"]), {"N": 2})


def test_a_net_without_weights_needs_memory_too() -> None:
    g = netc.parse("net n(x: f32[2, 4]) -> y { y = x |> relu }")
    exe = netc.compile(g, replicate=["cpu:0", "cpu:1"])
    assert [n.weights for n in needs(exe.plan, {}).values()] == [0, 0]


def test_layouts_that_overlap_are_seen() -> None:
    plan = plan_of(2, 3)
    layout = plan_layout(flatten(plan), {"N": 2})
    assert layout_problems(plan, layout.sizes, layout.offsets) == []
    seen = 0
    for i, at in layout.offsets.items():
        for j, other in layout.offsets.items():
            a, b = plan.buffers[i], plan.buffers[j]
            together = a.device == b.device and a.first <= b.last and b.first <= a.last
            if i != j and together and layout.sizes[i] and layout.sizes[j]:
                assert at % ALIGN == 0
                assert layout_problems(plan, layout.sizes, layout.offsets | {i: other})
                seen += 1
    assert seen > 20
