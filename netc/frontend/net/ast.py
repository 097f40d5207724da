"""The tree of a `.net` text: immutable, compared by meaning (spans do not count).

Chains are flat: `a + b - c` is one `Chain`, `x |> f |> g` one `Pipe`, so the depth of a tree is
the depth of its brackets and never the length of its text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from netc.errors import NOWHERE, Span
from netc.ir.shards import By, Way


@dataclass(frozen=True)
class _Located:
    """Something with a place in a text; the place is no part of its meaning."""

    span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True)
class Name(_Located):
    """A use of a name; `conv1.w` is one name."""

    id: str


@dataclass(frozen=True)
class Number(_Located):
    """A literal; an int stays an int."""

    value: int | float


@dataclass(frozen=True)
class Text(_Located):
    """A text literal; `{n}` in it stands for the constant n, `{{` for a brace."""

    value: str


@dataclass(frozen=True)
class Items(_Located):
    """`(1, 2)` or `[1, 2]`."""

    items: tuple[Expr, ...]


@dataclass(frozen=True)
class Keyword(_Located):
    """`pad=1` in a call."""

    name: str
    value: Expr


@dataclass(frozen=True)
class Call(_Located):
    """`conv(x, 20, kernel=5)`: an op, a block, a user's op or an initializer."""

    word: str
    args: tuple[Expr, ...]
    keywords: tuple[Keyword, ...] = ()


@dataclass(frozen=True)
class Index(_Located):
    """`f32[N, 3]` or `sizes[0]`."""

    base: Expr
    items: tuple[Expr, ...]


@dataclass(frozen=True)
class Negate(_Located):
    """`-x`."""

    operand: Expr


@dataclass(frozen=True)
class Not(_Located):
    """`not x`."""

    operand: Expr


@dataclass(frozen=True)
class Chain(_Located):
    """Operands of one precedence, joined from the left: `a * b / c`, `a and b`."""

    operators: tuple[str, ...]
    operands: tuple[Expr, ...]


@dataclass(frozen=True)
class Placed(_Located):
    """`x @ cuda:1`: the node the expression makes runs there."""

    value: Expr
    device: str


@dataclass(frozen=True)
class Stage:
    """One step of a pipe, `|> conv(64, 3) @ cuda:1`; the value so far is its first argument."""

    call: Call
    device: str = ""


@dataclass(frozen=True)
class Pipe(_Located):
    """`x |> conv(64, 3) |> relu`."""

    first: Expr
    stages: tuple[Stage, ...]


Expr: TypeAlias = Name | Number | Text | Items | Call | Index | Negate | Not | Chain | Placed | Pipe


@dataclass(frozen=True)
class Let(_Located):
    """`let width = 2 * base`: a constant."""

    name: str
    value: Expr


@dataclass(frozen=True)
class Bind(_Located):
    """`x = …` or `a, b = …`."""

    targets: tuple[Name, ...]
    value: Expr


@dataclass(frozen=True)
class Branch(_Located):
    """`if stride > 1 { … }`, of an `If`."""

    condition: Expr
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class If(_Located):
    """`if … { … } else if … { … } else { … }`: flat, however many branches there are."""

    branches: tuple[Branch, ...]
    otherwise: tuple[Statement, ...] = ()


@dataclass(frozen=True)
class Repeat(_Located):
    """`repeat 3 as i { … }`; i counts from 0 and is empty when not named."""

    count: Expr
    index: str
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class On(_Located):
    """`on cuda:1 { … }`."""

    device: str
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Sharded(_Located):
    """`replicate over cpu:0, cpu:1 { … }`, `split channels over …`, `pipeline over …`.

    `by` is of a split; `count`, of micro-batches, of a pipeline.
    """

    way: Way
    devices: tuple[str, ...]
    body: tuple[Statement, ...]
    by: By = "output"
    count: Expr | None = None


@dataclass(frozen=True)
class Return(_Located):
    """`return a, b`."""

    values: tuple[Expr, ...]


Statement: TypeAlias = Let | Bind | If | Repeat | On | Sharded | Return


def bodies(s: Statement) -> tuple[tuple[Statement, ...], ...]:
    """What stands between the braces of a statement."""
    match s:
        case If(branches, otherwise):
            return (*(b.body for b in branches), otherwise)
        case Repeat(body=body) | On(body=body) | Sharded(body=body):
            return (body,)
    return ()


def bound(s: Statement) -> tuple[tuple[str, Span], ...]:
    """The names that a statement itself binds, and where; not those within its braces."""
    match s:
        case Let(name):
            return ((name, s.span),)
        case Bind(targets):
            return tuple([(t.id, t.span) for t in targets])
    return ()


def returns(s: Statement) -> bool:
    """Whether a block may end with this statement."""
    if isinstance(s, If):
        return any(body and returns(body[-1]) for body in bodies(s))
    return isinstance(s, Return)


@dataclass(frozen=True)
class Parameter(_Located):
    """A parameter of a block or op, with its default."""

    name: str
    default: Expr | None = None


@dataclass(frozen=True)
class Port(_Located):
    """An input of a net: `data: f32[N, 3, 227, 227]`."""

    name: str
    type: Expr


@dataclass(frozen=True)
class Import(_Located):
    """`import "blocks.net"`."""

    path: str


@dataclass(frozen=True)
class OpDef(_Located):
    """`op swish(x, beta=1.0) = x * sigmoid(beta * x)`."""

    name: str
    params: tuple[Parameter, ...]
    body: Expr


@dataclass(frozen=True)
class Block(_Located):
    """`block fire(x, squeeze, expand) { … return … }`."""

    name: str
    params: tuple[Parameter, ...]
    body: tuple[Statement, ...]
    doc: str = ""


@dataclass(frozen=True)
class Net(_Located):
    """`net lenet(data: f32[N, 1, 28, 28]) -> prob { … }`."""

    name: str
    ports: tuple[Port, ...]
    outputs: tuple[Name, ...]
    body: tuple[Statement, ...]
    doc: str = ""


Item: TypeAlias = Import | Let | OpDef | Block | Net


@dataclass(frozen=True)
class File:
    """A whole text."""

    items: tuple[Item, ...]
    doc: str = ""
