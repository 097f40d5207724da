"""A model built again from its own IR, and what of it came out the same."""

from __future__ import annotations

from collections.abc import Callable

from netc.compiler import Options
from netc.errors import UsageError
from netc.ir.plan import PART
from netc.recompile import recompile
from netc.runtime.artifact import ARCHITECTURES, ArtifactFile, read_artifact
from netc.runtime.gpu_json import SECTION

DIFFERS, SAME, UNKNOWN = "DIFFERS", "same", "not compared"
_WRITTEN = ("labels", "locs", "notes")  # sections that the compiler does not derive
Row = tuple[str, int, str]


def nets_in(file: ArtifactFile) -> list[tuple[str, ArtifactFile]]:
    """What a file has code of, with what goes before its names: the net, or each part of it."""
    if not file.on_hosts:
        return [("", file)]
    return [(f"{PART}{number} ", part) for number, part in enumerate(file.parts)]


def archs_in(file: ArtifactFile) -> tuple[str, ...]:
    """The architectures that a file has GPU code for."""
    start = f"{SECTION}."
    return tuple(s.removeprefix(start) for s in file.container.sections if s.startswith(start))


def why_no_code(file: ArtifactFile) -> str:
    """Why the file's GPU code cannot be made again here; nothing where it can, or has none."""
    from netc.codegen.triton.image import compiler_version

    image = file.gpu
    if image is None or not archs_in(file):
        return ""
    try:
        here = compiler_version()
    except UsageError as error:
        return error.diagnostics[0].message
    return "" if here == image.compiler else f"it was made by {image.compiler}, here is {here}"


def rebuild(file: ArtifactFile, code: bool, progress: Callable[[int, int], None]) -> ArtifactFile:
    """The file as this netc makes it; without GPU code where that is not wanted.

    Compiled kernels do not come from the cache: it is they that are checked.
    """
    levels = tuple(level.name for level in file.levels if level.name in ARCHITECTURES)
    archs = archs_in(file) if code else ()
    made = recompile(file, Options(cpu=levels or ("native",), archs=archs, progress=progress))
    return read_artifact(memoryview(b"".join(made.pieces())), "<rebuilt>")


def compared(file: ArtifactFile, rebuilt: ArtifactFile, without: str) -> list[Row]:
    """Each section that the compiler derives, its size, and whether it came out the same."""
    rows = []
    for name in file.container.sections:
        if name not in _WRITTEN:
            said = _compared(file, rebuilt, name, bool(without))
            rows.append((name, len(file.container.view(name)), said))
    return rows


def _compared(file: ArtifactFile, rebuilt: ArtifactFile, name: str, without: bool) -> str:
    if without and name.startswith(f"{SECTION}."):
        return UNKNOWN
    if without and name == SECTION:
        return SAME if _texts(file) == _texts(rebuilt) else DIFFERS
    there = name in rebuilt.container.sections
    same = there and file.container.view(name) == rebuilt.container.view(name)
    return SAME if same else DIFFERS


def _texts(file: ArtifactFile) -> object:
    """The kernels of a file without their code."""
    image = file.gpu
    return None if image is None else {name: k.text for name, k in image.kernels.items()}
