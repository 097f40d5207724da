"""The processes of the GPU benchmark: asked with a time limit, ended when they are late or lost."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOAD = 240.0  # seconds the loading of a net may take
_TRACE = 3000  # characters of a log that are kept
ROOT = Path(__file__).resolve().parent.parent


class Failed(Exception):
    """An engine that did not do what it was asked, and why."""


class TimeIsUp(Exception):
    """The time for the whole run is over."""


@dataclass
class Clock:
    """When the whole run has to be over."""

    end: float

    def left(self, limit: float) -> float:
        """Seconds that a request may take; raises TimeIsUp when there are none."""
        left = self.end - time.monotonic()
        if left <= 1.0:
            raise TimeIsUp
        return min(limit, left)


@dataclass
class Worker:
    """One engine's process; a new one is started where there is none."""

    engine: str
    options: dict[str, Any]
    clock: Clock
    loaded: tuple[str, str] | None = None  # net and precision
    traces: list[str] = field(default_factory=list)  # of what went wrong
    process: subprocess.Popen[bytes] | None = None
    _pending: bytes = b""
    _asked: list[float] = field(default_factory=list)  # time limits of what is not answered yet

    def send(self, limit: float, do: str, **request: Any) -> None:
        """Ask for something; `receive` gives the answers in their order."""
        if self.process is None:
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        self._asked.append(limit)
        with suppress(BrokenPipeError):  # `receive` finds out
            self.process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            self.process.stdin.flush()

    def receive(self) -> Any:
        """The next answer. Raises Failed, and ends a process that is late or lost."""
        limit = self.clock.left(self._asked.pop(0))
        line = self._line(limit)
        if line is None:
            self.end()
            self.clock.left(limit)
            self.traces.append(self._log_end())
            raise Failed(f"not finished in {limit:.0f} s")
        if not line:
            self.end()
            self.traces.append(self._log_end())
            raise Failed(f"its process ended: {self._log_end()[-200:]!r}")
        answer = json.loads(line)
        if "ok" in answer:
            return answer["ok"]
        self.traces.append(answer["trace"])
        if answer["stopped"]:
            self.end()
        raise Failed(answer["error"])

    def ask(self, limit: float, do: str, **request: Any) -> Any:
        """Ask and wait."""
        self.send(limit, do, **request)
        return self.receive()

    def answered(self) -> bool:
        """Whether `receive` would give something, or an error, at once."""
        if self.process is None:
            return bool(self._asked)
        return b"\n" in self._pending or self._readable(0.0)

    def halt(self, number: signal.Signals = signal.SIGSTOP) -> None:
        """Stop the process and those it started where they are; SIGCONT lets them go on."""
        for pid in descendants(self.process.pid) if self.process else ():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> None:
        """End the process and what it started."""
        process, self.process, self.loaded = self.process, None, None
        self._pending, self._asked = b"", []
        if process is None:
            return
        for pid in descendants(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def _log(self) -> str:
        return f"{self.options['folder']}/{self.engine}.log"

    def _log_end(self) -> str:
        with open(self._log(), errors="replace") as log:
            return log.read()[-_TRACE:].strip()

    def _start(self) -> None:
        command = [sys.executable, "-m", "benchmarks.gpu_worker", self.engine]
        with open(self._log(), "ab") as log:
            self.process = subprocess.Popen(
                [*command, json.dumps(self.options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )

    def _readable(self, seconds: float) -> bool:
        """Whether the process says something, or ends, within so long."""
        assert self.process is not None
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    def _line(self, limit: float) -> bytes | None:
        """A line of the process; empty when it has ended, None when it takes too long."""
        assert self.process is not None
        assert self.process.stdout is not None
        end = time.monotonic() + limit
        while b"\n" not in self._pending:
            if not self._readable(max(0.0, end - time.monotonic())):
                return None
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            if not part:
                return b""
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        return line + b"\n"


def descendants(pid: int) -> list[int]:
    """A process and all that it and those started, whatever their groups; Linux only."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            text = path.read_text()
            parent = int(text[text.rindex(")") + 1 :].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found
