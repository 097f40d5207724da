"""Random nets of parallel branches, and machines of unequal devices, to partition."""

from __future__ import annotations

import numpy as np

from netc.ir.device import Device
from netc.ir.graph import Builder, Graph
from netc.ir.machine import DeviceSpec, Link, Machine
from netc.ir.types import f32


def random_net(seed: int, size: int = 10, channels: int = 16, side: int = 28) -> Graph:
    """About `size` convolutions and what joins them: each reads one of the last few values."""
    rng = np.random.default_rng(seed)
    b = Builder()
    pool = [b.input("data", f32[1, channels, side, side])]
    for _ in range(size):
        x = pool[-int(rng.integers(1, min(4, len(pool)) + 1))]
        kernel = int(rng.choice([1, 3, 5]))
        weight = b.param("w", f32[channels, channels, kernel, kernel])
        y = b.relu(b.conv(x, weight, pad=(kernel // 2,) * 2))
        if len(pool) > 2 and rng.random() < 0.3:
            y = b.add(y, pool[-int(rng.integers(1, 3))])
        pool.append(y)
    read = {v for y in pool for v in _read(y.node.inputs)}
    return b.graph(f"random{seed}", {v.name: v for v in pool if v not in read})


def _read(values: tuple) -> list:  # type: ignore[type-arg]
    """The values and what they were made of: relu and convolution are made together."""
    return [*values, *(w for v in values for w in v.node.inputs)]


def random_machine(seed: int, count: int, memory: float = 1e12) -> Machine:
    """Devices whose speeds differ up to four times, joined by links that matter."""
    rng = np.random.default_rng(seed)
    specs = {
        Device("sim", i): DeviceSpec(
            int(memory), 5e10 * rng.uniform(1, 4), 1e10 * rng.uniform(1, 4), 1e-6
        )
        for i in range(count)
    }
    return Machine("random", specs, between=Link(rng.uniform(1e9, 2e10), 2e-6))
