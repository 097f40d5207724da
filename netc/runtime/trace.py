"""How long each step of a run took; as numbers, and as a trace that Perfetto opens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from netc.ir.dims import evaluate
from netc.ir.machine import Machine
from netc.ir.plan import Plan
from netc.runtime.artifact import HOSTS
from netc.runtime.binding import Binding
from netc.runtime.ports import Array
from netc.runtime.session import Executable
from netc.runtime.team import Team

_MICRO = 1e6


@dataclass(frozen=True)
class StepTime:
    """One step of one run: when it began, how long it took, what it did."""

    name: str
    op: str
    kernel: str
    start: float  # seconds since the run began
    seconds: float
    flops: int
    bytes: int
    device: str = "cpu:0"
    stream: str = "compute"


def timed(exe: Executable, arrays: Sequence[Array]) -> tuple[dict[str, Array], list[StepTime]]:
    """One run on accepted arrays, and its steps as thread 0 saw them, barriers included.

    The processor's cycle counter is read before each step, which costs some 10 ns; the run's
    length on the clock gives the counter's unit.
    """
    if exe.gpu or exe.level == HOSTS:
        return _timed_elsewhere(exe, arrays)
    if len(exe.devices) > 1 and all(d.startswith("cpu:") for d in exe.devices):
        return _watched(exe, arrays, exe.team)
    return _watched(exe, arrays, lambda binding: binding)


def _watched(
    exe: Executable, arrays: Sequence[Array], jobs: Callable[[Binding], Binding | Team]
) -> tuple[dict[str, Array], list[StepTime]]:
    """One run whose jobs note their times. Waiting for other devices is in no step's time; of
    steps in turns it is the mean of the threads."""
    seen: list[tuple[Binding, list[Any], float]] = []

    @contextmanager
    def watch(binding: Binding) -> Iterator[None]:
        job = jobs(binding)
        clocks = job.clocks()
        try:
            job.timed(clocks)
            yield
        finally:
            job.timed(None)
        seen.append((binding, clocks, binding.seconds))

    outputs = exe.run(arrays, watch)
    [(binding, clocks, seconds)] = seen
    first = min(int(times[0]) for times in clocks)
    ticks = max(1, max(int(times[-1]) for times in clocks) - first)
    spans: dict[int, tuple[float, float]] = {}
    for times, (indices, share) in zip(clocks, jobs(binding).rows(), strict=True):
        at = (times - first) * (seconds / ticks)
        for i, a, b in zip(indices, at[:-1].tolist(), at[1:].tolist(), strict=True):
            start, spent = spans.get(i, (a, 0.0))
            spans[i] = min(start, a), spent + share * (b - a)
    return outputs, _made(exe.plan, binding.known, spans)


def _timed_elsewhere(
    exe: Executable, arrays: Sequence[Array]
) -> tuple[dict[str, Array], list[StepTime]]:
    """The same where steps are on GPUs, each alone on its device's clock, or on other hosts."""
    from netc.runtime.device_run import GpuExecutable
    from netc.runtime.remote_run import HostsExecutable

    assert isinstance(exe, GpuExecutable | HostsExecutable)
    outputs, spans, known = exe.timed_steps(arrays)
    return outputs, _made(exe.plan, known, spans)


def simulated(
    plan: Plan, known: Mapping[str, int], machine: Machine, weights: int
) -> list[StepTime]:
    """The steps of a run as they would be on a machine; `weights` are bytes of parameters."""
    from netc.runtime.sim import simulate

    events = simulate(plan, known, machine, weights).events
    return _made(plan, known, {e.step: (e.start, e.seconds) for e in events})


def _made(
    plan: Plan, known: Mapping[str, int], spans: Mapping[int, tuple[float, float]]
) -> list[StepTime]:
    """The plan's steps with when each began and how long it took."""
    return [
        StepTime(
            name=step.name,
            op=step.op,
            kernel=step.kernel,
            start=spans[i][0],
            seconds=spans[i][1],
            flops=evaluate(step.flops, known),
            bytes=evaluate(step.bytes, known),
            device=step.device,
            stream=step.stream,
        )
        for i, step in enumerate(plan.steps)
    ]


def mean_times(
    exe: Executable, arrays: Sequence[Array], runs: int, seconds: float = 10.0
) -> list[StepTime]:
    """Each step's mean time over up to `runs` runs, stopping after so many seconds."""
    timed(exe, arrays)  # binds, and warms caches up
    end, taken = time.perf_counter() + seconds, [timed(exe, arrays)[1]]
    while len(taken) < runs and time.perf_counter() < end:
        taken.append(timed(exe, arrays)[1])
    mean = np.array([[step.seconds for step in steps] for steps in taken]).mean(axis=0)
    starts = np.concatenate([[0.0], np.cumsum(mean)])
    if len(exe.devices) > 1:  # steps overlap: where they began, on the average
        starts = np.array([[step.start for step in steps] for steps in taken]).mean(axis=0)
    return [
        replace(step, start=float(start), seconds=float(spent))
        for step, start, spent in zip(taken[0], starts, mean, strict=False)
    ]


def trace_json(runs: Sequence[Sequence[StepTime]], process: str = "netc") -> str:
    """Runs, one after the other, in Chrome's trace format; a track per device and stream."""
    events: list[dict[str, object]] = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": process}}
    ]
    tracks = sorted({(s.device, s.stream) for steps in runs for s in steps})
    number_of = {track: number for number, track in enumerate(tracks)}
    for (device, stream), number in number_of.items():
        name = {"name": f"{device} {stream}"}
        events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": name})
    base = 0.0
    for number, steps in enumerate(runs):
        length = max((step.start + step.seconds for step in steps), default=0.0)
        events.append(_event(f"run {number}", "run", base, length, {}))
        for s in steps:
            track = number_of[s.device, s.stream]
            events.append(_event(s.name, s.op, base + s.start, s.seconds, _facts(s), track))
        base += length
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}, ensure_ascii=True)


def _event(
    name: str, kind: str, start: float, seconds: float, facts: dict[str, object], track: int = 0
) -> dict[str, object]:
    return {
        "ph": "X",
        "pid": 1,
        "tid": track,
        "name": name,
        "cat": kind,
        "ts": start * _MICRO,
        "dur": seconds * _MICRO,
        "args": facts,
    }


def _facts(step: StepTime) -> dict[str, object]:
    speed = step.flops / step.seconds / 1e9 if step.seconds > 0 else 0.0
    return {
        "op": step.op,
        "kernel": step.kernel,
        "flops": step.flops,
        "bytes": step.bytes,
        "GFLOP/s": round(speed, 2),
    }
