"""What GPUs can do, measured with compiled nets on their own clocks: `netc devices --probe`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.cli.probe_nets import Make, chain, compiled, convolution, images
from netc.ir.device import Device
from netc.ir.graph import Builder, Value
from netc.ir.machine import DeviceSpec, Link
from netc.ir.queues import COPY
from netc.runtime.trace import timed

_REPEAT = 20


@dataclass(frozen=True)
class Sizes:
    """How large the nets are that are measured."""

    images: int = 32  # of 56 × 56 and 128 channels
    floats: int = 1 << 28  # of an array that no cache holds
    copied: int = 1 << 24
    chain: int = 50  # steps


def measured(device: Device, memory: int, gpu: str = "cuda", sizes: Sizes = Sizes()) -> DeviceSpec:
    """A GPU's products of float32 (precision `high`), reads and writes, and time of a step."""
    image, operations = images(sizes.images)
    long, short = (
        _seconds(chain(n), (1024,), device, gpu, optimize=False)
        for n in (3 * sizes.chain, sizes.chain)
    )
    return DeviceSpec(
        memory=memory,
        flops=operations / _seconds(convolution, image, device, gpu),
        bandwidth=8.0 * sizes.floats / _seconds(chain(1), (sizes.floats,), device, gpu),
        launch=max(1e-9, (long - short) / (2 * sizes.chain)),
    )


def measured_link(a: Device, b: Device, gpu: str = "cuda", sizes: Sizes = Sizes()) -> Link:
    """From `a` to `b`, one of them a GPU: a large value and a small one."""
    small = _copying(a, b, 16, gpu)
    large = _copying(a, b, sizes.copied, gpu)
    return Link(4.0 * sizes.copied / max(1e-9, large - small), max(1e-9, small))


def _seconds(make: Make, shape: tuple[int, ...], device: Device, gpu: str, **options: Any) -> float:
    """Of the kernels of one run, the median of several."""
    exe: Any = compiled(make, shape, gpu=gpu, target="cuda", devices=[str(device)], **options)
    repeat = _REPEAT if gpu == "cuda" else 2
    return max(1e-9, float(statistics.median(exe.gpu_times(_ones(shape), repeat=repeat))))


def _copying(a: Device, b: Device, floats: int, gpu: str) -> float:
    """Of the one copy in a net that touches a value on one device, then on the other."""

    def hop(builder: Builder, x: Value) -> Value:
        with builder.on(a):
            x = builder.relu(x)
        with builder.on(b):
            return builder.relu(x)

    exe = compiled(hop, (floats,), gpu=gpu, devices=[str(a), str(b)], optimize=False)
    arrays = exe.accepted(_ones((floats,)), {})
    runs = [timed(exe, arrays)[1] for _ in range(3)]
    copies = [step.seconds for steps in runs[1:] for step in steps if step.stream == COPY]
    return float(min(copies))


def _ones(shape: tuple[int, ...]) -> Mapping[str, Any]:
    return {"x": np.ones(shape, np.float32)}
