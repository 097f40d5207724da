"""Tree to text: `parse(show(tree))` is an equal tree."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from netc.frontend.net import ast
from netc.frontend.net.mistakes import KEYWORDS
from netc.ir.scalar import COMPARE

_PLAIN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_ESCAPES = {"\n": r"\n", "\t": r"\t", "\r": r"\r", "\\": r"\\"}


def show(file: ast.File) -> str:
    """The text of a tree, laid out for people."""
    parts = [_doc(file.doc, "")] if file.doc else []
    for before, item in zip((None, *file.items), file.items, strict=False):
        apart = parts and not (isinstance(item, _SHORT) and type(before) is type(item))
        parts.append(("\n" if apart else "") + "\n".join(_item(item)))
    return "\n".join(parts) + "\n"


_SHORT = (ast.Import, ast.Let, ast.OpDef)


def quote(name: str) -> str:
    """A name as the language writes it: in backquotes where it is not a plain word."""
    if _PLAIN.fullmatch(name) and name not in KEYWORDS:
        return name
    return f"`{escape(name, '`')}`"


def escape(text: str, mark: str) -> str:
    """A text between two `mark`s; what cannot be seen is escaped."""
    return "".join(
        "\\" + c if c == mark
        else _ESCAPES[c] if c in _ESCAPES
        else c if c.isprintable()
        else f"\\u{{{ord(c):x}}}"
        for c in text
    )  # fmt: skip


def number(value: int | float) -> str:
    """A literal that reads back as the same number."""
    return repr(value)


def _doc(doc: str, indent: str) -> str:
    lines = [escape(line, '"') for line in doc.split("\n")]
    safe = all(not line or line == line.strip() for line in lines) and lines[0] and lines[-1]
    if not safe:  # leading blanks and the like would be lost to indentation
        edge = {" ": r"\u{20}"}
        text = r"\n".join(lines)
        first, last = edge.get(text[:1], text[:1]), edge.get(text[-1:], text[-1:])
        return f'{indent}"""{first + text[1:-1] + last if len(text) > 1 else first}"""'
    return f'{indent}"""' + f"\n{indent}".join(lines) + '"""'


def _item(item: ast.Item) -> Iterator[str]:
    match item:
        case ast.Import(path):
            yield f'import "{escape(path, chr(34))}"'
        case ast.OpDef(name, params, body):
            yield f"op {quote(name)}({_params(params)}) = {expr(body)}"
        case ast.Block(name, params, body, doc):
            yield f"block {quote(name)}({_params(params)}) {{"
            yield from _body(body, doc)
        case ast.Net(name, ports, outputs, body, doc):
            inputs = ", ".join(f"{quote(p.name)}: {expr(p.type)}" for p in ports)
            yield f"net {quote(name)}({inputs}) -> {_names(outputs)} {{"
            yield from _body(body, doc)
        case ast.Let():
            yield from _statement(item, "")


def _names(names: tuple[ast.Name, ...]) -> str:
    return ", ".join(quote(n.id) for n in names)


def _params(params: tuple[ast.Parameter, ...]) -> str:
    return ", ".join(
        quote(p.name) + ("" if p.default is None else f"={expr(p.default)}") for p in params
    )


def _body(body: Iterable[ast.Statement], doc: str = "", indent: str = "") -> Iterator[str]:
    if doc:
        yield _doc(doc, indent + "  ")
    yield from _within(body, indent)
    yield indent + "}"


def _within(body: Iterable[ast.Statement], indent: str) -> Iterator[str]:
    for s in body:
        yield from _statement(s, indent + "  ")


def _if(
    branches: Iterable[ast.Branch], otherwise: tuple[ast.Statement, ...], indent: str
) -> Iterator[str]:
    before = ""
    for b in branches:
        yield f"{indent}{before}if {expr(b.condition)} {{"
        yield from _within(b.body, indent)
        before = "} else "
    if otherwise:
        yield f"{indent}{before}{{"
        yield from _within(otherwise, indent)
    yield indent + "}"


def _statement(s: ast.Statement, indent: str) -> Iterator[str]:
    match s:
        case ast.Let(name, value):
            yield f"{indent}let {quote(name)} = {expr(value)}"
        case ast.Bind(targets, value):
            yield f"{indent}{_names(targets)} = {expr(value)}"
        case ast.Return(values):
            yield f"{indent}return {', '.join(map(expr, values))}"
        case ast.If(branches, otherwise):
            yield from _if(branches, otherwise, indent)
        case ast.Repeat(count, index, body):
            named = f" as {quote(index)}" if index else ""
            yield f"{indent}repeat {expr(count)}{named} {{"
            yield from _body(body, indent=indent)
        case ast.Sharded(way, devices, body, by, count):
            words = "split channels" if way == "split" else way
            more = "" if by == "output" else f" by {by}"
            more += "" if count is None else f" micro_batches={expr(count)}"
            yield f"{indent}{words} over {', '.join(devices)}{more} {{"
            yield from _body(body, indent=indent)
        case ast.On(device, body):
            yield f"{indent}on {device} {{"
            yield from _body(body, indent=indent)


def expr(e: ast.Expr) -> str:
    """An expression on one line."""
    return _EXPRS[type(e)](e)


def _atom(e: ast.Expr) -> str:
    """An expression as an operand of something tighter."""
    loose = isinstance(e, ast.Not | ast.Chain | ast.Pipe | ast.Placed)
    return f"({expr(e)})" if loose else expr(e)


def _call(e: ast.Call) -> str:
    keywords = (f"{quote(k.name)}={expr(k.value)}" for k in e.keywords)
    return f"{quote(e.word)}({', '.join([*map(expr, e.args), *keywords])})"


def _items(e: ast.Items) -> str:
    return f"({', '.join(map(expr, e.items))}{',' * (len(e.items) == 1)})"


def _index(e: ast.Index) -> str:
    signed = isinstance(e.base, ast.Negate) or (
        isinstance(e.base, ast.Number) and str(e.base.value).startswith("-")
    )
    base = f"({expr(e.base)})" if signed else _atom(e.base)
    return f"{base}[{', '.join(map(expr, e.items))}]"


def _chain(e: ast.Chain) -> str:
    parts = [_operand(e.operands[0], e.operators[0])]
    for operator, operand in zip(e.operators, e.operands[1:], strict=True):
        parts.append(f" {operator} {_operand(operand, operator)}")
    return "".join(parts)


_LEVELS = (("or",), ("and",), ("not",), COMPARE, ("+", "-"), ("*", "/", "//", "%"))
_PRECEDENCE = {word: level for level, words in enumerate(_LEVELS) for word in words}


def _operand(e: ast.Expr, operator: str) -> str:
    """An operand of `operator`, in brackets where its own does not join first."""
    if not isinstance(e, ast.Chain | ast.Not):
        return _atom(e)
    own = "not" if isinstance(e, ast.Not) else e.operators[0]
    return expr(e) if _PRECEDENCE[own] > _PRECEDENCE[operator] else f"({expr(e)})"


def _negate(e: ast.Negate) -> str:
    # −(−x) would read as x, and −(3) as a literal: keep the brackets.
    bare = isinstance(e.operand, ast.Name | ast.Call | ast.Index | ast.Text | ast.Items)
    return f"-{expr(e.operand)}" if bare else f"-({expr(e.operand)})"


def _pipe(e: ast.Pipe) -> str:
    first = f"({expr(e.first)})" if isinstance(e.first, ast.Pipe) else expr(e.first)
    return first + "".join(
        f" |> {_stage(s.call)}" + (f" @ {s.device}" if s.device else "") for s in e.stages
    )


def _stage(call: ast.Call) -> str:
    return _call(call) if call.args or call.keywords else quote(call.word)


def _placed(e: ast.Placed) -> str:
    loose = isinstance(e.value, ast.Pipe | ast.Placed)
    value = f"({expr(e.value)})" if loose else expr(e.value)
    return f"{value} @ {e.device}"


_EXPRS: dict[type[Any], Callable[[Any], str]] = {
    ast.Name: lambda e: quote(e.id),
    ast.Number: lambda e: number(e.value),
    ast.Text: lambda e: f'"{escape(e.value, chr(34))}"',
    ast.Items: _items,
    ast.Call: _call,
    ast.Index: _index,
    ast.Negate: _negate,
    ast.Not: lambda e: f"not {_operand(e.operand, 'not')}",
    ast.Chain: _chain,
    ast.Placed: _placed,
    ast.Pipe: _pipe,
}
