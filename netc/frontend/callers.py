"""Lines of the Python code that builds a net: where its nodes come from and its errors are."""

from __future__ import annotations

import inspect
import linecache
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from traceback import walk_tb
from typing import Any

import numpy as np

from netc.errors import NOWHERE, Diagnostic, GraphError, NetcError, Source, Span

_OURS = tuple(str(f) + os.sep for f in (Path(__file__).parent.parent, Path(np.__file__).parent))


def at_caller(e: NetcError) -> NetcError:
    """The error at the caller's line, where it has no place."""
    return _at(e, caller())


def _at(e: NetcError, place: Span) -> NetcError:
    """The error with a place, where it has none."""
    d = e.diagnostics[0]
    return e if d.span != NOWHERE else GraphError(Diagnostic(d.message, place, d.help))


def at_line(e: NetcError, function: Callable[..., Any]) -> NetcError:
    """The error at the line of the net that raised it, such as `x.shape[0] > 3`."""
    ran = [(f.f_code.co_filename, line) for f, line in walk_tb(e.__traceback__)]
    theirs = [_span(*place) for place in ran if not place[0].startswith(_OURS)]
    return _at(e, theirs[-1] if theirs else definition(function))


def caller() -> Span:
    """The line outside this package that is being run."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return _span(frame.f_code.co_filename, frame.f_lineno)


def definition(function: Callable[..., Any]) -> Span:
    """Where a function begins."""
    code = inspect.unwrap(function).__code__
    return _span(code.co_filename, code.co_firstlineno)


@lru_cache(maxsize=32)
def _source(path: str) -> Source:
    """A Python file; its folders do not belong into a model."""
    return Source(Path(path).name, "".join(linecache.getlines(path)))


def _span(path: str, line: int) -> Span:
    source = _source(path)
    text = linecache.getline(path, line)
    column = len(text) - len(text.lstrip()) + 1 if text.strip() else 1
    return Span(source.name, line, column, source)
