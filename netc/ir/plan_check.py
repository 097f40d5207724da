"""Whether a plan on several devices is right, by its own words: the reasons why not.

Every hazard (a read after a write, a write after a read or another write) must be ordered by
queues, barriers and waits; memory may be taken again only by steps that know its users to be
done; only copies reach over to another device; waits look backward, so nothing can lock; and
what lives together must lie apart and fit. Steps are judged by vector clocks (`netc.ir.queues`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from netc.ir.device import Device
from netc.ir.dims import evaluate
from netc.ir.machine import Machine
from netc.ir.plan import MadeArg, Plan, Space, Step, WeightArg, allocate, check_arena
from netc.ir.queues import COMPUTE, COPY, Clocks, homes_of, queue_of


def problems(plan: Plan) -> list[str]:
    """Everything wrong with a plan for any sizes; an empty list where it is right."""
    wrong = list(_form(plan))
    return wrong or [*_placement(plan), *_parts(plan), *_hazards(plan), *_reuse(plan)]


def _form(plan: Plan) -> Iterator[str]:
    """Indices, streams and waits that mean something."""
    steps = plan.steps
    for i, step in enumerate(steps):
        if step.stream not in (COMPUTE, COPY):
            yield f"{_said(i, step)} is on stream {step.stream!r}"
        if not all(0 <= b < len(plan.buffers) for b in (*step.reads, *step.writes)):
            yield f"{_said(i, step)} uses a buffer that is not there"
        for w in step.waits:
            if not 0 <= w < i:
                yield f"{_said(i, step)} waits for step {w}, which is no earlier one"
            elif not steps[w].barrier:
                yield f"{_said(i, step)} waits for {_said(w, steps[w])}, which has no barrier"
    for b, buffer in enumerate(plan.buffers):
        if not 0 <= buffer.first <= buffer.last <= max(0, len(steps) - 1):
            yield f"buffer {b} lives from step {buffer.first} to step {buffer.last}"


def _said(index: int, step: Step) -> str:
    return f"step {index}, {step.name} ({step.op}) on {step.device},"


def _placement(plan: Plan) -> Iterator[str]:
    """Steps touch their own device's buffers; a copy may read another's."""
    for i, step in enumerate(plan.steps):
        for b in step.writes:
            if plan.buffers[b].device != step.device:
                yield f"{_said(i, step)} writes buffer {b} on {plan.buffers[b].device}"
        for b in () if step.stream == COPY else step.reads:
            if plan.buffers[b].device != step.device:
                yield f"{_said(i, step)} reads buffer {b} on {plan.buffers[b].device}"
        for b in (*step.reads, *step.writes):
            buffer = plan.buffers[b]
            if buffer.space is Space.ARENA and not buffer.first <= i <= buffer.last:
                yield f"{_said(i, step)} uses buffer {b} outside its life"


def _parts(plan: Plan) -> Iterator[str]:
    """Every part of a buffer has its writer."""
    written = Counter(b for step in plan.steps for b in step.writes)
    for b, buffer in enumerate(plan.buffers):
        if buffer.parts and written[b] != buffer.parts:
            yield f"{written[b]} steps write buffer {b}, which has {buffer.parts} parts"


@dataclass
class _History:
    """Who wrote and read a buffer: the last step of each queue."""

    writers: dict[int, int] = field(default_factory=dict)
    readers: dict[int, int] = field(default_factory=dict)


def _hazards(plan: Plan) -> Iterator[str]:
    """Accesses of one buffer that nothing orders, and reads of what nothing wrote."""
    clocks = Clocks(map(queue_of, plan.steps))
    seen: dict[int, _History] = {}
    inputs = {b for b, buffer in enumerate(plan.buffers) if buffer.space is Space.INPUT}
    for i, step in enumerate(plan.steps):
        clock = clocks.take(step)
        q = clocks.queue[i]
        for b in step.reads:
            history = seen.setdefault(b, _History())
            if not history.writers and b not in inputs:
                yield f"{_said(i, step)} reads buffer {b} before anything writes it"
            for w in history.writers.values():
                if not clocks.covers(clock, w):
                    yield f"{_said(i, step)} may read buffer {b} before step {w} has written it"
            history.readers[q] = i
        for b in step.writes:
            history = seen.setdefault(b, _History())
            if b in inputs:
                yield f"{_said(i, step)} writes input buffer {b}"
            for r in history.readers.values():
                if r != i and not clocks.covers(clock, r):
                    yield f"{_said(i, step)} may write buffer {b} before step {r} has read it"
            for other, w in history.writers.items():
                # within a queue, steps between two barriers write different parts of a buffer
                if other != q and not clocks.covers(clock, w):
                    yield f"{_said(i, step)} may write buffer {b} before step {w} has"
            history.writers[q] = i
    for port in plan.outputs:
        if (
            plan.steps
            and port.buffer not in inputs
            and not seen.get(port.buffer, _History()).writers
        ):
            yield f"nothing writes output {port.name}"


def _reuse(plan: Plan) -> Iterator[str]:
    """Memory that a step may take while its former owner is in use."""
    clocks = Clocks(map(queue_of, plan.steps))
    users: dict[int, dict[int, int]] = {}
    takes: dict[str, dict[int, list[int]]] = {}  # device -> queue -> steps
    for i, step in enumerate(plan.steps):
        clocks.take(step)
        for b in (*step.reads, *step.writes):
            users.setdefault(b, {})[clocks.queue[i]] = i
        takes.setdefault(step.device, {}).setdefault(clocks.queue[i], []).append(i)
    latest = _latest_births(plan)
    for b, buffer in enumerate(plan.buffers):
        if buffer.space is not Space.ARENA or b not in users:
            continue
        for steps in takes.get(buffer.device, {}).values():
            taker = next((i for i in steps if latest[i] > buffer.last), None)
            late = [u for u in users[b].values() if taker is not None and taker != u
                    and not clocks.covers(clocks.known[taker], u)]  # fmt: skip
            if taker is not None and late:
                yield (
                    f"{_said(taker, plan.steps[taker])} may take the memory of buffer {b} "
                    f"while step {late[0]} uses it"
                )


def _latest_births(plan: Plan) -> list[int]:
    """For each step, the latest first step among the buffers of its device that it uses."""
    births = []
    for step in plan.steps:
        mine = [plan.buffers[b] for b in (*step.reads, *step.writes)]
        own = [x.first for x in mine if x.space is Space.ARENA and x.device == step.device]
        births.append(max(own, default=-1))
    return births


@dataclass(frozen=True)
class Need:
    """What a run takes of one device, in bytes."""

    arena: int
    weights: int
    outside: int  # inputs and outputs

    @property
    def total(self) -> int:
        """All of it."""
        return self.arena + self.weights + self.outside


def needs(plan: Plan, known: Mapping[str, int], weights: int = 0) -> dict[str, Need]:
    """What each device must hold for these sizes; `weights` is the length of their section."""
    extents = _weight_extents(plan, weights)
    out = {}
    for device in homes_of(plan):
        mine = [b for b in plan.buffers if b.device == device]
        inside = [b for b in mine if b.space is Space.ARENA]
        outside = sum(evaluate(b.size, known) for b in mine if b.space is not Space.ARENA)
        sizes = [evaluate(b.size, known) for b in inside]
        _, total = allocate(sizes, [(b.first, b.last) for b in inside])
        read = {a for s in plan.steps if s.device == device
                for a in s.args if isinstance(a, WeightArg | MadeArg)}  # fmt: skip
        out[device] = Need(total, sum(extents[a] for a in read), outside)
    return out


def _weight_extents(plan: Plan, weights: int) -> dict[WeightArg | MadeArg, int]:
    """The bytes behind each address in the weights, up to the next one."""
    args = {a for s in plan.steps for a in s.args if isinstance(a, WeightArg | MadeArg)}
    found: dict[WeightArg | MadeArg, int] = {}
    for kind, end in ((WeightArg, weights), (MadeArg, plan.made_size)):
        mine = sorted((a for a in args if isinstance(a, kind)), key=lambda a: a.offset)
        edges = [*(a.offset for a in mine), max([end, *(a.offset for a in mine)])]
        found |= {a: stop - start for a, (start, stop) in zip(mine, pairwise(edges), strict=True)}
    return found


def memory_problems(
    plan: Plan, machine: Machine, known: Mapping[str, int], weights: int = 0
) -> list[str]:
    """The devices that a run for these sizes does not fit."""
    return unmet(needs(plan, known, weights), machine)


def unmet(needed: Mapping[str, Need], machine: Machine) -> list[str]:
    """The devices that have less than what a run takes of them."""
    wrong = []
    for device, need in needed.items():
        has = machine.spec(Device.parse(device)).memory
        if need.total > has:
            wrong.append(f"{device} has {has:,} bytes and the run needs {need.total:,} of them")
    return wrong


def layout_problems(plan: Plan, sizes: Sequence[int], offsets: Mapping[int, int]) -> list[str]:
    """Buffers of one device that live together and share bytes."""
    wrong = []
    for device in dict.fromkeys(b.device for b in plan.buffers):
        inside = [i for i in offsets if plan.buffers[i].device == device]
        lives = [(plan.buffers[i].first, plan.buffers[i].last) for i in inside]
        why = check_arena([offsets[i] for i in inside], [sizes[i] for i in inside], lives)
        wrong += [f"{device}: {why}"] if why else []
    return wrong
