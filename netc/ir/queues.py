"""Queues of a plan on several devices: what is done when, who must wait, how long memory lives.

A queue is the steps of one (device, stream), in the plan's order; `waits` order queues. What a
step can rely on is a vector clock: of each queue, how many of its steps are done before this one
begins. Within a queue only barriers order, for its threads run apart between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from netc.ir.device import Device
from netc.ir.plan import Buffer, Plan, Space, Step

COMPUTE, COPY = "compute", "copy"
Queue: TypeAlias = tuple[str, str]  # device, stream
Clock: TypeAlias = list[int]


def queue_of(step: Step) -> Queue:
    """The queue a step is in."""
    return step.device, step.stream


def stream_of(device: Device, copies: bool) -> tuple[Device, str]:
    """What a step takes the time of; a processor's copies take that of its kernels."""
    return device, COPY if copies and device.kind != "cpu" else COMPUTE


def devices_of(plan: Plan) -> tuple[str, ...]:
    """The devices of a plan's steps, in the order of their numbers."""
    columns = getattr(plan, "columns", None)  # of a plan that has no steps as objects yet
    devices = (s.device for s in plan.steps) if columns is None else columns.devices
    return tuple(sorted(set(devices), key=lambda name: (len(name), name)))


def homes_of(plan: Plan) -> tuple[str, ...]:
    """The devices of a plan's steps, then those that only hold something."""
    return tuple(dict.fromkeys((*devices_of(plan), *(b.device for b in plan.buffers))))


class Clocks:
    """The clocks of steps, taken one by one in the plan's order."""

    def __init__(self, queues: Iterable[Queue]) -> None:
        self.number = {q: i for i, q in enumerate(dict.fromkeys(queues))}
        self.queue: list[int] = []  # of each step
        self.place: list[int] = []  # of each step in its queue
        self.known: list[Clock] = []  # before each step
        self._now = [[0] * len(self.number) for _ in self.number]
        self._count = [0] * len(self.number)

    def take(self, step: Step) -> Clock:
        """What the next step knows when it begins."""
        q = self.number[queue_of(step)]
        now = self._now[q]
        for w in step.waits:
            self.join(now, w)
        self.queue.append(q)
        self.place.append(self._count[q])
        self.known.append(now.copy())
        self._count[q] += 1
        if step.barrier:
            now[q] = self._count[q]
        return self.known[-1]

    def join(self, clock: Clock, earlier: int) -> None:
        """Let a clock know that an earlier step, which has a barrier, is done."""
        for i, there in enumerate(self.known[earlier]):
            clock[i] = max(clock[i], there)
        q = self.queue[earlier]
        clock[q] = max(clock[q], self.place[earlier] + 1)

    def covers(self, clock: Clock, earlier: int) -> bool:
        """Whether a step is done for whoever has this clock."""
        return clock[self.queue[earlier]] > self.place[earlier]

    def preview(self, queue: Queue) -> Clock:
        """What the next step of a queue knows without waiting."""
        return self._now[self.number[queue]].copy()


@dataclass
class Touched:
    """The last steps that wrote and read a buffer, one per queue."""

    writers: dict[Queue, int]
    readers: dict[Queue, int]


def with_waits(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps, each waiting for those of other queues that it conflicts with, no oftener.

    A step that is waited for gets a barrier.
    """
    clocks = Clocks(map(queue_of, steps))
    touched: dict[int, Touched] = {}
    out: list[Step] = []
    for i, step in enumerate(steps):
        clock, waits = clocks.preview(queue_of(step)), []
        for earlier in sorted(_conflicts(step, touched), reverse=True):
            if not clocks.covers(clock, earlier):
                clocks.join(clock, earlier)
                waits.append(earlier)
        out.append(replace(step, waits=tuple(sorted(waits))) if waits else step)
        clocks.take(out[-1])
        _touch(i, step, touched)
    awaited = {w for step in out for w in step.waits}
    return tuple(replace(s, barrier=True) if i in awaited else s for i, s in enumerate(out))


def _conflicts(step: Step, touched: dict[int, Touched]) -> set[int]:
    """Earlier steps of other queues whose order with this one matters."""
    found: dict[tuple[Queue, int], int] = {}
    for b in (*step.reads, *step.writes):
        seen = touched.get(b)
        if seen is None:
            continue
        for q, i in (*seen.writers.items(), *(seen.readers.items() if b in step.writes else ())):
            found[q, i] = i
    return {i for (q, i) in found if q != queue_of(step)}


def _touch(index: int, step: Step, touched: dict[int, Touched]) -> None:
    for b in (*step.reads, *step.writes):
        touched.setdefault(b, Touched({}, {}))
    for b in step.reads:
        touched[b].readers[queue_of(step)] = index
    for b in step.writes:
        touched[b].writers[queue_of(step)] = index


def with_lifetimes(buffers: Sequence[Buffer], steps: Sequence[Step]) -> tuple[Buffer, ...]:
    """The buffers, each alive until its device's next kernels know that all its users are done.

    What copies write lives from the start: a copy may run as early as it likes.
    """
    clocks = Clocks(map(queue_of, steps))
    users: list[list[int]] = [[] for _ in buffers]
    parts = [0] * len(buffers)
    copied: set[int] = set()
    for i, step in enumerate(steps):
        clocks.take(step)
        for b in {*step.reads, *step.writes}:
            users[b].append(i)
        for b in step.writes:
            parts[b] += 1
        copied |= set(step.writes) if step.stream == COPY else set()
    kernels: dict[str, list[int]] = {}
    for i, step in enumerate(steps):
        if step.stream == COMPUTE:
            kernels.setdefault(step.device, []).append(i)
    out = []
    for b, buffer in enumerate(buffers):
        if buffer.space is Space.ARENA and users[b]:
            first = 0 if b in copied else users[b][0]
            last = _freed(clocks, users[b], kernels.get(buffer.device, []), len(steps))
            buffer = replace(buffer, first=first, last=last)
        out.append(replace(buffer, parts=parts[b]))
    return tuple(out)


def _freed(clocks: Clocks, users: Sequence[int], kernels: Sequence[int], count: int) -> int:
    """The last step before the first kernel that knows all users to be done."""
    latest: dict[int, int] = {clocks.queue[i]: i for i in users}

    def knows(i: int) -> bool:
        return all(clocks.covers(clocks.known[i], user) for user in latest.values())

    low, high = 0, len(kernels)
    while low < high:  # clocks only grow along a queue
        middle = (low + high) // 2
        low, high = (low, middle) if knows(kernels[middle]) else (middle + 1, high)
    return (kernels[low] if low < len(kernels) else count) - 1
