"""How long each step of a run took; as numbers, and as a trace that Perfetto opens."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from netc.ir.dims import evaluate
from netc.runtime.binding import Binding
from netc.runtime.ports import Array
from netc.runtime.session import Executable

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


def timed(exe: Executable, arrays: Sequence[Array]) -> tuple[dict[str, Array], list[StepTime]]:
    """One run on accepted arrays, and its steps as thread 0 saw them, barriers included.

    The processor's cycle counter is read before each step, which costs some 10 ns; the run's
    length on the clock gives the counter's unit.
    """
    times = np.zeros(len(exe.plan.steps) + 1, np.int64)
    bound: list[Binding] = []

    def watch(binding: Binding) -> None:
        bound.append(binding)
        binding.timed(times)

    try:
        outputs = exe.run(arrays, watch)
    finally:
        for binding in bound:
            binding.timed(None)
    (binding,) = bound
    ticks = max(1, int(times[-1] - times[0]))
    at = (times - times[0]) * (binding.seconds / ticks)
    steps = [
        StepTime(
            name=step.name,
            op=step.op,
            kernel=step.kernel,
            start=float(at[i]),
            seconds=float(at[i + 1] - at[i]),
            flops=evaluate(step.flops, binding.known),
            bytes=evaluate(step.bytes, binding.known),
        )
        for i, step in enumerate(exe.plan.steps)
    ]
    return outputs, steps


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
    return [
        replace(step, start=float(start), seconds=float(spent))
        for step, start, spent in zip(taken[0], starts, mean, strict=False)
    ]


def trace_json(runs: Sequence[Sequence[StepTime]], process: str = "netc") -> str:
    """Runs, one after the other, in Chrome's trace format."""
    events: list[dict[str, object]] = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": process}}
    ]
    base = 0.0
    for number, steps in enumerate(runs):
        length = sum(step.seconds for step in steps)
        events.append(_event(f"run {number}", "run", base, length, {}))
        events += [_event(s.name, s.op, base + s.start, s.seconds, _facts(s)) for s in steps]
        base += length
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}, ensure_ascii=True)


def _event(
    name: str, kind: str, start: float, seconds: float, facts: dict[str, object]
) -> dict[str, object]:
    return {
        "ph": "X",
        "pid": 1,
        "tid": 0,
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
