"""Replays timed on the GPU's clock, for netc and for torch in the same way.

Events lie around each replay, many of them asked for while the GPU is still kept busy with
something else: so a launch that takes the host longer than the replay takes the GPU costs nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

BUSY = 4e-3  # seconds the GPU is kept busy while replays are asked for
AT_ONCE = 100  # replays asked for meanwhile: below 40 µs each
LEAST = 3  # replays in a turn

Times = Callable[[int], list[float]]


def turn(times: Times, seconds: float, most: int = AT_ONCE) -> dict[str, Any]:
    """The median and least seconds of a replay, over as many as fit this time, and their number."""
    end = time.perf_counter() + seconds
    times(1)  # brings clocks up and caches to where they are in a run of replays
    found = times(LEAST)
    while time.perf_counter() < end:
        left = (end - time.perf_counter()) / max(statistics.median(found), 1e-6)
        found += times(max(1, min(most, int(left))))
    return {"median": statistics.median(found), "best": min(found), "count": len(found)}


def torch_times(torch: Any, start: Callable[[], Any], repeat: int) -> list[float]:
    """The seconds of each of so many calls of something that fills the current stream."""
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeat)]
    torch.cuda._sleep(int(BUSY * 1.7e9))  # cycles; about the clock of an H100
    for before, after in pairs:
        before.record()
        start()
        after.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) * 1e-3 for before, after in pairs]


def wall_times(start: Callable[[], Any], repeat: int) -> list[float]:
    """The same on the host's clock, where there is no GPU: no measure of anything."""
    found = []
    for _ in range(repeat):
        began = time.perf_counter()
        start()
        found.append(time.perf_counter() - began)
    return found


class Blocker:
    """Keeps a stream of cuda.core busy: memory set again and again."""

    SIZE = 1 << 30  # bytes
    RATE = 3e12  # bytes/s, about

    def __init__(self, device: Any) -> None:
        self._buffer = device.allocate(self.SIZE, stream=device.default_stream)
        device.sync()

    def block(self, stream: Any) -> None:
        """Ask for about BUSY seconds of work."""
        for _ in range(max(1, round(BUSY * self.RATE / self.SIZE))):
            self._buffer.fill(0, stream=stream)


def torch_rates(torch: Any) -> dict[str, float]:
    """What the GPU reaches: products by precision in FLOP/s, a copy in bytes/s read and written."""
    rates = {}
    for name, dtype, tf32, size in (
        ("exact", torch.float32, False, 4096),
        ("medium", torch.float32, True, 8192),
        ("low", torch.bfloat16, True, 8192),
        ("fp16", torch.float16, True, 8192),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(2))
        rates[name] = 2 * size**3 / _best(torch, lambda a=a, b=b: a @ b)
    rates["high"] = max(rates["exact"], rates["medium"] / 3)  # three tf32 products for one
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    rates["copy"] = 2 * source.numel() / _best(torch, lambda: target.copy_(source))
    return rates


def _best(torch: Any, call: Callable[[], Any]) -> float:
    for _ in range(3):
        call()
    return min(torch_times(torch, call, 10))
