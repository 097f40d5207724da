"""Named fault points: places where a test makes the next step fail, wait or die.

A point costs one look into an empty mapping while nothing is armed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POINTS = frozenset(
    {
        "atomic.open",
        "atomic.write",
        "atomic.fsync",
        "atomic.rename",
        "atomic.syncdir",
        "artifact.open",
        "artifact.map",
        "artifact.hash",
        "key.read",
        "key.make",
        "arena.allocate",
        "pool.start",
        "run.begin",
        "run.end",
    }
)

_armed: dict[str, Callable[[], None]] = {}


def fault(point: str) -> None:
    """Do what a test armed at `point`; nothing otherwise."""
    if _armed and point in _armed:
        _armed[point]()


@contextmanager
def armed(point: str, act: Callable[[], None]) -> Iterator[None]:
    """Within the block, reaching `point` calls `act`."""
    if point not in POINTS:
        raise KeyError(f"no fault point {point!r}")
    _armed[point] = act
    try:
        yield
    finally:
        del _armed[point]


def raising(error: BaseException, after: int = 0) -> Callable[[], None]:
    """Let `after` passes through, then raise `error` at every one."""
    left = [after]

    def act() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise error

    return act


def waiting(seconds: float) -> Callable[[], None]:
    """Wait at the point."""
    return lambda: time.sleep(seconds)


def killing() -> None:
    """End the process at the point, as a power cut would: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)
