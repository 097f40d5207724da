"""Timing a loaded model: whole runs on the clock, steps by the processor's counter."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.cli.show import milliseconds
from netc.runtime.session import Executable
from netc.runtime.trace import mean_times

Arrays = Mapping[str, NDArray[Any]]
_WARM_UP = 3
_MOST = 100_000  # runs
_IMAGE = 224  # pixels of a height or width left open


def random_feed(exe: Executable, batch: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Normal floats, or bytes, in the shapes of the inputs."""
    rng = np.random.default_rng(seed)
    feed = {}
    for name, spec in exe.inputs.items():
        shape = [
            d if isinstance(d, int) else _IMAGE if axis else batch
            for axis, d in enumerate(spec.shape)
        ]
        if spec.dtype.numpy.kind == "f":
            feed[name] = rng.standard_normal(shape).astype(spec.dtype.numpy)
        else:
            feed[name] = rng.integers(0, 128, shape).astype(spec.dtype.numpy)
    return feed


def measure(exe: Executable, feed: Arrays, seconds: float) -> list[float]:
    """The seconds each of several runs took, after a few to warm up."""
    for _ in range(_WARM_UP):
        exe(feed)
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or (time.perf_counter() < end and len(taken) < _MOST):
        start = time.perf_counter()
        exe(feed)
        taken.append(time.perf_counter() - start)
    return taken


def step_rows(exe: Executable, feed: Arrays) -> tuple[list[tuple[object, ...]], float]:
    """A row for every step, and the work of a run in FLOP."""
    steps = mean_times(exe, exe.accepted(feed, {}), 50, 2.0)
    total = sum(s.seconds for s in steps) or 1e-12
    rows: list[tuple[object, ...]] = []
    for s in steps:
        spent = max(s.seconds, 1e-12)
        rates = (s.flops / spent / 1e9, s.bytes / spent / 1e9)
        shown = [f"{rate:.1f}" if rate >= 0.05 else "" for rate in rates]
        rows.append(
            (s.name, s.op, milliseconds(s.seconds), f"{100 * s.seconds / total:.1f}", *shown)
        )
    return rows, float(sum(s.flops for s in steps))
