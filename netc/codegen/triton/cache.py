"""Compiled variants kept from one compilation to the next, in a folder of the user's own.

An entry's name is the key of its job. It holds a digest of its contents: what is damaged or cut
off is not there. Whatever goes wrong with the folder, compiling goes on without it.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from netc.codegen.triton.job import Compiled, receive, send

LIMIT = 1 << 30  # bytes
_MAGIC = b"netc gpu code 2\n"
_DIGEST = hashlib.sha256().digest_size
_STALE = 3600.0  # seconds after which no one is still writing a file


def default_directory() -> Path:
    """`$NETC_CACHE_DIR/gpu`, or `netc/gpu` among the user's caches."""
    named = os.environ.get("NETC_CACHE_DIR", "")
    return (Path(named).absolute() if named else platformdirs.user_cache_path("netc")) / "gpu"


@contextmanager
def open_cache(folder: Path | None, limit: int = LIMIT) -> Iterator[Cache]:
    """The cache in `folder`; it stays empty where the folder is None or not the user's own."""
    cache = Cache(_open_folder(folder) if folder else None)
    try:
        yield cache
        cache.trim(limit)
    finally:
        cache.close()


def _head(key: str, body: bytes) -> bytes:
    """What an entry begins with: its digest is that of its key too, so it fits no other name."""
    return _MAGIC + hashlib.sha256(key.encode() + body).digest()


class Cache:
    """Entries in an open folder (a descriptor), or none."""

    def __init__(self, folder: int | None) -> None:
        self._folder = folder
        self._grown = False

    def get(self, key: str) -> Compiled | None:
        """What was kept under the key; it counts as used now."""
        try:
            data = self._read(key)
            body = data[len(_MAGIC) + _DIGEST :]
            if data[: len(data) - len(body)] != _head(key, body):
                return None
            message = receive(io.BytesIO(body))
            return Compiled(message[1], **message[0]) if message else None
        except (OSError, ValueError, TypeError):
            return None

    def put(self, key: str, code: Compiled) -> None:
        """Keep `code`, whole or not at all."""
        if self._folder is None:
            return
        body = io.BytesIO()
        send(body, code.head(), code.blob)
        data = body.getvalue()
        temp = f".{os.urandom(8).hex()}.tmp"
        try:
            self._write(temp, _head(key, data) + data)
            os.replace(temp, key, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._grown = True
        except OSError:  # a full or read-only disk
            with suppress(OSError):
                os.unlink(temp, dir_fd=self._folder)

    def trim(self, limit: int) -> None:
        """Remove what was not used for longest until at most `limit` bytes are left."""
        if self._folder is None or not self._grown:
            return
        files = []
        for name in os.listdir(self._folder):
            with suppress(OSError):  # gone meanwhile
                files.append((name, os.stat(name, dir_fd=self._folder, follow_symlinks=False)))
        total = sum(status.st_size for _, status in files)
        for name, status in sorted(files, key=lambda f: (f[1].st_mtime_ns, f[0])):
            left_over = name.endswith(".tmp") and time.time() - status.st_mtime > _STALE
            if total <= limit and not left_over:
                continue
            with suppress(OSError):
                os.unlink(name, dir_fd=self._folder)
                total -= status.st_size

    def close(self) -> None:
        """Let go of the folder."""
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def _read(self, key: str) -> bytes:
        if self._folder is None:
            return b""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(key, flags, dir_fd=self._folder), "rb") as file:
            status = os.fstat(file.fileno())
            if not _own(status) or not stat.S_ISREG(status.st_mode):
                return b""
            with suppress(OSError):
                os.utime(file.fileno())
            return file.read()

    def _write(self, name: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=self._folder), "wb") as file:
            file.write(data)


def _own(status: os.stat_result) -> bool:
    """Whether the user, and no one else, may write there."""
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _open_folder(folder: Path) -> int | None:
    """A descriptor of the folder, made where it is not there; None where it is not to be used."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        opened = os.open(folder, flags)
    except (OSError, ValueError):
        return None
    if _own(os.fstat(opened)):
        return opened
    os.close(opened)
    return None
