"""The file of fastest variants: a folder that is not the user's own is as good as none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from netc.runtime.tuning import FILE, Tuner

KEPT = '{"gpu": {"key": 1}}'


def chosen(folder: Path) -> int:
    """What is chosen of two variants, the second being faster; 0 where nothing is known yet."""
    known = Tuner("gpu", folder).choose("key", (0, 1), lambda variant, best: 0.0)
    tuner = Tuner("gpu", folder)
    tuner.begin(5)
    tuner.choose("key", (0, 1), lambda variant, best: (2.0, 1.0)[variant])
    tuner.keep()
    return known


def test_what_is_kept_is_known_to_the_next_and_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "gpu"
    assert [chosen(folder), chosen(folder)] == [0, 1]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in folder.iterdir()] == [FILE]
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600


def test_a_folder_that_others_may_write_or_that_is_a_link_is_not_used(tmp_path: Path) -> None:
    folder, link = tmp_path / "gpu", tmp_path / "link"
    chosen(folder)
    link.symlink_to(folder)
    assert chosen(link) == 0
    folder.chmod(0o777)
    assert chosen(folder) == 0
    (folder / FILE).unlink()
    chosen(folder)
    assert list(folder.iterdir()) == []


def writable(path: Path) -> None:
    path.write_text(KEPT)
    path.chmod(0o622)


def link(path: Path) -> None:
    path.symlink_to(path.parent / "own")


@pytest.mark.parametrize("make", [os.mkfifo, link, writable])
def test_what_is_no_file_of_the_users_own_is_not_read_but_replaced(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    own = tmp_path / "own"
    own.write_text(KEPT)
    make(tmp_path / FILE)
    assert [chosen(tmp_path), chosen(tmp_path)] == [0, 1]
    assert own.read_text() == KEPT
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own", FILE]
