"""Whether a file's native code may be mapped, and which; otherwise how to go on without it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from netc import processor
from netc.errors import ArtifactError, UnsupportedCPU, UsageError, clean
from netc.runtime.artifact import ABI, ANY, HOSTS, ON_GPU, Artifact, ArtifactFile, Level, LevelInfo
from netc.runtime.keys import read_key, same_tag, tag_of

Recompile: TypeAlias = Callable[[ArtifactFile], Artifact]

AnyLevel = TypeVar("AnyLevel", bound=LevelInfo)

_HEX = re.compile("[0-9a-fA-F]{64}")
_INSTALL = (
    "install netc with its compiler (pip install netc), which compiles the model again on this "
    "machine; or, "
)
_TRUST = f"{_INSTALL}if you know where the file comes from, load it with trust=True or sha256=…"
_COMPILE = f"{_INSTALL}elsewhere, compile the net for this processor too: netc compile --cpu …"


@dataclass(frozen=True)
class Verdict:
    """Whether native code is trusted; if not, why, as a person reads it."""

    trusted: bool
    why: str = ""


def judge(file: ArtifactFile, trust: bool | None, sha256: str | None) -> Verdict:
    """Decide by the caller's word, or by the user's own key.

    `sha256` must match the whole file, whatever else is said; then the code is trusted unless
    `trust` is False.
    """
    if not (trust is None or isinstance(trust, bool)):
        raise UsageError(f"trust is {clean(repr(trust))}; True, False or None fits")
    if sha256 is not None:
        _check_pin(file, sha256)
    if trust is not None:
        return Verdict(trust, "trust=False was asked for")
    return Verdict(True) if sha256 is not None else _judge_by_key(file)


def _check_pin(file: ArtifactFile, sha256: str) -> None:
    if not isinstance(sha256, str) or not _HEX.fullmatch(sha256):
        raise UsageError(f"sha256 is {clean(repr(sha256))}; 64 hexadecimal digits fit")
    found = file.sha256()
    if found != sha256.lower():
        raise ArtifactError(f"{file.name} has sha256 {found}, not the pinned {sha256.lower()}")


def _judge_by_key(file: ArtifactFile) -> Verdict:
    if not any(file.container.tag):
        return Verdict(False, "the file is not signed")
    try:
        key = read_key()
    except UsageError as error:
        return Verdict(False, error.diagnostics[0].message)
    if key is None:
        return Verdict(False, "the file is signed, and this user has no key yet")
    if same_tag(file.container.tag, tag_of(key, file.container.signed)):
        return Verdict(True)
    return Verdict(False, "the file is signed with another key than this user's")


def fitting(infos: Iterable[AnyLevel]) -> AnyLevel | None:
    """The level that asks most of the processor among those it can run; one without host code
    before all others."""
    return next(iter(all_fitting(infos)), None)


def all_fitting(infos: Iterable[AnyLevel]) -> list[AnyLevel]:
    """The levels this processor can run, the best one first."""
    arch, features = processor.architecture(), processor.cpu_features()
    able = [
        info
        for info in infos
        if info.abi == ABI and info.arch in (arch, ANY) and info.features <= features
    ]
    return sorted(able, key=_rank, reverse=True)


def _rank(info: LevelInfo) -> tuple[bool, int, str]:
    return info.name == ON_GPU, len(info.features), info.name


def misfit(infos: Iterable[LevelInfo]) -> str:
    """Why no level fits, one reason per level."""
    arch, features = processor.architecture(), processor.cpu_features()
    reasons = []
    for info in infos:
        lacking = ", ".join(sorted(info.features - features)[:8])
        if info.abi != ABI:
            reasons.append(f"{info.name} is for ABI {info.abi}, not {ABI}")
        elif info.arch not in (arch, ANY):
            reasons.append(f"{info.name} is for {info.arch}, not {arch}")
        elif lacking:
            reasons.append(f"{info.name} needs {clean(lacking)}")
    return "; ".join(reasons) or "it holds no native code"


def usable(
    file: ArtifactFile,
    trust: bool | None = None,
    sha256: str | None = None,
    recompile: Recompile | None = None,
) -> tuple[Artifact | ArtifactFile, Level]:
    """The model and the level of it that may be mapped and run here.

    Raises ArtifactError, or UnsupportedCPU, where that needs a compiler and there is none.
    """
    verdict, info = judge(file, trust, sha256), fitting(file.levels)
    if verdict.trusted and info is not None:
        return file, file.level(info.name)
    why = verdict.why if not verdict.trusted else f"no code fits: {misfit(file.levels)}"
    try:
        made = recompile(file) if recompile is not None else None
    except ImportError as error:
        made, why = None, f"{why} (and the compiler does not import: {clean(error)})"
    if made is None:
        message = f"{file.name}: its native code is not used: {why}"
        if verdict.trusted:
            raise UnsupportedCPU(message, help=_COMPILE)
        raise ArtifactError(message, help=_TRUST)
    import logging  # 4 ms, and said once

    logging.getLogger("netc").warning("%s: recompiled: %s", file.name, why)
    return made, level_of(made)


def level_of(made: Artifact) -> Level:
    """The level of a net just compiled that runs here. Raises UnsupportedCPU."""
    level = fitting(made.levels)
    if level is None:
        raise UnsupportedCPU(f"this processor cannot run the code: {misfit(made.levels)}")
    return level


def hosts_level(file: ArtifactFile) -> Level:
    """The plan of a net on several hosts, which has no code. Raises ArtifactError."""
    if fitting(file.levels) is None:
        help = "compile the net again with this netc"
        raise ArtifactError(f"{file.name}: {misfit(file.levels)}", help=help)
    return file.level(HOSTS)
