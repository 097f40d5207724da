"""`import "blocks.net"`: other files, never from outside the importing file's folder."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from netc.errors import Diagnostic, ParseError, Source, Span, clean
from netc.frontend.net import ast
from netc.frontend.net.parse import MAX_BYTES, parse

MAX_FILES = 100


@dataclass
class Loader:
    """Reads a file and all it imports, each once."""

    files: dict[Path, ast.File] = field(default_factory=dict)

    def load(self, path: Path, name: str) -> list[ast.File]:
        """The file and everything it imports, imported files first."""
        source = _read(path, name, Span())
        return self.resolve(parse(source), path)

    def resolve(self, file: ast.File, path: Path) -> list[ast.File]:
        """A parsed file after everything it imports. Iterative: chains of imports may be long."""
        order: list[ast.File] = []
        real = path.resolve()
        self.files[real] = file
        stack = [(real, file, path.parent, iter(_imports(file)))]
        while stack:
            _, current, folder, rest = stack[-1]
            statement = next(rest, None)
            if statement is None:
                stack.pop()
                order.append(current)
                continue
            target = _beneath(folder, statement)
            key = target.resolve()
            if any(key == open_path for open_path, *_ in stack):
                chain = " imports ".join(clean(p.name) for p, *_ in stack)
                message = f"{chain} imports {clean(key.name)}: a cycle"
                raise ParseError(message, statement.span)
            if key in self.files:
                continue
            if len(self.files) >= MAX_FILES:
                raise ParseError(f"more than {MAX_FILES} files are imported", statement.span)
            child = parse(_read(target, statement.path, statement.span))
            self.files[key] = child
            stack.append((key, child, target.parent, iter(_imports(child))))
        return order


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
        if walked.is_symlink():
            raise ParseError(f"{shown}: {clean(part)!r} is a symbolic link", statement.span)
    return walked


def _read(path: Path, name: str, span: Span) -> Source:
    """A regular file's text. Opened once and checked through the open file."""

    def refuse(why: str, help: str = "") -> ParseError:
        return ParseError(Diagnostic(f"cannot read {clean(name)!r}: {why}", span, help))

    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as e:
        raise refuse(getattr(e, "strerror", None) or str(e)) from None
    with open(fd, "rb") as f:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise refuse("it is not a regular file")
        data = f.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise refuse(f"it is larger than {MAX_BYTES} bytes")
    try:
        return Source(name, data.decode("utf-8"))
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise refuse(f"it is not UTF-8 (line {line})") from None
