"""Calls that turn data into code, or race, do not stand in the package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "netc"
MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}
CALLS = {"eval", "exec", "os.system", "os.popen", "tempfile.mktemp", "builtins.eval"}
ALLOWED: set[tuple[str, str]] = set()  # (file, what), with a reason each


def findings(tree: ast.AST) -> list[str]:
    """What a module does that it must not."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            pickles = name in ("np.load", "numpy.load") and any(
                k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords
            )
            shell = any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords)
            if name in CALLS or shell or pickles:
                found.append(name)
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_no_dangerous_calls(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    found = findings(ast.parse(path.read_text(encoding="utf-8")))
    assert [f for f in found if (name, f) not in ALLOWED] == []


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "exec(x)",
        "import pickle",
        "from marshal import loads",
        "os.system('x')",
        "subprocess.run('x', shell=True)",
        "tempfile.mktemp()",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_the_scan_sees(code: str) -> None:
    assert findings(ast.parse(code))
