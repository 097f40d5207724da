"""Where the time of many devices goes, and which part of it limits a plan most.

k devices for T seconds have k·T of device time. One device alone needs B; the rest is work that
one device would not have done, or a device that stands still. Standing still is laid to what the
critical path does meanwhile: a copy, or work on another device. So, exactly,

    k·T = B + launches + packing + rereads + copies + others.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from netc.ir.device import Device
from netc.ir.machine import Machine
from netc.ir.plan import Plan
from netc.ir.queues import COMPUTE, COPY, queue_of
from netc.runtime.sim import Event, Timeline, source_of

SMALL = 0.02  # of the device time: a part of it that is no limit
UNEVEN = 1.5  # times the mean work: a stage that the others wait for


@dataclass(frozen=True)
class Run:
    """A plan and its time line."""

    plan: Plan
    line: Timeline
    gpus: int

    @property
    def work(self) -> float:
        """Seconds of computation, over all devices."""
        return sum(e.seconds for e in self.line.events if e.stream == COMPUTE)

    @property
    def launches(self) -> int:
        """Steps that compute."""
        return sum(e.stream == COMPUTE for e in self.line.events)

    def packing(self, launch: float) -> float:
        """Seconds of laying out parts for copies, and of joining them; without the launches."""
        spent = (e.seconds - launch for e in self.line.events
                 if e.stream == COMPUTE and self.plan.steps[e.step].op == "copy")  # fmt: skip
        return sum(spent)

    def links(self) -> Counter[tuple[str, str]]:
        """How long each link is busy."""
        busy: Counter[tuple[str, str]] = Counter()
        for e in self.line.events:
            source = source_of(self.plan, self.plan.steps[e.step])
            if source is not None:
                busy[str(source), e.device] += e.seconds
        return busy

    def copied(self) -> float:
        """Bytes that cross from one device to another."""
        crossing = (s.bytes for s in self.plan.steps if source_of(self.plan, s) is not None)
        return sum(b / 2 for b in crossing if isinstance(b, int))  # read there, written here


@dataclass(frozen=True)
class Account:
    """Shares of the device time, by what it goes to, and what the waiting for others is for."""

    shares: Mapping[str, float]
    waited_for: tuple[tuple[str, str], ...]  # devices and ops, most waited for first

    @property
    def losses(self) -> list[tuple[str, float]]:
        """What is lost to, most first."""
        lost = [(what, share) for what, share in self.shares.items() if what != "useful"]
        return sorted(lost, key=lambda item: -item[1])


def account(run: Run, alone: Run, machine: Machine) -> Account:
    """The device time of a run, beside the same net on one device."""
    launch = machine.spec(machine.devices[0]).launch
    total = run.gpus * run.line.seconds
    copies, others = _standing(run)
    launches = (run.launches - alone.launches) * launch
    packing = run.packing(launch) - alone.packing(launch)
    seconds = {
        "useful": alone.work,
        "launches": launches,
        "packing": packing,
        "rereads": run.work - alone.work - launches - packing,
        "copies": copies,
        "others": sum(others.values()),
    }
    waited_for = tuple(what for what, _ in others.most_common(2))
    return Account({what: s / total for what, s in seconds.items()}, waited_for)


def _standing(run: Run) -> tuple[float, Counter[tuple[str, str]]]:
    """Seconds of devices that do not compute: for copies, and for a device and op elsewhere."""
    clocks = [_Clock(run.line, str(Device("cuda", i))) for i in range(run.gpus)]
    copies, others = 0.0, Counter[tuple[str, str]]()
    for e in critical_path(run.plan, run.line):
        idle = sum(e.seconds - (c.worked(e.end) - c.worked(e.start)) for c in clocks)
        if e.stream == COPY:
            copies += idle
        else:
            others[e.device, run.plan.steps[e.step].op] += idle
    return copies, others


class _Clock:
    """How much one device has computed by any time."""

    def __init__(self, line: Timeline, device: str) -> None:
        mine = [e for e in line.events if (e.device, e.stream) == (device, COMPUTE)]
        self.starts = [e.start for e in mine]
        self.events = mine
        self.before = [0.0, *accumulate(e.seconds for e in mine)]

    def worked(self, time: float) -> float:
        """Seconds of computation up to then."""
        i = bisect.bisect_right(self.starts, time) - 1
        if i < 0:
            return 0.0
        return self.before[i] + min(time - self.starts[i], self.events[i].seconds)


def critical_path(plan: Plan, line: Timeline) -> Iterator[Event]:
    """The steps that fill the run without a gap, from its end: each began when the next one ended.

    A step begins when the last of these has ended: a step it waits for, the one before it in its
    queue, and for a transfer the one before it on its link.
    """
    last: dict[object, int] = {}
    before: list[list[int]] = []
    for e in line.events:
        step = plan.steps[e.step]
        used = (queue_of(step), (source_of(plan, step), step.device))
        before.append([*step.waits, *(last[u] for u in used if u in last)])
        last.update(dict.fromkeys(used, e.step))
    at = max(line.events, key=lambda e: e.end, default=None)
    while at is not None:
        yield at
        ready = (line.events[i] for i in before[at.step])
        at = next((e for e in ready if e.end == at.start), None)


def limit(run: Run, found: Account, way: str) -> str:
    """What limits a run, in a few words; what comes next where it is at least half of that."""
    (what, share), (after, next_share) = found.losses[:2]
    text = f"{_said(what, run, found, way)}: {share:.0%} of the GPUs' time"
    if what == "others" and way == "pipeline":
        text += _stages(run)
    if what == "copies":
        text += f"; the busiest receiver copies for {_receiver(run):.0%} of the run"
    if next_share >= share / 2:
        text += f"; then {_said(after, run, found, way)}, {next_share:.0%}"
    return text if share > SMALL else f"hardly anything; most of it {text}"


def _said(what: str, run: Run, found: Account, way: str) -> str:
    """What goes by this name in an account."""
    if what == "copies":
        return f"waiting for copies of {_size(run.copied())}"
    if what == "others":
        return _waiting(run, found, way)
    if what == "packing":
        return "laying parts out for copies and joining them"
    if what == "launches":
        return f"launches, {run.launches:,} in all"
    operand = "input" if way == "channel split" else "weights"
    return f"every part of a kernel reads its {operand} again"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _receiver(run: Run) -> float:
    """The share of the run that the busiest copy stream works."""
    busy = run.line.busy().items()
    return max(s for (_, stream), s in busy if stream == COPY) / run.line.seconds


def _waiting(run: Run, found: Account, way: str) -> str:
    if way != "pipeline":
        listed = " and ".join(f"{op} on {device}" for device, op in found.waited_for)
        return f"waiting for one GPU's work ({listed})"
    return "waiting for the longest stage" if _longest(run) > UNEVEN else "filling and draining"


def _longest(run: Run) -> float:
    """The work of the longest stage, in times the mean."""
    busy = [s for (_, stream), s in run.line.busy().items() if stream == COMPUTE]
    return max(busy) * run.gpus / sum(busy)


def _stages(run: Run) -> str:
    """k equal stages and k micro-batches: each stage stands k - 1 of 2k - 1 turns."""
    turns = (run.gpus - 1) / (2 * run.gpus - 1)
    return (
        f" ({turns:.0%} were all stages alike; the longest has {_longest(run):.1f} times the mean)"
    )
