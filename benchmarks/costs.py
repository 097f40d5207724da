"""The cost model against the clock: the time of a run, predicted and measured, net by net.

    python -m benchmarks.costs [--nets lenet …] [--batch 1] [--seconds 2]

The processor is probed first, as by `netc devices --probe`. `plan` is the compiled plan on the
virtual clock; `nodes` is what strategies are told: the net's nodes before any pass, in likely
kernels. Runs are on one thread; a ratio is that of the prediction to the median run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import netc
from benchmarks import zoo
from netc.cli.probe import probe
from netc.ir.device import Device
from netc.ir.machine import Machine
from netc.passes.partition.placement import simulate as simulated_nodes
from netc.passes.partition.problem import problem_of
from netc.runtime.sim import simulate


@dataclass(frozen=True)
class Row:
    """One net: seconds of a run, and as predicted from the plan and from the nodes."""

    net: str
    seconds: float
    plan: float
    nodes: float

    def __str__(self) -> str:
        times = (1e3 * t for t in (self.seconds, self.plan, self.nodes))
        shown = "".join(f"{t:12.3f}" for t in times)
        return (
            f"{self.net:14}{shown}{self.plan / self.seconds:10.2f}{self.nodes / self.seconds:10.2f}"
        )


HEAD = f"{'':14}{'measured ms':>12}{'plan':>12}{'nodes':>12}{'plan':>10}{'nodes':>10}"


def machine_of_one_thread() -> Machine:
    """This processor, as one thread has it."""
    before = os.environ.get("NETC_NUM_THREADS")
    os.environ["NETC_NUM_THREADS"] = "1"
    try:
        return probe([Device("cpu")])
    finally:
        del os.environ["NETC_NUM_THREADS"]
        if before is not None:
            os.environ["NETC_NUM_THREADS"] = before


def measured(name: str, batch: int, seconds: float, machine: Machine) -> Row:
    """Run a net, and predict it."""
    net = zoo.read(name, batch)
    exe = netc.compile(net.graph, threads=1)
    exe(net.feed)
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        exe(net.feed)
        taken.append(time.perf_counter() - start)
    plan = simulate(exe.plan, net.sizes, machine, len(exe.image.weights)).seconds
    problem = problem_of(net.graph, machine, sizes=net.sizes)
    nodes = simulated_nodes(problem, [0] * len(problem.items)).makespan
    return Row(name, statistics.median(taken), machine.call + plan, machine.call + nodes)


def show(nets: Sequence[str], batch: int, seconds: float) -> None:
    """Print a row for each net, and the worst ratio."""
    machine = machine_of_one_thread()
    spec = machine.spec(machine.devices[0])
    print(f"\ncost model: {spec.flops / 1e9:.1f} GFLOP/s, {spec.bandwidth / 1e9:.1f} GB/s, "
          f"{spec.cache_bandwidth / 1e9:.1f} GB/s cached, {spec.launch * 1e9:.0f} ns a step, "
          f"{machine.call * 1e6:.1f} µs a run\n{HEAD}")  # fmt: skip
    ratios = []
    for name in nets:
        row = measured(name, batch, seconds, machine)
        ratios += [row.plan / row.seconds, row.nodes / row.seconds]
        print(row, flush=True)
    print(f"ratios from {min(ratios):.2f} to {max(ratios):.2f}")


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.costs", description=__doc__)
    parser.add_argument("--nets", nargs="+", default=zoo.NAMES)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="of runs of each net")
    given = parser.parse_args(args)
    show(given.nets, given.batch, given.seconds)


if __name__ == "__main__":
    main()
