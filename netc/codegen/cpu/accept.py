"""What the CPU back end can do in one kernel; fusion asks before it joins."""

from __future__ import annotations

from netc.codegen.backend import anchor_of
from netc.codegen.phases import uneven, why_whole
from netc.errors import clean
from netc.ir.graph import Graph, Node, Value
from netc.ir.grouping import within_blocks
from netc.ir.ops.convolution import Conv, ConvTranspose, Fc, Windowed
from netc.ir.ops.indexing import Compact
from netc.ir.ops.layout import ToBlocked, ToPlain
from netc.ir.ops.matmul import MatMul
from netc.ir.ops.normalization import LogSoftmax, Softmax
from netc.ir.ops.reduction import Reduce
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.scalar import Elementwise
from netc.ir.types import Layout, TensorType


def why_not(body: Graph, params: frozenset[str]) -> str | None:
    """Why this body cannot be one kernel, in words for a user; None when it can.

    `params` names the inputs of the body that are parameters.
    """
    anchor = anchor_of(body)
    if anchor is None:
        return None
    others = [n for n in body.nodes if n is not anchor and not _light(n)]
    if others:
        return f"%{anchor.name} and %{others[0].name} both need a kernel of their own"
    if any(not isinstance(v.op, Input | Param) for v in anchor.inputs):
        return _prologue(body, anchor)
    if isinstance(anchor.op, ToBlocked | ToPlain):
        return _alone(body, anchor)
    if any(isinstance(n.op, ToBlocked) for n in body.nodes) and not _gives_blocks(anchor):
        return f"the kernel of {anchor.op.name} gives row-major results only"
    if isinstance(anchor.op, Conv | Fc | MatMul) or _in_phases(body, anchor):
        return _matrix(body, anchor, params)
    return _alone(body, anchor)


def no_kernel(node: Node) -> str | None:
    """Why a processor has no kernel for a node of a net; None where it has one."""
    if isinstance(node.op, Windowed):  # an inner product becomes a product of two values
        for v in node.inputs[1:]:
            if not _of_params(v):
                return computed(node, v)
    return None


def computed(node: Node, v: Value) -> str:
    """What is said of a product whose weights are no parameters."""
    said = f"%{clean(v.name)}, which a run computes"
    return f"%{clean(node.name)} reads {said}: a processor's {node.op.name} takes parameters"


def _of_params(v: Value) -> bool:
    """Whether nothing but parameters and constants feeds a value."""
    seen, stack = {v.node}, [v.node]
    while stack:
        node = stack.pop()
        if isinstance(node.op, Input):
            return False
        fresh = [u.node for u in node.inputs if u.node not in seen]
        seen.update(fresh)
        stack += fresh
    return True


def _light(n: Node) -> bool:
    return isinstance(n.op, Elementwise | Input | Param | Const | ToBlocked)


def _prologue(body: Graph, anchor: Node) -> str | None:
    """An anchor that computes its first operand as it reads it."""
    if not isinstance(anchor.op, _WITH_PROLOGUE):
        return f"%{anchor.name} reads memory, so what feeds it must be stored first"
    if len(body.outputs) > 1 or any(isinstance(n.op, ToBlocked | ToPlain) for n in body.nodes):
        return f"the kernel of {anchor.op.name} gives one row-major result"
    if any(v.type.layout is Layout.C8 for n in body.inputs for v in n.results):
        return f"the kernel of {anchor.op.name} reads row-major operands"
    return None


def _in_phases(body: Graph, anchor: Node) -> bool:
    """Whether a transposed convolution is done by matrix kernels, into channel blocks."""
    blocked = any(v.type.layout is Layout.C8 for v in body.outputs.values())
    return isinstance(anchor.op, ConvTranspose) and blocked


def _gives_blocks(anchor: Node) -> bool:
    """Whether the kernel of a row-major convolution can store channel blocks."""
    if isinstance(anchor.op, ConvTranspose):
        return why_whole(anchor) is None
    if not isinstance(anchor.op, Conv) or anchor.out.type.rank != 4:
        return False
    outputs = anchor.inputs[1].type.shape[0] // anchor.op.groups
    return anchor.op.groups == 1 or (isinstance(outputs, int) and outputs % 8 == 0)


def _alone(body: Graph, anchor: Node) -> str | None:
    tail = [n for n in body.nodes if isinstance(n.op, Elementwise)]
    if tail and isinstance(anchor.op, Compact):
        return f"how many rows {anchor.op.name} gives depends on the data"
    return None


_WITH_PROLOGUE = (Reduce, Softmax, LogSoftmax)


def _matrix(body: Graph, anchor: Node, params: frozenset[str]) -> str | None:
    """A convolution or inner product with what follows it."""
    if len(body.outputs) > 1:
        return f"%{anchor.name} gives one result, and %{next(iter(body.outputs))} is another"
    (out,) = body.outputs.values()
    if isinstance(anchor.op, Conv) and out.type.layout is Layout.PLAIN:
        return None
    tail_inputs = [
        v
        for n in body.nodes
        if n is not anchor
        for v in n.inputs
        if isinstance(v.op, Input | Param)
    ]
    read = [v for v in tail_inputs if v.name in params] if isinstance(anchor.op, MatMul) else []
    if read:
        return f"%{read[0].name} is a parameter, which the tail of matrix products does not read"
    return next(
        (why for v in tail_inputs if (why := _operand(v, out.type, v.name in params))), None
    )


def _operand(v: Value, out: TensorType, param: bool) -> str | None:
    """Whether the tail of a matrix kernel can read `v` beside a result of this type."""
    shape, rank = v.type.shape, len(v.type.shape)
    if out.layout is Layout.PLAIN:
        aligned = (1,) * (out.rank - rank) + shape
        fits = all(d == 1 for d in aligned[:-1]) if param else aligned == out.shape
        if fits:
            return None
        return f"%{v.name} is {v.type}, which a row-major product's tail does not read"
    if v.type.layout is Layout.C8:
        if shape[1] == out.shape[1]:
            return None
        return f"%{v.name} has {shape[1]} channels, the result {out.shape[1]}"
    per_channel = (
        param
        and rank <= 4
        and all(d == 1 for axis, d in enumerate(shape, start=4 - rank) if axis != 1)
    )
    if per_channel:
        return None
    return f"%{v.name} is {v.type}: neither one value a channel nor channel-blocked"


def row_major(node: Node) -> str | None:
    """Why a node must not be channel-blocked; None when its C8 kernel is there."""
    if isinstance(node.op, ConvTranspose):
        why = why_whole(node)
        return why and f"%{node.name} stays row-major: {why}"
    if isinstance(node.op, Conv) and node.op.groups > 1 and not within_blocks(node):
        outputs, inputs = node.inputs[1].type.shape[:2]
        why = uneven(inputs, outputs // node.op.groups)
        return why and f"%{node.name} has {why}"
    return None
