"""The words compiled code and the runtime share: jobs, pools, steps.

A kernel is `void k(ptr args, i64 tid, i64 nthreads)`; `args` points at the step's block of
8-byte slots. `netc_run(job) -> steps done` runs a job on the calling thread, which is thread 0,
and on as many workers as the job asks for. `netc_worker(pool, tid)` is a worker's whole life;
`netc_quit(pool, tid)` ends it between jobs.
One caller at a time may run jobs on a pool; a job of one thread touches no pool.
All offsets are in bytes.
"""

from __future__ import annotations

from enum import IntEnum

STEP_BYTES = 16  # function address, argument block address
NO_BARRIER = 1  # added to a function address: threads go on to the next step at once


class Job(IntEnum):
    """A job: five words and a flag."""

    STEPS = 0  # address of the step array
    NSTEPS = 8
    NTHREADS = 16  # the caller included
    POOL = 24  # address of the pool; unread when NTHREADS is 1
    TIMES = 32  # null, or NSTEPS + 1 words for the cycle counter before each step and at the end
    CANCEL = 40  # set by anyone to a non-zero word: the job ends between two steps
    SIZE = 64


class Pool(IntEnum):
    """A pool: a header, then one row for each thread, whose flags have lines of their own."""

    SYSCALL = 0  # address of libc's syscall
    SPINS = 8  # turns before a waiting worker sleeps, or a waiting barrier yields
    SEQUENCE = 16  # barriers passed since the pool was made; written by the caller only
    STOP = 24  # the barrier after which a cancelled job ends
    GO = 128  # the last barrier thread 0 opened; for many threads
    ROWS = 256


class Row(IntEnum):
    """A thread's row: what it is asked, and how far it is. Zero-filled at the start."""

    POSTED = 0  # grows with each job posted to this worker
    JOB = 8  # null: leave
    BASE = 16  # SEQUENCE when the job began
    ASLEEP = 64  # i32 futex word
    ARRIVED = 128  # the last barrier this thread reached
    SIZE = 256


class Team(IntEnum):
    """What the jobs of several devices share: words, then an event a line. Begins as a pool."""

    SYSCALL = 0
    SPINS = 8
    RUN = 16  # the number of this run; the caller adds one before each
    CANCEL = 24  # set to a non-zero word: whoever waits leaves, and its job ends
    LIMIT = 32  # nanoseconds that one wait may take
    EVENTS = 64
    EVENT_SIZE = 64


LATE = 2  # in a team's CANCEL: a wait took too long


def pool_bytes(threads: int) -> int:
    """The size of a pool for this many threads, the caller included. Align it to 256."""
    return Pool.ROWS + threads * Row.SIZE
