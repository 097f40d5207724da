"""The one pool of worker threads that all executables of a process share.

It is made when a run first wants more than one thread, and made anew when a run wants more than
it has, or after a fork. One caller at a time has it; a run of one thread touches none of this,
nor does one that a signal handler starts while its thread has the pool.
"""

from __future__ import annotations

import atexit
import ctypes
import os
from collections.abc import Callable

from netc.runtime import host
from netc.runtime.faults import fault
from netc.runtime.loan import Loan
from netc.runtime.pool import RunLoop, WorkerPool

_processor = ctypes.CDLL(None).sched_getcpu  # the one this thread is on just now


class Workers:
    """Lends the process's pool."""

    def __init__(self) -> None:
        self._loan = Loan()
        self._pool: WorkerPool | None = None
        self._processors: tuple[int, ...] = ()
        self._taken: tuple[int, ...] = ()  # by workers of the run that has the pool

    def forget(self) -> None:
        """In the child of a fork: the threads are gone, and with them whoever had the pool."""
        self._loan = Loan()
        self._pool = None

    def run(self, threads: int, loop: RunLoop, call: Callable[[WorkerPool | None], None]) -> None:
        """`call` with a pool of at least this many threads, or None where there is none for it."""
        with self._loan.taken() as mine:
            if not mine:
                call(None)
                return
            pool = self._pool_of(threads, loop)
            taken = self._processors[1:]
            self._taken = taken if pool is not None and threads == len(taken) + 1 else ()
            call(pool)

    def beside(self, run: Callable[[int], int]) -> Callable[[int], int]:
        """`run`, from whichever thread, on no processor that is a worker's for this run.

        Where threads take every core there is, each worker has one of its own, and a caller there
        moves away for as long as a run takes: two on one core cost a time slice at each barrier.
        With cores to spare the system spreads them better than any fixed choice.
        """

        def away(job: int) -> int:
            if _processor() not in self._taken:
                return run(job)
            allowed = os.sched_getaffinity(0)
            with host.on_processors(allowed - set(self._taken), allowed):
                return run(job)

        return away

    def _pool_of(self, threads: int, loop: RunLoop) -> WorkerPool | None:
        if self._pool is not None and self._pool.threads >= threads:
            return self._pool
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        cores = host.usable_cpus()[: host.core_count()]
        self._processors = cores if threads == len(cores) else ()
        try:
            fault("pool.start")
            self._pool = WorkerPool(loop, threads, processors=self._processors, name="netc worker ")
        except (RuntimeError, OSError):  # no more threads here, or the interpreter is ending
            return None
        return self._pool

    def close(self) -> None:
        """Let the workers leave, and wait until they have."""
        with self._loan.taken() as mine:
            if mine and self._pool is not None:
                self._pool.close()
                self._pool = None


WORKERS = Workers()
os.register_at_fork(after_in_child=WORKERS.forget)
atexit.register(WORKERS.close)
