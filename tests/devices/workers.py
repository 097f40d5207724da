"""Workers for tests: real processes, or threads of this one where many are needed."""

from __future__ import annotations

import functools
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from netc import api
from netc.ir.machine import Machine
from netc.runtime import remote
from netc.runtime.remote_worker import serve
from netc.runtime.wire import Channel

PROCESS = [sys.executable, "-m", "netc", "worker", "--threads", "1"]


class ThreadWorker:
    """What `subprocess.Popen` is to `Host`, but for a thread that serves."""

    def __init__(self, command: Sequence[str], theirs: socket.socket) -> None:
        self._end = theirs.dup()
        read, write = os.pipe()
        os.close(write)
        self.stderr = os.fdopen(read, "rb")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._end:
            channel = Channel(self._end.fileno(), self._end.fileno())
            load = functools.partial(api.load_part, threads=1, gpu="interpret", on_gpu_loss="error")
            serve(channel, load, lambda names: Machine.typical(names or ["cpu:0"]).show())

    def poll(self) -> int | None:
        """Nothing while it serves."""
        return None if self._thread.is_alive() else 0

    def wait(self, seconds: float | None = None) -> int:
        """Until it has served."""
        self._thread.join(seconds)
        self.stderr.close()
        return 0

    def kill(self) -> None:
        """A thread ends by itself."""


@contextmanager
def in_threads() -> Iterator[Any]:
    """Every host is a thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_process", ThreadWorker)
        yield patch
