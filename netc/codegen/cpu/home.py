"""How values lie on a processor: maps of LOW and INT8 in half the bytes, where a level can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from netc.codegen.buffers import Halo, Home, own_buffer
from netc.codegen.cpu.anchors.conv import is_rounded
from netc.codegen.cpu.anchors.formula import POINTWISE
from netc.codegen.cpu.lowering import READS_SHORT, Lowering
from netc.codegen.cpu.stored import SHORT
from netc.codegen.operand import Operand
from netc.codegen.places import exact_values
from netc.ir.dims import Dim
from netc.ir.graph import Graph, Node, Value
from netc.ir.ops.convolution import PRODUCTS, Conv
from netc.ir.ops.devices import Copy
from netc.ir.ops.fused import Fused
from netc.ir.ops.shape import Concat, Slice
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.types import DType, Layout, TensorType

if TYPE_CHECKING:
    from netc.codegen.buffers import Placer


_PASSED_ON = POINTWISE | Concat | Copy | Slice | Input | Param | Const


class CpuHome(Home):
    """Of the `short` maps those that a kernel in LOW or INT8 gives are bfloat16."""

    def __init__(self, ctx: Lowering) -> None:
        self.ctx = ctx
        self.short: frozenset[Value] = frozenset()
        self._wide: dict[tuple[Value, int], Operand] = {}

    def own(self, type: TensorType, buffer: int, halo: Halo, node: Node) -> tuple[Operand, Dim]:
        """A value alone in a buffer, stored as its kernel's precision says."""
        blocks = [v for v in node.results if v.type.layout is Layout.C8]
        short = type.layout is Layout.C8 and self.short.issuperset(blocks)
        short = short and self.ctx.is_low(node)
        return own_buffer(type, buffer, halo, SHORT if short else "")

    def reads_any(self, kernel: Node, readers: Sequence[Node], operand: Operand) -> bool:
        """Convolutions into channel blocks that round row-major maps, and put zeros around them."""
        assert isinstance(kernel.op, Fused)
        outs = kernel.op.body.outputs.values()
        rows = not operand.is_c8 and operand.strides[-1:] == (1,)
        return (
            rows
            and len(readers) == 1
            and isinstance(readers[0].op, Conv)
            and all(v.type.layout is Layout.C8 for v in outs)
            and is_rounded(self.ctx, kernel, readers[0])
        )

    def ready(self, placer: Placer, node: Node, ins: list[Operand]) -> list[Operand]:
        """The operands of a kernel in a form it can read; copied to float32 where it must be."""
        ins = super().ready(placer, node, ins)
        assert isinstance(node.op, Fused)
        for i, v in enumerate(node.inputs):
            if ins[i].element and not self._reads_short(node, node.op.body, i):
                key = (v, ins[i].buffer)
                if key not in self._wide:
                    self._wide[key] = placer.copy(ins[i], node, ins[i].halo)
                ins[i] = self._wide[key]
        return ins

    def _reads_short(self, kernel: Node, body: Graph, index: int) -> bool:
        """Whether a kernel reads an operand of its body that is stored as bfloat16.

        Products do that multiply bfloat16.
        """
        readers = [n.op for n in body.nodes if body.inputs[index].out in n.inputs]
        if any(isinstance(op, PRODUCTS) for op in readers) and not self.ctx.is_low(kernel):
            return False
        return all(isinstance(op, POINTWISE) or type(op) in READS_SHORT for op in readers)


def short_maps(graph: Graph) -> frozenset[Value]:
    """The channel blocks that may be stored in fewer bits: those that a kernel with a window, a
    product and the like reads. What only formulas read until it is row-major keeps all digits, as
    scores do that a softmax follows, and images that a net gives; and so do places.
    """
    read: set[Value] = set()
    for node in reversed(graph.nodes):
        if _computes(node) or not read.isdisjoint(node.results):
            blocks = (v for v in node.inputs if v.type.layout is Layout.C8)
            read.update(v for v in blocks if v.type.dtype is DType.F32)
    return frozenset(read) - exact_values(graph)


def _computes(node: Node) -> bool:
    """Whether a kernel does more than a formula, or a copy, of its operands."""
    inner = node.op.body.nodes if isinstance(node.op, Fused) else ()
    return any(not isinstance(n.op, _PASSED_ON) for n in inner)
