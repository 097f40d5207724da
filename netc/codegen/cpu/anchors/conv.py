"""Convolutions and inner products on the shared matrix kernels.

A convolution is a matrix kernel whose pixel table walks its outputs and whose tap table walks
its window; an inner product is a convolution whose window is its whole input. Blocked (C8) input
is read eight channels at a step, row-major input one; C8 output has planes of eight channels,
and a row-major inner product is the same with planes that lie eight floats apart.
"""

from __future__ import annotations

from netc.codegen.cpu.anchors.matrices import Matrix, matrix_call, pixels_together, taps_of
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import BLOCK, Call, Kernel, Operand
from netc.ir.dims import Dim, product
from netc.ir.filtering import is_filtered
from netc.ir.ops.convolution import Conv, Fc
from netc.ir.plan import Affine


@rule(Conv)
def lower_conv(ctx: Lowering, k: Kernel) -> Call | tuple[Call, ...]:
    """The matrix kernel, or the depthwise, the direct one, or Winograd's three."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Conv)
    out = k.outs[0]
    if not out.is_c8:
        from netc.codegen.cpu.anchors.direct import lower_direct_conv

        return lower_direct_conv(ctx, k)
    x, w = k.anchor_operands()[:2]
    if x.is_c8 and w.type.shape[:2] == (k.anchor.op.groups, 1) and k.anchor.op.groups > 1:
        from netc.codegen.cpu.anchors.depthwise import lower_depthwise

        return lower_depthwise(ctx, k)
    if x.is_c8 and is_filtered(k.anchor.op, x.type, w.type) and not ctx.is_exact(k.node):
        from netc.codegen.cpu.anchors.winograd import lower_winograd

        return lower_winograd(ctx, k)
    return matrix_call(ctx, k, _convolution(ctx, k.anchor.op, x, w, out))


@rule(Fc)
def lower_fc(ctx: Lowering, k: Kernel) -> Call:
    """An inner product: a convolution over the whole of its input."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Fc)
    x, w = k.anchor_operands()[:2]
    made = _blocked_fc(ctx, x, w) if x.is_c8 else _plain_fc(ctx, k.anchor.op, x, w)
    return matrix_call(ctx, k, made)


def _convolution(ctx: Lowering, op: Conv, x: Operand, w: Operand, out: Operand) -> Matrix:
    outputs, channels, *window = w.type.sizes({})
    image, plane, row, column = x.strides
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
        in_group=channels // BLOCK * plane if x.is_c8 else channels * plane,
        taps=taps,
        n8=n8,
        n1=n1,
        groups=op.groups,
        channels=outputs // op.groups,
        weights=ctx.packed(w, ("conv", op.groups)),
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
        weights=ctx.packed(w, ("fc", channels, height, width)),
    )


def _plain_fc(ctx: Lowering, op: Fc, x: Operand, w: Operand) -> Matrix:
    outputs, inputs = w.type.sizes({})
    images = product(x.type.shape[: op.axis])
    full, rest = divmod(inputs, BLOCK)
    return Matrix(
        source=x,
        shift=0,
        images=images,
        together=pixels_together(images, ()),
        outputs=(),
        in_steps=(),
        in_image=inputs,
        in_group=0,
        taps=(Affine((full,), (BLOCK,)), Affine((rest,), (1,), full * BLOCK)),
        n8=full,
        n1=rest,
        groups=1,
        channels=outputs,
        weights=ctx.packed(w, ("fc", inputs, 1, 1)),
    )


def _known(d: Dim) -> int:
    assert isinstance(d, int), f"the size {d} must be known at compile time"
    return d
