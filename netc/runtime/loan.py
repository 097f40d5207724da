"""What a process lends to one thread at a time, such as its worker threads.

A signal handler runs on the main thread in the midst of whatever that does. If it asks for what
the main thread has on loan already, waiting would never end: it is told so instead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Loan:
    """Lends to one thread; others wait."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._out = False

    @contextmanager
    def taken(self) -> Iterator[bool]:
        """Within the block this thread has it; False where it has it already, further out."""
        with self._lock:
            if self._out:
                yield False
                return
            try:
                self._out = True
                yield True
            finally:
                self._out = False
