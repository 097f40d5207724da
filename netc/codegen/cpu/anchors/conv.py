"""Convolutions and inner products on the shared matrix kernels.

A convolution is a matrix kernel whose pixel table walks its outputs and whose tap table walks
its window; an inner product is a convolution whose window is its whole input. Blocked (C8) input
is read eight channels at a step, row-major input one; C8 output has planes of eight channels,
and a row-major inner product is the same with planes that lie eight floats apart.
"""

from __future__ import annotations

import math
from dataclasses import replace

from netc.codegen.cpu.anchors.access import plain_access
from netc.codegen.cpu.anchors.matrices import (
    Matrix,
    group_step,
    matrix_call,
    neighbours,
    pixels_together,
    taps_of,
)
from netc.codegen.cpu.anchors.pairs import (
    Rounded,
    are_pairs,
    of_rounded,
    rounded,
    rounded_rows,
    weights_for,
)
from netc.codegen.cpu.anchors.quads import are_quads, in_bytes, rows_in_bytes
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import BLOCK, Call, Kernel, Operand, row_major
from netc.ir.dims import Dim, product
from netc.ir.filtering import is_filtered
from netc.ir.graph import Node
from netc.ir.grouping import within_blocks
from netc.ir.ops.convolution import Conv, Fc
from netc.ir.plan import Affine
from netc.ir.types import TensorType


@rule(Conv, short=True)
def lower_conv(ctx: Lowering, k: Kernel) -> Call | tuple[Call, ...]:
    """The matrix kernel, or the depthwise, the direct one, or Winograd's three."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Conv)
    out = k.outs[0]
    if not out.is_c8:
        from netc.codegen.cpu.anchors.direct import lower_direct_conv

        return lower_direct_conv(ctx, k)
    x, w = k.anchor_operands()[:2]
    channels, *window = w.type.sizes({})[1:]
    depth = channels * math.prod(window)
    if x.is_c8 and within_blocks(k.anchor) and not _is_rounded_block(ctx, k, channels, depth):
        from netc.codegen.cpu.anchors.depthwise import lower_depthwise

        return lower_depthwise(ctx, k)
    filtered = x.is_c8 and is_filtered(k.anchor.op, x.type, w.type) and not ctx.is_exact(k.node)
    if filtered and (are_pairs(ctx, k.node, depth) or not are_quads(ctx, k.node, channels, depth)):
        from netc.codegen.cpu.anchors.winograd import lower_winograd

        return lower_winograd(ctx, k)
    op, seen = _looked_at(k.anchor.op, x, window, out)
    made = _in_fewer_bits(ctx, k, seen, channels, depth, op.pad)
    if made is None:
        return matrix_call(ctx, k, _convolution(ctx, k.anchor.op, x, w, out))
    return of_rounded(k, made, [matrix_call(ctx, k, _convolution(ctx, op, made.operand, w, out))])


@rule(Fc, short=True)
def lower_fc(ctx: Lowering, k: Kernel) -> Call | tuple[Call, ...]:
    """An inner product: a convolution over the whole of its input."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Fc)
    x, w = k.anchor_operands()[:2]
    inputs = w.type.sizes({})[1]
    if not x.is_c8:
        rows = TensorType(x.type.dtype, (product(x.type.shape[: k.anchor.op.axis]), inputs))
        x = replace(x, type=rows, strides=row_major(rows.shape))
    channels = _known(x.type.shape[1])
    made = _in_fewer_bits(ctx, k, x, channels, inputs, (0, 0))
    if made is None:
        return matrix_call(ctx, k, _inner_product(ctx, x, w))
    return of_rounded(k, made, [matrix_call(ctx, k, _inner_product(ctx, made.operand, w))])


def _is_rounded_block(ctx: Lowering, k: Kernel, channels: int, depth: int) -> bool:
    """Whether groups of whole blocks are multiplied in fewer bits."""
    few = are_pairs(ctx, k.node, depth) or are_quads(ctx, k.node, channels, depth)
    return channels == BLOCK and few


def is_rounded(ctx: Lowering, kernel: Node, conv: Node) -> bool:
    """Whether a convolution into channel blocks multiplies row-major maps in fewer bits."""
    channels, *window = conv.inputs[1].type.sizes({})[1:]
    depth = channels * math.prod(window)
    return are_quads(ctx, kernel, channels, depth) or are_pairs(ctx, kernel, depth)


def _in_fewer_bits(
    ctx: Lowering, k: Kernel, x: Operand, channels: int, depth: int, halo: tuple[int, ...]
) -> Rounded | None:
    """The input of a sum of so many products, rounded, where it may be and that is faster.

    None also where it is stored as the pairs that are multiplied.
    """
    quads = are_quads(ctx, k.node, channels, depth)
    if not quads and (x.element or not are_pairs(ctx, k.node, depth)):
        return None
    if len(x.type.shape) > 2:
        return (in_bytes if quads else rounded)(ctx, x, channels, halo)
    rows = plain_access(ctx, x, x.type.shape)
    return (rows_in_bytes if quads else rounded_rows)(ctx, x.type, rows)


def _inner_product(ctx: Lowering, x: Operand, w: Operand) -> Matrix:
    return _blocked_fc(ctx, x, w) if x.is_c8 else _plain_fc(ctx, x, w)


def _looked_at(op: Conv, x: Operand, window: list[int], out: Operand) -> tuple[Conv, Operand]:
    """For windows of one pixel, without padding, the pixels that are read at all."""
    if not x.is_c8 or window != [1, 1] or any(op.pad):
        return op, x
    type = x.type.with_shape((*x.type.shape[:2], *out.type.shape[2:]))
    steps = [s * stride for s, stride in zip(x.strides[2:], op.stride, strict=True)]
    seen = replace(x, type=type, strides=(*x.strides[:2], *steps), halo=(0, 0))
    return replace(op, stride=(1, 1)), seen


def _convolution(ctx: Lowering, op: Conv, x: Operand, w: Operand, out: Operand) -> Matrix:
    outputs, channels, *window = w.type.sizes({})
    image, _, row, column = x.strides
    steps = (op.dilation[0] * row, op.dilation[1] * column)
    taps, n8, n1 = taps_of(x, channels, tuple(window), steps)
    return Matrix(
        source=x,
        shift=op.pad[0] * row + op.pad[1] * column,
        images=x.type.shape[0],
        together=pixels_together(x.type.shape[0], out.type.shape[2:]),
        outputs=out.type.shape[2:],
        in_steps=(op.stride[0] * row, op.stride[1] * column),
        in_image=image,
        in_group=group_step(x, channels),
        taps=taps,
        n8=n8,
        n1=n1,
        groups=op.groups,
        channels=outputs // op.groups,
        weights=weights_for(ctx, x, w, ("conv", op.groups)),
    )


def _blocked_fc(ctx: Lowering, x: Operand, w: Operand) -> Matrix:
    channels, height, width = (_known(d) for d in x.type.shape[1:])
    image, _, row, column = x.strides
    taps, n8, n1 = taps_of(x, channels, (height, width), (row, column))
    return Matrix(
        source=x,
        shift=0,
        images=x.type.shape[0],
        together=pixels_together(x.type.shape[0], ()),
        outputs=(),
        in_steps=(),
        in_image=image,
        in_group=0,
        taps=taps,
        n8=n8,
        n1=n1,
        groups=1,
        channels=w.type.sizes({})[0],
        weights=weights_for(ctx, x, w, ("fc", channels, height, width)),
    )


def _plain_fc(ctx: Lowering, x: Operand, w: Operand) -> Matrix:
    outputs, inputs = w.type.sizes({})
    images = x.type.shape[0]
    full, rest = divmod(inputs, BLOCK)
    lanes = neighbours(x)
    rest = -(-rest // lanes)
    return Matrix(
        source=x,
        shift=0,
        images=images,
        together=pixels_together(images, ()),
        outputs=(),
        in_steps=(),
        in_image=x.strides[0],
        in_group=0,
        taps=(Affine((full,), (BLOCK,)), Affine((rest,), (lanes,), full * BLOCK)),
        n8=full,
        n1=rest,
        groups=1,
        channels=outputs,
        weights=weights_for(ctx, x, w, ("fc", inputs, 1, 1)),
    )


def _known(d: Dim) -> int:
    assert isinstance(d, int), f"the size {d} must be known at compile time"
    return d
