"""Names: what a file defines, what a body binds, how arguments meet parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netc.errors import Diagnostic, Span, clean
from netc.frontend.net import ast
from netc.frontend.net.words import ArgumentError, near
from netc.ir.types import DType

BUILT_IN: Mapping[str, Any] = {
    **{d.value: d for d in DType},
    "true": True,
    "false": False,
    "none": None,
    "inf": math.inf,
}


class Broken:
    """What a name is bound to where its statement was wrong: using it says nothing more."""


class SilentError(Exception):
    """Something broken was used: what is wrong has been said already."""


class Scope:
    """The names a body sees: its own, then those of the file."""

    def __init__(self, parent: Scope | None = None) -> None:
        self.own: dict[str, Any] = {}
        self.untaken: dict[str, Span] = {}  # names bound in branches that were not taken
        self.parent = parent

    def __setitem__(self, name: str, value: Any) -> None:
        self.own[name] = value

    def find(self, name: str, default: Any = None) -> Any:
        """What the name is bound to."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.own:
                return scope.own[name]
            scope = scope.parent
        return BUILT_IN.get(name, default)

    def missed(self, name: str) -> str:
        """Why a name is not bound, where a branch that was not taken is why."""
        if name not in self.untaken:
            return ""
        return f"it is bound in a branch of `if` that was not taken, at {self.untaken[name]}"

    def __contains__(self, name: str) -> bool:
        return self.find(name, self) is not self

    def names(self) -> list[str]:
        """Every name in sight."""
        above = self.parent.names() if self.parent else [*BUILT_IN]
        return [*self.own, *above]


@dataclass
class Library:
    """What a file and its imports define."""

    lets: dict[str, ast.Let] = field(default_factory=dict)
    ops: dict[str, ast.OpDef] = field(default_factory=dict)
    blocks: dict[str, ast.Block] = field(default_factory=dict)
    nets: list[ast.Net] = field(default_factory=list)
    wrong: list[Diagnostic] = field(default_factory=list)

    def add(self, file: ast.File, main: bool) -> None:
        """Take in a file; only the main file's nets count."""
        for item in file.items:
            match item:
                case ast.Let():
                    self._define(self.lets, item)
                case ast.OpDef():
                    self._define(self.ops, item)
                case ast.Block():
                    self._define(self.blocks, item)
                    self._check_returns(item)
                case ast.Net() if main:
                    self.nets.append(item)
                    self._check_no_return(item.body)

    def _define(self, table: dict[str, Any], item: ast.Let | ast.OpDef | ast.Block) -> None:
        for other in (self.lets, self.ops, self.blocks):
            if item.name in other:
                first = other[item.name].span
                message = f"`{clean(item.name)}` is defined twice"
                self.wrong.append(Diagnostic(message, item.span, f"the first is at {first}"))
                return
        table[item.name] = item

    def _check_returns(self, block: ast.Block) -> None:
        if not block.body or not ast.returns(block.body[-1]):
            self.wrong.append(Diagnostic(endless(block), block.span))
        self._check_last(block.body)

    def _check_last(self, body: Sequence[ast.Statement]) -> None:
        """`return` is the last statement, of a block or of a branch that ends it."""
        for i, s in enumerate(body):
            if isinstance(s, ast.If):
                for inner in ast.bodies(s):
                    self._check_last(inner)
            elif not isinstance(s, ast.Return) or i < len(body) - 1:
                self._refuse_returns((s,), "`return` ends a block", "")

    def _check_no_return(self, body: Sequence[ast.Statement]) -> None:
        help = "what a net gives is named after `->`"
        self._refuse_returns(body, "a net has no `return`", help)

    def _refuse_returns(self, body: Iterable[ast.Statement], message: str, help: str) -> None:
        for s in body:
            if isinstance(s, ast.Return):
                self.wrong.append(Diagnostic(message, s.span, help))
            for inner in ast.bodies(s):
                self._refuse_returns(inner, message, help)


def endless(block: ast.Block) -> str:
    """What is wrong with a block that returns nothing."""
    return f"block `{clean(block.name)}` does not end with `return`"


Default = Callable[[ast.Parameter, Mapping[str, Any]], Any]  # given the parameters before it


def bind(
    what: str,
    params: Sequence[ast.Parameter],
    args: Sequence[Any],
    keywords: Mapping[str, Any],
    default: Default,
) -> dict[str, Any]:
    """Arguments by parameter name. Raises ArgumentError where they do not fit."""
    names = [p.name for p in params]
    takes = f"it takes ({', '.join(map(clean, names))})"
    if len(args) > len(params):
        raise ArgumentError(f"{what} takes {len(params)} arguments", takes, len(params))
    given = dict(zip(names, args, strict=False))
    for name, value in keywords.items():
        if name not in names:
            help = near(name, names) or takes
            raise ArgumentError(f"{what} has no argument `{clean(name)}`", help, name)
        if name in given:
            raise ArgumentError(f"`{clean(name)}` of {what} is given twice", takes, name)
        given[name] = value
    for p in params:
        if p.name not in given and p.default is None:
            raise ArgumentError(f"`{clean(p.name)}` of {what} is not given", takes)
    bound: dict[str, Any] = {}
    for p in params:
        bound[p.name] = given[p.name] if p.name in given else default(p, bound)
    return bound


_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
MAX_TEXT = 1000  # characters of a name


def filled(text: ast.Text, scope: Scope) -> str:
    """A text with `{n}` replaced by the constant n."""

    def one(m: re.Match[str]) -> str:
        if m[0] in ("{{", "}}"):
            return m[0][0]
        value = scope.find(m[1] or "")
        if isinstance(value, Broken):
            raise SilentError
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            help = scope.missed(m[1] or "") or "a brace by itself is written twice: `{{`"
            raise ArgumentError(f"`{clean(m[0])}` does not name a constant", help)
        return str(value)

    out = _FIELD.sub(one, text.value) if "{" in text.value or "}" in text.value else text.value
    if len(out) > MAX_TEXT:
        raise ArgumentError(f"a text is longer than {MAX_TEXT} characters")
    return out
