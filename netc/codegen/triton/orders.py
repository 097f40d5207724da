"""Which values lie row-major: those around products along a last axis, and not around windows."""

from __future__ import annotations

from collections.abc import Iterable

from netc.codegen.backend import anchor_of
from netc.ir.graph import Graph, Node, Value
from netc.ir.ops.convolution import Fc, Windowed
from netc.ir.ops.fused import Fused
from netc.ir.ops.matmul import MatMul
from netc.ir.ops.pooling import Pool
from netc.ir.ops.shape import Concat, Slice, Transpose
from netc.ir.ops.windows import axis_of


def row_major_values(graph: Graph) -> frozenset[Value]:
    """The values whose last axis is the fastest, so that matrices are read in runs.

    What has one shape on both sides of a kernel has one order there, so that neither is read or
    written across: values so joined lie row-major where a matrix product, or an inner product
    along the last axis, reads or makes one of them, unless a window does.
    """
    joined = _Joined()
    for node in graph.nodes:
        joined.add(_alike(node))
    matrices = {joined.root(v) for n in graph.nodes if _by_rows(n) for v in _ends(n)}
    windows = {joined.root(v) for n in graph.nodes if _by_windows(n) for v in _ends(n)}
    values = (v for n in graph.nodes for v in n.results)
    return frozenset(v for v in values if joined.root(v) in matrices - windows)


class _Joined:
    """Values in groups."""

    def __init__(self) -> None:
        self._parents: dict[Value, Value] = {}

    def root(self, v: Value) -> Value:
        """The value that stands for a value's group."""
        while v in self._parents:
            v = self._parents[v]
        return v

    def add(self, values: Iterable[Value]) -> None:
        """Make the groups of these values one."""
        first, *others = dict.fromkeys(self.root(v) for v in values)
        self._parents.update((v, first) for v in others)


def _anchor(node: Node) -> Node | None:
    """The structured node of a kernel."""
    return anchor_of(node.op.body) if isinstance(node.op, Fused) else None


def _ends(node: Node) -> tuple[Value, ...]:
    return (*node.inputs, *node.results)


def _by_rows(node: Node) -> bool:
    """Whether a kernel multiplies along last axes."""
    anchor = _anchor(node)
    if anchor is None or not isinstance(anchor.op, Fc):
        return anchor is not None and isinstance(anchor.op, MatMul)
    rank = anchor.inputs[0].type.rank
    return axis_of(anchor.op.axis, rank) == rank - 1


def _by_windows(node: Node) -> bool:
    """Whether a kernel reads windows, whose channels are to be neighbours."""
    anchor = _anchor(node)
    return anchor is not None and isinstance(anchor.op, Windowed | Pool)


def _alike(node: Node) -> list[Value]:
    """The values at a node that are to lie in one order, its result among them."""
    first, anchor = node.results[0], _anchor(node)
    if isinstance(node.op, Concat | Slice):
        return [first, *node.inputs]
    if anchor is not None and isinstance(anchor.op, Transpose):
        return [first]
    return [first, *(v for v in _ends(node) if v.type.shape == first.type.shape)]
