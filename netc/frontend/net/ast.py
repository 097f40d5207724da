"""The tree of a `.net` text: immutable, compared by meaning (spans do not count).

Chains are flat: `a + b - c` is one `Chain`, `x |> f |> g` one `Pipe`, so the depth of a tree is
the depth of its brackets and never the length of its text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from netc.errors import NOWHERE, Span


def _span() -> Span:
    return field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Name:
    """A use of a name; `conv1.w` is one name."""

    id: str
    span: Span = _span()


@dataclass(frozen=True)
class Number:
    """A literal; an int stays an int."""

    value: int | float
    span: Span = _span()


@dataclass(frozen=True)
class Text:
    """A text literal; `{n}` in it stands for the constant n, `{{` for a brace."""

    value: str
    span: Span = _span()


@dataclass(frozen=True)
class Items:
    """`(1, 2)` or `[1, 2]`."""

    items: tuple[Expr, ...]
    span: Span = _span()


@dataclass(frozen=True)
class Keyword:
    """`pad=1` in a call."""

    name: str
    value: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Call:
    """`conv(x, 20, kernel=5)`: an op, a block, a user's op or an initializer."""

    word: str
    args: tuple[Expr, ...]
    keywords: tuple[Keyword, ...] = ()
    span: Span = _span()


@dataclass(frozen=True)
class Index:
    """`f32[N, 3]` or `sizes[0]`."""

    base: Expr
    items: tuple[Expr, ...]
    span: Span = _span()


@dataclass(frozen=True)
class Negate:
    """`-x`."""

    operand: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Chain:
    """Operands of one precedence, joined from the left: `a * b / c`."""

    operators: tuple[str, ...]
    operands: tuple[Expr, ...]
    span: Span = _span()


@dataclass(frozen=True)
class Placed:
    """`x @ cuda:1`: the node the expression makes runs there."""

    value: Expr
    device: str
    span: Span = _span()


@dataclass(frozen=True)
class Stage:
    """One step of a pipe, `|> conv(64, 3) @ cuda:1`; the value so far is its first argument."""

    call: Call
    device: str = ""


@dataclass(frozen=True)
class Pipe:
    """`x |> conv(64, 3) |> relu`."""

    first: Expr
    stages: tuple[Stage, ...]
    span: Span = _span()


Expr: TypeAlias = Name | Number | Text | Items | Call | Index | Negate | Chain | Placed | Pipe


@dataclass(frozen=True)
class Let:
    """`let width = 2 * base`: a constant."""

    name: str
    value: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Bind:
    """`x = …` or `a, b = …`."""

    targets: tuple[Name, ...]
    value: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Repeat:
    """`repeat 3 as i { … }`; i counts from 0 and is empty when not named."""

    count: Expr
    index: str
    body: tuple[Statement, ...]
    span: Span = _span()


@dataclass(frozen=True)
class On:
    """`on cuda:1 { … }`."""

    device: str
    body: tuple[Statement, ...]
    span: Span = _span()


@dataclass(frozen=True)
class Return:
    """`return a, b`."""

    values: tuple[Expr, ...]
    span: Span = _span()


Statement: TypeAlias = Let | Bind | Repeat | On | Return


@dataclass(frozen=True)
class Parameter:
    """A parameter of a block or op, with its default."""

    name: str
    default: Expr | None = None
    span: Span = _span()


@dataclass(frozen=True)
class Port:
    """An input of a net: `data: f32[N, 3, 227, 227]`."""

    name: str
    type: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Import:
    """`import "blocks.net"`."""

    path: str
    span: Span = _span()


@dataclass(frozen=True)
class OpDef:
    """`op swish(x, beta=1.0) = x * sigmoid(beta * x)`."""

    name: str
    params: tuple[Parameter, ...]
    body: Expr
    span: Span = _span()


@dataclass(frozen=True)
class Block:
    """`block fire(x, squeeze, expand) { … return … }`."""

    name: str
    params: tuple[Parameter, ...]
    body: tuple[Statement, ...]
    doc: str = ""
    span: Span = _span()


@dataclass(frozen=True)
class Net:
    """`net lenet(data: f32[N, 1, 28, 28]) -> prob { … }`."""

    name: str
    ports: tuple[Port, ...]
    outputs: tuple[Name, ...]
    body: tuple[Statement, ...]
    doc: str = ""
    span: Span = _span()


Item: TypeAlias = Import | Let | OpDef | Block | Net


@dataclass(frozen=True)
class File:
    """A whole text."""

    items: tuple[Item, ...]
    doc: str = ""
