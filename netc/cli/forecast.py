"""explain --machine, --trace, --measure: what a run is predicted to take, and what it takes."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from netc.cli.facts import sizes_for
from netc.cli.show import milliseconds, progress, say, size, table
from netc.cli.timing import batch_of, measure, median_steps, random_feed
from netc.errors import clean
from netc.ir.device import Device
from netc.ir.machine import Machine
from netc.ir.queues import COPY, homes_of
from netc.runtime.ports import match_sizes
from netc.runtime.session import Executable
from netc.runtime.trace import StepTime, simulated, trace_json

if TYPE_CHECKING:
    from netc.compiler import Lowered, Options

_SECONDS = 1.0  # that whole runs are timed for


def show_forecast(
    lowered: Lowered, options: Options, machine: Machine | None, trace: Path | None
) -> None:
    """The plan on the virtual clock of a machine: how long a run takes, and who is busy."""
    from netc.compiler import finish
    from netc.runtime.atomic import write_file

    with progress(f"planning {clean(lowered.graph.name)}"):
        made = finish(lowered, replace(options, archs=()))  # kernels of GPUs as text only
    plan = made.levels[0].plan
    known = sizes_for(lowered.graph, 1)
    on = machine or Machine.typical([Device.parse(name) for name in homes_of(plan)])
    steps = simulated(plan, known, on, len(made.weights))
    whole = _whole(steps)
    say(f"predicted by {clean(on.name)}: {milliseconds(on.call + whole)} ms a run")
    for device, stream in sorted({(s.device, s.stream) for s in steps}):
        mine = [s for s in steps if (s.device, s.stream) == (device, stream)]
        share = sum(s.seconds for s in mine) / whole if whole else 0.0
        moved = sum(s.bytes for s in mine) / 2
        more = f", {size(moved)} copied" if stream == COPY else ""
        say(f"  {device} {stream}: {len(mine)} steps, busy {share:.0%}{more}")
    if trace is not None:
        write_file(trace, [trace_json([steps]).encode()])
        say(f"{clean(trace)}: the predicted run, for ui.perfetto.dev")


def show_measured(lowered: Lowered, options: Options, machine: Machine | None) -> None:
    """Each step's time, predicted and measured; without a table this machine is probed first."""
    from netc import api, choices
    from netc.cli.probe import probe
    from netc.compiler import finish
    from netc.runtime.session import executable

    runs = api.gpu_options(None)
    if options.archs:  # not those that are compiled for when nothing is said, but what is here
        options = replace(options, archs=choices.archs_of(None, runs.gpu))
    with progress(f"compiling {clean(lowered.graph.name)}") as step:
        exe = executable(finish(lowered, options), gpu=runs)
        step("measuring this machine")
        on = machine or probe([Device.parse(name) for name in exe.devices])
        step("timing")
        rows, line = _compared(exe, on)
    table(("step", "does", "on", "predicted ms", "measured ms", "ratio"), rows, numbers=3)
    say(line)


def _compared(exe: Executable, machine: Machine) -> tuple[list[tuple[object, ...]], str]:
    """A row for each step with both times, and a line about the run."""
    feed = random_feed(exe, batch_of(exe, None))
    known = match_sizes(exe.plan, exe.accepted(feed, {}))
    guesses = simulated(exe.plan, known, machine, len(exe.image.weights))
    taken = statistics.median(measure(exe, feed, _SECONDS))
    rows: list[tuple[object, ...]] = []
    for guess, step in zip(guesses, median_steps(exe, feed), strict=True):
        both = milliseconds(guess.seconds), milliseconds(step.seconds)
        ratio = f"{guess.seconds / step.seconds:.2f}" if step.seconds > 0 else ""
        rows.append((step.name, step.op, step.device, *both, ratio))
    whole = machine.call + _whole(guesses)
    return rows, (
        f"predicted by {clean(machine.name)}: {milliseconds(whole)} ms a run; "
        f"measured: {milliseconds(taken)} ms; ratio {whole / taken:.2f}"
    )


def _whole(steps: list[StepTime]) -> float:
    """When the last step ends."""
    return max((s.start + s.seconds for s in steps), default=0.0)
