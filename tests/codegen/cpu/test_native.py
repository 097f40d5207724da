"""The run loop: barriers, cancelling, time stamps, sleeping and leaving."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from netc.codegen.cpu.emit import Module
from netc.codegen.cpu.image import link
from netc.codegen.cpu.native import emit_run_loop
from netc.codegen.cpu.target import LEVELS, compile_module, native
from netc.ir.native_abi import NO_BARRIER, Job
from netc.runtime.code import load_image
from netc.runtime.pool import RunLoop, WorkerPool, aligned_words

STEPS = 300


def neighbour_module() -> Module:
    """k: out[tid] = in[tid] + in[tid + 1 mod n]; wrong as soon as one barrier is missed."""
    module = Module(native())
    f = module.kernel()
    args, tid, nthreads = f.args
    source, target = f.slot(args, 0, "ptr"), f.slot(args, 1, "ptr")
    other = f.srem(f.add(tid, 1), nthreads)
    a, b = (f.load("i64", f.gep(source, t, 8), 8) for t in (tid, other))
    f.store(f.add(a, b), f.gep(target, tid, 8), 8)
    f.ret()
    cancel = module.kernel()  # sets the word its slot points at
    cancel.store(cancel.const(1), cancel.slot(cancel.args[0], 0, "ptr"), 8)
    cancel.ret()
    emit_run_loop(module)
    return module


class Bench:
    """A compiled loop and a chain of steps over two rows of words."""

    def __init__(self) -> None:
        image = link(compile_module(neighbour_module().text(), native()))
        self.mapping = load_image(image.code)
        self.symbols = image.symbols
        self.loop = RunLoop.of(self.mapping, image.symbols)
        self.rows = np.zeros((2, 64), np.int64)
        self.args = np.zeros((2, 2), np.int64)
        for i in range(2):
            self.args[i] = self.rows[i].ctypes.data, self.rows[1 - i].ctypes.data

    def job(self, threads: int, steps: int = STEPS) -> np.ndarray:
        """`steps` turns of k, to and fro."""
        self.steps = np.zeros((steps, 2), np.int64)
        self.steps[:, 0] = self.mapping.entry(self.symbols["k0"])
        self.steps[:, 1] = [self.args[i % 2].ctypes.data for i in range(steps)]
        job = aligned_words(Job.SIZE)
        job[Job.STEPS // 8] = self.steps.ctypes.data
        job[Job.NSTEPS // 8] = steps
        job[Job.NTHREADS // 8] = threads
        return job

    def expected(self, start: np.ndarray, steps: int) -> np.ndarray:
        """The same in NumPy, with wrapping."""
        row = start.copy()
        for _ in range(steps):
            row = row + np.roll(row, -1)
        return row


@pytest.fixture(scope="module")
def bench() -> Bench:
    """Compiled once."""
    return Bench()


@pytest.fixture(params=[1, 2, 3, 4, 5, 7])
def pool(bench: Bench, request: pytest.FixtureRequest) -> Iterator[WorkerPool]:
    """Pools smaller and larger than the machine."""
    made = WorkerPool(bench.loop, request.param)
    yield made
    made.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("netc-")]


def test_every_barrier_holds(bench: Bench, pool: WorkerPool) -> None:
    n = pool.threads
    for _ in range(20):
        bench.rows[0, :n] = np.arange(1, n + 1)
        assert pool.run(bench.job(n)) == STEPS
        wanted = bench.expected(np.arange(1, n + 1), STEPS)
        np.testing.assert_array_equal(bench.rows[STEPS % 2, :n], wanted)


def test_jobs_of_any_width_take_turns_on_one_pool(bench: Bench, pool: WorkerPool) -> None:
    for n in [*range(1, pool.threads + 1), *range(pool.threads, 0, -1)]:
        bench.rows[0, :n] = np.arange(n) + 5
        assert pool.run(bench.job(n, 11)) == 11
        np.testing.assert_array_equal(bench.rows[1, :n], bench.expected(np.arange(n) + 5, 11))


def test_steps_without_a_barrier_are_done_too(bench: Bench, pool: WorkerPool) -> None:
    n = pool.threads
    job = bench.job(n, 8)
    bench.steps[1:, 1] = bench.args[0].ctypes.data  # all read row 0: none needs another's result
    bench.steps[:7, 0] += NO_BARRIER
    for _ in range(20):
        bench.rows[0, :n] = np.arange(n)
        bench.rows[1, :n] = -1
        assert pool.run(job) == 8
        np.testing.assert_array_equal(bench.rows[1, :n], bench.expected(np.arange(n), 1))


def test_sleeping_workers_are_woken(bench: Bench, pool: WorkerPool) -> None:
    for _ in range(5):
        time.sleep(0.02)  # spinning ends after some 50 µs
        assert pool.run(bench.job(pool.threads, 3)) == 3


def test_a_cancelled_job_ends_after_the_step_that_saw_it(bench: Bench, pool: WorkerPool) -> None:
    for at in (0, 5, 9):
        job = bench.job(pool.threads, 10)
        slot = np.array([job.ctypes.data + Job.CANCEL], np.int64)
        bench.steps[at] = bench.mapping.entry(bench.symbols["k1"]), slot.ctypes.data
        assert pool.run(job) == at + 1
        assert pool.run(bench.job(pool.threads, 10)) == 10


def test_time_stamps_grow(bench: Bench, pool: WorkerPool) -> None:
    times = np.zeros(12, np.int64)
    job = bench.job(pool.threads, 10)
    job[Job.TIMES // 8] = times.ctypes.data
    pool.run(job)
    assert (np.diff(times[:11]) >= 0).all()  # a counter may count microseconds
    assert times[10] > times[0]
    assert times[11] == 0


def test_a_job_of_one_thread_needs_no_pool(bench: Bench) -> None:
    run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(bench.loop.run)
    assert run(bench.job(1, 7).ctypes.data) == 7
    assert run(bench.job(1, 0).ctypes.data) == 0


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_the_run_loop_links_for_every_level(level: str) -> None:
    module = Module(LEVELS[level])
    emit_run_loop(module)
    image = link(compile_module(module.text(), LEVELS[level]))
    assert {"netc_run", "netc_each", "netc_worker", "netc_quit"} == set(image.symbols)


@pytest.mark.parametrize(("machine", "level"), [("riscv64", "x86-64-v2"), ("aarch64", "aarch64")])
def test_a_processor_that_runs_no_level_compiles_for_the_lowest(
    machine: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netc.codegen.cpu.target.architecture", lambda: machine)
    monkeypatch.setattr("netc.codegen.cpu.target.cpu_features", frozenset)
    assert native.__wrapped__(pairs=True).name == level
