"""Files that are written whole or not at all.

The bytes go to a file beside the target, are flushed to the disk, and then take the target's
name in one step; whoever reads sees the old file or the new one. A file left over by a writer
that was killed is removed by the next writer of the same target: a live writer holds a lock.
Who may read and write the old file may do so with the new one.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from netc.errors import NetcError, ResourceError, UsageError, clean
from netc.runtime.faults import fault

Buffer: TypeAlias = bytes | bytearray | memoryview

_PIECE = 64 << 20  # bytes one write call is given
STORAGE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM})


def write_file(path: str | os.PathLike[str], pieces: Iterable[Buffer]) -> int:
    """Write `pieces` as the whole of `path` and return their length in bytes.

    Whatever goes wrong, the old file is intact and nothing is left beside it.
    """
    target, state = _target(path), ""
    try:
        _sweep(target)
        mode = _mode(target)
        state = "" if mode is None else "the file that was there before is unchanged"
        temp, fd = _create(target, 0o666 if mode is None else mode | 0o600)  # a sweeper opens it
        try:
            size = _fill(fd, pieces)
            if mode is not None:
                with suppress(OSError):  # a filesystem whose files all have one mode
                    os.fchmod(fd, mode)
            fault("atomic.rename")
            os.replace(temp, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temp)
            raise
        finally:
            os.close(fd)
        state = "the file is there, but may not last through a power cut"
        _sync_folder(target.parent)
    except OSError as error:
        raise _typed(error, path, state) from error
    return size


def _target(path: str | os.PathLike[str]) -> Path:
    """The file that `path` means; links are followed, devices and folders refused."""
    if not isinstance(path, str | bytes | os.PathLike):
        raise UsageError(f"a {type(path).__name__} is no path")
    try:
        target = Path(os.path.realpath(os.fsdecode(path)))
    except OSError as error:  # the working folder is gone
        raise _typed(error, path) from error
    except ValueError as error:
        raise UsageError(f"cannot write {clean(path)}: {clean(error)}") from error
    if os.fsdecode(path).endswith(os.sep):
        raise UsageError(f"cannot write {clean(path)}: that names a folder")
    if os.path.lexists(target) and not target.is_file():
        raise UsageError(f"cannot write {clean(path)}: it is not a regular file")
    return target


def _create(target: Path, mode: int) -> tuple[Path, int]:
    """A new, locked file beside `target`. A sweeper may take it before the lock does: again."""
    while True:
        fault("atomic.open")
        temp = target.with_name(f"{_prefix(target)}{os.urandom(6).hex()}.tmp")
        fd = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.fstat(fd).st_nlink > 0
        except BlockingIOError:
            mine = False
        except OSError:  # no locks on this filesystem: then no sweeping either
            mine = True
        if mine:
            return temp, fd
        os.close(fd)


def _mode(target: Path) -> int | None:
    """Who may do what with the file that is to be replaced; None where there is none."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        return None


def _sweep(target: Path) -> None:
    """Remove what killed writers of `target` left: files no one holds a lock on."""
    for left in target.parent.glob(_escape(_prefix(target)) + "?" * 12 + ".tmp"):
        with suppress(OSError):
            fd = os.open(left, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(left)
            finally:
                os.close(fd)


def _prefix(target: Path) -> str:
    """What the names of files on their way to `target` begin with; a name has 255 bytes at most."""
    return f".{os.fsencode(target.name)[:180].decode(errors='ignore')}."


def _escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _fill(fd: int, pieces: Iterable[Buffer]) -> int:
    size = 0
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while len(rest):
            fault("atomic.write")
            done = os.write(fd, rest[:_PIECE])
            rest = rest[done:]
            size += done
    fault("atomic.fsync")
    os.fsync(fd)
    return size


def _sync_folder(folder: Path) -> None:
    """Make the new name itself last through a power cut."""
    fault("atomic.syncdir")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a filesystem without it
            raise
    finally:
        os.close(fd)


def _typed(error: OSError, path: str | os.PathLike[str], state: str = "") -> NetcError:
    """The error a user sees for a write that failed, and what the file's state is now."""
    text = f"cannot write {clean(path)}: {error.strerror or clean(error)}"
    if error.errno in STORAGE:
        return ResourceError(text, help=state)
    return UsageError(text)
