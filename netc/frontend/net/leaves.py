"""The leaves of an expression that may differ between repeats: names, numbers, texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from netc.frontend.net import ast
from netc.frontend.net.scope import BUILT_IN
from netc.frontend.net.words import words
from netc.ir.ops.sources import KINDS

_HINTS = {"conv": ("out", "kernel"), "conv_transpose": ("out", "kernel"), "fc": ("out",)}


@dataclass(frozen=True)
class Leaf:
    """`kind` is name, number or text; `hint` says what a number is for."""

    kind: str
    value: Any
    hint: str = "k"


def leaves(e: Any, hint: str = "k") -> Iterator[Leaf]:
    """The leaves in the order they are written. Words for constants are no leaves."""
    match e:
        case ast.Name(id):
            if id not in BUILT_IN and id not in KINDS:
                yield Leaf("name", id)
        case ast.Number(value):
            yield Leaf("number", value, hint)
        case ast.Text(value):
            yield Leaf("text", value)
        case ast.Pipe(first, stages):
            yield from leaves(first)
            for stage in stages:
                yield from _of_call(stage.call, 1)
        case ast.Call():
            yield from _of_call(e, 0)
        case ast.Chain(_, operands) | ast.Items(operands):
            for o in operands:
                yield from leaves(o, hint)
        case ast.Placed(value) | ast.Negate(value) | ast.Not(value):
            yield from leaves(value, hint)
        case ast.Index(base, items):
            yield from leaves(base)
            for i in items:
                yield from leaves(i, "size")


def _of_call(call: ast.Call, given: int) -> Iterator[Leaf]:
    """The leaves of a call; `given` operands stand before it."""
    for i, a in enumerate(call.args):
        yield from leaves(a, _hint(call.word, i + given))
    for k in call.keywords:
        yield from leaves(k.value, k.name)


def _hint(word: str, place: int) -> str:
    """What the argument at a place is called."""
    if word in _HINTS:
        names = _HINTS[word]
        return names[place - 1] if 0 < place <= len(names) else "k"
    known = words().get(word)
    if known is None:
        return "k"
    names = tuple(s.name for s in known.slots if not s.is_tensor)
    at = place - len(known.tensors)
    return names[at] if 0 <= at < len(names) else "k"


def filled(e: Any, values: Iterable[ast.Expr]) -> Any:
    """The expression with other leaves, in the order in which `leaves` gives them."""
    return _fill(e, iter(values))


def _fill(e: Any, values: Iterator[ast.Expr]) -> Any:
    match e:
        case ast.Name(id):
            return e if id in BUILT_IN or id in KINDS else next(values)
        case ast.Number() | ast.Text():
            return next(values)
        case ast.Pipe(first, stages):
            head = _fill(first, values)
            calls = [ast.Stage(_fill(s.call, values), s.device) for s in stages]
            return ast.Pipe(head, tuple(calls))
        case ast.Call(word, args, keywords):
            new = tuple([_fill(a, values) for a in args])
            named = tuple([ast.Keyword(k.name, _fill(k.value, values)) for k in keywords])
            return ast.Call(word, new, named)
        case ast.Chain(operators, operands):
            return ast.Chain(operators, tuple([_fill(o, values) for o in operands]))
        case ast.Items(items):
            return ast.Items(tuple([_fill(i, values) for i in items]))
        case ast.Placed(value, device):
            return ast.Placed(_fill(value, values), device)
        case ast.Negate(operand):
            return ast.Negate(_fill(operand, values))
        case ast.Not(operand):
            return ast.Not(_fill(operand, values))
        case ast.Index(base, items):
            head = _fill(base, values)
            return ast.Index(head, tuple([_fill(i, values) for i in items]))
    return e
