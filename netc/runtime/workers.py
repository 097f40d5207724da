"""The one pool of worker threads that all executables of a process share.

It is made when a run first wants more than one thread, and made anew when a run wants more than
it has, or after a fork. One caller at a time has it; a run of one thread touches none of this.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from collections.abc import Callable

from netc.runtime import host
from netc.runtime.faults import fault
from netc.runtime.pool import RunLoop, WorkerPool

_processor = ctypes.CDLL(None).sched_getcpu  # the one this thread is on just now


class Workers:
    """Lends the process's pool."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: WorkerPool | None = None
        self._processors: tuple[int, ...] = ()

    def forget(self) -> None:
        """In the child of a fork: the threads are gone, and with them whoever held the lock."""
        self._lock = threading.Lock()
        self._pool = None

    def run(self, threads: int, loop: RunLoop, call: Callable[[WorkerPool | None], None]) -> None:
        """`call` with a pool of at least this many threads, or None where none start.

        Where threads take every core there is, each worker has one of its own, and a caller on
        a worker's core moves away for as long as it holds the pool: two on one core cost a time
        slice at each barrier. With cores to spare the system spreads them better than any fixed
        choice.
        """
        with self._lock:
            pool = self._pool_of(threads, loop)
            taken = self._processors[1:]
            if pool is None or threads != len(taken) + 1 or _processor() not in taken:
                call(pool)
                return
            allowed = os.sched_getaffinity(0)
            try:
                os.sched_setaffinity(0, allowed - set(taken) or allowed)
                call(pool)
            finally:
                os.sched_setaffinity(0, allowed)

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
        with self._lock:
            if self._pool is not None:
                self._pool.close()
            self._pool = None


WORKERS = Workers()
os.register_at_fork(after_in_child=WORKERS.forget)
atexit.register(WORKERS.close)
