"""Rewriting to a fixed point by rules written with `match`.

    @rule(Affine)
    def join_affines(rw: Rewriter, node: Node) -> Value | None:
        '''(x·a + b)·c + d = x·(a·c) + (b·c + d)'''
        match node:
            case Node(op=Affine(scale=c, shift=d), inputs=(Value(node=Node(…)),)):
                return rw.affine(x, scale=a * c, shift=b * c + d)
        return None

A rule answers with the value that replaces the node's result, or None. Nodes are visited
producers first, so a round is linear; rounds follow until none changes anything. What replaces a
node takes over its name, location, device and shardings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from netc.errors import VerifyError
from netc.ir.graph import Builder, Graph, Node, Value
from netc.ir.op import Array, Op
from netc.passes.base import Context, Fired, Refusal
from netc.passes.evaluate import Evaluator
from netc.passes.facts import Fixed

MAX_ROUNDS = 200


@dataclass(frozen=True)
class Rule:
    """A rewrite of nodes of certain ops; its docstring is its algebra."""

    ops: tuple[type[Op], ...]
    apply: Callable[[Rewriter, Node], Value | None]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.apply.__name__

    @property
    def algebra(self) -> str:
        """The docstring."""
        return self.apply.__doc__ or ""


def rule(*ops: type[Op]) -> Callable[[Callable[[Rewriter, Node], Value | None]], Rule]:
    """Make a rule for nodes of these ops; an abstract op stands for its subclasses."""
    return lambda apply: Rule(ops, apply)


class Rewriter(Builder):
    """Builds one round's graph; rules ask it about values and make nodes with it."""

    def __init__(self, graph: Graph, ctx: Context, pass_name: str) -> None:
        super().__init__({n.name for n in graph.nodes})
        self.before, self.ctx, self.pass_name = graph, ctx, pass_name
        self.new: dict[Value, Value] = {}
        self.fired: list[Fired] = []
        self.refusals: list[Refusal] = []
        self._made: set[Node] = set()
        self._reads: dict[Value, int] = {}
        self._fixed = Fixed(graph)
        self._numbers: dict[str, int] = {}

    def __call__(self, op: Op, *inputs: Value, name: str = "") -> Node:
        node = super().__call__(op, *inputs, name=name)
        self._made.add(node)
        for v in inputs:
            self._reads[v] = self._reads.get(v, 0) + 1
        return node

    def unique(self, name: str) -> str:
        """As a Builder's, but counting on from the last number of the same name."""
        given = name
        while given in self.names:
            self._numbers[name] = self._numbers.get(name, 0) + 1
            given = f"{name}_{self._numbers[name]}"
        self.names.add(given)
        return given

    def __getattr__(self, op_name: str) -> Callable[..., Value]:
        return super().__getattr__(op_name)

    def readers(self, value: Value) -> int:
        """How often a value is read, the graph's outputs included; never too few."""
        return self._reads.get(value, 0)

    def only_reader(self, value: Value, node: Node, what: str) -> bool:
        """Whether nothing else reads `value`; a refusal is noted otherwise.

        `node` itself stands for its replaced original, so it counts once.
        """
        count = self.readers(value)
        if count > 1:
            why = f"{what} read {count} times"
            self.refuse(node, f"%{node.name} stays apart from %{value.name}: {why}")
        return count <= 1

    def refuse(self, node: Node, reason: str) -> None:
        """Note why a rule did not fire."""
        self.refusals.append(Refusal(self.pass_name, node.name, reason))

    def fixed(self, value: Value) -> bool:
        """Whether only parameters that no update changes, and constants, feed the value."""
        return self._fixed(value)

    @cached_property
    def evaluator(self) -> Evaluator:
        """Evaluates fixed values, in float64."""
        return Evaluator(self.before.weights, self.ctx.seed)

    def array(self, value: Value) -> Array:
        """What a fixed value is, in float64; for small ones, such as per-channel vectors."""
        return self.evaluator(value)

    def rebuild(self, node: Node, rules: Mapping[type[Op], tuple[Rule, ...]]) -> None:
        """Rebuild one node over the new values, and rewrite it while a rule answers."""
        inputs = tuple(self.new[v] for v in node.inputs)
        same = all(a is b or a == b for a, b in zip(inputs, node.inputs, strict=True))
        current = node if same else replace(node, inputs=inputs)
        for index in range(len(node.types)):
            old = Value(node, index)
            now = old if same else Value(current, index)
            self._reads[now] = self._reads.get(now, 0) + len(self.before.uses[old])
            self.new[old] = now
        if len(node.types) != 1 or type(node.op) not in rules:
            return
        self.loc, self.device, self.shards = node.loc, node.device, node.shards
        for _ in range(MAX_ROUNDS):
            self._made.clear()
            answer = self._first_answer(current, rules)
            if answer is None:
                return
            result = self._inherit(node, answer)
            self._replace(node, result)
            if result.node is answer.node and answer.node not in self._made:
                return
            current = result.node

    def _first_answer(self, node: Node, rules: Mapping[type[Op], tuple[Rule, ...]]) -> Value | None:
        for each in rules.get(type(node.op), ()):
            answer = each.apply(self, node)
            if answer is not None and answer.node is not node:
                self.fired.append(Fired(self.pass_name, each.name, node.name))
                return answer
        return None

    def _inherit(self, node: Node, answer: Value) -> Value:
        """The answer under the replaced node's name, when it was made for it."""
        if answer.node not in self._made or len(answer.node.types) != 1:
            return answer
        named = replace(answer.node, name=node.name)
        self._reads[named.out] = self._reads.get(answer, 0)
        self._made.add(named)
        return named.out

    def _replace(self, node: Node, result: Value) -> None:
        old = node.out
        if result.type != old.type:
            rule_name = self.fired[-1]
            raise VerifyError(f"{rule_name}: {old.type} became {result.type}", node.loc)
        self._reads[result] = self._reads.get(result, 0) + len(self.before.uses[old])
        self.new[old] = result

    def finish(self) -> Graph:
        """The graph over the new values."""
        return rebuilt(self.before, self.new)


def rebuilt(graph: Graph, new: Mapping[Value, Value]) -> Graph:
    """The graph whose outputs and updates are the values that `new` gives for the old ones."""
    outputs = {name: new[v] for name, v in graph.outputs.items()}
    updates = {name: new[v] for name, v in graph.updates.items()}
    if outputs == dict(graph.outputs) and updates == dict(graph.updates):
        return graph
    out = replace(graph, outputs=outputs, updates=updates)
    kept = {n.name: graph.weights[n.name] for n in out.params if n.name in graph.weights}
    return out if len(kept) == len(graph.weights) else replace(out, weights=kept)


def changed(graph: Graph, change: Callable[[Node], Node]) -> Graph:
    """The graph with what `change` says of its nodes, operands aside; itself where that is nothing.

    It is asked about each node as it was; operands follow by themselves.
    """
    new: dict[Value, Value] = {}
    for node in graph.nodes:
        inputs = tuple(new[v] for v in node.inputs)
        now = change(node)
        now = now if inputs == node.inputs else replace(now, inputs=inputs)
        new.update(zip(node.results, now.results, strict=True))
    out, inputs_now = rebuilt(graph, new), tuple(new[n.out].node for n in graph.inputs)
    return out if inputs_now == graph.inputs else replace(out, inputs=inputs_now)


def substitute(
    graph: Graph, instead: Mapping[Value, Value], weights: Mapping[str, Array] | None = None
) -> Graph:
    """The graph that reads other values in place of some, with more weights.

    What stands in `instead` as a replacement is taken as it is, not rebuilt.
    """
    new: dict[Value, Value] = {}
    for node in graph.nodes:
        inputs = tuple(new[v] for v in node.inputs)
        current = node if inputs == node.inputs else replace(node, inputs=inputs)
        new.update(zip(node.results, current.results, strict=True))
        new.update((v, instead[v]) for v in node.results if v in instead)
    given = replace(graph, weights={**graph.weights, **weights}) if weights else graph
    return rebuilt(given, new)


def by_op(rules: Iterable[Rule], graph: Graph) -> dict[type[Op], tuple[Rule, ...]]:
    """The rules for each op of the graph, in order."""
    listed = tuple(rules)
    ops = {type(n.op) for n in graph.nodes}
    table = {op: tuple(r for r in listed if issubclass(op, r.ops)) for op in ops}
    return {op: found for op, found in table.items() if found}


def rewrite(graph: Graph, rules: Iterable[Rule], ctx: Context, pass_name: str) -> Graph:
    """The graph when no rule answers any more; the same object when none did."""
    listed = tuple(rules)
    for _ in range(MAX_ROUNDS):
        rw = Rewriter(graph, ctx, pass_name)
        table = by_op(listed, graph)
        for node in graph.nodes:
            rw.rebuild(node, table)
        if not rw.fired:
            for each in rw.refusals:
                if each not in ctx.refusals:
                    ctx.refusals.append(each)
            return graph
        ctx.fired += rw.fired
        graph = rw.finish()
    raise VerifyError(f"the rules of {pass_name} do not come to rest")
