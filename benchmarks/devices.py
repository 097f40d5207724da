"""Two devices of one core each against one device with one core: how much faster nets run.

    python -m benchmarks.devices [--runs 15] [--only resnet50 …]

Runs of one and of two devices take turns; `faster` is the ratio of medians, `best` of the fastest
runs. `predicted` is the virtual clock's, on this machine as it is probed first, alone and in two.
Results are compared bit by bit. The last row is one device against itself: compiled for no device
in particular, and for `cpu:0`. AlexNet's inner products wait for memory at batch 1: what two cores
read at once, against one, bounds their part; it is measured beside the runs, and differs from hour
to hour on a machine that others use.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import netc
from benchmarks.costs import machine_of_one_thread
from benchmarks.scaling import fixed, shareable
from netc.cli.probe import probe
from netc.ir.device import Device
from netc.ir.graph import Builder, Graph
from netc.ir.machine import Machine
from netc.ir.types import f32
from netc.runtime.session import Executable
from netc.runtime.sim import simulate

CPUS = ["cpu:0", "cpu:1"]
_FLOATS = 1 << 25  # of an array that no cache holds
Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Case:
    """A net, what is done to bring it to two devices, and the speed-up that is asked for."""

    net: str
    batch: int
    way: str
    target: float
    options: Mapping[str, Any]

    def compiled(self, graph: Graph) -> Executable:
        """The net on two devices with a core each."""
        options = dict(self.options)
        if options.pop("split", None):
            options["split"] = dict.fromkeys(shareable(graph, 2), CPUS)
        return netc.compile(graph, threads=2, **options)


CASES = (
    Case("resnet50", 16, "replicate", 1.9, {"replicate": CPUS}),
    Case("googlenet", 8, "pipeline, 8 micro-batches", 1.7, {"pipeline": CPUS, "micro_batches": 8}),
    Case("alexnet", 1, "channel split", 1.6, {"split": True}),
)


def feed_of(graph: Graph) -> Arrays:
    """Standard normal inputs."""
    rng = np.random.default_rng(0)
    return {
        n.name: rng.standard_normal(n.types[0].sizes({})).astype(np.float32) for n in graph.inputs
    }


def in_turns(runs: int, feed: Arrays, *models: Executable) -> list[list[float]]:
    """Seconds of each run of each model, one after the other."""
    taken: list[list[float]] = [[] for _ in models]
    for model in models:
        model(feed)
    for _ in range(runs):
        for model, mine in zip(models, taken, strict=True):
            start = time.perf_counter()
            model(feed)
            mine.append(time.perf_counter() - start)
    return taken


def same(feed: Arrays, a: Executable, b: Executable) -> bool:
    """Whether two models give the same bits."""
    left, right = a(feed), b(feed)
    return all(np.array_equal(right[name], array) for name, array in left.items())


def seconds(exe: Executable, machine: Machine) -> float:
    """The time of a run on the virtual clock."""
    return machine.call + simulate(exe.plan, {}, machine, len(exe.image.weights)).seconds


def measured(case: Case, runs: int, alone_on: Machine, machine: Machine) -> str:
    """A row of the table."""
    graph = fixed(case.net, case.batch)
    feed = feed_of(graph)
    one, two = netc.compile(graph, threads=1), case.compiled(graph)
    bits = "same bits" if same(feed, one, two) else "OTHER RESULTS"
    taken = in_turns(runs, feed, one, two)
    alone, both = map(statistics.median, taken)
    guess, best = seconds(one, alone_on) / seconds(two, machine), min(taken[0]) / min(taken[1])
    return (
        f"{case.net:10}{case.batch:6}  {case.way:26}{alone * 1e3:9.2f}{both * 1e3:9.2f}"
        f"{alone / both:9.2f}{best:7.2f}{case.target:8.1f}{guess:11.2f}  {bits}"
    )


def memory(runs: int) -> str:
    """What one core and two read of memory at once, in turns."""
    b = Builder()
    shape = (64, _FLOATS // 64)
    graph = b.graph("read", {"y": b.reduce_max(b.input("x", f32[shape]), axes=(1,))})
    feed = {"x": np.ones(shape, np.float32)}
    models = (netc.compile(graph, threads=count) for count in (1, 2))
    one, two = (4 * _FLOATS / statistics.median(t) / 1e9 for t in in_turns(runs, feed, *models))
    return f"memory: one core reads {one:.1f} GB/s, two at once {two:.1f} ({two / one:.2f} times)"


def overhead(runs: int) -> str:
    """One device that is named against the same device that is not."""
    graph = fixed("googlenet", 1)
    feed = feed_of(graph)
    plain = netc.compile(graph, threads=1)
    named = netc.compile(graph, threads=1, devices=["cpu:0"])
    alone, other = map(statistics.median, in_turns(4 * runs, feed, plain, named))
    text = f"{'googlenet':10}{1:6}  {'cpu:0, named':26}{alone * 1e3:9.2f}{other * 1e3:9.2f}"
    return f"{text}{'':35}  overhead {other / alone - 1:+.1%} (at most 2%)"


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.devices", description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="of each model of a pair")
    parser.add_argument("--only", nargs="+", help="nets", default=[c.net for c in CASES])
    given = parser.parse_args(args)
    tables = machine_of_one_thread(), probe([Device("cpu", 0), Device("cpu", 1)])
    print(f"{'net':10}{'batch':>6}  {'on two devices':26}{'one, ms':>9}{'two, ms':>9}{'faster':>9}"
          f"{'best':>7}{'asked':>8}{'predicted':>11}")  # fmt: skip
    for case in CASES:
        if case.net in given.only:
            print(measured(case, given.runs, *tables), flush=True)
            print(memory(given.runs), flush=True)
    print(overhead(given.runs))


if __name__ == "__main__":
    main()
