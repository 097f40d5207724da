"""Compiled variants kept from one compilation to the next, in a folder of the user's own.

An entry's name is the key of its job. It holds a digest of its contents: what is damaged or cut
off is not there. Whatever goes wrong with the folder, compiling goes on without it.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from netc.codegen.triton.job import Compiled, receive, send
from netc.folder import TEMPORARY, open_folder, read_file, write_file

LIMIT = 1 << 30  # bytes
_MAGIC = b"netc gpu code 2\n"
_DIGEST = hashlib.sha256().digest_size
_KEY = re.compile(r"[0-9a-f]{64}")
_STALE = 3600.0  # seconds after which no one is still writing a file


def default_directory() -> Path:
    """`$NETC_CACHE_DIR/gpu`, or `netc/gpu` among the user's caches."""
    named = os.environ.get("NETC_CACHE_DIR", "")
    return (Path(named).absolute() if named else platformdirs.user_cache_path("netc")) / "gpu"


@contextmanager
def open_cache(folder: Path | None, limit: int = LIMIT) -> Iterator[Cache]:
    """The cache in `folder`; it stays empty where the folder is None or not the user's own."""
    with open_folder(folder, make=True) as opened:
        cache = Cache(opened)
        yield cache
        cache.trim(limit)


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
        with suppress(OSError):
            write_file(self._folder, key, _head(key, data) + data)
            self._grown = True

    def trim(self, limit: int) -> None:
        """Remove what was not used for longest until at most `limit` bytes are left.

        Files of other names are not the cache's, and stay.
        """
        if self._folder is None or not self._grown:
            return
        files = []
        for name in os.listdir(self._folder):
            if not (_KEY.fullmatch(name) or TEMPORARY.fullmatch(name)):
                continue
            with suppress(OSError):  # gone meanwhile
                files.append((name, os.stat(name, dir_fd=self._folder, follow_symlinks=False)))
        total = sum(status.st_size for _, status in files)
        for name, status in sorted(files, key=lambda f: (f[1].st_mtime_ns, f[0])):
            left_over = not _KEY.fullmatch(name) and time.time() - status.st_mtime > _STALE
            if total <= limit and not left_over:
                continue
            with suppress(OSError):
                os.unlink(name, dir_fd=self._folder)
                total -= status.st_size

    def _read(self, key: str) -> bytes:
        if self._folder is None:
            return b""
        data = read_file(self._folder, key, LIMIT)
        if data:
            with suppress(OSError):
                os.utime(key, dir_fd=self._folder, follow_symlinks=False)
        return data
