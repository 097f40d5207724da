"""Compute at compile time what only parameters and constants feed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from netc.ir.dims import Dim, product
from netc.ir.graph import Builder, Graph, Node, Stage, Value, frozen
from netc.ir.op import Array
from netc.ir.ops.boxes import PriorBox
from netc.ir.ops.elementwise import Mul
from netc.ir.ops.sources import Const, Initializer, Param
from netc.ir.types import DType
from netc.passes.base import BEFORE_KERNELS, Context, Fired
from netc.passes.evaluate import Evaluator
from netc.passes.facts import Fixed
from netc.passes.rewrite import substitute

FREE = 1 << 18  # elements that a folded value may have whatever it is made of
KEPT = 1 << 16  # elements of an intermediate result that is kept for its next reader


@dataclass(frozen=True)
class FoldParams:
    """f(params) = a param whose array is f of theirs, in float64, rounded to float32 once.

    A result much larger than what it is made of (`growth` times) is left to run time.
    """

    growth: int = 4
    name: ClassVar[str] = "fold_params"
    needs: ClassVar[tuple[Stage, ...]] = BEFORE_KERNELS
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph in which nothing but parameters is fixed."""
        fixed = Fixed(graph)
        evaluator = Evaluator(graph.weights, ctx.seed)
        b = Builder({n.name for n in graph.nodes})
        instead: dict[Value, Value] = {}
        weights: dict[str, Array] = {}
        for node in graph.nodes:
            if isinstance(node.op, Param) or not fixed(node.results[0]):
                continue
            for v in node.results:
                if not self._wanted(graph, fixed, v) or not self._pays(node, v, ctx):
                    continue
                instead[v] = stored = _param(b, node, v)
                weights[stored.node.name] = frozen(_rounded(evaluator, v))
                ctx.fired.append(Fired(self.name, "folded", node.name))
                evaluator.forget(KEPT)
        return substitute(graph, instead, weights) if instead else graph

    @staticmethod
    def _wanted(graph: Graph, fixed: Fixed, v: Value) -> bool:
        """Whether a node that is not fixed, or the graph's caller, reads the value."""
        return any(user is None or not fixed(user.results[0]) for user in graph.uses[v])

    def _pays(self, node: Node, v: Value, ctx: Context) -> bool:
        size, made_of = v.type.count, _elements(node)
        if v.type.dtype is not DType.F32:
            return False  # parameters are float32
        if isinstance(node.op, Const | PriorBox) or not isinstance(size, int):
            return isinstance(size, int)
        if size <= max(FREE, self.growth * made_of):
            return True
        reason = f"%{v.name} is not computed at compile time: {size} elements from {made_of}"
        ctx.refuse(self.name, node, reason)
        return False


def _rounded(evaluator: Evaluator, v: Value) -> Array:
    """What the value is, rounded once to float32.

    A product with a large parameter, the usual case, is made block by block: NumPy's buffers hold
    the float64 numbers, and no array of them is ever whole.
    """
    match v:
        case Value(node=Node(op=Mul(), inputs=(Value(op=Param()) as w, s))):
            out = np.empty(v.type.sizes({}), np.float32)
            factor, raw = evaluator(s), evaluator.raw(w.node)
            with np.errstate(all="ignore"):
                return np.multiply(raw, factor, out=out, dtype=np.float64, casting="same_kind")
    return np.asarray(evaluator(v).astype(np.float32))


def _param(b: Builder, node: Node, v: Value) -> Value:
    """A parameter under the folded value's name."""
    with b.at(node.loc), b.on(node.device):
        made = b(Param(v.type, Initializer()), name=f"{node.name}.{v.index}")
    if len(node.types) > 1:
        return made.out
    return Node(made.op, (), made.types, node.name, node.loc, node.device).out


def _elements(node: Node) -> int:
    """How many elements the parameters behind a node have."""
    seen: set[Node] = {node}
    stack, total = [node], 0
    while stack:
        current = stack.pop()
        if isinstance(current.op, Param):
            count: Dim = product(current.types[0].shape)
            total += count if isinstance(count, int) else 0
        fresh = [v.node for v in current.inputs if v.node not in seen]
        seen.update(fresh)
        stack += fresh
    return total
