"""How values lie on a processor: maps of LOW and INT8 in half the bytes, where a level can."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from netc.codegen.buffers import Halo, Home, own_buffer
from netc.codegen.cpu.anchors.conv import is_rounded
from netc.codegen.cpu.anchors.formula import POINTWISE
from netc.codegen.cpu.lowering import READS_SHORT, Lowering
from netc.codegen.cpu.stored import SHORT
from netc.codegen.operand import Operand
from netc.codegen.places import exact_values
from netc.ir.dims import Dim
from netc.ir.graph import Graph, Node, Value
from netc.ir.op import Op
from netc.ir.ops.convolution import Conv
from netc.ir.ops.devices import Copy
from netc.ir.ops.fused import Fused
from netc.ir.ops.shape import Concat, Slice
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.types import DType, Layout, TensorType

# Whose kernels pass on what they read, however it is stored.
_PASSED_ON = POINTWISE | Concat | Copy | Slice | Input | Param | Const


class CpuHome(Home):
    """The `short` maps are stored as bfloat16."""

    def __init__(self, ctx: Lowering) -> None:
        self.ctx = ctx
        self.short: frozenset[Value] = frozenset()

    def own(self, type: TensorType, buffer: int, halo: Halo, node: Node) -> tuple[Operand, Dim]:
        """A value alone in a buffer."""
        blocks = filter(_is_blocks, node.results)
        short = type.layout is Layout.C8 and self.short.issuperset(blocks)
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


def short_maps(graph: Graph, is_low: Callable[[Node], bool]) -> frozenset[Value]:
    """The channel blocks that may be stored in fewer bits: what kernels in LOW or INT8 give, and
    ones with a window, a product and the like read.

    What anything else reads keeps all digits, and so does what is passed on to it: what a more
    exact kernel reads, what only formulas read until it is row-major, as scores do that a softmax
    follows and images that a net gives, and places.
    """
    read: set[Value] = set()
    whole = set(exact_values(graph))
    for node in reversed(graph.nodes):
        blocks = [v for v in node.inputs if _is_blocks(v)]
        work = _work(node)
        if not (is_low(node) and READS_SHORT.issuperset(work)):
            whole.update(blocks)
        if work:
            read.update(blocks)
            continue
        read.update(() if read.isdisjoint(node.results) else blocks)
        whole.update(() if whole.isdisjoint(node.results) else blocks)
    short: set[Value] = set()
    for node in graph.nodes:
        parts = [*node.inputs] if isinstance(node.op, Concat | Slice) else []
        if is_low(node) and short.issuperset(parts):  # which lie in one buffer
            short.update(v for v in node.results if v in read and v not in whole)
    return frozenset(short)


def _is_blocks(v: Value) -> bool:
    return v.type.layout is Layout.C8 and v.type.dtype is DType.F32


def _work(node: Node) -> list[type[Op]]:
    """What a kernel does beside formulas, and copies, of its operands."""
    inner = node.op.body.nodes if isinstance(node.op, Fused) else ()
    return [type(n.op) for n in inner if not isinstance(n.op, _PASSED_ON)]
