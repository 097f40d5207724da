"""The user's own key: what tells "I compiled this here" from a file of unknown origin."""

from __future__ import annotations

import hmac
import os
import stat
from contextlib import suppress
from pathlib import Path

from netc.errors import ResourceError, UsageError, clean
from netc.runtime.atomic import Buffer
from netc.runtime.container import NO_TAG
from netc.runtime.faults import fault

KEY_BYTES = 32
_PURPOSE = b"netc model.bin 1\0"


def key_path() -> Path:
    """Where the key lives: `$XDG_CONFIG_HOME/netc/key`, or under `~/.config`."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.config"))
    return folder / "netc" / "key"


def tag_of(key: bytes, signed: Buffer) -> bytes:
    """The HMAC-SHA256 of a file's header under `key`."""
    return hmac.digest(key, _PURPOSE + signed, "sha256")


def same_tag(tag: bytes, other: bytes) -> bool:
    """Whether two tags are equal, in constant time; the empty tag equals none."""
    return tag != NO_TAG and hmac.compare_digest(tag, other)


def read_key(path: Path | None = None) -> bytes | None:
    """The user's key, or None where there is none yet.

    A key that others could have put there or could read is refused with an error.
    """
    path = path or key_path()
    try:
        fault("key.read")
        folder = path.parent.lstat()
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error
    try:
        _check_private(path, folder, os.fstat(fd))
        key = os.read(fd, KEY_BYTES + 1)
    finally:
        os.close(fd)
    if len(key) != KEY_BYTES:
        raise _refused(path, f"it has not {KEY_BYTES} bytes")
    return key


def make_key(path: Path | None = None) -> bytes:
    """The user's key, made now where there is none."""
    path = path or key_path()
    key = read_key(path)
    if key is not None:
        return key
    temp = path.with_name(f".key.{os.urandom(6).hex()}.tmp")
    try:
        fault("key.make")
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, os.urandom(KEY_BYTES))
            os.fsync(fd)
            with suppress(FileExistsError):  # another process made one meanwhile: use that
                os.link(temp, path)
        finally:
            os.close(fd)
            os.unlink(temp)
    except OSError as error:
        raise ResourceError(f"cannot make {clean(path)}: {error.strerror or error}") from error
    key = read_key(path)
    if key is None:
        raise _refused(path, "it went away while it was made")
    return key


def _check_private(path: Path, folder: os.stat_result, status: os.stat_result) -> None:
    user = os.geteuid()
    if not stat.S_ISDIR(folder.st_mode):
        raise _refused(path.parent, "it is not a folder")
    if folder.st_uid != user or folder.st_mode & 0o022:
        raise _refused(path.parent, "others may write there; its mode should be 0700")
    if not stat.S_ISREG(status.st_mode):
        raise _refused(path, "it is not a regular file")
    if status.st_uid != user or status.st_mode & 0o077:
        raise _refused(path, "others may read it; its mode should be 0600")


def _refused(path: Path, why: str) -> UsageError:
    return UsageError(
        f"the key {clean(path)} is not used: {why}",
        help="remove it and compile again, or load with trust=True or sha256=…",
    )
