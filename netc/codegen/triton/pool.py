"""Worker processes that compile: fed from here, restarted when they die, gone at the end.

    with Compilers() as compilers:
        for job, answer in compilers.answers(jobs): …

A worker leads a process group of its own, so that Ctrl-C reaches it only through its parent,
and what it has started ends with it.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import IO, Any, cast

from netc.codegen.triton.job import Compiled, Failed, Job, receive, send
from netc.codegen.triton.scratch import scratch
from netc.errors import ResourceError, UnsupportedError, clean

_START_SECONDS = 60.0  # an import of Triton takes 0.3 s on an idle machine
_END_SECONDS = 5.0  # from the end of its answers to its own
_WORDS = 64 << 10  # bytes of a worker's errors that are looked at, from either end
_FULL = (errno.ENOSPC, errno.EDQUOT)  # also in the words of programs that Triton starts
_CRASH = "PassManager"  # it goes on after crashes, and only prints what went wrong
_TELLING = re.compile(r"\b(error|fatal|assertion|failed)\b", re.IGNORECASE)
_MAIN = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from netc.codegen.triton.worker import main; main(sys.argv[1])"
)


class Compilers:
    """Up to `workers` processes (one a usable core), each job with `seconds` at most."""

    def __init__(self, workers: int | None = None, seconds: float = 120.0) -> None:
        self._count = workers or len(os.sched_getaffinity(0))
        self._seconds = seconds
        self._lock = Lock()
        self._idle: list[Worker] = []
        self._all: list[Worker] = []
        self._closed = False
        self._held = ExitStack()

    def __enter__(self) -> Compilers:
        try:
            self._folder = self._held.enter_context(scratch("netc-gpu-"))
        except OSError as error:
            raise _no_room(error.strerror or clean(error), error.filename) from error
        self._threads = ThreadPoolExecutor(self._count)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with self._lock:
            self._closed = True
            for worker in self._all:
                worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.close()
        self._held.close()

    def answers(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Compiled | Failed]]:
        """Each job with its code or the reason why there is none, as they get ready."""
        futures = {self._threads.submit(self._answer, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()

    def _answer(self, job: Job) -> Compiled | Failed:
        worker = self._take()
        answer = worker.ask(job, self._seconds)
        if worker.alive:
            with self._lock:
                self._idle.append(worker)
        return answer

    def _take(self) -> Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._closed:
                raise UnsupportedError("the compilation was stopped")
            folder = self._folder / str(len(self._all))
            try:
                worker = Worker(folder)
            except OSError as error:
                reason = error.strerror or clean(error)
                full = error.errno in _FULL
                raise (_no_room(reason, folder) if full else _no_start(reason)) from error
            self._all.append(worker)
        worker.greet()
        return worker


class Worker:
    """One process. After a death or a timeout it is not alive and takes no more jobs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._errors = (folder / "errors").open("a+b")
        paths = [os.path.abspath(path) for path in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _MAIN, str(folder), *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=folder,
            start_new_session=True,
        )
        self._requests = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)
        self.alive = True

    def greet(self) -> None:
        """Wait until it is ready."""
        if isinstance(answer := self._receive(_START_SECONDS), Failed):
            raise _no_start(answer.reason)

    def ask(self, job: Job, seconds: float) -> Compiled | Failed:
        """The answer to one job."""
        self._errors.truncate(0)
        with suppress(OSError):  # of a dead process: noticed below
            send(self._requests, job.request())
        answer = self._receive(seconds)
        if isinstance(answer, Failed):
            return answer
        head, blob = answer
        return Compiled(blob, **head)

    def _receive(self, seconds: float) -> tuple[dict[str, Any], bytes] | Failed:
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        if not poll.poll(seconds * 1000):
            self.kill()
            return Failed(f"it took more than {seconds:g} s")
        answer = receive(self._answers)
        if answer is None:
            return self._failed(self._last_words())
        if "error" in answer[0]:
            error = str(answer[0]["error"])
            if _CRASH in error:
                self.kill()
            return self._failed(self._telling(error) or "no reason given")
        return answer

    def _failed(self, reason: str) -> Failed:
        """The answer to a job that failed. Raises ResourceError where its files had no room."""
        full = next((text for text in map(os.strerror, _FULL) if text in reason), None)
        if full is not None:
            raise _no_room(full, self._folder)
        return Failed(reason)

    def _last_words(self) -> str:
        """Why the process ended, in one line."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self.kill()
        code = self._process.wait()
        said = self._telling("")
        if code < 0:
            cause = f"the compiler died of {signal.Signals(-code).name}"
            return f"{cause}: {said}" if said else cause
        return said or f"the compiler ended with status {code}"

    def _telling(self, message: str) -> str:
        """The line of an error, or of what was printed, that says most."""
        said, printed = (
            _lines(text.replace(f"{self._folder}/", "")) for text in (message, self._printed())
        )
        if len(said) == 1 and _CRASH not in message:
            return clean(said[0])
        telling = [line for line in said[1:] + printed if _TELLING.search(line)]
        return clean((telling + said[:1] + printed[-1:] + [""])[0])

    def _printed(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(0)
        out = self._errors.read(_WORDS)
        self._errors.seek(max(len(out), size - _WORDS))
        out += self._errors.read()
        return out.decode(errors="replace")

    def kill(self) -> None:
        """End the process and what it has started."""
        self.alive = False
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Leave no process, no pipe and no zombie."""
        self.kill()
        self._process.wait()
        for stream in (self._requests, self._answers, self._errors):
            with suppress(OSError):  # unsent bytes
                stream.close()


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _no_room(reason: str, folder: str | Path | None) -> ResourceError:
    place = f" in {clean(folder)}" if folder else ""
    return ResourceError(
        f"no room for the compiler's temporary files{place}: {reason}",
        help="TMPDIR names the folder that they go to",
    )


def _no_start(reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"the compiler of GPU code does not start: {reason}",
        help="python -c 'import triton' should work",
    )
