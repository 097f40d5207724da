"""What passes ask about graphs: what is fixed, how large a value is, what broadcasts how."""

from __future__ import annotations

from collections.abc import Mapping

from netc.ir.attributes import symbols_of
from netc.ir.dims import Dim, evaluate, symbols
from netc.ir.graph import Graph, Node, Value
from netc.ir.op import Op
from netc.ir.ops.boxes import PriorBox
from netc.ir.ops.convolution import Conv
from netc.ir.ops.shape import Concat, Flatten, Reshape, Slice
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.types import TensorType

SOURCES: tuple[type[Op], ...] = (Input, Param, Const)
VIEWS: tuple[type[Op], ...] = (Reshape, Flatten, Slice, Concat)
NOMINAL_SIZE = 64  # what an unknown height or width counts as; a batch ("N") counts as 1


class Fixed:
    """Whether only parameters that no update changes, and constants, feed a value.

    A value is not fixed where a size that a run brings decides what it is.
    """

    def __init__(self, graph: Graph) -> None:
        self.updates = graph.updates
        self.known: dict[Node, bool] = {}

    def __call__(self, value: Value) -> bool:
        stack = [value.node]
        while stack:
            node = stack[-1]
            unknown = [v.node for v in node.inputs if v.node not in self.known]
            if unknown and node not in self.known:
                stack += unknown
                continue
            stack.pop()
            if node not in self.known:
                self.known[node] = self._decide(node)
        return self.known[value.node]

    def _decide(self, node: Node) -> bool:
        match node.op:
            case Param():
                return node.name not in self.updates
            case Const():
                return not node.types[0].symbols
            case Input():
                return False
            case PriorBox():  # reads heights and widths only
                return all(isinstance(d, int) for v in node.inputs for d in v.type.shape[2:])
        if not node.inputs or not all(self.known[v.node] for v in node.inputs):
            return False
        return not symbols_of(node.op).union(*(t.symbols for t in node.types))


def nominal(d: Dim, sizes: Mapping[str, int] | None = None) -> int:
    """A size as a number, symbols taken for `sizes`, else 1 for N and NOMINAL_SIZE."""
    if isinstance(d, int):
        return d
    given = sizes or {}
    typical = {s: given.get(s, 1 if s == "N" else NOMINAL_SIZE) for s in symbols(d)}
    return max(0, evaluate(d, typical))


def bytes_of(type: TensorType, sizes: Mapping[str, int] | None = None) -> int:
    """The bytes of a value at nominal sizes, channel padding included."""
    count = 1
    for axis, d in enumerate(type.shape):
        n = nominal(d, sizes)
        count *= -(-n // 8) * 8 if axis == 1 and type.layout is type.blocked().layout else n
    return count * type.dtype.size


def aligned(type: TensorType, rank: int) -> tuple[Dim, ...]:
    """The shape with ones in front, as NumPy aligns an operand of a tensor of `rank` axes."""
    return (1,) * (rank - type.rank) + type.shape


def is_kernel(node: Node) -> bool:
    """Whether the node computes: neither a source nor a view."""
    return not isinstance(node.op, (*SOURCES, *VIEWS))


def single_pixels(conv: Node) -> bool:
    """Whether each result of a convolution comes from one pixel: 1×1 windows without padding."""
    assert isinstance(conv.op, Conv)
    return conv.inputs[1].type.shape[2:] == (1, 1) and not any(conv.op.pad)
