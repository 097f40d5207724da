"""What values are that only parameters and constants feed: computed in float64, rounded once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from netc.ir.graph import Graph, Node, Value
from netc.ir.interpret import initial_weights
from netc.ir.op import Array, as_tuple
from netc.ir.ops.boxes import PriorBox
from netc.ir.ops.sources import Const, Param
from netc.ir.ops.windows import known
from netc.ir.types import DType


class Evaluator:
    """Evaluates fixed values in float64; every value once.

    A parameter without an array is drawn from its initializer, which depends on the seed and its
    name only.
    """

    def __init__(self, weights: Mapping[str, Array], seed: int) -> None:
        self.weights, self.seed = weights, seed
        self.known: dict[Value, Array] = {}
        self._fresh: list[Value] = []  # known since the last time that results were let go of

    def __call__(self, value: Value) -> Array:
        stack = [value.node]
        while stack:
            node = stack[-1]
            missing = [v.node for v in operands(node) if v not in self.known]
            if missing:
                stack += missing
                continue
            stack.pop()
            if node.results[0] not in self.known:
                outs = self._results(node)
                self.known.update(zip(node.results, outs, strict=True))
                self._fresh += node.results
        return self.known[value]

    def forget(self, larger: int) -> None:
        """Let go of results with more elements than this; called with one number always."""
        for v in self._fresh:
            if self.known[v].size > larger:
                del self.known[v]
        self._fresh = []

    def raw(self, param: Node) -> Array:
        """A parameter's array as it is stored."""
        if param.name in self.weights:
            return self.weights[param.name]
        alone = Graph("", (), {"w": param.out})
        return initial_weights(alone, self.seed)[param.name]

    def _results(self, node: Node) -> tuple[Array, ...]:
        if isinstance(node.op, Param):
            return (widened(self.raw(node), node.types[0].dtype),)
        if isinstance(node.op, Const):
            type = node.types[0]
            return (np.full(type.sizes({}), type.dtype.element(node.op.value), _wide(type.dtype)),)
        if isinstance(node.op, PriorBox):  # reads heights and widths only
            planes = (known(v.type.shape[2:], "sizes") for v in node.inputs)
            return as_tuple(node.op.reference(*(np.zeros((1, 1, *size)) for size in planes)))
        with np.errstate(all="ignore"):
            return as_tuple(node.op.reference(*(self.known[v] for v in node.inputs)))


def operands(node: Node) -> tuple[Value, ...]:
    """The inputs whose elements the node reads; prior_box reads shapes only."""
    return () if isinstance(node.op, PriorBox) else node.inputs


def _wide(dtype: DType) -> np.dtype[np.generic]:
    return np.dtype(np.float64) if dtype is DType.F32 else dtype.numpy


def widened(array: Array, dtype: DType) -> Array:
    """The array in float64, or in its own integer type."""
    return np.asarray(array, _wide(dtype))
