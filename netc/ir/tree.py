"""Reads IR text into lines: a LALR grammar (`ir.lark`) folded while it reads, in linear time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, TypeVar

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from netc.errors import Diagnostic, GraphError, NetcError, ParseError, Source, Span, clean
from netc.ir.dims import parse_dim
from netc.ir.graph import Stage
from netc.ir.shards import Shard
from netc.ir.types import TensorType

T = TypeVar("T")

MAX_TEXT = 2 * 2**20  # characters; some 15,000 nodes, read in under 5 s
MAX_DEPTH = 64  # nesting of brackets
_WORDS = {"true": True, "false": False, "none": None}


def read_tree(source: Source) -> Tree:
    """The lines of a text. Raises ParseError, with its place."""
    _cap(source.text, source)
    try:
        tree: Tree = _lark().parse(source.text)  # type: ignore[assignment]
    except UnexpectedInput as e:
        raise ParseError(_unexpected(e, source)) from None
    except NetcError as e:
        raise placed(e, source) from None
    return tree


def placed(e: NetcError, source: Source) -> ParseError:
    """An error that knows its line and column, now in its source."""
    d = e.diagnostics[0]
    span = Span(source.name, d.span.line, d.span.column, source)
    return ParseError(Diagnostic(d.message, span, d.help))


def at(t: Token, read: Callable[[str], T], text: str) -> T:
    """`read(text)`, its error placed at a token."""
    try:
        return read(text)
    except GraphError as e:
        span, wrong = Span("", t.line or 0, t.column or 0), e.diagnostics[0]
        raise ParseError(wrong.message, span, wrong.help) from None


@dataclass(frozen=True)
class Word:
    """A bare word, such as the value of an Enum."""

    text: str


@dataclass(frozen=True)
class Call:
    """`gaussian(b=0.1)`."""

    kind: Token
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One declaration or node as written."""

    word: str  # "input", "param" or "node"
    at: Token
    op: Token | None
    operands: list[Token]
    attributes: dict[str, Any]
    types: list[TensorType]
    device: str
    shards: tuple[Shard, ...]
    loc: Span | None


@dataclass(frozen=True)
class Tree:
    """A graph as written."""

    name: str
    stage: Stage
    lines: list[Line]
    outputs: list[tuple[str, Token]]
    updates: list[tuple[str, Token]]
    labels: tuple[str, ...]
    usual: dict[str, int]
    notes: tuple[str, ...]


def _string(text: str) -> str:
    try:
        return str(json.loads(text, strict=False))
    except ValueError:
        raise GraphError(f"{clean(text)} is not a string: an escape is wrong") from None


def _stage(word: str) -> Stage:
    if word not in {s.value for s in Stage}:
        raise GraphError(f"no stage {clean(word)!r}")
    return Stage(word)


def read_name(text: str) -> str:
    """The name that a word or a quoted string spells."""
    return _string(text) if text.startswith('"') else text


@lru_cache(maxsize=4096)
def _type(text: str) -> TensorType:
    return TensorType.parse(text)


class _Fold(Transformer[Token, Any]):
    """Makes a `Tree` while the parser reads."""

    def RESULT(self, t: Token) -> TensorType:
        return at(t, _type, t[1:])

    def TYPE(self, t: Token) -> TensorType:
        return at(t, _type, t)

    def INT(self, t: Token) -> int:
        return at(t, _int, t)

    def INTS(self, t: Token) -> tuple[int, ...]:
        return tuple(at(t, _int, n) for n in t[1:-1].split(",") if n.strip())

    def FLOAT(self, t: Token) -> float:
        return float(t)

    def STRING(self, t: Token) -> str:
        return at(t, _string, t)

    def DIM(self, t: Token) -> Any:
        return at(t, parse_dim, t[1:-1])

    def WORD(self, t: Token) -> Any:
        return _WORDS[t] if t in _WORDS else Word(str(t))

    def STAGE(self, t: Token) -> Stage:
        return at(t, _stage, t.split()[1])

    def SHARD(self, t: Token) -> Shard:
        return at(t, Shard.parse, t[2:])

    def LOC(self, t: Token) -> Span:
        file, line, column = t[3:].rsplit(":", 2)
        return Span(at(t, _string, file), at(t, _int, line), at(t, _int, column))

    def row(self, parts: list[Any]) -> tuple[Any, ...]:
        return tuple(parts)

    @v_args(inline=True)
    def attribute(self, key: Token, value: Any) -> tuple[Token, Any]:
        return key, value

    def call(self, parts: list[Any]) -> Call:
        return Call(parts[0], _attributes(parts[1:]))

    def results(self, parts: list[TensorType]) -> list[TensorType]:
        return parts

    def input(self, parts: list[Any]) -> Line:
        return _line("input", parts[0], None, parts[1:])

    def param(self, parts: list[Any]) -> Line:
        return _line("param", parts[0], None, parts[1:])

    def node(self, parts: list[Any]) -> Line:
        return _line("node", parts[0], parts[1], parts[2:])

    def renamed(self, parts: list[Any]) -> tuple[str, Token]:
        return parts[0], parts[1]

    def output(self, parts: list[Any]) -> tuple[str, list[tuple[str, Token]]]:
        pairs = [p if isinstance(p, tuple) else (_shown(p), p) for p in parts]
        return "output", pairs

    def update(self, parts: list[Any]) -> tuple[str, list[tuple[str, Token]]]:
        return "update", [(parts[0], parts[1])]

    def label(self, parts: list[str]) -> tuple[str, str]:
        return "label", parts[0]

    def usual(self, parts: list[Any]) -> tuple[str, tuple[str, int]]:
        return "usual", (parts[0], parts[1])

    def note(self, parts: list[str]) -> tuple[str, str]:
        return "note", parts[0]

    def graph(self, parts: list[Any]) -> Tree:
        rest = parts[1:]
        stage = next((p for p in rest if isinstance(p, Stage)), Stage.NET)
        words = ("output", "update", "label", "usual", "note")
        said: dict[str, list[Any]] = {word: [] for word in words}
        for p in rest:
            if isinstance(p, tuple):
                said[p[0]] += p[1] if isinstance(p[1], list) else [p[1]]
        return Tree(
            at(parts[0], read_name, parts[0].split("@", 1)[1]), stage,
            [p for p in rest if isinstance(p, Line)],
            said["output"], said["update"], tuple(said["label"]),
            dict(said["usual"]), tuple(said["note"]),
        )  # fmt: skip

    def start(self, parts: list[Tree]) -> Tree:
        return parts[0]


def _int(text: str) -> int:
    if len(text) > 40:
        raise GraphError(f"the number {clean(text)} is too long")
    return int(text)


def _shown(value: Token) -> str:
    """The name of the value that a reference names: `a b#1` for `%"a b"#1`."""
    name, index = at(value, split_reference, value)
    return name + (f"#{index}" if index else "")


def split_reference(value: str) -> tuple[str, int]:
    """`%name#1` as the name's spelling and the index of the result."""
    text, index = value[1:], 0
    m = re.search(r"#(\d+)$", text)
    if m and not (text.startswith('"') and text.endswith('"')):
        text, index = text[: m.start()], _int(m[1])
    return read_name(text), index


def _attributes(pairs: Iterable[tuple[Token, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        name = key[:-1]
        if name in out:
            span = Span("", key.line or 0, key.column or 0)
            raise ParseError(f"{name} is given twice", span)
        out[name] = value
    return out


def _line(word: str, at: Token, op: Token | None, parts: list[Any]) -> Line:
    operands: list[Token] = []
    pairs: list[tuple[Token, Any]] = []
    types: list[TensorType] = []
    device, loc = "", None
    shards: list[Shard] = []
    for p in parts:
        match p:
            case Token(type="VALUE"):
                operands.append(p)
            case Token():
                device = str(p[2:])
            case TensorType():
                types.append(p)
            case list():
                types += p
            case Call():
                pairs.append((Token("KEY", "init="), p))
            case Shard():
                shards.append(p)
            case Span():
                loc = p
            case _:
                pairs.append(p)
    return Line(word, at, op, operands, _attributes(pairs), types, device, tuple(shards), loc)


@cache
def _lark() -> Lark:
    grammar = (files("netc.ir") / "ir.lark").read_text("utf-8")
    return Lark(grammar, parser="lalr", transformer=_Fold(), maybe_placeholders=False)


def _cap(text: str, source: Source) -> None:
    if len(text) > MAX_TEXT:
        message = f"{len(text)} characters; at most {MAX_TEXT} are read"
        raise ParseError(message, Span(source.name))
    depth = 0
    for m in re.finditer(r'"(?:[^"\\\n]|\\.)*"|[(){}]', text):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(m[0], 0)
        if depth > MAX_DEPTH:
            line = text.count("\n", 0, m.start()) + 1
            column = m.start() - text.rfind("\n", 0, m.start())
            span = Span(source.name, line, column, source)
            raise ParseError(f"nested deeper than {MAX_DEPTH}", span)


_FITS = {"VALUE": "a value such as %x", "ASSIGN": "a node such as %y = relu(%x) : f32[1]",
         "RESULT": "its type such as : f32[N,3]", "KEY": "an attribute such as stride=",
         "OP": "an op such as conv(", "GRAPH": "graph @name", "INT": "a number",
         "FLOAT": "a number", "INTS": "numbers such as (1, 2)", "STRING": 'a text such as "a"',
         "WORD": "a word such as max", "DIM": "a size such as <N//2>",
         "TYPE": "a type such as f32[N,3]", "DEVICE": "a device such as @ cpu:0",
         "SHARD": "devices such as @ replicate(cpu:0, cpu:1)",
         "LOC": 'a place such as at "a.net":1:1', "STAGE": "stage kernels"}  # fmt: skip


def _fitting(terminals: Iterable[str]) -> str:
    """What may stand at a place: signs and words as they are, the rest by examples."""
    signs = {t.name: f"'{t.pattern.value}'" for t in _lark().terminals if t.pattern.type == "str"}
    found = {(signs | _FITS).get(t, "") for t in terminals} - {""}
    return f"here fits {', '.join(sorted(found))}" if found else ""


def _unexpected(e: UnexpectedInput, source: Source) -> Diagnostic:
    line, column = max(1, e.line or 0), max(1, e.column or 0)
    if isinstance(e, UnexpectedToken) and e.token.type == "$END":
        line = source.text.count("\n") + 1
        column = len(source.text) - source.text.rfind("\n")
        what = "the text ends early"
    elif isinstance(e, UnexpectedToken):
        what = f"{clean(e.token)!r} fits nowhere here"
    else:
        what = f"{clean(source.line(line)[column - 1 : column])!r} fits nowhere here"
    wanted = e.allowed if isinstance(e, UnexpectedCharacters) else getattr(e, "expected", None)
    return Diagnostic(what, Span(source.name, line, column, source), _fitting(wanted or ()))
