"""Native code runs only where it is trusted and fits; otherwise it is made again, or an error
says how to go on."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from netc import processor
from netc.codegen.cpu.target import LEVELS, native
from netc.errors import ArtifactError, NetcError, UnsupportedCPU, UsageError
from netc.runtime.artifact import Artifact, ArtifactFile, open_artifact
from netc.runtime.keys import key_path, make_key
from netc.runtime.session import executable, load, save_artifact
from netc.runtime.trust import fitting

from .handmade import feed, make_artifact, make_level, make_plan, reference


def same_again(file: ArtifactFile) -> Artifact:
    """What the compiler would make of the file's IR."""
    return make_artifact(weights=file.weights)


def no_compiler(file: ArtifactFile) -> Artifact:
    raise ModuleNotFoundError("No module named 'llvmlite'")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_artifact(make_artifact(), tmp_path / "model.bin")
    return tmp_path / "model.bin"


def check(path: Path, **options: object) -> None:
    x, exe = feed(3), load(path, 1, **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(exe(x)["out"], reference(**x))


def test_a_file_of_ones_own(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    check(saved)
    check(saved, recompile=no_compiler)
    assert not caplog.records


def test_the_parts_come_back(tmp_path: Path) -> None:
    made = make_artifact(
        labels=("cat", "dög"), locs={"conv1": ["a.net", 1, 2]}, params={"w": [0, "raw"]}
    )
    save_artifact(made, tmp_path / "m")
    file = open_artifact(tmp_path / "m")
    assert (file.ir, file.labels, file.locs, file.params) == (
        made.ir,
        made.labels,
        made.locs,
        made.params,
    )
    level = file.level(native().name)
    assert level.plan == made.levels[0].plan
    assert bytes(level.code) == made.levels[0].code
    assert load(tmp_path / "m", 1).labels == ("cat", "dög")


def test_equal_nets_give_equal_files(saved: Path, tmp_path: Path) -> None:
    save_artifact(make_artifact(), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()
    load(saved, 1).save(tmp_path / "loaded and saved")
    assert (tmp_path / "loaded and saved").read_bytes() == saved.read_bytes()


def test_another_users_key_changes_the_last_64_bytes_only(saved: Path, tmp_path: Path) -> None:
    key_path().unlink()
    save_artifact(make_artifact(), tmp_path / "theirs")
    mine, theirs = saved.read_bytes(), (tmp_path / "theirs").read_bytes()
    assert mine[:-64] == theirs[:-64]
    assert mine[-64:-32] != theirs[-64:-32]


# ------------------------------------------------------------------- who may run code here


def unsigned(path: Path) -> None:
    make_artifact().save(path)


def foreign(path: Path) -> None:
    key_path().write_bytes(os.urandom(32))


def keyless(path: Path) -> None:
    key_path().unlink()


def open_key(path: Path) -> None:
    key_path().chmod(0o644)


UNTRUSTED = [unsigned, foreign, keyless, open_key]


@pytest.mark.parametrize("spoil", UNTRUSTED, ids=lambda f: f.__name__)
def test_untrusted_code_is_made_again(
    saved: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    spoil(saved)
    asked: list[ArtifactFile] = []

    def recompile(file: ArtifactFile) -> Artifact:
        asked.append(file)
        return same_again(file)

    check(saved, recompile=recompile)
    assert len(asked) == 1
    (record,) = caplog.records
    assert "recompiled" in record.getMessage()
    assert record.levelno == logging.WARNING


@pytest.mark.parametrize("spoil", UNTRUSTED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("recompile", [None, no_compiler])
def test_without_a_compiler_the_ways_out_are_named(
    saved: Path, spoil: Callable[[Path], None], recompile: object
) -> None:
    spoil(saved)
    with pytest.raises(ArtifactError, match=r"(?s)not used.*install netc.*trust=True or sha256="):
        load(saved, 1, recompile=recompile)  # type: ignore[arg-type]
    check(saved, trust=True)
    check(saved, sha256=hashlib.sha256(saved.read_bytes()).hexdigest())
    check(saved, sha256=hashlib.sha256(saved.read_bytes()).hexdigest().upper())


def test_trust_false_never_runs_the_files_code(saved: Path) -> None:
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    for options in ({}, {"sha256": digest}):
        with pytest.raises(ArtifactError, match="trust=False"):
            load(saved, 1, trust=False, **options)  # type: ignore[arg-type]
        check(saved, trust=False, recompile=same_again, **options)


def test_a_pin_that_does_not_match_is_an_error_whatever_else_is_said(saved: Path) -> None:
    for trust in (None, True, False):
        with pytest.raises(ArtifactError, match="not the pinned"):
            load(saved, 1, trust, "0" * 64, same_again)


@pytest.mark.parametrize("pin", ["", "00", "g" * 64, "0" * 64 + "\n", 5, b"0" * 64])
def test_a_pin_that_is_none(saved: Path, pin: object) -> None:
    with pytest.raises(UsageError, match="64 hexadecimal"):
        load(saved, 1, sha256=pin)  # type: ignore[arg-type]


@pytest.mark.parametrize("trust", [1, 0, "yes", "native"])
def test_trust_is_true_false_or_none(saved: Path, trust: object) -> None:
    with pytest.raises(UsageError, match="trust is"):
        load(saved, 1, trust=trust)  # type: ignore[arg-type]


def test_code_of_another_model_is_not_signed(saved: Path, tmp_path: Path) -> None:
    """The tag is over all digests: parts of two signed files do not make a third."""
    other = tmp_path / "other"
    save_artifact(make_artifact(make_plan(sleep=1), labels=("b",)), other)
    mixed = replace(make_artifact(), levels=[make_level(make_plan(sleep=1))])
    data = bytearray(b"".join(mixed.pieces()))
    for source in (saved, other):
        data[-64:-32] = source.read_bytes()[-64:-32]
        end = 24 + int.from_bytes(data[16:24], "little")
        data[-32:] = hashlib.sha256(data[:end] + data[-64:-32]).digest()
        (tmp_path / "mixed").write_bytes(data)
        with pytest.raises(ArtifactError, match="signed with another key"):
            load(tmp_path / "mixed", 1)


def test_a_payload_in_foreign_code_never_runs(saved: Path) -> None:
    """Code that would crash at its first instruction is not even mapped."""
    level = make_level(make_plan())
    trap = replace(level, code=b"\xcc" * len(level.code))
    make_artifact(levels=[trap]).save(saved, os.urandom(32))
    check(saved, recompile=same_again)


# -------------------------------------------------------------------- what fits this machine


def test_the_best_level_that_fits_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name, t in LEVELS.items() if t.is_x86]
    made = make_artifact(levels=[make_level(make_plan(), LEVELS[name]) for name in names])
    save_artifact(made, tmp_path / "m")
    file = open_artifact(tmp_path / "m")
    for name in names:
        has = next(info.features for info in file.levels if info.name == name)
        monkeypatch.setattr(processor, "cpu_features", lambda has=has: has)
        monkeypatch.setattr(processor, "architecture", lambda: "x86_64")
        chosen = fitting(file.levels)
        assert chosen is not None
        assert chosen.name == name


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("cpu_features", frozenset({"sse2"}), "needs"),
        ("architecture", "riscv64", "not riscv64"),
    ],
)
def test_another_processor(
    saved: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object, says: str
) -> None:
    monkeypatch.setattr(processor, name, lambda: value)
    with pytest.raises(UnsupportedCPU, match=f"(?s){says}.*install netc"):
        load(saved, 1, trust=True)

    def recompile(file: ArtifactFile) -> Artifact:
        monkeypatch.undo()
        return same_again(file)

    check(saved, trust=True, recompile=recompile)


def test_every_level_runs_right_or_is_refused(tmp_path: Path) -> None:
    """The processor matrix: never an illegal instruction."""
    for name, target in LEVELS.items():
        save_artifact(make_artifact(levels=[make_level(make_plan(), target)]), tmp_path / name)
        if fitting(open_artifact(tmp_path / name).levels):
            check(tmp_path / name)
            continue
        with pytest.raises(UnsupportedCPU, match=name):
            load(tmp_path / name)


def test_another_abi(tmp_path: Path) -> None:
    level = replace(make_level(make_plan()), abi=99)
    save_artifact(make_artifact(levels=[level]), tmp_path / "m")
    with pytest.raises(UnsupportedCPU, match="for ABI 99"):
        load(tmp_path / "m", 1, trust=True)
    check(tmp_path / "m", recompile=same_again)
    with pytest.raises(UnsupportedCPU):
        executable(make_artifact(levels=[level]))


def test_no_code_at_all(tmp_path: Path) -> None:
    save_artifact(make_artifact(levels=[]), tmp_path / "m")
    with pytest.raises(UnsupportedCPU, match="holds no native code"):
        load(tmp_path / "m", 1)
    check(tmp_path / "m", recompile=same_again)


# ----------------------------------------------------------------------------- odd paths


def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "empty").write_bytes(b"")
    paths = ("none", "pipe", "loop", "empty", ".", "a\0b", "x" * 5000, "none/none")
    for path in (*(tmp_path / p for p in paths), "/dev/zero", "/dev/null", "/proc/self/mem", ""):
        with pytest.raises(NetcError, match=r"(?i)cannot read|bytes: no model"):
            load(path)


def test_odd_names_of_files(saved: Path, tmp_path: Path) -> None:
    for name in ("with space", "new\nline", "ünï", os.fsdecode(b"\xff\xfe"), "\x1b[31m"):
        saved.rename(tmp_path / name)
        saved = tmp_path / name
        check(saved)


def test_a_file_without_permission(saved: Path) -> None:
    saved.chmod(0)
    if os.geteuid():
        with pytest.raises(UsageError, match="Permission denied"):
            load(saved)


def test_nothing_of_this_machine_is_in_the_file(saved: Path) -> None:
    data = saved.read_bytes()
    told = [os.environ.get("USER", ""), os.uname().nodename, os.getcwd(), os.path.expanduser("~")]
    for word in [w for w in told if len(w) > 4]:
        assert word.encode() not in data


def test_a_key_that_cannot_be_made_leaves_the_file_unsigned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    save_artifact(make_artifact(), tmp_path / "m")
    assert "not signed" in caplog.text
    with pytest.raises(ArtifactError, match="is not signed"):
        load(tmp_path / "m", 1)


def test_the_key_is_made_at_the_first_save(own_key_folder: Path, tmp_path: Path) -> None:
    made = executable(make_artifact(), 1)
    assert not key_path().exists()
    made.save(tmp_path / "m")
    assert key_path().read_bytes() == make_key()
