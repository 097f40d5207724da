"""Statements as chains: `x |> a |> b` out of single calls, and lines of a readable length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from netc.frontend.net import ast
from netc.frontend.net.show import expr

WIDTH = 88  # characters of an expression on one line
HEAVY = frozenset(
    ("conv", "conv_transpose", "fc", "max_pool", "avg_pool", "global_avg_pool", "global_max_pool")
)


def names_in(e: Any) -> Iterator[str]:
    """Every name that stands in an expression, in the order it is written."""
    match e:
        case ast.Name(id):
            yield id
        case ast.Pipe(first, stages):
            yield from names_in(first)
            for stage in stages:
                yield from names_in(stage.call)
        case ast.Call(_, args, keywords):
            for a in (*args, *(k.value for k in keywords)):
                yield from names_in(a)
        case ast.Chain(_, operands) | ast.Items(operands):
            for o in operands:
                yield from names_in(o)
        case ast.Placed(value) | ast.Negate(value) | ast.Not(value):
            yield from names_in(value)
        case ast.Index(base, items):
            for i in (base, *items):
                yield from names_in(i)


def piped(body: Sequence[ast.Bind], outputs: Iterable[str], light: bool = False) -> list[ast.Bind]:
    """What is read once, as the only tensor of a call, becomes a step of that call's chain.

    `light` joins only what stands behind a layer: norms, activations and changes of shape.
    """
    bound = {t.id for s in body for t in s.targets}
    uses = Counter(n for s in body for n in names_in(s.value))
    uses.update(dict.fromkeys(outputs, 2))
    chains = {s.targets[0].id: s.value for s in body if len(s.targets) == 1}
    gone: set[str] = set()
    out = []
    for s in body:
        value = s.value
        tensors = [n for n in names_in(value) if n in bound]
        if len(tensors) == 1 and uses[tensors[0]] == 1 and _starts_with(value, tensors[0]):
            before = chains.get(tensors[0])
            if before is not None and _joins(before, value, light):
                value = _joined(before, value)
                gone.add(tensors[0])
        if len(s.targets) == 1:
            chains[s.targets[0].id] = value
        out.append(ast.Bind(s.targets, value))
    return [s for s in out if s.targets[0].id not in gone]


def _starts_with(e: ast.Expr, name: str) -> bool:
    """Whether an expression is a call or chain whose first operand is `name`."""
    match e:
        case ast.Pipe(first):
            return first == ast.Name(name)
        case ast.Placed(ast.Call(_, args)) | ast.Call(_, args):
            return bool(args) and args[0] == ast.Name(name)
    return False


def _joins(before: ast.Expr, after: ast.Expr, light: bool) -> bool:
    """Whether a chain may go on. Parameters, constants and mere names stand by themselves."""
    if isinstance(before, ast.Name) or _word(before) in ("param", "const"):
        return False
    return not light or (_word(after) not in HEAVY and _word(before) != "concat")


def _word(e: ast.Expr) -> str:
    """The first word of a chain."""
    _, stages = stages_of(e)
    return stages[0].call.word if stages else e.word if isinstance(e, ast.Call) else ""


def stages_of(e: ast.Expr) -> tuple[ast.Expr, tuple[ast.Stage, ...]]:
    """What a chain starts from, and its steps."""
    match e:
        case ast.Pipe(first, stages):
            return first, stages
        case ast.Call(word, (first, *rest), keywords):
            return first, (ast.Stage(ast.Call(word, tuple(rest), keywords)),)
        case ast.Placed(ast.Call(word, (first, *rest), keywords), device):
            return first, (ast.Stage(ast.Call(word, tuple(rest), keywords), device),)
    return e, ()


def chain_of(first: ast.Expr, stages: Sequence[ast.Stage]) -> ast.Expr:
    """`first |> a |> b`; `a(first)` where there is one step."""
    if not stages:
        return first
    if len(stages) > 1 or not isinstance(first, ast.Name):
        return ast.Pipe(first, tuple(stages))
    (stage,) = stages
    call = ast.Call(stage.call.word, (first, *stage.call.args), stage.call.keywords)
    return ast.Placed(call, stage.device) if stage.device else call


def _joined(before: ast.Expr, after: ast.Expr) -> ast.Expr:
    """The chain of `before`, then that of `after`."""
    first, stages = stages_of(before)
    return chain_of(first, (*stages, *stages_of(after)[1]))


def wrapped(body: Iterable[ast.Statement], step: str) -> tuple[ast.Statement, ...]:
    """Long chains in several statements; what a line ends with is called `step`."""
    out: list[ast.Statement] = []
    for s in body:
        match s:
            case ast.Bind(targets, value):
                *before, last = _lines(value, step)
                out += [ast.Bind((ast.Name(step),), e) for e in before]
                out.append(ast.Bind(targets, last))
            case ast.Return((value,)):
                *before, last = _lines(value, step)
                out += [ast.Bind((ast.Name(step),), e) for e in before]
                out.append(ast.Return((last,)))
            case _:
                out.append(s)
    return tuple(out)


def _lines(value: ast.Expr, step: str) -> list[ast.Expr]:
    """A chain in pieces that fit a line each."""
    first, stages = stages_of(value)
    if len(expr(value)) <= WIDTH or len(stages) < 2:
        return [value]
    out: list[ast.Expr] = []
    piece: list[ast.Stage] = []
    for stage in stages:
        if piece and len(expr(chain_of(first, [*piece, stage]))) > WIDTH:
            out.append(chain_of(first, piece))
            first, piece = ast.Name(step), []
        piece.append(stage)
    return [*out, chain_of(first, piece)]
