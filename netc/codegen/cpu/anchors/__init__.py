"""Kernel rules, one file a family; importing this package registers them all."""

from netc.codegen.cpu.accept import computed
from netc.codegen.cpu.anchors import choices as choices
from netc.codegen.cpu.anchors import conv as conv
from netc.codegen.cpu.anchors import copies as copies
from netc.codegen.cpu.anchors import images as images
from netc.codegen.cpu.anchors import indexing as indexing
from netc.codegen.cpu.anchors import lrn as lrn
from netc.codegen.cpu.anchors import matmul as matmul
from netc.codegen.cpu.anchors import phases as phases
from netc.codegen.cpu.anchors import pooling as pooling
from netc.codegen.cpu.anchors import randoms as randoms
from netc.codegen.cpu.anchors import ranking as ranking
from netc.codegen.cpu.anchors import reductions as reductions
from netc.codegen.cpu.anchors import regions as regions
from netc.codegen.cpu.anchors import resizing as resizing
from netc.codegen.cpu.anchors import softmax as softmax
from netc.codegen.cpu.anchors import suppression as suppression
from netc.codegen.cpu.anchors.elementwise import lower_elementwise
from netc.codegen.cpu.lowering import RULES, Lowering
from netc.codegen.operand import Call, Kernel
from netc.errors import UnsupportedError
from netc.ir.ops.convolution import PRODUCTS

__all__ = ["lower", "lower_elementwise"]


def lower(ctx: Lowering, k: Kernel) -> tuple[Call, ...]:
    """The calls of a kernel, by the rule of its anchor. Raises UnsupportedError without one."""
    made = RULES.get(type(k.anchor.op)) if k.anchor is not None else lower_elementwise
    if made is None:
        assert k.anchor is not None
        raise UnsupportedError(f"the CPU back end has no kernel for {k.anchor.op.name}", k.node.loc)
    if k.anchor is not None and isinstance(k.anchor.op, PRODUCTS):
        for v, operand in zip(k.anchor.inputs[1:], k.anchor_operands()[1:], strict=True):
            if operand.array is None:
                raise UnsupportedError(computed(k.anchor, v), k.node.loc, "place it on a GPU")
    calls = made(ctx, k)
    return calls if isinstance(calls, tuple) else (calls,)
