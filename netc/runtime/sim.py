"""The driver of `sim:N`: a plan on a virtual clock, on a machine that need not be here.

Computes times, not values (values come from the CPU kernels, step after step in the plan's
order). Steps of a queue follow each other, and on a processor both queues; a step begins when its
queue is free, the steps it waits for are done and, for a transfer, its link is free. The run is
refused where a device's memory does not suffice or where two accesses of the same bytes are not
ordered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from netc.errors import ResourceError, UsageError, VerifyError
from netc.ir.device import Device
from netc.ir.dims import evaluate
from netc.ir.machine import Machine
from netc.ir.plan import Plan, Space, Step
from netc.ir.plan_check import needs, unmet
from netc.ir.queues import COPY, Clocks, homes_of, queue_of, stream_of
from netc.runtime.flat_plan import flatten
from netc.runtime.layout import plan_layout


@dataclass(frozen=True)
class Event:
    """One step on the virtual clock, in seconds."""

    step: int
    device: str
    stream: str
    start: float
    seconds: float

    @property
    def end(self) -> float:
        """When the step is done."""
        return self.start + self.seconds


@dataclass(frozen=True)
class Timeline:
    """A whole run."""

    events: tuple[Event, ...]

    @property
    def seconds(self) -> float:
        """The length of the run."""
        return max((e.end for e in self.events), default=0.0)

    def busy(self) -> dict[tuple[str, str], float]:
        """How long each device and stream works."""
        total: dict[tuple[str, str], float] = {}
        for e in self.events:
            total[e.device, e.stream] = total.get((e.device, e.stream), 0.0) + e.seconds
        return total


def simulate(plan: Plan, known: Mapping[str, int], machine: Machine, weights: int = 0) -> Timeline:
    """One run for these sizes. Raises ResourceError and VerifyError (see above).

    Where the machine's devices have other names, the plan's first device is its first, and so on.
    """
    machine = renamed(machine, [Device.parse(d) for d in homes_of(plan)])
    needed = needs(plan, known, weights)
    wrong = unmet(needed, machine)
    if wrong:
        raise ResourceError("; ".join(wrong), help="use more devices, or a smaller batch")
    found = next(races(plan, known), None)
    if found is not None:
        raise VerifyError(found)
    touched = {device: need.total for device, need in needed.items()}
    return Timeline(tuple(_events(plan, known, machine, touched)))


def renamed(machine: Machine, devices: Sequence[Device]) -> Machine:
    """The machine with these devices' names for its first ones; itself where it has them."""
    if all(d in machine.specs for d in devices):
        return machine
    if len(devices) > len(machine.devices):
        fits = f"{machine.name} has {len(machine.devices)}"
        raise UsageError(f"the plan is for {len(devices)} devices", help=fits)
    new = dict(zip(machine.devices, devices, strict=False))
    specs = {new[d]: machine.specs[d] for d in new}
    links = {(new[a], new[b]): machine.link(a, b) for a in new for b in new if a != b}
    return replace(machine, specs=specs, links=links)


def _events(
    plan: Plan, known: Mapping[str, int], machine: Machine, touched: Mapping[str, int]
) -> Iterator[Event]:
    free: dict[object, float] = {}  # queues and links
    ends: list[float] = []
    for i, step in enumerate(plan.steps):
        here = Device.parse(step.device)
        flops, moved = evaluate(step.flops, known), evaluate(step.bytes, known)
        seconds = machine.spec(here).seconds(flops, moved, touched[step.device])
        used: list[object] = [stream_of(here, step.stream == COPY)]
        source = source_of(plan, step)
        if source is not None:
            seconds = machine.transfer(moved / 2, source, here)  # read there, written here
            used.append((source, here))
        start = max([*(free.get(u, 0.0) for u in used), *(ends[w] for w in step.waits)])
        ends.append(start + seconds)
        free.update(dict.fromkeys(used, ends[-1]))
        yield Event(i, step.device, step.stream, start, seconds)


def source_of(plan: Plan, step: Step) -> Device | None:
    """The device a transfer reads from; None where a step is no transfer."""
    if step.stream != COPY:
        return None
    there = [plan.buffers[b].device for b in step.reads if plan.buffers[b].device != step.device]
    return Device.parse(there[0]) if there else None


def races(plan: Plan, known: Mapping[str, int]) -> Iterator[str]:
    """Accesses of the same bytes, one a write, that no queue or wait orders; by real addresses."""
    sharing = _sharing(plan, known)
    clocks = Clocks(map(queue_of, plan.steps))
    writers: dict[int, dict[int, int]] = {}
    readers: dict[int, dict[int, int]] = {}
    for i, step in enumerate(plan.steps):
        clock = clocks.take(step)
        touched = dict.fromkeys((*step.reads, *step.writes))
        pairs = ((mine, other) for mine in touched for other in sharing.get(mine, (mine,)))
        for b, other in pairs:
            before = [*writers.get(other, {}).values()]
            if b in step.writes:
                before += readers.get(other, {}).values()
            for w in before:
                parts = other == b and _beside(plan, clocks, w, i, b)
                if not parts and not clocks.covers(clock, w):
                    yield f"steps {w} and {i} race for the bytes of buffers {other} and {b}"
        for b in step.reads:
            readers.setdefault(b, {})[clocks.queue[i]] = i
        for b in step.writes:
            writers.setdefault(b, {})[clocks.queue[i]] = i


def _beside(plan: Plan, clocks: Clocks, w: int, i: int, buffer: int) -> bool:
    """Whether two steps of one queue write parts of one buffer, between two barriers."""
    both = buffer in plan.steps[w].writes and buffer in plan.steps[i].writes
    return both and clocks.queue[w] == clocks.queue[i]


def _sharing(plan: Plan, known: Mapping[str, int]) -> dict[int, tuple[int, ...]]:
    """The buffers of each arena that have bytes in common with a buffer, itself included."""
    layout = plan_layout(flatten(plan), known)
    inside = sorted(layout.offsets, key=lambda b: layout.offsets[b])
    found: dict[int, list[int]] = {b: [b] for b in inside}
    for n, a in enumerate(inside):
        end = layout.offsets[a] + layout.sizes[a]
        for b in inside[n + 1 :]:
            if layout.offsets[b] >= end:
                break
            found[a].append(b)
            found[b].append(a)
    assert all(plan.buffers[b].space is Space.ARENA for b in inside)
    return {b: tuple(others) for b, others in found.items()}
