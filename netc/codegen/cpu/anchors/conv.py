"""Convolutions and inner products on the shared matrix kernels.

A convolution is a matrix kernel whose pixel table walks its outputs and whose tap table walks
its window; an inner product is a convolution whose window is its whole input. Blocked (C8) input
is read eight channels at a step, row-major input one; C8 output has planes of eight channels,
and a row-major inner product is the same with planes that lie eight floats apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from netc.codegen.cpu.anchors.elementwise import Tail
from netc.codegen.cpu.emit import Function, Val
from netc.codegen.cpu.gemm import Epilogue
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.cpu.microkernel import tile_pixels
from netc.codegen.cpu.packing import pack_channels, pack_conv, pack_fc
from netc.codegen.operand import BLOCK, Call, Kernel, Operand
from netc.ir.dims import Dim, evaluate, least, most, product
from netc.ir.gemm_plan import PANEL, Slot, plan_gemm
from netc.ir.op import Array
from netc.ir.ops.convolution import Conv, Fc
from netc.ir.plan import Affine, Arg, BufferArg, IntArg, TableArg, WeightArg
from netc.ir.types import Layout

NOMINAL = 56  # what a symbolic height or width is taken for where blocking is chosen
_TABLE = 4096  # output pixels that one pixel table covers, about
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Matrix:
    """One matrix kernel: sizes, strides in elements, packed weights."""

    source: Operand
    shift: Dim  # elements from the source's first pixel back to the first tap
    images: Dim
    together: Dim  # images one pixel table covers
    outputs: tuple[Dim, ...]  # output pixels of one image, by axis
    in_steps: tuple[Dim, ...]  # input elements from one output pixel to the next, by axis
    in_image: Dim
    in_group: Dim
    taps: tuple[Affine, ...]
    n8: int
    n1: int
    groups: int
    channels: int  # output channels of one group
    weights: WeightArg
    beside: tuple[int, int] = (0, 1)  # groups that are phases of a row: pixels apart, out of step


@rule(Conv)
def lower_conv(ctx: Lowering, k: Kernel) -> Call | tuple[Call, ...]:
    """The matrix kernel, or the depthwise or the direct one."""
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
    return matrix_call(ctx, k, _convolution(ctx, k.anchor.op, x, w, out))


@rule(Fc)
def lower_fc(ctx: Lowering, k: Kernel) -> Call:
    """An inner product: a convolution over the whole of its input."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Fc)
    x, w = k.anchor_operands()[:2]
    made = _blocked_fc(ctx, x, w) if x.is_c8 else _plain_fc(ctx, k.anchor.op, x, w)
    return matrix_call(ctx, k, made)


def _array(w: Operand) -> Array:
    assert w.array is not None, "weights are parameters"
    return np.asarray(w.array, np.float32)


def _convolution(ctx: Lowering, op: Conv, x: Operand, w: Operand, out: Operand) -> Matrix:
    weights = _array(w)
    channels = weights.shape[1]
    image, plane, row, column = x.strides
    steps = (op.dilation[0] * row, op.dilation[1] * column)
    taps, n8, n1 = taps_of(x, channels, weights.shape[2:], steps)
    packed = pack_conv(weights, op.groups)
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
        channels=weights.shape[0] // op.groups,
        weights=ctx.packed(w, packed, ("conv", op.groups)),
    )


def taps_of(
    x: Operand, channels: int, window: tuple[int, ...], steps: tuple[Dim, ...]
) -> tuple[tuple[Affine, ...], int, int]:
    """Where the elements of a window lie, in the order of packed weights; how many by eight
    channels, and how many by one."""
    full, rest = divmod(channels, BLOCK)
    plane, count = x.strides[1], math.prod(window)
    if x.is_c8:
        left = Affine((*window, rest), (*steps, 1), full * plane)
        return (Affine((full, *window), (plane, *steps)), left), full * count, rest * count
    eights = Affine((full, *window, BLOCK), (BLOCK * plane, *steps, plane))
    left = Affine((*window, rest), (*steps, plane), full * BLOCK * plane)
    return (eights, left), 0, channels * count


def _blocked_fc(ctx: Lowering, x: Operand, w: Operand) -> Matrix:
    weights = _array(w)
    channels, height, width = (_known(d) for d in x.type.shape[1:])
    image, _, row, column = x.strides
    taps, n8, n1 = taps_of(x, channels, (height, width), (row, column))
    packed = pack_fc(weights, (channels, height, width))
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
        channels=weights.shape[0],
        weights=ctx.packed(w, packed, ("fc", channels, height, width)),
    )


def _plain_fc(ctx: Lowering, op: Fc, x: Operand, w: Operand) -> Matrix:
    weights = _array(w)
    outputs, inputs = weights.shape
    images = product(x.type.shape[: op.axis])
    full, rest = divmod(inputs, BLOCK)
    packed = pack_fc(weights, (inputs, 1, 1))
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
        weights=ctx.packed(w, packed, ("fc", inputs, 1, 1)),
    )


def _known(d: Dim) -> int:
    assert isinstance(d, int), f"the size {d} must be known at compile time"
    return d


def matrix_call(ctx: Lowering, k: Kernel, m: Matrix) -> Call:
    """The kernel of this epilogue, and its argument block (`gemm_plan.Slot` gives the order)."""
    out, tail = k.outs[0], Tail(k)
    vectors, tensors = _split(k, tail)
    bias = k.anchor_operands()[2:]
    epilogue = Epilogue(
        body=partial(_finish, tail, bool(bias), _picks(k, tail)),
        channels=len(bias) + len(vectors),
        pixels=len(tensors),
        padded=m.channels % BLOCK != 0,
        rows=not out.is_c8,
    )
    key = ("gemm", tail.key, bool(bias), _picks(k, tail), epilogue.padded, epilogue.rows)
    symbol = ctx.shared(key, lambda: ctx.gemm.kernel(epilogue))
    args = [*_sizes(ctx, m, out), *_output(m, out)]
    args += [ctx.weight(_channel_vector(o, m)) for o in (*bias, *vectors)]
    for o in tensors:
        args += _place(m, o)
    return Call(symbol, tuple(args))


def _finish(
    tail: Tail,
    bias: bool,
    picks: tuple[bool, ...],
    f: Function,
    sums: Val,
    vectors: Sequence[Val],
    tensors: Sequence[Val],
) -> Val:
    """Sums, plus bias, through the element-wise tail."""
    channel, pixel = iter(vectors), iter(tensors)
    acc = f.fadd(sums, next(channel)) if bias else sums
    loads = [next(channel) if per_channel else next(pixel) for per_channel in picks]
    return tail.apply(f, sums.lanes, acc, loads)[0]


def _picks(k: Kernel, tail: Tail) -> tuple[bool, ...]:
    """For each operand of the tail, whether it is one value a channel."""
    return tuple(o.array is not None for o in tail.operands)


def _split(k: Kernel, tail: Tail) -> tuple[list[Operand], list[Operand]]:
    vectors = [o for o in tail.operands if o.array is not None]
    return vectors, [o for o in tail.operands if o.array is None]


def _channel_vector(o: Operand, m: Matrix) -> Array:
    """A parameter that varies by channel only, as the epilogue reads it: panels of 16."""
    flat = np.asarray(o.array, np.float32).reshape(-1)
    if m.beside[0]:
        return pack_channels(np.tile(np.broadcast_to(flat, (m.channels,)), m.groups), m.groups)
    return pack_channels(np.broadcast_to(flat, (m.channels * m.groups,)), m.groups)


def _sizes(ctx: Lowering, m: Matrix, out: Operand) -> list[Arg]:
    """Slots INPUT to PANELS."""
    per_image = product(m.outputs)
    panels = -(-m.channels // PANEL)
    nominal = dict.fromkeys(m.source.type.symbols | out.type.symbols, NOMINAL)
    nominal = {s: 1 if s == str(m.images) else n for s, n in nominal.items()}
    steps = m.n8 + -(-m.n1 // BLOCK)
    pixels = evaluate(per_image * m.together, nominal)
    blocking = plan_gemm(
        panels,
        steps,
        pixels,
        list(tile_pixels(ctx.target).items()),
        _FLOAT * evaluate(m.in_image, nominal),
    )
    tiles = ctx.weight(blocking.tiles)
    pixel_table = TableArg(
        (Affine((m.together, *m.outputs), (m.in_image, *m.in_steps)),),
    )
    return [
        BufferArg(m.source.buffer, m.source.offset - m.shift * _FLOAT),
        pixel_table,
        TableArg(tuple(a for a in m.taps if product(a.dims) != 0)),
        IntArg(m.n8),
        IntArg(m.n1),
        m.weights,
        IntArg(m.images),
        IntArg(m.together),
        IntArg(per_image),
        IntArg(m.in_image),
        IntArg(m.groups),
        IntArg(m.in_group),
        tiles,
        IntArg(len(blocking.tiles)),
        IntArg(blocking.pixel_block),
        IntArg(blocking.chunk),
        IntArg(int(blocking.channels_outer)),
        IntArg(panels),
    ]


def pixels_together(images: Dim, outputs: tuple[Dim, ...]) -> Dim:
    """How many images one pixel table covers: many small ones, or one."""
    room = _TABLE // product(outputs)
    if isinstance(room, int) and room <= 1:
        return 1
    return most(1, least(images, room))


def _output(m: Matrix, out: Operand) -> list[Arg]:
    """Slots OUTPUT to OUT_CHANNELS, and the counters."""
    unused = Slot.OPERANDS - Slot.OUT_CHANNELS - 1
    return [*_place(m, out), IntArg(m.channels), *[IntArg(0)] * unused]


def _place(m: Matrix, o: Operand) -> list[Arg]:
    """Address, pixel offsets, strides of image, plane and group: of the output or an operand."""
    image: Dim = m.channels
    plane: Dim = BLOCK
    steps: tuple[Dim, ...] = ()
    if o.type.layout is not Layout.PLAIN:
        strides = [0 if d == 1 else s for d, s in zip(o.sizes, o.strides, strict=True)]
        image, plane, *rest = strides
        steps = tuple(rest)
        plane = o.strides[1]
    group: Dim = m.channels // BLOCK * plane if m.groups > 1 else 0
    if m.beside[0]:
        group = o.strides[-1] // m.beside[1] * m.beside[0]
    offsets = TableArg((Affine((m.together, *m.outputs), (image, *steps)),))
    return [o.pointer(), offsets, IntArg(image), IntArg(plane), IntArg(group)]
