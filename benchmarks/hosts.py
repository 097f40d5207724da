"""Nets on several hosts, played by worker processes of one core each on this machine.

    python -m benchmarks.hosts [--runs 15]

First what a crossing costs: a tiny net whose nodes are on this host and another by turns, the time
of one way there and back, and a large value sent there and back. A network adds its own. Then two
workers against one process with one thread, in turns; results are compared bit by bit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

import netc
from benchmarks.devices import feed_of, in_turns, same
from benchmarks.scaling import fixed
from netc.ir.device import Device
from netc.ir.graph import Builder, Graph
from netc.ir.types import f32

WORKER = [sys.executable, "-m", "netc", "worker", "--threads", "1"]
HOSTS = {"a": WORKER, "b": WORKER}
PAIR = ["cpu:0@a", "cpu:0@b"]
CASES: tuple[tuple[str, int, str, dict[str, Any]], ...] = (
    ("resnet50", 16, "replicate", {"replicate": PAIR}),
    ("googlenet", 8, "pipeline, 8 micro-batches", {"pipeline": PAIR, "micro_batches": 8}),
    ("vgg16", 4, "pipeline, 4 micro-batches", {"pipeline": PAIR, "micro_batches": 4}),
)
_TURNS = 8  # crossings there and back of the tiny net
_LARGE = 1 << 23  # floats


def measured(net: str, batch: int, way: str, options: dict[str, Any], runs: int) -> str:
    """A row of the table."""
    graph = fixed(net, batch)
    feed = feed_of(graph)
    one = netc.compile(graph, threads=1)
    two = netc.compile(graph, threads=1, hosts=HOSTS, **options)
    bits = "same bits" if same(feed, one, two) else "other bits"
    alone, both = map(statistics.median, in_turns(runs, feed, one, two))
    return (
        f"{net:10}{batch:6}  {way:26}{alone * 1e3:9.2f}{both * 1e3:9.2f}{alone / both:9.2f}  {bits}"
    )


def chain(turns: int, floats: int) -> Graph:
    """A net that goes to another host and back so many times."""
    b = Builder()
    x = b.input("x", f32[16, floats // 16])
    for _ in range(turns):
        with b.on(Device("cpu", 0, "a")):
            x = b.relu(x)
        with b.on(Device("cpu", 0)):
            x = b.abs(x)
    return b.graph("chain", {"y": x})


def crossing(turns: int, floats: int, runs: int) -> float:
    """Seconds of one way there and back, computing left out as far as one device shows it."""
    graph = chain(turns, floats)
    feed = feed_of(graph)
    exe = netc.compile(graph, threads=1, hosts={"a": WORKER}, optimize=False)
    (taken,) = in_turns(runs, feed, exe)
    return statistics.median(taken) / turns


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.hosts", description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="of each model of a pair")
    parser.add_argument("--only", nargs="+", help="nets", default=[c[0] for c in CASES])
    given = parser.parse_args(args)
    small = crossing(_TURNS, 64, 4 * given.runs)
    large = crossing(1, _LARGE, given.runs)
    each = 4 * _LARGE / ((large - small) / 2) / 1e9
    print(f"there and back {small * 1e6:.0f} us; with {4 * _LARGE / 1e6:.0f} MB each way", end=" ")
    print(f"{large * 1e3:.1f} ms, {each:.2f} GB/s")
    print(f"{'net':10}{'batch':>6}  {'on two hosts':26}{'one, ms':>9}{'two, ms':>9}{'faster':>9}")
    for net, batch, way, options in CASES:
        if net in given.only:
            print(measured(net, batch, way, options, given.runs), flush=True)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
