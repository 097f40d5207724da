"""Private temporary folders. What killed processes left is removed when the next one is made."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_OLD = 86400.0  # seconds; what is younger may be about to be locked


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A folder whose name begins so; it is locked while it is in use, and then removed."""
    _sweep(Path(tempfile.gettempdir()), prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        held = _opened(folder)
        try:
            with suppress(OSError):  # no locks on this filesystem: then no sweeping either
                fcntl.flock(held, fcntl.LOCK_SH)
            yield Path(folder)
        finally:
            os.close(held)


def _sweep(parent: Path, prefix: str) -> None:
    """Remove folders of such names that are the user's own, old, and locked by no one."""
    name = re.compile(re.escape(prefix) + "[a-z0-9_]{8}")
    with suppress(OSError):
        for left in filter(name.fullmatch, os.listdir(parent)):
            with suppress(OSError):
                _remove(parent / left)


def _remove(left: Path) -> None:
    held = _opened(left)
    try:
        status = os.fstat(held)
        if status.st_uid == os.geteuid() and time.time() - status.st_mtime > _OLD:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    finally:
        os.close(held)


def _opened(folder: str | Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
