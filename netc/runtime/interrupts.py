"""Long native calls that an interrupt can end.

Python looks for interrupts between its own instructions only, on the main thread only. So a long
call runs in a thread of its own while the main thread waits, and the handler that stood before
is called at once when a signal comes. If it raises, the job ends after its present step, and
only then does the exception go on: nothing the job uses is touched while it runs. A handler that
is set meanwhile stays.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Protocol


class Cancellable(Protocol):
    """A job that can be told to end early."""

    job_address: int

    def cancel(self) -> None:
        """Let it end after its present step."""


def on_main_thread() -> bool:
    """Whether this is the thread that sees interrupts."""
    return threading.current_thread() is threading.main_thread()


def call_apart(run: Callable[[int], int], job: Cancellable) -> None:
    """Run a job to its end, or until an interrupt; from the main thread."""
    before = signal.getsignal(signal.SIGINT)
    raised: list[BaseException] = []
    running, process = True, os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        """Does not raise in a run, so that no instruction below can be left out."""
        try:
            if callable(before):
                before(number, frame)
        except BaseException as error:
            if not running or os.getpid() != process:
                raise  # a handler kept this one and put it back later, or a fork has no such run
            raised.append(error)
            job.cancel()

    if not callable(before):  # ignored, or the system ends the process: nothing to wait for
        run(job.job_address)
        return
    signal.signal(signal.SIGINT, note)
    try:
        _wait_for(run, job)
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)
        running = False
    if raised:
        raise raised[0]


def _wait_for(run: Callable[[int], int], job: Cancellable) -> None:
    """The call in another thread, or here where no thread starts."""
    done = threading.Lock()
    done.acquire()

    def work() -> None:
        run(job.job_address)
        done.release()

    try:
        threading.Thread(target=work, name="netc-run", daemon=True).start()
    except RuntimeError:
        work()
    pending: BaseException | None = None
    while True:
        try:
            done.acquire()
            break
        except BaseException as error:  # by the handler of another signal
            job.cancel()
            pending = pending or error
    if pending is not None:
        raise pending
