"""Print the size budgets of the source tree and fail where one is broken.

    python .ci/budgets.py

Counted over `netc/`: lines a file and a function, nesting, line length, documented public names,
leftover markers. Tests and benchmarks are held to line length and file length only.
"""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINE, FILE, FILE_MEDIAN, FILE_P90 = 100, 500, 180, 350
FUNCTION, FUNCTION_P95, NESTING = 60, 30, 4
RULES = {"netc/frontend/net/tree.py"}  # methods that carry the names of grammar rules
MARKERS = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Count:
    """What was measured, and the complaints."""

    files: list[int] = field(default_factory=list)
    functions: list[int] = field(default_factory=list)
    nesting: int = 0
    longest_line: int = 0
    complaints: list[str] = field(default_factory=list)

    def complain(self, path: Path, line: int, text: str) -> None:
        """Note one broken budget at its place."""
        self.complaints.append(f"{path.relative_to(ROOT)}:{line}: {text}")


def sources() -> list[Path]:
    """The Python files under version control, or those on disk where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split() if (ROOT / name).exists()]
    return [p for p in ROOT.rglob("*.py") if not any(q.startswith(".") for q in p.parts)]


def depth(node: ast.AST, level: int = 0) -> int:
    """The deepest nesting of blocks below a function; `elif` counts as its `if`."""
    deepest = level
    for name, value in ast.iter_fields(node):
        children = [c for c in value if isinstance(c, ast.AST)] if isinstance(value, list) else []
        if isinstance(value, ast.AST):
            children = [value]
        chained = name == "orelse" and isinstance(node, ast.If) and len(children) == 1
        for child in children:
            if isinstance(child, (*FUNCTIONS, ast.ClassDef)):
                continue
            same = chained and isinstance(child, ast.If)
            step = isinstance(child, BLOCKS) and not same
            deepest = max(deepest, depth(child, level + step))
    return deepest


def public(
    tree: ast.Module, methods: bool
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Public functions, classes and methods; an override needs no words of its own."""
    for node in tree.body:
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)) or node.name.startswith("_"):
            continue
        yield node
        if methods and isinstance(node, ast.ClassDef) and not node.bases:
            yield from (
                m for m in node.body if isinstance(m, FUNCTIONS) and not m.name.startswith("_")
            )


def is_overload(node: ast.AST) -> bool:
    """True for a function that only states a type."""
    names = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
    return any("overload" in n or n.endswith(".setter") for n in names)


def measure_text(path: Path, text: str, count: Count) -> None:
    """Lines: how many, how long, no markers."""
    lines = text.splitlines()
    if len(lines) > FILE:
        count.complain(path, 1, f"{len(lines)} lines; at most {FILE}")
    for number, line in enumerate(lines, 1):
        count.longest_line = max(count.longest_line, len(line))
        if len(line) > LINE:
            count.complain(path, number, f"{len(line)} characters; at most {LINE}")
        for marker in MARKERS:
            if marker in line:
                count.complain(path, number, f"a {marker}")


def measure_code(path: Path, text: str, count: Count) -> None:
    """Functions of the package: length, nesting, words."""
    count.files.append(len(text.splitlines()))
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            deep = depth(node)
            count.functions.append(size)
            count.nesting = max(count.nesting, deep)
            if size > FUNCTION:
                count.complain(path, node.lineno, f"{node.name}: {size} lines; at most {FUNCTION}")
            if deep > NESTING:
                count.complain(path, node.lineno, f"{node.name}: nesting {deep}; max {NESTING}")
    if text.strip() and ast.get_docstring(tree) is None:
        count.complain(path, 1, "no docstring of the module")
    methods = str(path.relative_to(ROOT)) not in RULES
    for item in public(tree, methods):
        if ast.get_docstring(item) is None and not is_overload(item):
            count.complain(path, item.lineno, f"{item.name}: no docstring")


def quantile(values: list[int], q: float) -> int:
    """The value below which a share q of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0


def main() -> int:
    """Measure, print, and return 1 where a budget is broken."""
    count = Count()
    for path in sources():
        text = path.read_text(encoding="utf-8")
        measure_text(path, text, count)
        if path.is_relative_to(ROOT / "netc"):
            measure_code(path, text, count)
    median = int(statistics.median(count.files)) if count.files else 0
    rows = [
        ("lines a file, median", median, FILE_MEDIAN),
        ("lines a file, p90", quantile(count.files, 0.90), FILE_P90),
        ("lines a file, most", max(count.files, default=0), FILE),
        ("lines a function, p95", quantile(count.functions, 0.95), FUNCTION_P95),
        ("lines a function, most", max(count.functions, default=0), FUNCTION),
        ("nesting, most", count.nesting, NESTING),
        ("characters a line, most", count.longest_line, LINE),
    ]
    print(f"{len(count.files)} files, {sum(count.files)} lines, {len(count.functions)} functions")
    for name, value, limit in rows:
        print(f"  {name:<26}{value:>6}  of {limit:>4}{'' if value <= limit else '   OVER'}")
    for line in count.complaints:
        print(line)
    over = any(value > limit for _, value, limit in rows)
    return 1 if over or count.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
