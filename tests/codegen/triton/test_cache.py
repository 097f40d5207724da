"""The cache of compiled variants: entries that are damaged, foreign or too many."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netc.codegen.triton.cache import default_directory, open_cache
from netc.codegen.triton.job import Compiled
from tests.codegen.triton.texts import job, scale

CODE = Compiled(b"machine code" * 9, "kernel", 4, 1024, 32, 0)
KEY, OTHER, THIRD = ("a" * 64, "b" * 64, "c" * 64)
LEFT = f".{'d' * 16}.tmp"  # by a writer that was killed


def kept(folder: Path | None, *keys: str) -> list[Compiled | None]:
    with open_cache(folder) as cache:
        return [cache.get(key) for key in keys]


def keep(folder: Path | None, *keys: str, limit: int = 1 << 20) -> None:
    with open_cache(folder, limit) as cache:
        for key in keys:
            cache.put(key, CODE)


def test_what_is_put_is_got_by_the_next_and_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "gpu"
    keep(folder, KEY)
    assert kept(folder, KEY, OTHER) == [CODE, None]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in folder.iterdir()] == [KEY]
    assert (folder / KEY).stat().st_mode & 0o777 == 0o600


def test_a_damaged_entry_is_not_there_and_is_written_again(tmp_path: Path) -> None:
    keep(tmp_path, KEY)
    entry = tmp_path / KEY
    whole = entry.read_bytes()
    flipped = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    for damaged in (b"", whole[:20], whole[:-1], whole + b"x", *flipped):
        entry.write_bytes(damaged)
        assert kept(tmp_path, KEY) == [None]
    keep(tmp_path, KEY)
    assert entry.read_bytes() == whole


def test_an_entry_under_another_key_is_not_there(tmp_path: Path) -> None:
    keep(tmp_path, KEY)
    (tmp_path / KEY).rename(tmp_path / OTHER)
    assert kept(tmp_path, KEY, OTHER) == [None, None]


def test_an_entry_that_others_may_write_or_that_is_a_link_is_not_used(tmp_path: Path) -> None:
    keep(tmp_path, KEY)
    (tmp_path / OTHER).symlink_to(tmp_path / KEY)
    assert kept(tmp_path, KEY, OTHER) == [CODE, None]
    (tmp_path / KEY).chmod(0o622)
    assert kept(tmp_path, KEY) == [None]


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "gpu"
    keep(folder, KEY)
    folder.chmod(0o777)
    keep(folder, OTHER)
    assert kept(folder, KEY, OTHER) == [None, None]
    assert [p.name for p in folder.iterdir()] == [KEY]


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path / "file", tmp_path / "file" / "gpu", tmp_path / "link", None):
        keep(folder, KEY)
        assert kept(folder, KEY) == [None]


def test_a_full_disk_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        keep(tmp_path, KEY)
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    keep(tmp_path, KEY, OTHER)
    size = (tmp_path / KEY).stat().st_size
    for name, age in ((KEY, 2000), (OTHER, 1000), (LEFT, 9000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (age, age))
    kept(tmp_path, KEY)
    keep(tmp_path, THIRD, limit=2 * size)
    assert sorted(p.name for p in tmp_path.iterdir()) == [KEY, THIRD]


def test_files_of_other_names_stay(tmp_path: Path) -> None:
    names = ["draft.tmp", "photos.tar", "variants.json"]
    for name in names:
        (tmp_path / name).write_bytes(bytes(9000))
        os.utime(tmp_path / name, (1000, 1000))
    keep(tmp_path, KEY, limit=5000)
    assert sorted(p.name for p in tmp_path.iterdir()) == [KEY, *names]


def test_the_folder_is_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "netc" / "gpu"
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path / "mine"))
    assert default_directory() == tmp_path / "mine" / "gpu"


def test_a_key_depends_on_all_that_code_depends_on() -> None:
    texts = [scale(128), scale(256), scale(128, head="import triton\nfrom triton import *\n")]
    jobs = [job(t, arch) for t in texts for arch in ("sm_80", "ptx")]
    keys = {j.key(compiler) for j in jobs for compiler in ("triton 3.6.0", "triton 3.9.0")}
    assert len(keys) == 12
    assert job(scale(128)).key("triton 3.6.0") in keys
