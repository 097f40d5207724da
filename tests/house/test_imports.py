"""Every module of the package can be the first one that is imported: none are in a ring."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "netc"
Trees = Mapping[str, ast.Module]  # by the names of modules


def package() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        words = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(words).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def named(body: Iterable[ast.stmt], trees: Trees) -> Iterator[str]:
    """What is imported when statements run; not what only types or calls need."""
    for at in body:
        if isinstance(at, ast.Import):
            yield from (a.name for a in at.names)
        elif isinstance(at, ast.ImportFrom):
            assert not at.level, "an import is by the whole name"
            inside = (f"{at.module}.{a.name}" for a in at.names)
            yield from (name if name in trees else str(at.module) for name in inside)
        elif isinstance(at, ast.If):
            typing = ast.unparse(at.test) == "TYPE_CHECKING"
            yield from named((*(() if typing else at.body), *at.orelse), trees)
        elif isinstance(at, ast.Try):
            handled = (s for h in at.handlers for s in h.body)
            yield from named((*at.body, *handled, *at.orelse, *at.finalbody), trees)


def needs(name: str, trees: Trees) -> set[str]:
    """The modules that run before a module has: those it imports, and the packages they are in."""
    found: set[str] = set()
    for other in named(trees[name].body, trees):
        words = other.split(".")
        found.update(".".join(words[: i + 1]) for i in range(len(words)))
    return {m for m in found if m in trees and not f"{name}.".startswith(f"{m}.")}


def ring(trees: Trees) -> list[str]:
    """Modules each of which needs the next, or none."""
    try:
        TopologicalSorter({name: needs(name, trees) for name in trees}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_needs_another_to_be_imported_before() -> None:
    assert not ring(package())


def test_every_module_is_imported() -> None:
    names = [name for name in package() if name != "netc.__main__"]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    subprocess.run([sys.executable, "-c", code, *names], check=True)


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        ("import p.b", "from p import a", True),
        ("try:\n import p.b\nexcept OSError: pass", "from p.a import x", True),
        ("from p.b import x", "def f():\n import p.a", False),
        ("from p.b import x", "if TYPE_CHECKING:\n import p.a", False),
        ("import q.c", "", True),
    ],
)
def test_the_scan_sees(a: str, b: str, found: bool) -> None:
    texts = {"p": "", "p.a": a, "p.b": b, "q": "import q.d", "q.c": "", "q.d": "import p.a"}
    assert bool(ring({name: ast.parse(text) for name, text in texts.items()})) == found
