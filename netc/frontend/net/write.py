"""Graph to text: a net in the language that reads back as an equal graph.

Equal means: the same ops on the same operands, the same parameters by name, the same inputs and
outputs. Nodes in between have the names the text gives them. Initializers of parameters whose
values are known are left out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from netc.errors import Source, UnsupportedError, clean
from netc.frontend.net import ast
from netc.frontend.net.blocks import with_blocks
from netc.frontend.net.mistakes import KEYWORDS
from netc.frontend.net.parse import parse
from netc.frontend.net.pipes import names_in, piped, wrapped
from netc.frontend.net.scope import BUILT_IN
from netc.frontend.net.show import show
from netc.frontend.net.terms import Term, literal, terms_of, text
from netc.frontend.net.words import words
from netc.ir.graph import Graph, Stage, Value
from netc.ir.ops.formula import Formula
from netc.ir.ops.sources import KINDS, Const, Input, Param
from netc.ir.shards import Shard

Shards = tuple[Shard, ...]

_CONSTANTS = frozenset((*BUILT_IN, *KINDS))
_WORD = re.compile(r"[^\W\d]\w*")
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_STEPS = ("x", "y", "h", "t", "step")  # what a line that is broken off is called


def write_net(graph: Graph, doc: str = "", blocks: bool = True) -> str:
    """The text of a graph. What repeats becomes blocks, unless told otherwise."""
    if graph.stage is not Stage.NET:
        raise UnsupportedError(f"a graph of stage {graph.stage.value} has no text in the language")
    ops = _formulas(graph)
    names = Names(graph)
    body, shards = _Writer(graph, ops, names).body()
    found: list[ast.Block] = []
    if blocks and not any(shards):
        used = {*words(), *(op.name for op in ops.values())}
        found, body = with_blocks(body, graph.outputs, names, used)
    if any(shards):
        said = _sharded(body, shards, graph.outputs, names.step)
    else:
        said = wrapped(piped(body, graph.outputs), names.step)
    ports = tuple(ast.Port(n.name, literal(n.types[0])) for n in graph.inputs)
    outputs = tuple(map(ast.Name, graph.outputs))
    net = ast.Net(_net_name(graph.name), ports, outputs, said, doc)
    return show(ast.File((*ops.values(), *found, net)))


def _sharded(
    body: Sequence[ast.Bind], shards: Sequence[Shards], outputs: Iterable[str], step: str
) -> tuple[ast.Statement, ...]:
    """The statements, those that follow one another and are sharded alike within one sharding."""
    runs = [
        (said, [s for s, _ in run])
        for said, run in itertools.groupby(zip(body, shards, strict=True), lambda pair: pair[1])
    ]
    reads = [{n for s in run for n in names_in(s.value)} for _, run in runs]
    out: list[ast.Statement] = []
    for i, (said, run) in enumerate(runs):
        others = set(outputs).union(*reads[:i], *reads[i + 1 :])
        lines = wrapped(piped(run, others), step)
        for s in reversed(said):
            count = None if s.micro_batches is None else ast.Number(s.micro_batches)
            lines = (ast.Sharded(s.way, tuple(map(str, s.devices)), lines, s.by, count),)
        out += lines
    return tuple(out)


def _net_name(name: str) -> str:
    plain = re.sub(r"\W+", "_", name).strip("_")
    return plain if _WORD.fullmatch(plain) and plain not in KEYWORDS else f"net_{plain}"


def _formulas(graph: Graph) -> dict[str, ast.OpDef]:
    """A definition for each different formula, by its body."""
    found: dict[str, ast.OpDef] = {}
    for node in graph.nodes:
        if isinstance(node.op, Formula) and node.op.body not in found:
            params = ", ".join(f"x{i}" for i in range(len(node.inputs)))
            name = f"formula_{len(found) + 1}"
            file = parse(Source("", f"op {name}({params}) = {node.op.body}"))
            (item,) = file.items
            assert isinstance(item, ast.OpDef)
            found[node.op.body] = item
    return found


class Names:
    """Which names are safe: reading a text gives `relu`, `relu_1`, … to what it does not name.

    Layers that own parameters have to get their own names, so no other node may take those.
    """

    def __init__(self, graph: Graph) -> None:
        self.terms = terms_of(graph)
        self.fixed = {t.owner for t in self.terms if t.owner} | {n.name for n in graph.params}
        inner = {n.name for n in (*graph.inputs, *graph.params)}
        self.numbered = {m[1] for n in self.fixed if (m := re.fullmatch(r"(.*)_\d+", n))}
        self.taken = {*inner, *graph.outputs, *_CONSTANTS}
        self.taken |= {s for n in graph.inputs for s in n.types[0].symbols}
        variables = {n.name for n in graph.nodes} | self.taken
        steps = itertools.chain(_STEPS, (f"step{i}" for i in itertools.count(2)))
        self.step = self.local(s for s in steps if s not in variables)

    def is_safe(self, base: str) -> bool:
        """Whether no layer is called `base`, `base_1`, …."""
        return base not in self.fixed and base not in self.numbered

    def local(self, wanted: Iterable[str]) -> str:
        """The first of these that is safe, for what is bound within a line or a block."""
        return next(n for n in wanted if self.is_safe(n) and n not in _CONSTANTS)

    def target(self, wanted: str, made: set[str]) -> str:
        """A name for a value; `made` are the layers that stand above it, or in its line."""
        name = wanted
        late = wanted in self.fixed and wanted not in made
        while name in self.taken or late or name in self.numbered:
            name, late = f"{name}_", False
        self.taken.add(name)
        return name


class _Writer:
    """One statement for each term."""

    def __init__(self, graph: Graph, ops: dict[str, ast.OpDef], names: Names) -> None:
        self.graph, self.ops, self.names = graph, ops, names
        given = {n.name for n in graph.inputs}  # read to the end: an output takes its name last
        named = [(v, name) for name, v in graph.outputs.items() if name not in given]
        self.outputs = dict(reversed(named))
        self.variables: dict[Value, str] = {v: v.name for n in graph.inputs for v in n.results}
        self.made: set[str] = set()

    def body(self) -> tuple[list[ast.Bind], list[Shards]]:
        """The statements of the net, and how each is sharded; parameters are as what is next."""
        statements = []
        shards = [t.node.shards for t in self.names.terms]
        for i, term in reversed([*enumerate(self.names.terms[:-1])]):
            if isinstance(term.node.op, Param | Const):
                shards[i] = shards[i + 1]
        for term in self.names.terms:
            value = self._value(term)
            self.made.add(term.owner)
            targets = tuple(ast.Name(self._target(v)) for v in term.node.results)
            statements.append(ast.Bind(targets, value))
        for name, v in self.graph.outputs.items():
            if self.variables[v] != name:
                if isinstance(v.op, Input):
                    what = f"the input {clean(v.name)} is an output under another name"
                    raise UnsupportedError(what)
                statements.append(ast.Bind((ast.Name(name),), self._operand(v)))
                shards.append(())
        return statements, shards

    def _target(self, v: Value) -> str:
        name = self.outputs.get(v)
        if name is None and isinstance(v.op, Param):
            name = v.name
        self.variables[v] = name or self.names.target(v.name, self.made)
        return self.variables[v]

    def _operand(self, x: Value | ast.Expr) -> ast.Expr:
        return ast.Name(self.variables[x]) if isinstance(x, Value) else x

    def _value(self, term: Term) -> ast.Expr:
        """`word(x, …)`, or `x + y`."""
        op, device = term.node.op, term.node.device
        inputs = tuple(map(self._operand, term.inputs))
        if term.word in _SIGNS and all(isinstance(x, ast.Name) for x in inputs) and not device:
            return ast.Chain((_SIGNS[term.word],), inputs)
        tensors = tuple(ast.Keyword(n, self._operand(x)) for n, x in term.tensors)
        word = self.ops[op.body].name if isinstance(op, Formula) else term.word
        args = (*inputs, *term.args)
        call = ast.Call(word, args, (*tensors, *term.keywords, *self._name(term)))
        return ast.Placed(call, str(device)) if device else call

    def _name(self, term: Term) -> tuple[ast.Keyword, ...]:
        """`name=`: of a layer, and of any other word that might take the name of one."""
        if term.owner:
            return (ast.Keyword("name", text(term.owner)),)
        if term.word == "param" or self.names.is_safe(term.word):
            return ()
        name = next(n for n in _variants(term.node.name) if self.names.is_safe(n))
        return (ast.Keyword("name", text(name)),)


def _variants(name: str) -> Iterable[str]:
    yield name
    while True:
        name += "_"
        yield name
