"""Worker threads of one process: each makes a single call into native code and lives there.

The pool's code must stay mapped as long as the pool. After a fork the workers are gone and a
pool is good for nothing (`alive` says so): make another.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netc.errors import ResourceError
from netc.ir.native_abi import Job, Pool, pool_bytes
from netc.runtime.code import CodeMapping

_ALIGN = 256
_SPINS = 2000  # some 50 µs of `pause`: longer than between two runs in a row
_RUN = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
_ROW = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


def aligned_words(size: int, align: int = _ALIGN) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """`size` zero bytes as 8-byte words, beginning at a multiple of `align`."""
    raw = np.zeros(size // 8 + align // 8, np.int64)
    start = -(raw.ctypes.data // 8) % (align // 8)
    return raw[start : start + size // 8]


def syscall_address() -> int:
    """Where libc's syscall is."""
    return ctypes.cast(ctypes.CDLL(None).syscall, ctypes.c_void_p).value or 0


@dataclass(frozen=True)
class RunLoop:
    """The native run loop of one code image."""

    mapping: CodeMapping
    run: int
    worker: int
    quit: int

    @staticmethod
    def of(mapping: CodeMapping, symbols: Mapping[str, int]) -> RunLoop:
        """Find the run loop in an image."""
        names = ("netc_run", "netc_worker", "netc_quit")
        run, worker, quit_ = (mapping.entry(symbols[name]) for name in names)
        return RunLoop(mapping, run, worker, quit_)


class WorkerPool:
    """`threads - 1` workers beside the caller, who is thread 0."""

    def __init__(
        self,
        loop: RunLoop,
        threads: int,
        spins: int = _SPINS,
        processors: Sequence[int] = (),
        name: str = "netc-",
    ) -> None:
        """Start the workers; where `processors` are given, worker i is pinned to the i-th."""
        self.threads = max(1, threads)
        self._loop = loop
        self._pid = os.getpid()
        self._words = aligned_words(pool_bytes(self.threads))
        self._words[Pool.SYSCALL // 8] = syscall_address()
        self._words[Pool.SPINS // 8] = spins
        self._lock = threading.Lock()
        self._workers = [
            threading.Thread(target=self._live, args=(tid,), name=f"{name}{tid}", daemon=True)
            for tid in range(1, self.threads)
        ]
        try:
            for worker in self._workers:
                worker.start()
        except RuntimeError:  # the system gives no more threads: those that live leave again
            self.close()
            raise
        self._pin(processors)

    @property
    def address(self) -> int:
        """Where jobs find the pool."""
        return int(self._words.ctypes.data)

    @property
    def alive(self) -> bool:
        """Whether the workers are of this process and have not been told to leave."""
        return self._pid == os.getpid() and self.threads > 0

    def _live(self, tid: int) -> None:
        _ROW(self._loop.worker)(self.address, tid)

    def _pin(self, processors: Sequence[int]) -> None:
        for worker, processor in zip(self._workers, processors[1:], strict=False):
            if worker.native_id is not None:
                with contextlib.suppress(OSError):  # a sandbox may forbid it; only speed is lost
                    os.sched_setaffinity(worker.native_id, {processor})

    def run(self, job: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
        """Run a job (see `native_abi.Job`) to its end or its cancelling; the steps done.

        Jobs of several threads take turns.
        """
        wanted = int(job[Job.NTHREADS // 8])
        if wanted <= 1:
            return int(_RUN(self._loop.run)(job.ctypes.data))
        if not self.alive or wanted > self.threads:
            raise ResourceError(f"a run wants {wanted} threads; the pool has {self.threads}")
        job[Job.POOL // 8] = self.address
        with self._lock:
            return int(_RUN(self._loop.run)(job.ctypes.data))

    def close(self) -> None:
        """Tell the workers to leave, and wait until they have."""
        with self._lock:
            if self.alive:
                living = [w for w in self._workers if w.ident is not None]
                for tid in range(1, len(living) + 1):
                    _ROW(self._loop.quit)(self.address, tid)
                for worker in living:
                    worker.join()
            self.threads = 0
