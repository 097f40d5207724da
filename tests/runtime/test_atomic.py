"""Files are written whole or not at all, whatever fails and whenever the process dies."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from netc.errors import NetcError, ResourceError, UsageError
from netc.runtime import faults
from netc.runtime.atomic import write_file

STEPS = ("atomic.open", "atomic.write", "atomic.fsync", "atomic.rename", "atomic.syncdir")


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_writes_all_pieces(tmp_path: Path) -> None:
    assert write_file(tmp_path / "f", [b"ab", b"", bytearray(b"c"), memoryview(b"de")]) == 5
    assert (tmp_path / "f").read_bytes() == b"abcde"
    assert listing(tmp_path) == ["f"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES])
def test_a_failing_step_leaves_the_old_file(tmp_path: Path, step: str, code: int) -> None:
    (tmp_path / "f").write_bytes(b"old")
    fails = faults.raising(OSError(code, os.strerror(code)))
    with faults.armed(step, fails), pytest.raises(NetcError) as caught:
        write_file(tmp_path / "f", [b"new"])
    storage = code in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    assert type(caught.value) is (ResourceError if storage else UsageError)
    assert listing(tmp_path) == ["f"]
    # the last step comes after the rename: the file is new, and the caller is told it may not last
    assert (tmp_path / "f").read_bytes() == (b"new" if step == "atomic.syncdir" else b"old")


@pytest.mark.parametrize("good", range(6))
def test_the_disk_fills_at_every_write(tmp_path: Path, good: int) -> None:
    (tmp_path / "f").write_bytes(b"old")
    full = faults.raising(OSError(errno.ENOSPC, "No space left on device"), after=good)
    with faults.armed("atomic.write", full), pytest.raises(ResourceError, match="No space left"):
        write_file(tmp_path / "f", [b"piece"] * 6)
    assert listing(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("step", "before", "help"),
    [
        ("atomic.write", True, "the file that was there before is unchanged"),
        ("atomic.write", False, ""),
        ("atomic.syncdir", True, "the file is there, but may not last through a power cut"),
        ("atomic.syncdir", False, "the file is there, but may not last through a power cut"),
    ],
)
def test_the_error_says_what_file_is_there_now(
    tmp_path: Path, step: str, before: bool, help: str
) -> None:
    if before:
        (tmp_path / "f").write_bytes(b"old")
    full = faults.raising(OSError(errno.EIO, "Input/output error"))
    with faults.armed(step, full), pytest.raises(ResourceError) as caught:
        write_file(tmp_path / "f", [b"new"])
    assert caught.value.diagnostics[0].help == help


def test_an_interrupt_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    interrupted = faults.raising(KeyboardInterrupt())
    with faults.armed("atomic.fsync", interrupted), pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "f", [b"new"])
    assert listing(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


KILLED = """
import sys
from netc.runtime import faults
from netc.runtime.atomic import write_file
step, path = sys.argv[1:]
with faults.armed(step, faults.killing):
    write_file(path, [b"new" * 1000])
"""


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_every_step(tmp_path: Path, step: str) -> None:
    (tmp_path / "f").write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, step, str(tmp_path / "f")], check=False)
    assert done.returncode == -9
    assert (tmp_path / "f").read_bytes() in (b"old", b"new" * 1000)
    write_file(tmp_path / "f", [b"later"])
    assert listing(tmp_path) == ["f"], "what the killed writer left is swept away"


def test_a_living_writer_is_not_swept_away(tmp_path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go_on.wait(20)

    with faults.armed("atomic.fsync", wait):
        slow = threading.Thread(target=write_file, args=(tmp_path / "f", [b"slow"]))
        slow.start()
        assert inside.wait(20)
    write_file(tmp_path / "f", [b"quick"])
    assert len(listing(tmp_path)) == 2
    go_on.set()
    slow.join()
    assert listing(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"slow"


def test_many_writers_of_one_file(tmp_path: Path) -> None:
    texts = [bytes([65 + i]) * 5000 for i in range(8)]

    def write(text: bytes) -> None:
        for _ in range(10):
            write_file(tmp_path / "f", [text])

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (tmp_path / "f").read_bytes() in texts
    assert listing(tmp_path) == ["f"]


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path, tmp_path / "pipe", "/dev/full", tmp_path / "no" / "f", "a\0b"):
        with pytest.raises(UsageError, match="cannot write"):
            write_file(target, [b"x"])
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("kind", [str, os.fsencode])
def test_the_name_of_a_folder_is_refused(tmp_path: Path, kind: type) -> None:
    with pytest.raises(UsageError, match="that names a folder"):
        write_file(kind(f"{tmp_path}/f/"), [b"x"])
    assert listing(tmp_path) == []


def test_the_working_folder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match=r"cannot write y\.bin: No such file or directory"):
        write_file("y.bin", [b"x"])


@pytest.mark.parametrize("path", [None, 3, ["f"], Path])
def test_what_is_no_path(path: object) -> None:
    with pytest.raises(UsageError, match="is no path"):
        write_file(path, [b"x"])  # type: ignore[arg-type]


def test_a_path_may_be_bytes(tmp_path: Path) -> None:
    write_file(os.fsencode(tmp_path / "f"), [b"x"])  # type: ignore[arg-type]
    assert (tmp_path / "f").read_bytes() == b"x"


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o755, 0o666])
def test_a_new_file_has_the_mode_of_the_old(tmp_path: Path, mode: int) -> None:
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "f").chmod(mode)
    seen: list[int] = []

    def look() -> None:
        seen.extend(p.stat().st_mode & 0o077 & ~mode for p in tmp_path.iterdir())

    with faults.armed("atomic.write", look):
        write_file(tmp_path / "f", [b"new"])
    assert (tmp_path / "f").stat().st_mode & 0o7777 == mode
    assert seen == [0, 0]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_file(tmp_path / "link", [b"x"])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"


def test_the_order_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """write, flush the file, rename, flush the folder: what a power cut needs."""
    calls = []

    def watched(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object, **kwargs: object) -> object:
            calls.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    for name in ("write", "fsync", "replace"):
        watched(name)
    write_file(tmp_path / "f", [b"a", b"b"])
    assert calls == ["write", "write", "fsync", "replace", "fsync"]


def test_names_that_look_like_patterns(tmp_path: Path) -> None:
    for name in ("a[b]*?", "with space", "newline\n", "ü" * 80, "漢" * 85, "x" * 255):
        write_file(tmp_path / name, [b"1"])
        write_file(tmp_path / name, [b"2"])
        assert (tmp_path / name).read_bytes() == b"2"
    assert len(listing(tmp_path)) == 6
