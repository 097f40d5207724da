"""Files a user names: opened safely, read whole or mapped, with errors that say what is wrong."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

from netc.errors import NetcError, Span, UsageError, clean


def mapped(path: str | os.PathLike[str], error: type[NetcError] = UsageError) -> memoryview:
    """The bytes of a regular file, mapped read-only. A pipe or device is refused, not waited on."""
    name = display(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else "its name holds a NUL"
        raise error(f"cannot open {clean(name)}: {reason}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{clean(name)} is not a file")
        if status.st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(fd, status.st_size, access=mmap.ACCESS_READ))
    finally:
        os.close(fd)


def named_bytes(
    source: str | os.PathLike[str] | bytes | memoryview, error: type[NetcError] = UsageError
) -> tuple[str, memoryview]:
    """What errors call a source, and its bytes: a file's, or those given."""
    if isinstance(source, bytes | bytearray | memoryview):
        return "<bytes>", memoryview(source)
    return display(source), mapped(source, error)


def display(path: str | os.PathLike[str]) -> str:
    """The name of a file as errors and models show it: without its folders."""
    try:
        whole = os.fsdecode(path)
    except TypeError:
        raise UsageError(f"a {type(path).__name__} is no path") from None
    return Path(whole).name or whole


def is_text(data: memoryview | bytes) -> bool:
    """Whether bytes look like text: no control characters at the start but white space."""
    head = bytes(data[:4096])
    return not any(b < 9 or 13 < b < 32 for b in head)


def decoded(data: memoryview | bytes, name: str, error: type[NetcError]) -> str:
    """UTF-8 text, or Latin-1 where it is not (comments in old files)."""
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError:
        pass
    if not is_text(data):
        raise error("the file is neither text nor a model", Span(name))
    return bytes(data).decode("latin-1")
