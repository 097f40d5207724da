"""Nodes as calls of words: what `write` puts into a text.

One `Term` is one call. Words that own parameters take in the nodes and parameters that they make;
a parameter that no word owns becomes a `param` of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from netc.errors import Source, UnsupportedError, clean
from netc.frontend.net import ast
from netc.frontend.net.layers import QUARTER, XAVIER
from netc.frontend.net.norms import ONE, ZERO
from netc.frontend.net.parse import parse
from netc.frontend.net.words import SPATIAL, words
from netc.ir.dims import Dim
from netc.ir.graph import Graph, Node, Value
from netc.ir.ops.formula import Formula
from netc.ir.ops.sources import Const, Initializer, Input, Param
from netc.ir.scalar import Elementwise
from netc.ir.types import DType, TensorType


@dataclass(frozen=True, eq=False)
class Term:
    """`word(inputs, args, keywords)`, which makes `node`; `owner` names its parameters."""

    node: Node
    word: str
    inputs: tuple[Value | ast.Expr, ...] = ()
    args: tuple[ast.Expr, ...] = ()
    keywords: tuple[ast.Keyword, ...] = ()
    tensors: tuple[tuple[str, Value], ...] = ()  # tensors given by keyword
    owner: str = ""
    inner: tuple[str, ...] = ()  # nodes it makes below its own name

    @property
    def reads(self) -> Iterator[Value]:
        """Every value it takes."""
        yield from (x for x in self.inputs if isinstance(x, Value))
        yield from (x for _, x in self.tensors)


def terms_of(graph: Graph) -> list[Term]:
    """The graph as calls, producers first."""
    return _Terms(graph).run()


def literal(value: Any) -> ast.Expr:
    """An attribute's value as the language writes it."""
    match value:
        case bool():
            return ast.Name("true" if value else "false")
        case None:
            return ast.Name("none")
        case int():
            return ast.Number(value)
        case float():
            if math.isinf(value):
                return ast.Name("inf") if value > 0 else ast.Negate(ast.Name("inf"))
            if math.isnan(value):
                raise UnsupportedError(f"the language has no number {value}")
            return ast.Number(int(value) if value.is_integer() and abs(value) < 1e6 else value)
        case str():
            return text(value)
        case DType():
            return ast.Name(str(value))
        case TensorType():
            return ast.Index(ast.Name(str(value.dtype)), tuple(map(literal, value.shape)))
        case tuple():
            return ast.Items(tuple(map(literal, value)))
    (let,) = parse(Source("", f"let size = {value}")).items  # a size with symbols
    return cast(ast.Let, let).value


def text(value: str) -> ast.Text:
    """A text that holds no constants."""
    return ast.Text(value.replace("{", "{{").replace("}", "}}"))


def initial(init: Initializer) -> ast.Expr:
    """An initializer as a call, or its bare name."""
    args: list[float]
    match init.kind:
        case "constant":
            args = [init.a] if init.a else []
        case "uniform":
            args = [init.a, init.b]
        case "gaussian":
            args = [init.a, init.b] + ([init.sparse] if init.sparse >= 0 else [])
        case _:
            args = []
    keywords = () if init.fan == "fan_in" else (ast.Keyword("fan", ast.Text(init.fan)),)
    if not args and not keywords:
        return ast.Name(init.kind)
    return ast.Call(init.kind, tuple(map(literal, args)), keywords)


class _Terms:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.owned: set[Node] = set()  # parameters that a word makes
        # Names that no layer can have: of inputs, and of layers that have a word.
        self.owners = {n.name for n in graph.inputs}
        self.made: set[Node] = set()  # nodes that a term stands for already
        self.terms: list[Term] = []

    def run(self) -> list[Term]:
        followed = {n: self._follower(n) for n in self.graph.nodes}
        for node in self.graph.nodes:
            if node in self.made or isinstance(node.op, Input | Param) or self._inlined(node):
                continue
            pair = followed[node]
            term = self._pair(node, pair) if pair else None
            self._add(term or self._single(node))
        for node in self.graph.params:
            if node not in self.owned and node not in self.made:
                self._declare(node)
        return self.terms

    def _add(self, term: Term) -> None:
        for x in term.reads:
            if isinstance(x.op, Param) and x.node not in self.owned:
                self._declare(x.node)
        self.made.add(term.node)
        self.terms.append(term)

    def _declare(self, node: Node) -> None:
        """`conv1.w = param(f32[…], init=…)`, before what reads it."""
        if node in self.made:
            return
        assert isinstance(node.op, Param)
        self.made.add(node)
        rest = self._init("init", node, XAVIER)
        self.terms.append(Term(node, "param", args=(literal(node.types[0]),), keywords=rest))

    def _follower(self, node: Node) -> Node | None:
        """The only reader of a node, where the node gives one value and is no output."""
        if len(node.types) != 1:
            return None
        readers = self.graph.uses[node.out]
        return readers[0] if len(readers) == 1 else None

    def _inlined(self, node: Node) -> bool:
        """A number that stands in the call of an element-wise word."""
        reader = self._follower(node)
        return (
            isinstance(node.op, Const)
            and node.types[0].rank == 0
            and math.isfinite(node.op.value)
            and reader is not None
            and isinstance(reader.op, Elementwise)
            and not isinstance(reader.op, Formula)
            and reader.inputs[0].node is not node
        )

    def _own(self, x: Value, part: str) -> str:
        """The layer whose parameter `part` a value is, where no other word has made it."""
        if not isinstance(x.op, Param) or x.node in self.made or len(self.graph.uses[x]) != 1:
            return ""
        owner, _, last = x.node.name.rpartition(".")
        return owner if last == part and owner not in self.owners else ""

    def _claim(self, owner: str, *xs: Value) -> None:
        self.owners.add(owner)
        self.owned.update(x.node for x in xs)

    def _init(self, name: str, param: Node, default: Initializer) -> tuple[ast.Keyword, ...]:
        """How a parameter is drawn, where that is unusual and its values are not known."""
        assert isinstance(param.op, Param)
        if param.op.init == default or param.name in self.graph.weights:
            return ()
        return (ast.Keyword(name, initial(param.op.init)),)

    def _single(self, node: Node) -> Term:
        rule = _OWNERS.get(node.op.name)
        return rule(self, node) if rule else self._plain(node)

    def _plain(self, node: Node) -> Term:
        """An op without parameters of its own."""
        op = node.op
        word = words().get(op.name)
        if isinstance(op, Formula):
            return Term(node, "formula", node.inputs)
        if word is None:
            raise UnsupportedError(f"the language has no word for {clean(op.name)}", node.loc)
        inputs = tuple(self._input(x) for x in node.inputs)
        axes = max(0, node.inputs[0].type.rank - 2) if node.inputs else 0
        args, keywords = [], []
        for f in fields(cast(Any, op)):
            value = getattr(op, f.name)
            slot = next(s for s in word.slots if s.name == f.name)
            if str(slot) == slot.name and slot.default is not None:
                args.append(_spread(f.name, value, axes))
            elif value != slot.default:
                keywords.append(ast.Keyword(f.name, _spread(f.name, value, axes)))
        return Term(node, op.name, inputs, tuple(args), tuple(keywords))

    def _input(self, x: Value) -> Value | ast.Expr:
        if isinstance(x.op, Const) and self._inlined(x.node):
            return literal(float(x.op.value))
        return x

    def windowed(self, node: Node) -> Term:
        """conv and conv_transpose: weights of its own, or given."""
        op: Any = node.op
        x, w = node.inputs[:2]
        axes = x.type.rank - 2
        rest = [
            ast.Keyword(name, _spread(name, getattr(op, name), axes))
            for name in ("stride", "pad", "dilation", "groups")
            if getattr(op, name) not in ((), 1)
        ]
        shape = w.type.sizes({})
        out = shape[0] if op.name == "conv" else shape[1] * op.groups
        args = (ast.Number(out), _spread("kernel", shape[2:], axes))
        return self.weighted(node, args, rest)

    def fc(self, node: Node) -> Term:
        """An inner product."""
        axis = cast(Any, node.op).axis
        rest = [] if axis == 1 else [ast.Keyword("axis", ast.Number(axis))]
        return self.weighted(node, (ast.Number(node.inputs[1].type.sizes({})[0]),), rest)

    def weighted(self, node: Node, args: tuple[ast.Expr, ...], rest: list[ast.Keyword]) -> Term:
        """A word with w and perhaps b."""
        x, w, *b = node.inputs
        bare = [] if b else [ast.Keyword("bias", ast.Name("false"))]
        owner = self._own(w, "w")
        if owner and all(self._own(v, "b") == owner for v in b):
            self._claim(owner, w, *b)
            inits = [*self._init("init", w.node, XAVIER)]
            inits += [k for v in b for k in self._init("bias_init", v.node, ZERO)]
            return Term(node, node.op.name, (x,), args, (*rest, *bare, *inits), owner=owner)
        tensors = (("w", w), *(("b", v) for v in b))
        return Term(node, node.op.name, (x,), (), (*rest, *bare), tensors)

    def prelu(self, node: Node) -> Term:
        """A slope per channel, or one for all."""
        x, slope = node.inputs
        owner, shape = self._own(slope, "slope"), slope.type.shape
        if owner and shape in ((), _per_channel(x.type, 1)):
            self._claim(owner, slope)
            rest = [ast.Keyword("shared", ast.Name("true"))] if not shape else []
            inits = self._init("init", slope.node, QUARTER)
            return Term(node, "prelu", (x,), (), (*rest, *inits), owner=owner)
        return Term(node, "prelu", (x,), tensors=(("slope", slope),))

    def batch_norm(self, node: Node) -> Term:
        """Stored statistics."""
        x, mean, variance = node.inputs
        eps = cast(Any, node.op).eps
        rest = () if eps == 1e-5 else (ast.Keyword("eps", literal(eps)),)
        owner = self._own(mean, "mean")
        shapes = {mean.type.shape, variance.type.shape}
        if (
            owner
            and self._own(variance, "variance") == owner
            and shapes == {_per_channel(x.type, 1)}
            and not self._init("", mean.node, ZERO)
            and not self._init("", variance.node, ONE)
        ):
            self._claim(owner, mean, variance)
            return Term(node, "batch_norm", (x,), (), rest, owner=owner)
        return Term(node, "batch_norm", (x,), (), rest, (("mean", mean), ("variance", variance)))

    def dropout(self, node: Node) -> Term:
        """What is in the graph, whatever the phase in which the text is read."""
        term = self._plain(node)
        always = ast.Keyword("always", ast.Name("true"))
        return replace(term, keywords=(*term.keywords, always))

    def shifted(self, node: Node) -> Term:
        """x + b with b per channel is `bias`."""
        x, b = node.inputs
        owner, axis = self._own(b, "b"), _channel_axis(x.type, b.type)
        if not owner or axis is None:
            return self._plain(node)
        self._claim(owner, b)
        inits = self._init("init", b.node, ZERO)
        return Term(node, "bias", (x,), (), (*_axis(axis), *inits), owner=owner)

    def scaled(self, node: Node) -> Term:
        """x · w with w per channel is `scale` without a bias."""
        x, w = node.inputs
        owner, axis = self._own(w, "w"), _channel_axis(x.type, w.type)
        if not owner or axis is None:
            return self._plain(node)
        self._claim(owner, w)
        bare = ast.Keyword("bias", ast.Name("false"))
        inits = self._init("init", w.node, ONE)
        return Term(node, "scale", (x,), (), (bare, *_axis(axis), *inits), owner=owner)

    def _pair(self, node: Node, then: Node) -> Term | None:
        """mul, then add, with parameters of one layer: `scale`; gather, then add: `embed`."""
        alike = then.shards == node.shards
        if then.op.name != "add" or then.inputs[0].node is not node or not alike:
            return None
        if node.op.name == "mul":
            return self._scale(node, then)
        return self._embed(node, then) if node.op.name == "gather" else None

    def _scale(self, node: Node, then: Node) -> Term | None:
        x, w = node.inputs
        b = then.inputs[1]
        owner, axis = self._own(w, "w"), _channel_axis(x.type, w.type)
        if not owner or axis is None or self._own(b, "b") != owner or b.type != w.type:
            return None
        self._claim(owner, w, b)
        inits = (*self._init("init", w.node, ONE), *self._init("bias_init", b.node, ZERO))
        self.made.add(node)
        return Term(then, "scale", (x,), (), (*_axis(axis), *inits), owner=owner, inner=("mul",))

    def _embed(self, node: Node, then: Node) -> Term | None:
        w, x = node.inputs
        b = then.inputs[1]
        owner = self._own(w, "w")
        shape = w.type.shape
        fits = w.type.rank == 2 and cast(Any, node.op).axis == 0 and b.type.shape == shape[1:]
        if not owner or not fits or self._own(b, "b") != owner:
            return None
        self._claim(owner, w, b)
        inits = (*self._init("init", w.node, XAVIER), *self._init("bias_init", b.node, ZERO))
        self.made.add(node)
        args = tuple(map(literal, shape))
        return Term(then, "embed", (x,), args, inits, owner=owner, inner=("gather",))


_OWNERS: dict[str, Callable[[_Terms, Node], Term]] = {
    "conv": _Terms.windowed,
    "conv_transpose": _Terms.windowed,
    "fc": _Terms.fc,
    "prelu": _Terms.prelu,
    "batch_norm": _Terms.batch_norm,
    "dropout": _Terms.dropout,
    "add": _Terms.shifted,
    "mul": _Terms.scaled,
}


def _spread(name: str, value: Any, axes: int) -> ast.Expr:
    """A tuple of equal numbers, one for each spatial axis, as that number."""
    spatial = name in SPATIAL and isinstance(value, tuple) and len(value) == axes > 0
    return literal(value[0] if spatial and len(set(value)) == 1 else value)


def _per_channel(x: TensorType, axis: int) -> tuple[Dim, ...]:
    return (x.shape[axis], *(1 for _ in x.shape[axis + 1 :])) if x.rank > axis else ()


def _channel_axis(x: TensorType, p: TensorType) -> int | None:
    """The axis of x that p has one number for, with axes of 1 after it."""
    axis = x.rank - p.rank
    return axis if 0 <= axis < x.rank and p.shape == _per_channel(x, axis) else None


def _axis(axis: int) -> tuple[ast.Keyword, ...]:
    return () if axis == 1 else (ast.Keyword("axis", ast.Number(axis)),)
