"""Kernel rules of the GPU, one file a family; importing this package registers them all."""

from collections.abc import Sequence

from netc.codegen.operand import Kernel
from netc.codegen.triton.anchors import choices as choices
from netc.codegen.triton.anchors import compact as compact
from netc.codegen.triton.anchors import copies as copies
from netc.codegen.triton.anchors import images as images
from netc.codegen.triton.anchors import indexing as indexing
from netc.codegen.triton.anchors import lrn as lrn
from netc.codegen.triton.anchors import matmul as matmul
from netc.codegen.triton.anchors import matrix as matrix
from netc.codegen.triton.anchors import pools as pools
from netc.codegen.triton.anchors import randoms as randoms
from netc.codegen.triton.anchors import ranking as ranking
from netc.codegen.triton.anchors import reductions as reductions
from netc.codegen.triton.anchors import regions as regions
from netc.codegen.triton.anchors import softmax as softmax
from netc.codegen.triton.anchors import suppression as suppression
from netc.codegen.triton.anchors.pointwise import pointwise
from netc.codegen.triton.lowering import RULES, Launch, Lowering
from netc.errors import UnsupportedError, clean

__all__ = ["lower"]


def lower(ctx: Lowering, k: Kernel) -> Sequence[Launch]:
    """The launches of a kernel, by the rule of its anchor. Raises UnsupportedError without one."""
    made = RULES.get(type(k.anchor.op)) if k.anchor is not None else pointwise
    if made is None:
        assert k.anchor is not None
        what = f"the GPU back end has no kernel for {k.anchor.op.name}"
        help = f"--place {clean(k.anchor.name)}=cpu:0 runs it on a processor"
        raise UnsupportedError(what, k.node.loc, help)
    launches = made(ctx, k)
    return [launches] if isinstance(launches, Launch) else launches
