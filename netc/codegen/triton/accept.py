"""What the GPU back end can do in one kernel; fusion asks before it joins."""

from __future__ import annotations

from netc.codegen.backend import anchor_of
from netc.ir.graph import Graph, Node, Value
from netc.ir.ops.convolution import Conv
from netc.ir.ops.indexing import Compact
from netc.ir.ops.normalization import LogSoftmax, Softmax
from netc.ir.ops.pooling import Global
from netc.ir.ops.reduction import Reduce
from netc.ir.ops.shape import Crop, Pad, Tile, Transpose
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.scalar import Elementwise

_READS_ONCE = (Reduce, Softmax, LogSoftmax, Global, Transpose, Crop, Pad, Tile)


def why_not(body: Graph, params: frozenset[str]) -> str | None:
    """Why this body cannot be one kernel, in words for a user; None when it can."""
    anchor = anchor_of(body)
    if anchor is None:
        return None
    others = [n for n in body.nodes if n is not anchor and not _light(n)]
    if others:
        return f"%{anchor.name} and %{others[0].name} both need a kernel of their own"
    if any(not isinstance(v.op, Input | Param) for v in anchor.inputs):
        if not (isinstance(anchor.op, _READS_ONCE) or _feeds_product(body, anchor)):
            return f"%{anchor.name} reads memory, so what feeds it must be stored first"
        early = [v for v in body.outputs.values() if not _after(anchor, v.node)]
        if early:
            return f"%{early[0].name} is read elsewhere too, so it must be stored"
    if isinstance(anchor.op, Compact) and any(isinstance(n.op, Elementwise) for n in body.nodes):
        return f"how many rows {anchor.op.name} gives depends on the data"
    return None


def _feeds_product(body: Graph, anchor: Node) -> bool:
    """Whether a 1x1 convolution can compute its input as it reads it: from one value of that shape
    and numbers per channel."""
    if not isinstance(anchor.op, Conv) or anchor.op.groups > 1 or any(anchor.op.pad):
        return False
    x, *rest = anchor.inputs
    if any(d != 1 for d in anchor.inputs[1].type.shape[2:]):
        return False
    if any(not isinstance(v.op, Input | Param) for v in rest):
        return False
    read = [v for v in before(x) if isinstance(v.op, Input | Param)]
    whole = [v for v in read if v.type.shape == x.type.shape]
    return len(whole) == 1 and all(v in whole or _per_channel(v, x) for v in read)


def before(value: Value) -> list[Value]:
    """The values of a body that one is computed from, itself included."""
    found: dict[Value, None] = {}
    stack = [value]
    while stack:
        v = stack.pop()
        if v not in found:
            found[v] = None
            stack += v.node.inputs
    return list(found)


def _per_channel(v: Value, x: Value) -> bool:
    place = 1 - x.type.rank
    return all(d == 1 for a, d in enumerate(v.type.shape) if a - v.type.rank != place)


def _after(anchor: Node, node: Node) -> bool:
    """Whether a node of a body depends on its anchor."""
    stack = [node]
    while stack:
        n = stack.pop()
        if n is anchor:
            return True
        stack += [v.node for v in n.inputs]
    return False


def _light(n: Node) -> bool:
    return isinstance(n.op, Elementwise | Input | Param | Const)
