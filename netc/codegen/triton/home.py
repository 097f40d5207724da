"""How values lie on a GPU: channels last, so that neighbours in a tile are neighbours in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netc.codegen.buffers import Halo, Home
from netc.codegen.operand import Operand, row_major
from netc.codegen.triton.lowering import Lowering
from netc.ir.dims import Dim
from netc.ir.graph import Node
from netc.ir.ops.boxes import PriorBox
from netc.ir.ops.fused import Fused
from netc.ir.ops.image import Unpool
from netc.ir.ops.pooling import MaxPoolIndex
from netc.ir.ops.reduction import ArgMax
from netc.ir.ops.sources import Input
from netc.ir.types import DType, TensorType

if TYPE_CHECKING:
    from netc.codegen.buffers import _Placer

_PLACES = (MaxPoolIndex, ArgMax, Unpool, PriorBox)  # whose results are, or are found by, numbers


class GpuHome(Home):
    """Values of three or more axes [n, c, …] lie as [n, …, c]; kernels read any strides."""

    def __init__(self, ctx: Lowering) -> None:
        self.ctx = ctx

    def own(self, type: TensorType, buffer: int, halo: Halo, node: Node) -> tuple[Operand, Dim]:
        """A value alone in a buffer, floats as its kernel's precision stores them."""
        element = self._element(node) if type.dtype is DType.F32 else ""
        operand = Operand(type, buffer, 0, channels_last(type), element=element)
        return operand, type.count * operand.item

    def _element(self, node: Node) -> str:
        """How floats are stored; places and indices need all their digits."""
        inner = node.op.body.nodes if isinstance(node.op, Fused) else (node,)
        if any(isinstance(n.op, _PLACES) for n in inner):
            return ""
        own = (n for n in (*inner, node) if not isinstance(n.op, Input))  # those are others' names
        named = [n for n in own if n.name in self.ctx.by_node]
        return self.ctx.precision_of(named[0] if named else node).element

    def holds_parts(self, concat: Node) -> bool:
        """Parts of any concat are written in place."""
        return True

    def ready(self, placer: _Placer, node: Node, ins: list[Operand]) -> list[Operand]:
        """As they are."""
        return ins


def channels_last(type: TensorType) -> tuple[Dim, ...]:
    """Strides, in elements, with axis 1 fastest; row-major below three axes."""
    if type.rank < 3:
        return row_major(type.shape)
    n, c, *rest = type.shape
    last = row_major((n, *rest, c))
    return (last[0], last[-1], *last[1:-1])
