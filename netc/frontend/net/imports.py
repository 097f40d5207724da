"""`import "blocks.net"`: other files, never from outside the importing file's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from netc.errors import NOWHERE, Diagnostic, NetcError, ParseError, Source, Span, UsageError, clean
from netc.frontend.files import display, mapped
from netc.frontend.net import ast
from netc.frontend.net.parse import MAX_BYTES, parse

MAX_FILES = 100


@dataclass
class Loader:
    """Reads a file and all it imports, each once."""

    files: dict[Path, ast.File] = field(default_factory=dict)

    def load(self, path: str | os.PathLike[str]) -> list[ast.File]:
        """The file after everything it imports. Iterative: chains of imports may be long."""
        try:
            real = Path(path).resolve()
        except (OSError, ValueError, RuntimeError):
            raise UsageError(f"cannot open {clean(display(path))}") from None
        main = parse(_read(real, display(path), NOWHERE))
        order: list[ast.File] = []
        self.files[real] = main
        stack = [_Open(real, display(path), main, iter(_imports(main)))]
        while stack:
            statement = next(stack[-1].rest, None)
            if statement is None:
                order.append(stack.pop().file)
            elif (found := self._follow(stack, statement)) is not None:
                stack.append(found)
        return order

    def _follow(self, stack: list[_Open], statement: ast.Import) -> _Open | None:
        """The imported file, unless it has been read before."""
        importer = stack[-1]
        target = _beneath(importer.path.parent, statement)
        if any(target == o.path for o in stack):
            chain = " imports ".join(clean(o.path.name) for o in stack)
            message = f"{chain} imports {clean(target.name)}: a cycle"
            raise ParseError(message, statement.span)
        if target in self.files:
            return None
        if len(self.files) >= MAX_FILES:
            raise ParseError(f"more than {MAX_FILES} files are imported", statement.span)
        name = str(PurePosixPath(importer.name).parent / statement.path)
        file = self.files[target] = parse(_read(target, name, statement.span))
        return _Open(target, name, file, iter(_imports(file)))


@dataclass
class _Open:
    """A file whose imports are being read."""

    path: Path
    name: str
    file: ast.File
    rest: Iterator[ast.Import]


def _imports(file: ast.File) -> list[ast.Import]:
    return [i for i in file.items if isinstance(i, ast.Import)]


def _beneath(folder: Path, statement: ast.Import) -> Path:
    """The path an import names, when it stays beneath the folder of the file that says it."""
    path = PurePosixPath(statement.path)
    shown = f"cannot import {clean(statement.path)!r}"
    if "\0" in statement.path or "\\" in statement.path or path.suffix != ".net":
        raise ParseError(f"{shown}: not the name of a `.net` file", statement.span)
    if path.is_absolute() or ".." in path.parts:
        help = "imported files lie in the folder of the importing file, or below it"
        raise ParseError(f"{shown}: it leaves the folder of this file", statement.span, help)
    walked = folder
    for part in path.parts:
        walked = walked / part
        try:
            linked = walked.is_symlink()
        except OSError as e:
            raise ParseError(f"{shown}: {e.strerror}", statement.span) from None
        if linked:
            raise ParseError(f"{shown}: {clean(part)!r} is a symbolic link", statement.span)
    return walked


def _read(path: Path, name: str, span: Span) -> Source:
    """A file's text. Size and kind are checked on the open file."""
    try:
        data = mapped(path)
    except NetcError as e:
        raise UsageError(Diagnostic(e.diagnostics[0].message, span)) from None
    if len(data) > MAX_BYTES:
        raise ParseError(f"{clean(name)} has {len(data)} bytes; at most {MAX_BYTES} are read", span)
    try:
        return Source(name, bytes(data).decode("utf-8"))
    except UnicodeDecodeError as e:
        line = bytes(data).count(b"\n", 0, e.start) + 1
        raise ParseError(f"{clean(name)} is not UTF-8 (line {line})", span) from None
