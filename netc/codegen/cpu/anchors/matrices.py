"""Matrix kernels: what convolutions and inner products have in common.

`Matrix` is one product, or one for each group, as data; `matrix_call` is its kernel with the
element-wise tail in the epilogue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from netc.codegen.cpu.anchors.elementwise import Tail
from netc.codegen.cpu.emit import Function, Val
from netc.codegen.cpu.epilogue import SCALES
from netc.codegen.cpu.gemm import PAIRS, QUADS, SINGLES, Epilogue, Form
from netc.codegen.cpu.lowering import Lowering
from netc.codegen.cpu.microkernel import tile_pixels
from netc.codegen.cpu.packing import pack_channels
from netc.codegen.operand import BLOCK, SCRATCH, Call, Cost, Kernel, Operand, in_one_memory
from netc.ir.dims import Dim, ceil_div, evaluate, least, most, product
from netc.ir.gemm_plan import PANEL, Slot, plan_gemm
from netc.ir.op import Array
from netc.ir.plan import Affine, Arg, BufferArg, IntArg, MadeArg, TableArg, WeightArg
from netc.ir.types import Layout

NOMINAL = 56  # what a symbolic height or width is taken for where blocking is chosen
_TABLE = 4096  # output pixels that one pixel table covers, about


@dataclass(frozen=True)
class Matrix:
    """One matrix kernel: sizes, strides in elements, packed weights.

    Of a source in fewer bits the weights are pairs or fours, and n1 counts these. Scales of the
    images and groups of one of eight bits are where its scratch memory begins.
    """

    source: Operand
    shift: Dim  # elements from the source's first pixel back to the first tap
    images: Dim
    together: Dim  # images one pixel table covers
    outputs: tuple[Dim, ...]  # output pixels of one image, by axis
    in_steps: tuple[Dim, ...]  # input elements from one output pixel to the next, by axis
    in_image: Dim
    in_group: Dim
    taps: tuple[Affine, ...]
    n8: Dim
    n1: Dim
    groups: Dim
    channels: Dim  # output channels of one group
    weights: WeightArg | MadeArg | BufferArg
    beside: tuple[int, int] = (0, 1)  # groups that are phases of a row: pixels apart, out of step
    apart: Dim | None = None  # output elements between groups that share no map


def form_of(x: Operand) -> Form:
    """The kernels that multiply what is stored so."""
    return {"bf16": PAIRS, "int8": QUADS}.get(x.element, SINGLES)


def neighbours(x: Operand) -> int:
    """Channels that lie side by side and are multiplied at once."""
    return form_of(x).together


def group_step(x: Operand, channels: int) -> Dim:
    """Elements from a group of so many channels to the next."""
    return -(-channels // (BLOCK if x.is_c8 else neighbours(x))) * x.strides[1]


def taps_of(
    x: Operand, channels: int, window: tuple[int, ...], steps: tuple[Dim, ...]
) -> tuple[tuple[Affine, ...], int, int]:
    """Where the elements of a window lie, in the order of packed weights; how many by eight
    channels, and how many by one, or by the pair."""
    full, rest = divmod(channels, BLOCK)
    plane, count = x.strides[1], math.prod(window)
    lanes = neighbours(x)
    rest, block = -(-rest // lanes), BLOCK // lanes
    if x.is_c8:
        left = Affine((*window, rest), (*steps, lanes), full * plane)
        return (Affine((full, *window), (plane, *steps)), left), full * count, rest * count
    eights = Affine((full, *window, block), (block * plane, *steps, plane))
    left = Affine((*window, rest), (*steps, plane), full * block * plane)
    return (eights, left), 0, (full * block + rest) * count


def matrix_call(ctx: Lowering, k: Kernel, m: Matrix) -> Call:
    """The kernel of this epilogue, and its argument block (`gemm_plan.Slot` gives the order)."""
    out, tail = k.outs[0], Tail(k)
    vectors, tensors = _split(k, tail)
    bias = k.anchor_operands()[2:]
    form = form_of(m.source)
    epilogue = Epilogue(
        body=partial(_finish, tail, bool(bias), _picks(k, tail)),
        channels=len(bias) + len(vectors),
        pixels=tuple(o.element for o in tensors),
        padded=not isinstance(m.channels, int) or m.channels % BLOCK != 0,
        rows=not out.is_c8,
        scaled=form is QUADS,
        element=out.element,
    )
    places = epilogue.padded, epilogue.rows, epilogue.element, epilogue.pixels
    key = (form, tail.key, bool(bias), _picks(k, tail), places)
    symbol = ctx.shared(key, lambda: ctx.gemm.kernel(epilogue, form))
    args = matrix_args(ctx, m, out)
    args += _worths(m) if form is QUADS else []
    args += [ctx.weight(_channel_vector(o, m)) for o in (*bias, *vectors)]
    args += _image_scales(m) if form is QUADS else []
    for o in tensors:
        args += _place(m, o)
    return Call(symbol, tuple(args))


def with_scratch(
    k: Kernel, before: Sequence[Call], calls: Sequence[Call], size: Dim, moved: Dim
) -> tuple[Call, ...]:
    """Calls that leave `size` bytes of scratch memory to those that do the kernel's work.

    These read and write `moved` bytes.
    """
    assert k.anchor is not None
    flops = k.anchor.op.flops(*(v.type.plain() for v in k.anchor.inputs))
    first = replace(calls[0], cost=Cost(k.title, flops, moved))
    work = [*(replace(call, gives=False) for call in before), first, *calls[1:]]
    return in_one_memory(work, size)


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
    assert isinstance(m.channels, int)
    assert isinstance(m.groups, int)
    flat = np.asarray(o.array, np.float32).reshape(-1)
    if m.beside[0]:
        return pack_channels(np.tile(np.broadcast_to(flat, (m.channels,)), m.groups), m.groups)
    return pack_channels(np.broadcast_to(flat, (m.channels * m.groups,)), m.groups)


def matrix_args(ctx: Lowering, m: Matrix, out: Operand) -> list[Arg]:
    """The argument block of a matrix kernel without operands in its epilogue."""
    return [*_sizes(ctx, m, out), *_output(m, out)]


def _sizes(ctx: Lowering, m: Matrix, out: Operand) -> list[Arg]:
    """Slots INPUT to CHANNELS_OUTER."""
    per_image = product(m.outputs)
    panels = ceil_div(m.channels, PANEL)
    nominal = dict.fromkeys(m.source.type.symbols | out.type.symbols, NOMINAL) | dict(ctx.usual)
    nominal = {s: 1 if s == str(m.images) else n for s, n in nominal.items()}
    known = isinstance(m.n8, int) and isinstance(m.n1, int)
    blocking = plan_gemm(
        evaluate(panels, nominal),
        evaluate(m.n8 + ceil_div(m.n1, BLOCK), {}) if known else None,
        max(tile_pixels(ctx.target)),
        m.source.item * evaluate(m.in_image, nominal),
        m.source.item,
    )
    pixel_table = TableArg(
        (Affine((m.together, *m.outputs), (m.in_image, *m.in_steps)),),
    )
    return [
        ctx.address(m.source, -m.shift * m.source.item),
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
        IntArg(panels),
        IntArg(blocking.pixel_block),
        IntArg(blocking.chunk),
        IntArg(int(blocking.channels_outer)),
    ]


def _worths(m: Matrix) -> list[Arg]:
    """What weights of eight bits are worth by channel, and sum up to: behind their panels."""
    assert isinstance(m.weights, WeightArg)
    channels = product((m.groups, ceil_div(m.channels, PANEL), PANEL))
    rows = QUADS.rows * m.n8 + m.n1
    assert isinstance(channels, int)
    assert isinstance(rows, int)
    first = m.weights.offset + 4 * channels * rows
    return [WeightArg(first + i * 4 * channels) for i in range(2)]


def _image_scales(m: Matrix) -> list[Arg]:
    """Scales of images, and for each pixel of those taken together the bytes to its image's."""
    steps = (SCALES * m.groups, *(0 for _ in m.outputs))
    return [BufferArg(SCRATCH, 0), TableArg((Affine((m.together, *m.outputs), steps),))]


def pixels_together(images: Dim, outputs: tuple[Dim, ...]) -> Dim:
    """How many images one pixel table covers: many small ones, or one."""
    room = _TABLE // most(1, product(outputs))
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
    group: Dim = m.channels // BLOCK * plane if m.groups != 1 else 0
    if m.beside[0]:
        group = o.strides[-1] // m.beside[1] * m.beside[0]
    group = group if m.apart is None else m.apart
    offsets = TableArg((Affine((m.together, *m.outputs), (image, *steps)),))
    return [o.pointer(), offsets, IntArg(image), IntArg(plane), IntArg(group)]
