"""Element-wise formulas written by users: `x0 * sigmoid(1.5 * x0)`.

    sum     = product (("+" | "-") product)*        compare = sum ("<" | "<=" | …) sum
    product = sign (("*" | "/") sign)*              sign    = "-" sign | atom
    atom    = number | name | function "(" sum ("," sum)* ")" | "(" sum ")"

A comparison stands only as the first argument of `select`. `parse` reads a text, `show` writes the
canonical one, `evaluate` reads it with any `Scalars`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from netc.errors import GraphError, clean
from netc.ir.scalar import (
    COMPARE,
    S,
    cos,
    erf,
    exp,
    log,
    maximum,
    minimum,
    power,
    select,
    sin,
    tanh,
    unary,
)

MAX_DEPTH, MAX_TERMS, MAX_TEXT = 50, 200, 10_000  # nesting, operators, characters

FUNCTIONS: dict[str, tuple[int, Callable[..., S]]] = {
    "exp": (1, exp),
    "expm1": (1, lambda x: unary("expm1", x)),
    "log": (1, log),
    "log1p": (1, lambda x: unary("log1p", x)),
    "sqrt": (1, lambda x: unary("sqrt", x)),
    "tanh": (1, tanh),
    "erf": (1, erf),
    "sin": (1, sin),
    "cos": (1, cos),
    "sigmoid": (1, lambda x: 1.0 / (1.0 + exp(-x))),
    "abs": (1, lambda x: unary("abs", x)),
    "floor": (1, lambda x: unary("floor", x)),
    "relu": (1, lambda x: maximum(x, 0.0)),
    "max": (2, maximum),
    "min": (2, minimum),
    "pow": (2, power),
    "select": (3, select),
}


@dataclass(frozen=True)
class Number:
    """A literal."""

    value: float


@dataclass(frozen=True)
class Operand:
    """The operand with this index."""

    index: int


@dataclass(frozen=True)
class Apply:
    """A function, an operator (`+ - * /`, `neg`) or a comparison of parts."""

    fn: str
    parts: tuple[Tree, ...]


Tree: TypeAlias = Number | Operand | Apply

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<sign><=|>=|==|!=|[-+*/(),<>]))"
)


class _Reader:
    """Recursive descent over the tokens of one formula, its depth capped."""

    def __init__(self, text: str, names: Sequence[str] | None) -> None:
        self.text, self.names, self.depth, self.terms = text, names, 0, 0
        self.tokens: list[tuple[str, str]] = []
        at, end = 0, len(text.rstrip())
        if end > MAX_TEXT:
            raise GraphError(f"a formula of {end} characters; {MAX_TEXT} are allowed")
        while at < end:
            m = _TOKEN.match(text, at)
            if m is None:
                raise self.error(f"{clean(text[at:].strip()[:1])!r} fits nowhere")
            self.tokens.append((str(m.lastgroup), m[m.lastgroup or 0]))
            at = m.end()
        self.tokens.append(("end", ""))
        self.tokens.reverse()

    def error(self, message: str, help: str = "") -> GraphError:
        return GraphError(f"formula {clean(self.text)!r}: {message}", help=help)

    def next_is(self, *signs: str) -> bool:
        return self.tokens[-1][0] == "sign" and self.tokens[-1][1] in signs

    def take(self, *signs: str) -> str:
        if not self.next_is(*signs):
            got = self.tokens[-1][1]
            raise self.error(f"{clean(got)!r} where {signs[0]!r} fits" if got else "it ends early")
        return self.tokens.pop()[1]

    def operator(self, *signs: str) -> str:
        self.terms += 1
        if self.terms > MAX_TERMS:
            raise self.error(f"more than {MAX_TERMS} operators")
        return self.take(*signs)

    def sum(self) -> Tree:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"nested deeper than {MAX_DEPTH}")
        out = self.product()
        while self.next_is("+", "-"):
            out = Apply(self.operator("+", "-"), (out, self.product()))
        self.depth -= 1
        return out

    def product(self) -> Tree:
        out = self.sign()
        while self.next_is("*", "/"):
            out = Apply(self.operator("*", "/"), (out, self.sign()))
        return out

    def sign(self) -> Tree:
        minus = 0
        while self.next_is("-", "+"):
            minus += self.take("-", "+") == "-"
        out = self.atom()
        return Apply("neg", (out,)) if minus % 2 else out

    def atom(self) -> Tree:
        kind, text = self.tokens[-1]
        if kind == "number":
            self.tokens.pop()
            return Number(float(text))
        if kind == "name":
            self.tokens.pop()
            return self.call(text) if self.next_is("(") else self.operand(text)
        self.take("(")
        out = self.sum()
        self.take(")")
        return out

    def operand(self, name: str) -> Tree:
        if self.names is None and re.fullmatch(r"x\d{1,2}", name):
            return Operand(int(name[1:]))
        if self.names is not None and name in self.names:
            return Operand(list(self.names).index(name))
        if name in ("inf", "nan"):
            return Number(float(name))
        raise self.unknown(name, [*(self.names or ("x0", "x1"))])

    def unknown(self, name: str, known: list[str]) -> GraphError:
        near = difflib.get_close_matches(name, known, 3)
        fits = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
        return self.error(f"no {clean(name)!r}", fits)

    def call(self, name: str) -> Tree:
        if name not in FUNCTIONS:
            raise self.unknown(name, list(FUNCTIONS))
        self.take("(")
        parts = [self.condition() if name == "select" else self.sum()]
        while self.next_is(","):
            self.take(",")
            parts.append(self.sum())
        self.take(")")
        count = FUNCTIONS[name][0]
        if len(parts) != count:
            raise self.error(f"{name} takes {count} arguments, not {len(parts)}")
        return Apply(name, tuple(parts))

    def condition(self) -> Tree:
        left = self.sum()
        fn = self.take(*COMPARE)
        return Apply(fn, (left, self.sum()))


@lru_cache(maxsize=1024)
def _parse(text: str, names: tuple[str, ...] | None) -> Tree:
    reader = _Reader(text, names)
    out = reader.sum()
    if reader.tokens[-1][0] != "end":
        raise reader.error(f"{clean(reader.tokens[-1][1])!r} fits nowhere")
    return out


def parse(text: str, names: Sequence[str] | None = None) -> Tree:
    """The tree of a formula over `names`, or over x0, x1, … Raises GraphError."""
    return _parse(text, None if names is None else tuple(names))


LEVEL = {"+": 1, "-": 1, "*": 2, "/": 2, "neg": 3}  # what binds closer has a higher one
ATOM = 4


def show(tree: Tree) -> str:
    """The canonical text: `parse(show(t)) == t`."""
    match tree:
        case Number(v):
            if v < 0 or math.copysign(1, v) < 0:
                return f"(-{show(Number(-v))})"
            return repr(int(v)) if v == int(v if math.isfinite(v) else 0) < 1e15 else repr(v)
        case Operand(i):
            return f"x{i}"
        case Apply("neg", (x,)):
            return "-" + _within(x, ATOM)
        case Apply(fn, (a, b)) if fn in LEVEL:
            return f"{_within(a, LEVEL[fn])} {fn} {_within(b, LEVEL[fn] + 1)}"
        case Apply(fn, (a, b)) if fn in COMPARE:
            return f"{show(a)} {fn} {show(b)}"
    return f"{tree.fn}({', '.join(map(show, tree.parts))})"


def _within(tree: Tree, level: int) -> str:
    low = isinstance(tree, Apply) and LEVEL.get(tree.fn, ATOM) < level
    return f"({show(tree)})" if low else show(tree)


def operands(tree: Tree) -> int:
    """How many operands a formula needs: one more than the highest index."""
    match tree:
        case Operand(i):
            return i + 1
        case Apply(_, parts):
            return max(map(operands, parts), default=0)
    return 0


def evaluate(tree: Tree, xs: Sequence[S]) -> S:
    """The formula's value for these operands."""
    match tree:
        case Number(v):
            return S(xs[0].b, xs[0].b.const(v))
        case Operand(i):
            return xs[i]
    parts = [evaluate(p, xs) for p in tree.parts]
    match tree.fn:
        case "neg":
            return unary("neg", parts[0])
        case "+" | "-" | "*" | "/":
            return parts[0].bin(tree.fn, parts[1])
        case fn if fn in COMPARE:
            return parts[0].cmp(fn, parts[1])
    return FUNCTIONS[tree.fn][1](*parts)
