"""Interrupts and other signals: a long run ends soon, or goes on, and all stays usable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from .handmade import feed, make_executable, make_plan, reference

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_ends_a_long_run(threads: int) -> None:
    """Ten times, at random moments: soon, as KeyboardInterrupt, and the next call works."""
    exe = make_executable(make_plan(sleep=20_000_000, steps=100), threads=threads)
    x, rng = feed(2), np.random.default_rng(threads)
    took = []
    exe._bound(exe.accepted(x, {})).seconds = 1.0  # known to be long, as after a first run
    for _ in range(10):
        delay = rng.uniform(0.01, 0.2)
        sent: list[float] = []

        def interrupt(sent: list[float] = sent, delay: float = delay) -> None:
            time.sleep(delay)
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

        sender = threading.Thread(target=interrupt)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            sender.start()
            exe(x)
            sender.join()
            time.sleep(1)
        took.append(time.perf_counter() - sent[0])
    assert max(took) < 0.5, took
    quick = make_executable(threads=threads)
    np.testing.assert_array_equal(quick(x)["out"], reference(**x))


def test_after_an_interrupt_the_same_executable_works() -> None:
    exe = make_executable(make_plan(sleep=20_000_000, steps=30), threads=2)
    x = feed(2)
    exe._bound(exe.accepted(x, {})).seconds = 1.0
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        exe(x)
        time.sleep(1)
    np.testing.assert_array_equal(exe(x)["out"], reference(**x))


def test_a_handler_of_the_users_own_is_called_at_once_and_the_run_goes_on() -> None:
    exe, x = make_executable(make_plan(sleep=20_000_000, steps=30), threads=2), feed(2)
    exe._bound(exe.accepted(x, {})).seconds = 1.0
    seen: list[float] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(time.perf_counter()))
    try:
        timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        np.testing.assert_array_equal(exe(x)["out"], reference(**x))
        ended = time.perf_counter()
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert seen
    assert seen[0] < ended


class Late(Exception):
    """What a time limit of the user's raises."""


def test_a_handler_that_is_set_during_a_run_stays() -> None:
    exe, x = make_executable(make_plan(sleep=20_000_000, steps=10), threads=2), feed(2)
    exe._bound(exe.accepted(x, {})).seconds = 1.0
    kept: list[object] = []

    def first(number: int, frame: object) -> None:
        if kept:
            raise Late
        kept.append(signal.signal(signal.SIGINT, signal.SIG_IGN))

    before = signal.signal(signal.SIGINT, first)
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        np.testing.assert_array_equal(exe(x)["out"], reference(**x))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    with pytest.raises(Late):  # what stood in the run, put back later, is the handler before it
        kept[0](signal.SIGINT, None)  # type: ignore[operator]


def test_another_signal_may_end_a_run_too() -> None:
    exe, x = make_executable(make_plan(sleep=20_000_000, steps=100), threads=2), feed(2)
    exe._bound(exe.accepted(x, {})).seconds = 1.0

    def late(number: int, frame: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Late):  # noqa: PT012
            exe(x)
            time.sleep(5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    np.testing.assert_array_equal(make_executable(threads=2)(x)["out"], reference(**x))


def test_an_interrupt_reaches_a_process_forked_during_a_run() -> None:
    """Another thread forks while the main thread waits for a long run."""
    exe, x = make_executable(make_plan(sleep=20_000_000, steps=30), threads=2), feed(2)
    exe._bound(exe.accepted(x, {})).seconds = 1.0
    ends: list[int] = []

    def fork() -> None:
        time.sleep(0.05)
        pid = os.fork()
        if pid == 0:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
            except KeyboardInterrupt:
                os._exit(3)
            os._exit(4)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    forker = threading.Thread(target=fork)
    forker.start()
    np.testing.assert_array_equal(exe(x)["out"], reference(**x))
    forker.join()
    assert ends == [3]


PESTERED = """
import sys, time
from runtime.handmade import *
exe, x = make_executable(make_plan(sleep=1_000_000, steps=100), threads=2), feed(2)
exe._bound(exe.accepted(x, {})).seconds = 1.0
interrupted, end = 0, time.perf_counter() + 3

def work():
    global interrupted
    while time.perf_counter() < end:
        try:
            exe(x)
        except KeyboardInterrupt:
            interrupted += 1

print("ready", flush=True)
while time.perf_counter() < end:
    try:
        work()
    except KeyboardInterrupt:
        interrupted += 1
assert interrupted > 10, interrupted
for _ in range(3):
    assert np.array_equal(exe(x)["out"], reference(**x))
"""


def test_interrupts_again_and_again_leave_everything_usable() -> None:
    env = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = [sys.executable, "-c", PESTERED]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        end = time.perf_counter() + 2  # a slow machine sends fewer, not later
        while time.perf_counter() < end:
            time.sleep(0.005)
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
