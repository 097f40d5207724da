"""The key is made once, read only where nobody else could have put it, and never guessed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from netc.errors import ResourceError, UsageError
from netc.runtime import faults
from netc.runtime.container import NO_TAG
from netc.runtime.keys import key_path, make_key, read_key, same_tag, tag_of


def test_made_once(own_key_folder: Path) -> None:
    assert read_key() is None
    key = make_key()
    assert len(key) == 32
    assert make_key() == key == read_key()
    path = own_key_folder / "netc" / "key"
    assert path == key_path()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["key"]


def test_made_by_many_at_once() -> None:
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(make_key())) for _ in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(keys) == 16
    assert len(set(keys)) == 1


def test_without_a_config_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "relative/path"):
        monkeypatch.setenv("XDG_CONFIG_HOME", unset)
        assert key_path() == tmp_path / ".config" / "netc" / "key"


def readable(path: Path) -> None:
    path.chmod(0o640)


def writable_folder(path: Path) -> None:
    path.parent.chmod(0o777)


def short(path: Path) -> None:
    path.write_bytes(b"short")


def long(path: Path) -> None:
    path.write_bytes(bytes(33))


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def linked_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.symlink_to(path.parent.with_name("elsewhere"))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def foreign(path: Path) -> None:
    os.chown(path, 12345, -1)


def foreign_folder(path: Path) -> None:
    os.chown(path.parent, 12345, -1)


SPOILED = [readable, writable_folder, short, long, linked, linked_folder, pipe, folder]
FOREIGN = [foreign, foreign_folder] if os.geteuid() == 0 else []


@pytest.mark.parametrize("spoil", SPOILED + FOREIGN, ids=lambda f: f.__name__)
def test_a_key_others_could_touch_is_refused(spoil: object) -> None:
    make_key()
    spoil(key_path())  # type: ignore[operator]
    for use in (read_key, make_key):
        with pytest.raises(UsageError, match="is not used"):
            use()


def test_a_folder_that_cannot_be_made(
    own_key_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_key_folder / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(own_key_folder / "file"))
    assert read_key() is None
    with pytest.raises(ResourceError, match="cannot make"):
        make_key()


def test_tags() -> None:
    key, other = bytes(32), bytes(31) + b"\1"
    tag = tag_of(key, b"header")
    assert same_tag(tag, tag_of(key, memoryview(b"header")))
    assert not same_tag(tag, tag_of(other, b"header"))
    assert not same_tag(tag, tag_of(key, b"headex"))
    assert not same_tag(NO_TAG, NO_TAG), "a file without a tag is signed by nobody"


def test_a_failing_disk(own_key_folder: Path) -> None:
    with (
        faults.armed("key.make", faults.raising(KeyboardInterrupt())),
        pytest.raises(KeyboardInterrupt),
    ):
        make_key()
    assert read_key() is None
