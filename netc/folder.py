"""Small files in a folder that is the user's own: what others may write to is not used.

Links are not followed, what is no regular file is not read, and a file is written whole or not
at all, under a name of its own until it is.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")  # names of files that are being written


@contextmanager
def open_folder(folder: Path | None, make: bool = False) -> Iterator[int | None]:
    """A descriptor of the folder, or None where it is not there or not the user's own.

    With `make` it is made where it is not there.
    """
    opened = _opened(folder, make) if folder else None
    try:
        yield opened
    finally:
        if opened is not None:
            os.close(opened)


def _opened(folder: Path, make: bool) -> int | None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if make:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        opened = os.open(folder, flags)
    except (OSError, ValueError):
        return None
    if _own(os.fstat(opened)):
        return opened
    os.close(opened)
    return None


def read_file(folder: int, name: str, most: int) -> bytes:
    """The bytes of a file; none where it is not the user's own or has more than `most`.

    Raises OSError where it cannot be read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
        status = os.fstat(file.fileno())
        fits = _own(status) and stat.S_ISREG(status.st_mode) and status.st_size <= most
        return file.read() if fits else b""


def write_file(folder: int, name: str, data: bytes) -> None:
    """Give `name` these bytes. Raises OSError where it fails, and then nothing has changed."""
    temporary = f".{os.urandom(8).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=folder), "wb") as file:
            file.write(data)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:  # a full or read-only disk
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _own(status: os.stat_result) -> bool:
    """Whether the user, and no one else, may write there."""
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022
