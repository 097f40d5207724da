"""Temporary folders: gone at the end, and those of killed processes by the next one."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from netc.codegen.triton.scratch import scratch

LONG_AGO = time.time() - 100_000


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left(parent: Path, name: str, when: float = LONG_AGO) -> Path:
    folder = parent / name
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "errors").touch()
    os.utime(folder, (when, when))
    return folder


def test_a_folder_is_there_while_it_is_used(parent: Path) -> None:
    with scratch("netc-a-") as folder:
        (folder / "file").touch()
        assert folder.parent == parent
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(parent.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_nothing_else(parent: Path) -> None:
    left(parent, "netc-a-1234abc_")
    kept = {left(parent, name) for name in ("netc-b-1234abcd", "netc-a-mine", "netc-a-1234abc_.x")}
    kept.add(left(parent, "netc-a-87654321", time.time()))
    link = parent / "netc-a-link1234"
    link.symlink_to(parent / "netc-b-1234abcd")
    with scratch("netc-a-"):
        pass
    assert set(parent.iterdir()) == {*kept, link}
    assert all((folder / "0" / "errors").exists() for folder in kept)


def test_an_old_folder_in_use_stays(parent: Path) -> None:
    with scratch("netc-a-") as folder:
        os.utime(folder, (LONG_AGO, LONG_AGO))
        with scratch("netc-a-"):
            assert folder.exists()
