"""Which nodes can work on channel blocks of 8."""

from __future__ import annotations

from netc.ir.dims import Dim
from netc.ir.graph import Node, Value
from netc.ir.grouping import within_blocks
from netc.ir.ops.convolution import Conv, ConvTranspose, Fc
from netc.ir.ops.shape import Concat, Slice
from netc.ir.scalar import Elementwise
from netc.ir.types import TensorType
from netc.passes.facts import Fixed, aligned

BLOCK = 8  # channels


def conv_reads_blocked(conv: Node) -> bool:
    """Whether groups of input channels are whole blocks, or lie within them."""
    groups, ins, _ = _channels(conv)
    return groups == 1 or _lies_within_blocks(conv) or whole(ins)


def conv_gives_blocked(conv: Node) -> bool:
    """Whether groups of output channels are whole blocks, or lie within them."""
    groups, _, outs = _channels(conv)
    return groups == 1 or _lies_within_blocks(conv) or whole(outs)


def _lies_within_blocks(conv: Node) -> bool:
    """Whether a block's outputs need its own inputs only."""
    _, ins, outs = _channels(conv)
    return within_blocks(conv) or (ins == 1 and outs == 1)


def _channels(conv: Node) -> tuple[int, Dim, Dim]:
    """Groups, and the channels that go into one and come out of it."""
    assert isinstance(conv.op, Conv | ConvTranspose)
    first, second = conv.inputs[1].type.shape[:2]
    groups = conv.op.groups
    if isinstance(conv.op, ConvTranspose):
        return groups, first // groups, second
    return groups, second, first // groups


def whole(channels: Dim) -> bool:
    """Whether channels fill whole blocks."""
    return isinstance(channels, int) and channels % BLOCK == 0


def data_inputs(node: Node, fixed: Fixed) -> tuple[Value, ...]:
    """The inputs that share the node's layout: for element-wise ops all that are not fixed."""
    if isinstance(node.op, Elementwise):
        return tuple(v for v in node.inputs if v.type.rank == 4 and not fixed(v))
    blocked = node.op.blocked or ()
    return tuple(v for i, v in enumerate(node.inputs) if i in blocked or -1 in blocked)


def why_plain(node: Node, fixed: Fixed) -> str | None:
    """Why a node with four-axis float32 results must be row-major, None when it need not be.

    "" stands for ops that are row-major by nature.
    """
    if node.op.blocked is None or any(t.dtype.value != "f32" for t in _types(node)):
        return ""
    match node.op:
        case Conv() | ConvTranspose():
            return _why_plain_conv(node)
        case Fc():
            return ""
        case Elementwise():
            return _why_plain_elementwise(node, fixed)
        case Concat(axis=1):
            return _why_plain_concat(node)
        case Slice(axis=1, start=start):
            size = node.out.type.shape[1]
            if not whole(start) or not whole(size):
                return f"%{node.name} stays row-major: channels {start} and {size} on of " + (
                    f"%{node.inputs[0].name} do not fill blocks of {BLOCK}"
                )
    return None if all(v.type.rank == 4 for v in data_inputs(node, fixed)) else ""


def _types(node: Node) -> tuple[TensorType, ...]:
    return (*node.types, *(v.type for v in node.inputs))


def _why_plain_conv(node: Node) -> str | None:
    if conv_gives_blocked(node):
        return None
    groups, _, depth = _channels(node)
    return (
        f"%{node.name} stays row-major: {groups} groups of {depth} output channels "
        f"do not fill blocks of {BLOCK}"
    )


def _why_plain_elementwise(node: Node, fixed: Fixed) -> str | None:
    channels = node.out.type.shape[1]
    for v in node.inputs:
        shape = aligned(v.type, 4)
        if all(d == 1 for d in (shape[0], *shape[2:])) and (fixed(v) or channels == 1):
            continue  # one number, or one per channel
        if fixed(v) or v.type.rank != 4:
            return f"%{node.name} stays row-major: %{v.name} is {v.type}"
        if shape[1] != channels:
            return f"%{node.name} stays row-major: %{v.name} has {shape[1]} of {channels} channels"
    return None


def _why_plain_concat(node: Node) -> str | None:
    for v in node.inputs[:-1]:
        if not whole(v.type.shape[1]):
            return (
                f"%{node.name} stays row-major: %{v.name} has {v.type.shape[1]} channels, which do "
                f"not fill blocks of {BLOCK}"
            )
    return None
