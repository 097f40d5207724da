"""Many threads, forks, interrupts: right results, or a clear error, and never a hang."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netc
from netc.errors import UsageError
from netc.runtime import faults, host
from netc.runtime.fleet import FLEET
from netc.runtime.host import thread_count
from netc.runtime.session import Executable, load, save_artifact
from netc.runtime.workers import WORKERS

from .handmade import feed, make_artifact, make_executable, make_plan, reference

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
TESTS = Path(__file__).resolve().parents[1]


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("netc worker")]


@pytest.fixture(autouse=True)
def no_workers_of_other_tests() -> None:
    """A pool only grows, and which tests ran before in this process is chance."""
    WORKERS.close()


# ---------------------------------------------------------------------------- many callers


@pytest.mark.parametrize("threads", [1, 2])
def test_sixteen_callers_a_thousand_times(threads: int) -> None:
    exe = make_executable(threads=threads)
    feeds = [feed(n, seed=n) for n in range(1, 6)]
    wanted = [reference(**x) for x in feeds]
    wrong: list[int] = []

    def call(first: int) -> None:
        for i in range(first, first + 1000):
            x = feeds[i % len(feeds)]
            if not np.array_equal(exe(x)["out"], wanted[i % len(feeds)]):
                wrong.append(i)

    callers = [threading.Thread(target=call, args=(i,)) for i in range(16)]
    for t in callers:
        t.start()
    for t in callers:
        t.join()
    assert not wrong


def test_several_executables_share_the_workers() -> None:
    made = [make_executable(make_plan(sleep=i), threads=2) for i in range(4)]
    x = feed(3)

    def call(exe: Executable) -> None:
        for _ in range(200):
            np.testing.assert_array_equal(exe(x)["out"], reference(**x))

    callers = [threading.Thread(target=call, args=(exe,)) for exe in made]
    for t in callers:
        t.start()
    for t in callers:
        t.join()
    assert len(workers()) <= 3


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    x = feed(37)
    results = {make_executable(threads=n)(x)["out"].tobytes() for n in (1, 2, 3, 4, 8, 16)}
    assert len(results) == 1


def test_one_thread_starts_no_worker() -> None:
    code = (
        "from runtime.handmade import *; import threading; make_executable()(feed(2));"
        "assert threading.active_count() == 1; import os;"
        "assert len(os.listdir('/proc/self/task')) <= int(os.environ['BASE'])"
    )
    env = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}", "OPENBLAS_NUM_THREADS": "1"}
    env["BASE"] = "1"
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_where_no_thread_starts_one_does_the_work() -> None:
    exe, x = make_executable(threads=2), feed(3)
    with faults.armed("pool.start", faults.raising(RuntimeError("can't start new thread"))):
        np.testing.assert_array_equal(exe(x)["out"], reference(**x))
    np.testing.assert_array_equal(exe(x)["out"], reference(**x))


def test_where_no_thread_starts_one_does_the_work_of_all_devices() -> None:
    net = netc.parse("net s(data: f32[N, 3]) -> y { y = data |> relu }")
    exe, x = netc.compile(net, replicate=["cpu:0", "cpu:1"]), np.ones((4, 3), np.float32)
    FLEET.close()
    with faults.armed("pool.start", faults.raising(RuntimeError("can't start new thread"))):
        np.testing.assert_array_equal(exe(data=x)["y"], x)
    np.testing.assert_array_equal(exe(data=x)["y"], x)


def test_the_pool_grows_and_closes() -> None:
    x = feed(3)
    for threads in (2, 3, 2, 5):
        make_executable(threads=threads)(x)
    assert len(workers()) == 4
    WORKERS.close()
    assert not workers()
    np.testing.assert_array_equal(make_executable(threads=2)(x)["out"], reference(**x))


def test_the_callers_processors_are_as_before() -> None:
    before = os.sched_getaffinity(0)
    exe, x = make_executable(threads=host.core_count()), feed(2)
    for _ in range(50):
        exe(x)
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(host.core_count() < 2, reason="one core")
@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_run_of_all_cores_is_on_no_workers_processor(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where the caller calls, nor in the thread of a run that is taken to be long."""
    exe, x = make_executable(threads=host.core_count()), feed(2)
    exe(x)
    theirs = {p for w in workers() for p in os.sched_getaffinity(w.native_id or 0)}
    assert len(theirs) == host.core_count() - 1
    run, before, seen = exe.image.run, os.sched_getaffinity(0), []

    def noting(job: int) -> int:
        seen.append((threading.current_thread().name, os.sched_getaffinity(0)))
        return run(job)

    monkeypatch.setattr(exe.image, "run", noting)
    monkeypatch.setattr("netc.runtime.workers._processor", lambda: min(theirs))
    next(iter(exe._bindings.values())).seconds = seconds
    exe(x)
    [(name, on)] = seen
    assert (name == "netc-run") == (seconds > 0)
    assert on == before - theirs
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("where", [{}, {"replicate": ["cpu:0", "cpu:1"]}])
def test_a_sandbox_may_forbid_the_choice_of_processors(
    where: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    net = netc.parse("net s(data: f32[N, 3]) -> y { y = data |> relu }")
    exe, x = netc.compile(net, threads=host.core_count(), **where), np.ones((4, 3), np.float32)
    taken = host.usable_cpus()[: host.core_count()][-1]
    monkeypatch.setattr("netc.runtime.workers._processor", lambda: taken)
    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    np.testing.assert_array_equal(exe(data=x)["y"], x)


@pytest.mark.parametrize("threads", [0, -1, 257, 1.5, "many", "", True, [2]])
def test_a_number_of_threads_that_is_none(threads: object) -> None:
    with pytest.raises(UsageError, match="threads is"):
        thread_count(threads)  # type: ignore[arg-type]


def test_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NETC_NUM_THREADS", raising=False)
    assert 1 <= thread_count(None) <= host.core_count()
    monkeypatch.setenv("NETC_NUM_THREADS", "3")
    assert thread_count(None) == 3
    assert thread_count(2) == thread_count("2") == 2
    monkeypatch.setenv("NETC_NUM_THREADS", "x")
    with pytest.raises(UsageError, match="NETC_NUM_THREADS is 'x'"):
        thread_count(None)


# ------------------------------------------------------------------- calls within calls


def test_a_call_from_within_a_run_is_an_error() -> None:
    exe, x = make_executable(), feed(2)
    caught: list[Exception] = []

    def again() -> None:
        try:
            exe(x)
        except UsageError as error:
            caught.append(error)

    with faults.armed("run.begin", again):
        np.testing.assert_array_equal(exe(x)["out"], reference(**x))
    assert "within its run" in str(caught[0])
    np.testing.assert_array_equal(exe(x)["out"], reference(**x))


def test_another_executable_may_be_called_from_within_a_run() -> None:
    outer, inner, x = make_executable(), make_executable(), feed(2)
    with faults.armed("run.end", lambda: inner.poison()):
        np.testing.assert_array_equal(outer(x)["out"], reference(**x))


FROM_A_HANDLER = """
import signal, sys
from pathlib import Path
from runtime.handmade import *
from netc.runtime.session import load
x, seen = feed(2), []
inner = [make_executable(threads=n) for n in (1, 2, 3)]

def handler(number, frame):
    made = [*inner, load(sys.argv[1], 2)]
    seen.extend(np.array_equal(exe(x)["out"], reference(**x)) for exe in made)

signal.signal(signal.SIGALRM, handler)
outer = make_executable(make_plan(sleep=20_000_000, steps=20), threads=2)
for seconds in (0.0, 1.0):  # short: in the main thread; long: apart from it
    outer._bound(outer.accepted(x, {})).seconds = seconds
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    assert np.array_equal(outer(x)["out"], reference(**x))
assert seen == [True] * 8, seen
assert all(np.array_equal(exe(x)["out"], reference(**x)) for exe in (outer, *inner))
"""


def test_a_signal_handler_may_run_others_while_a_run_has_the_workers(tmp_path: Path) -> None:
    save_artifact(make_artifact(), tmp_path / "m")
    env = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = [sys.executable, "-c", FROM_A_HANDLER, str(tmp_path / "m")]
    subprocess.run(command, env=env, check=True, timeout=60)


def test_deleting_an_executable_during_its_run() -> None:
    made = [make_executable(make_plan(sleep=20_000_000), threads=2)]
    x = feed(2)
    results: list[np.ndarray] = []
    caller = threading.Thread(target=lambda: results.append(made[0](x)["out"]))
    caller.start()
    time.sleep(0.01)
    made.clear()
    gc.collect()
    caller.join()
    np.testing.assert_array_equal(results[0], reference(**x))


# --------------------------------------------------------------------------------- forks


def child(exe: Executable, seed: int) -> bool:
    x = feed(4, seed)
    return bool(np.array_equal(exe(x)["out"], reference(**x)))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("used_before", [False, True])
def test_a_fork_runs_on(threads: int, used_before: bool) -> None:
    exe = make_executable(threads=threads)
    if used_before:
        assert child(exe, 0)
    context = multiprocessing.get_context("fork")
    pids = []
    for seed in range(3):
        process = context.Process(target=lambda s=seed: os._exit(0 if child(exe, s) else 1))
        process.start()
        pids.append(process)
    assert child(exe, 9)
    for process in pids:
        process.join(30)
        assert process.exitcode == 0


def test_a_fork_during_a_run_of_another_thread() -> None:
    exe = make_executable(make_plan(sleep=50_000_000), threads=2)
    quick = make_executable(threads=2)
    caller = threading.Thread(target=exe, args=(feed(2),))
    caller.start()
    time.sleep(0.02)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if child(exe, 1) and child(quick, 2) else 1)
    caller.join()
    assert os.waitpid(pid, 0)[1] == 0


PRODUCTS = """net s(data: f32[N, 16, 60, 60]) -> x {
  x = data
  repeat 2 as i { x = x |> conv(64, 5, pad=2, name="c{i}") } }"""


@pytest.mark.parametrize("where", [{}, {"replicate": ["cpu:0", "cpu:1"]}])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_fork_within_a_product_leaves_none_of_it_out(where: dict[str, Any], threads: int) -> None:
    exe = netc.compile(netc.parse(PRODUCTS), threads=threads, **where)
    x = np.random.default_rng(0).random((2, 16, 60, 60), np.float32)
    want = exe(data=x)["x"]
    start = time.perf_counter()
    exe(data=x)
    seconds = time.perf_counter() - start
    for part in (0.2, 0.5, 0.8):
        caller = threading.Thread(target=exe, kwargs={"data": x})
        caller.start()
        time.sleep(part * seconds)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if np.array_equal(exe(data=x)["x"], want) else 1)
        caller.join()
        assert os.waitpid(pid, 0)[1] == 0


SPAWNED = """
import sys, multiprocessing
from pathlib import Path
import numpy as np

def work(path):
    from runtime.handmade import feed, reference
    from netc.runtime.session import load
    x = feed(5)
    return bool(np.array_equal(load(path, 2)(x)["out"], reference(**x)))

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        if method == "fork":
            assert work(sys.argv[1])
        with context.Pool(3) as pool:
            assert all(pool.map(work, sys.argv[1:] * 6))
"""


def test_pools_of_every_kind(tmp_path: Path) -> None:
    save_artifact(make_artifact(), tmp_path / "m")
    (tmp_path / "main.py").write_text(SPAWNED)
    env = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = [sys.executable, str(tmp_path / "main.py"), str(tmp_path / "m")]
    subprocess.run(command, env=env, check=True, timeout=120)


EXITS = {
    "at the end": "",
    "by exit": "sys.exit(0)",
    "by _exit": "os._exit(0)",
    "with a thread at work": (
        "threading.Thread(target=lambda: [exe(feed(2)) for _ in range(300)], daemon=True).start()"
    ),
    "with a thread to wait for": (
        "threading.Thread(target=lambda: [exe(feed(2)) for _ in range(300)]).start()"
    ),
    "with a last call": "atexit.register(lambda: exe(feed(2)))",
    "after a fork": "pid = os.fork(); exe(feed(2)); pid and os.waitpid(pid, 0)",
}


@pytest.mark.parametrize("way", EXITS)
def test_the_process_ends_cleanly(way: str) -> None:
    code = (
        "import atexit, os, sys, threading, warnings; warnings.simplefilter('ignore')\n"
        "from runtime.handmade import *\n"
        "exe = make_executable(threads=2); exe(feed(2))\n" + EXITS[way]
    )
    env = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, timeout=60, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


# ----------------------------------------------------------------------- nothing is lost


def rss() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


def test_ten_thousand_runs_keep_memory_and_files_as_they_are() -> None:
    exe, feeds = make_executable(threads=2), [feed(n) for n in (1, 5, 64, 2)]
    for i in range(2000):
        exe(feeds[i % 4])
    gc.collect()
    before, files = rss(), len(os.listdir("/proc/self/fd"))
    for i in range(10_000):
        exe(feeds[i % 4])
    gc.collect()
    assert rss() - before <= max(before // 100, 1 << 20)
    assert len(os.listdir("/proc/self/fd")) == files


def test_two_hundred_loads_keep_memory_and_files_as_they_are(tmp_path: Path) -> None:
    weights = np.zeros(1 << 18, np.float32)
    weights[:2] = 2.0, -0.5
    save_artifact(make_artifact(weights=weights.tobytes()), tmp_path / "m")
    x = feed(3)

    def once() -> None:
        np.testing.assert_array_equal(load(tmp_path / "m", 1)(x)["out"], reference(**x))

    for _ in range(30):
        once()
    gc.collect()
    before, files = rss(), len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        once()
    gc.collect()
    assert rss() - before <= max(before // 50, 2 << 20)
    assert len(os.listdir("/proc/self/fd")) == files
