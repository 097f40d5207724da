"""Timing a loaded model: whole runs on the clock, steps by the counter of their device."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from netc.cli.drawn import drawn, noted_sizes, usual_sizes
from netc.cli.show import milliseconds
from netc.errors import UsageError, clean
from netc.frontend.shapes import given_shapes
from netc.ir.solve import solved
from netc.runtime.device_run import GpuExecutable
from netc.runtime.session import Executable
from netc.runtime.trace import StepTime, timed

Arrays = Mapping[str, NDArray[Any]]
_WARM_UP = 3
_MOST = 100_000  # runs
_WATCHED, _WATCHED_SECONDS = 100, 2.0  # runs whose steps are timed
_REPEAT = 50  # launches of a kernel, or runs, that a GPU's clock times
INTERPRET = "interpret"  # a driver's name


def batch_of(exe: Executable, asked: int | None) -> int:
    """The size of the batch: as asked for, 1, or the one the net fixes."""
    sizes = [spec.shape[0] for spec in exe.inputs.values() if spec.shape]
    fixed = next((d for d in sizes if isinstance(d, int)), 1)
    if all(isinstance(d, int) for d in sizes):
        if asked not in (None, fixed):
            raise UsageError(f"this model's batch is {fixed}", help="netc inspect says why")
        return fixed
    return asked or 1


def random_feed(
    exe: Executable, batch: int, shapes: Sequence[tuple[str, tuple[int | str, ...]]] = ()
) -> dict[str, NDArray[Any]]:
    """Normal floats, or bytes, in the shapes of the inputs, some of which may be given."""
    inputs = {port.name: port.type for port in exe.plan.inputs}
    sizes = usual_sizes(inputs.values(), batch, noted_sizes(exe.model.notes))
    given = given_shapes(dict(shapes))
    for name in given:
        if name not in inputs:
            known = ", ".join(map(clean, inputs))
            raise UsageError(f"the model has no input {clean(name)!r}", help=known)
    types = [inputs[name] for name in given]
    sizes |= {s: n for s, n in solved(types, given.values()).items() if isinstance(n, int)}
    for name, shape in given.items():
        if inputs[name].sizes(sizes) != shape:
            asked = ",".join(map(str, shape))
            raise UsageError(f"input {clean(name)} is {inputs[name]}: it is never [{asked}]")
    return drawn(inputs, sizes, 0, 128)


def sizes_said(exe: Executable, feed: Arrays, batch: int) -> str:
    """The batch in words, and the shapes that the net leaves open otherwise."""
    shapes = {name: spec.shape for name, spec in exe.inputs.items()}
    free = (n for n, shape in shapes.items() if any(isinstance(d, str) for d in shape[1:]))
    said = [f"{clean(n)} [{','.join(map(str, feed[n].shape))}]" for n in free]
    batches = (feed[n].shape[0] for n, shape in shapes.items() if isinstance((*shape, 0)[0], str))
    return ", ".join([f"batch {next(batches, batch)}", *said])


def measure(exe: Executable, feed: Arrays, seconds: float) -> list[float]:
    """The seconds each of several runs took, after a few to warm up."""
    for _ in range(1 if exe.gpu == INTERPRET else _WARM_UP):
        exe(feed)
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or (time.perf_counter() < end and len(taken) < _MOST):
        start = time.perf_counter()
        exe(feed)
        taken.append(time.perf_counter() - start)
    return taken


def _alone(
    exe: GpuExecutable, feed: Arrays, steps: list[StepTime], seconds: list[float]
) -> list[float]:
    """The seconds of steps, those of launches as the GPU's clock has them."""
    launches = exe.kernel_times(feed, repeat=1 if exe.gpu == INTERPRET else _REPEAT)
    found, waiting = [], list(reversed(launches))
    for step, spent in zip(steps, seconds, strict=True):
        mine = waiting and (step.name, step.kernel) == (waiting[-1].name, waiting[-1].kernel)
        found.append(waiting.pop().seconds if mine else spent)
    return found


def gpu_said(exe: Executable, feed: Arrays) -> str:
    """How long a GPU was busy in a run, in words; nothing for a net without one."""
    if not isinstance(exe, GpuExecutable) or not exe.gpu:
        return ""
    if exe.gpu == INTERPRET:
        return "; these are the times of Triton's interpreter, not of a GPU"
    spent = statistics.median(exe.gpu_times(feed, repeat=_REPEAT))
    return f"; {milliseconds(spent)} ms of it on the GPU"


def median_steps(exe: Executable, feed: Arrays) -> list[StepTime]:
    """The steps of a run, each with its median time."""
    arrays = exe.accepted(feed, {})
    runs: list[list[StepTime]] = []
    end = time.perf_counter() + _WATCHED_SECONDS
    while not runs or (time.perf_counter() < end and len(runs) < _WATCHED):
        exe.run(arrays)  # wakes the workers up, which the watched run need not
        runs.append(timed(exe, arrays)[1])
    medians = [statistics.median(r[i].seconds for r in runs) for i in range(len(runs[0]))]
    if isinstance(exe, GpuExecutable) and exe.gpu:
        medians = _alone(exe, feed, runs[0], medians)
    return [replace(s, seconds=spent) for s, spent in zip(runs[0], medians, strict=True)]


def _joined(steps: list[StepTime]) -> Iterator[StepTime]:
    """Neighbouring calls of one kernel for one node, as one step."""
    for _, group in itertools.groupby(steps, lambda s: (s.name, s.op, s.kernel, s.device)):
        calls = list(group)
        yield replace(
            calls[0],
            op=calls[0].op if len(calls) == 1 else f"{calls[0].op} ×{len(calls)}",
            seconds=sum(s.seconds for s in calls),
            flops=sum(s.flops for s in calls),
            bytes=sum(s.bytes for s in calls),
        )


def step_rows(exe: Executable, feed: Arrays) -> tuple[list[tuple[object, ...]], float]:
    """A row for every step, and the work of a run in FLOP."""
    steps = list(_joined(median_steps(exe, feed)))
    total = sum(s.seconds for s in steps) or 1e-12
    rows: list[tuple[object, ...]] = []
    for s in steps:
        rates = (work / max(s.seconds, 1e-12) / 1e9 for work in (s.flops, s.bytes))
        shown = [f"{rate:.1f}" if rate >= 0.05 else "" for rate in rates]
        share = f"{100 * s.seconds / total:.1f}"
        rows.append((s.name, s.op, milliseconds(s.seconds), share, *shown))
    return rows, float(sum(s.flops for s in steps))
