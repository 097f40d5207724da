"""The worker threads of several CPU devices: a pool for each, and one that leads them.

The caller leads the first device. Where there are cores enough each device has its own, and its
threads stay there; otherwise the devices share what there is.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence

from netc.runtime import host
from netc.runtime.faults import fault
from netc.runtime.loan import Loan
from netc.runtime.pool import RunLoop, WorkerPool
from netc.runtime.team import Team


class Fleet:
    """Lends the process's pools; made for the first counts, and anew when they differ."""

    def __init__(self) -> None:
        self._loan = Loan()
        self._counts: tuple[int, ...] = ()
        self._leaders: WorkerPool | None = None
        self._crews: list[WorkerPool | None] = []
        self._mine: tuple[int, ...] = ()  # the first device's processors

    def forget(self) -> None:
        """In the child of a fork: the threads are gone, and with them whoever had the pools."""
        self._loan = Loan()
        self._leaders, self._crews, self._counts = None, [], ()

    def run(
        self, counts: Sequence[int], loop: RunLoop, team: Team, call: Callable[[], None]
    ) -> bool:
        """`call` with the team prepared for so many threads a device; False where it has none."""
        with self._loan.taken() as mine:
            if not mine:  # a signal handler of the thread that has them
                return False
            leaders = self._pools(tuple(counts), loop)
            if leaders is None:
                return False
            crews = [
                (count, crew.address if crew else 0)
                for count, crew in zip(counts, self._crews, strict=True)
            ]
            team.prepare(leaders.address, crews)
            self._at_home(call)
            return True

    def _at_home(self, call: Callable[[], None]) -> None:
        """Call from a processor of the first device."""
        allowed = os.sched_getaffinity(0)
        if not self._mine or allowed <= set(self._mine):
            call()
            return
        with host.on_processors(set(self._mine), allowed):
            call()

    def _pools(self, counts: tuple[int, ...], loop: RunLoop) -> WorkerPool | None:
        if self._counts == counts and self._leaders is not None:
            return self._leaders
        self._close()
        shares = shares_of(counts)
        self._mine = shares[0]
        try:
            fault("pool.start")
            firsts = [share[0] for share in shares if share]
            self._leaders = WorkerPool(loop, len(counts), processors=firsts, name="netc device ")
            for n, (count, share) in enumerate(zip(counts, shares, strict=True)):
                name = f"netc device {n} worker "
                one = WorkerPool(loop, count, processors=share, name=name) if count > 1 else None
                self._crews.append(one)
        except (RuntimeError, OSError):  # no more threads here, or the interpreter is ending
            self._close()
            return None
        self._counts = counts
        return self._leaders

    def _close(self) -> None:
        for pool in (self._leaders, *self._crews):
            if pool is not None:
                pool.close()
        self._leaders, self._crews, self._counts = None, [], ()

    def close(self) -> None:
        """Let the workers leave, and wait until they have."""
        with self._loan.taken() as mine:
            if mine:
                self._close()


def shares_of(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """The processors of each device; none where there are too few for all."""
    cores = host.usable_cpus()[: host.core_count()]
    if sum(counts) > len(cores):
        return [()] * len(counts)
    ends = [sum(counts[: n + 1]) for n in range(len(counts))]
    return [tuple(cores[end - count : end]) for count, end in zip(counts, ends, strict=True)]


def thread_counts(threads: int, devices: int) -> tuple[int, ...]:
    """Threads shared out evenly, one a device at least."""
    each, more = divmod(threads, devices)
    return tuple(max(1, each + (n < more)) for n in range(devices))


FLEET = Fleet()
os.register_at_fork(after_in_child=FLEET.forget)
atexit.register(FLEET.close)
