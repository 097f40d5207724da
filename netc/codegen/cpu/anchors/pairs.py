"""Operands of products in LOW: rounded to bfloat16, into scratch memory, before the product.

Two channels that are neighbours lie side by side, four bytes that the matrix kernels read at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from netc.codegen.buffers import c8_strides
from netc.codegen.cpu.anchors.access import Access, Args, Shape, collapse
from netc.codegen.cpu.anchors.folds import each_of, get, put
from netc.codegen.cpu.anchors.matrices import neighbours, with_scratch
from netc.codegen.cpu.anchors.units import ceil_div as rounded_up
from netc.codegen.cpu.anchors.units import units
from netc.codegen.cpu.emit import Function, Val, vec
from netc.codegen.cpu.lowering import Lowering
from netc.codegen.cpu.stored import SHORT, narrow
from netc.codegen.operand import (
    BLOCK,
    SCRATCH,
    Call,
    Cost,
    Kernel,
    Operand,
    Packing,
    row_major,
)
from netc.ir.dims import Dim, ceil_div, product
from netc.ir.gemm_plan import PANEL
from netc.ir.graph import Node
from netc.ir.plan import BufferArg, WeightArg
from netc.ir.types import TensorType

ITEM = 2  # bytes
_FLOAT = 4  # bytes
_LANES = 16  # that are rounded at once
_PIECE = 4096  # elements of a row that are a unit of work
_SHORT = 2 * BLOCK  # sums of fewer products are as fast in float32


def are_pairs(ctx: Lowering, kernel: Node, depth: Dim) -> bool:
    """Whether a product is of pairs: in LOW, where sums are long enough.

    How many outputs and groups there are does not matter: parts of a layer compute what the whole
    does.
    """
    return ctx.is_low(kernel) and not (isinstance(depth, int) and depth < _SHORT)


@dataclass(frozen=True)
class Rounded:
    """An operand in fewer bits, the calls that make it, and the bytes it takes."""

    operand: Operand
    calls: tuple[Call, ...]
    size: Dim


def weights_for(ctx: Lowering, x: Operand, w: Operand, packing: Packing) -> WeightArg:
    """Weights as they are multiplied with x."""
    return ctx.packed(w, (x.element, *packing) if x.element else packing)


def of_rounded(k: Kernel, made: Rounded, calls: Sequence[Call]) -> tuple[Call, ...]:
    """The rounding of x, and the calls of the product."""
    x, w = k.anchor_operands()[:2]
    others = (o for o in (*k.ins, *k.outs) if o not in (x, w))
    weights = made.operand.item * w.type.count
    moved = sum((o.item * o.type.count for o in others), start=weights + made.size)
    return with_scratch(k, made.calls, calls, made.size, moved)


def rounded(ctx: Lowering, x: Operand, channels: int, halo: tuple[int, ...]) -> Rounded:
    """Maps in groups of so many channels, with so much of the zeros around them."""
    return _rounded_blocks(ctx, x, halo) if x.is_c8 else _rounded_planes(ctx, x, channels, halo)


def _rounded_blocks(ctx: Lowering, x: Operand, halo: tuple[int, ...]) -> Rounded:
    """Channel blocks."""
    made = blocks_in(x, halo, SHORT)
    source, sizes = whole_blocks(ctx, x, halo)
    size = ITEM * made.sizes[0] * made.strides[0]
    return Rounded(made, (_rounded(ctx, source, BufferArg(SCRATCH, 0), sizes),), size)


def blocks_in(x: Operand, halo: tuple[int, ...], element: str, at: Dim = 0) -> Operand:
    """Channel blocks as they lie in scratch memory, with their halo, in other bits."""
    _, blocks, height, width = x.sizes
    strides = c8_strides(height, width, blocks, halo)
    made = replace(x, buffer=SCRATCH, strides=strides, halo=halo, element=element)
    corner = strides[2] * halo[0] + strides[3] * halo[1]
    return replace(made, offset=at + made.item * corner)


def whole_blocks(ctx: Lowering, x: Operand, halo: tuple[int, ...]) -> tuple[Access, Shape]:
    """Channel blocks and so much of their halo, and the sizes of all axes."""
    images, blocks, height, width = x.sizes
    corner = halo[0] * x.strides[2] + halo[1] * x.strides[3]
    source = Access(
        ctx.address(x, -x.item * corner), x.type.dtype, (*x.strides, 1), element=x.element
    )
    return source, (images, blocks, height + 2 * halo[0], width + 2 * halo[1], BLOCK)


def _rounded_planes(ctx: Lowering, x: Operand, channels: int, halo: tuple[int, ...]) -> Rounded:
    """Row-major maps as [N, groups · ⌈channels / 2⌉, H, W, 2]; an odd last one has zeros beside."""
    made, size = planes_in(x, channels, halo, SHORT)
    args = Args()
    args.access(whole_planes(ctx, x))
    put_planes(args, made, channels)
    symbol = ctx.code(("pairs", "planes"), _emit_planes)
    cost = Cost("round", 0, _FLOAT * x.type.count + size)
    return Rounded(made, (Call(symbol, tuple(args.items), cost=cost),), size)


def planes_in(
    x: Operand, channels: int, halo: tuple[int, ...], element: str, at: Dim = 0
) -> tuple[Operand, Dim]:
    """Planes as they lie in scratch memory, with their halo, in other bits, and their bytes.

    So many neighbours as are multiplied at once are one plane; some may be missing in the last.
    """
    images, maps, height, width = x.type.shape
    made = replace(x, buffer=SCRATCH, halo=halo, element=element)
    together = neighbours(made)
    planes = maps // channels * -(-channels // together)
    sizes = images, planes, height + 2 * halo[0], width + 2 * halo[1]
    strides = row_major((*sizes, together))[:4]
    corner = strides[2] * halo[0] + strides[3] * halo[1]
    made = replace(made, offset=at + made.item * corner, strides=strides)
    return made, made.item * together * product(sizes)


def whole_planes(ctx: Lowering, x: Operand) -> Access:
    """Planes, whose halo is not read."""
    assert x.strides[3] in (0, 1), "the elements of a row lie side by side"
    return Access(ctx.address(x), x.type.dtype, x.strides)


def put_planes(args: Args, made: Operand, channels: int) -> None:
    """What `Planes` reads: where planes go, their sizes, and how groups of channels are cut."""
    images, maps, height, width = made.type.shape
    corner = made.halo[0] * made.strides[2] + made.halo[1] * made.strides[3]
    args.add(made.pointer(-made.item * corner))
    planes = -(-channels // neighbours(made))
    for d in (images, maps // channels, planes, height, width, channels, *made.halo):
        args.size(d)


class Planes:
    """Rows of planes in the making: a unit is a row of neighbours, four bytes a pixel."""

    def __init__(self, f: Function, first: int) -> None:
        self.f, self.target = f, f.slot(f.args[0], first, "ptr")
        numbers = [f.slot(f.args[0], first + 1 + i) for i in range(8)]
        self.images, self.groups, self.planes, self.height, self.width = numbers[:5]
        self.channels, self.down, self.across = numbers[5:]

    @contextmanager
    def rows(self) -> Iterator[tuple[Val, Val, Val, Val]]:
        """Image, group, plane of the group and row, which counts from the zeros above."""
        f = self.f
        height = f.add(self.height, f.shl(self.down, 1))
        with units(f, [self.images, self.groups, self.planes, height]) as (image, group, plane, y):
            row = f.add(f.mul(f.add(f.mul(image, self.groups), group), self.planes), plane)
            self.row = f.add(f.mul(row, height), y)
            yield image, group, plane, y

    def fill(self, y: Val, some: Callable[[Val, Val | None], Val], nothing: Val) -> None:
        """A row of `some(element, mask)`, and of `nothing` around the map; vectors of one width."""
        f, lanes = self.f, nothing.lanes
        width = f.add(self.width, f.shl(self.across, 1))
        here = f.gep(self.target, f.mul(self.row, width), _FLOAT)

        def put_all(start: Val, count: Val, value: Callable[[Val, Val | None], Val]) -> None:
            there = f.gep(here, start, _FLOAT)

            def store(at: Val, mask: Val | None) -> None:
                put(f, value(at, mask), f.gep(there, at, _FLOAT), mask)

            each_of(f, count, lanes, store)

        with f.if_(f.icmp("ult", f.sub(y, self.down), self.height)) as side:
            put_all(f.const(0), self.across, lambda at, mask: nothing)
            put_all(self.across, self.width, some)
            put_all(f.add(self.across, self.width), self.across, lambda at, mask: nothing)
            side.otherwise()
            put_all(f.const(0), width, lambda at, mask: nothing)


def _emit_planes(f: Function) -> None:
    source, planes = f.slot(f.args[0], 0, "ptr"), Planes(f, 6)
    steps = [f.slot(f.args[0], 1 + i) for i in range(3)]
    with planes.rows() as (image, group, plane, y):
        first = f.shl(plane, 1)
        channel = f.add(f.mul(group, planes.channels), first)
        there = source
        for index, step in zip((image, channel, f.sub(y, planes.down)), steps, strict=True):
            there = f.gep(there, f.mul(index, step))
        alone = f.icmp("eq", f.add(first, 1), planes.channels)
        beside = f.gep(there, f.select(alone, f.const(0), steps[1]))

        def some(at: Val, mask: Val | None) -> Val:
            ends = (f.gep(base, at, _FLOAT) for base in (there, beside))
            a, b = (get(f, end, _LANES, mask) for end in ends)
            b = f.select(alone, f.f32(0.0, _LANES), b)
            return f.cast("bitcast", interleaved(f, a, b), vec(_LANES))

        planes.fill(y, some, f.f32(0.0, _LANES))
    f.ret()


def rounded_rows(ctx: Lowering, type: TensorType, rows: Access, at: Dim = 0) -> Rounded:
    """Rows one behind the other, each filled up with zeros to a multiple of eight."""
    *outer, last = type.shape
    wide = (*outer, ceil_div(last, BLOCK) * BLOCK)
    made = Operand(type, SCRATCH, at, row_major(wide), element=SHORT)
    call = _rounded(ctx, rows, BufferArg(SCRATCH, at), type.shape)
    return Rounded(made, (call,), ITEM * product(wide))


def _rounded(ctx: Lowering, source: Access, target: BufferArg, shape: Shape) -> Call:
    """float32 elements, side by side along the last axis, to rows of bfloat16."""
    *outer, last = shape
    made = Access(target, source.dtype, row_major((*outer, ceil_div(last, BLOCK) * BLOCK)))
    sizes, ways = collapse(shape, [source, made], inner=True)
    args = Args()
    for way, item in zip(ways, (_FLOAT, ITEM), strict=True):
        args.add(way.arg)
        for step in way.strides[:-1]:
            args.size(step * item)
    for d in sizes:
        args.size(d)
    emit = _emit_blocks if sizes[-1] == BLOCK and len(sizes) > 1 else _emit_rounded
    symbol = ctx.code(("pairs", emit, len(sizes)), lambda f: emit(f, len(sizes)))
    moved = (_FLOAT + ITEM) * product(shape)
    return Call(symbol, tuple(args.items), cost=Cost("round", 0, moved))


def _emit_rounded(f: Function, axes: int) -> None:
    bases = [f.slot(f.args[0], i * axes, "ptr") for i in range(2)]
    sizes = [f.slot(f.args[0], 2 * axes + i) for i in range(axes)]
    with units(f, [*sizes[:-1], rounded_up(f, sizes[-1], _PIECE)]) as indices:
        there, here = bases
        for i, index in enumerate(indices[:-1], start=1):
            there = f.gep(there, f.mul(index, f.slot(f.args[0], i)))
            here = f.gep(here, f.mul(index, f.slot(f.args[0], axes + i)))
        first = f.mul(indices[-1], _PIECE)
        count = f.smin(f.sub(sizes[-1], first), _PIECE)
        there, here = f.gep(there, first, _FLOAT), f.gep(here, first, ITEM)
        whole = f.and_(count, -_LANES)
        with f.loop(0, whole, _LANES) as turn:
            value = f.load(vec(_LANES), f.gep(there, turn.index, _FLOAT))
            f.store(narrow(f, value), f.gep(here, turn.index, ITEM), ITEM)
        with f.loop(whole, count, BLOCK) as turn:
            mask = f.lane_mask(f.sub(count, turn.index), BLOCK)
            value = f.masked_load(f.gep(there, turn.index, _FLOAT), mask, vec(BLOCK))
            f.store(narrow(f, value), f.gep(here, turn.index, ITEM), ITEM)
    f.ret()


def _emit_blocks(f: Function, axes: int) -> None:
    """The same of blocks that do not lie side by side: a unit is a row of them."""
    bases = [f.slot(f.args[0], i * axes, "ptr") for i in range(2)]
    sizes = [f.slot(f.args[0], 2 * axes + i) for i in range(axes - 1)]
    steps = [[f.slot(f.args[0], i * axes + 1 + j) for j in range(axes - 1)] for i in range(2)]
    with units(f, sizes[:-1]) as indices:
        there, here = bases
        for index, down, up in zip(indices, *(s[:-1] for s in steps), strict=True):
            there = f.gep(there, f.mul(index, down))
            here = f.gep(here, f.mul(index, up))
        with f.loop(0, sizes[-1]) as turn:
            value = f.load(vec(BLOCK), f.gep(there, f.mul(turn.index, steps[0][-1])))
            f.store(narrow(f, value), f.gep(here, f.mul(turn.index, steps[1][-1])), ITEM)
    f.ret()


def interleaved(f: Function, first: Val, second: Val) -> Val:
    """The bits of the nearest bfloat16 of both, in turns."""
    lanes = range(first.lanes)
    picks = [i + j for i in lanes for j in (0, first.lanes)]
    return f.shuffle(narrow(f, first), narrow(f, second), picks)


def paired_panels(
    ctx: Lowering, panels: BufferArg, count: Dim, depth: Dim, target: BufferArg
) -> Call:
    """[panel, depth, 16] of float32 to [panel, ⌈depth / 8⌉ · 4, 16, 2], zeros behind the last."""
    args = Args()
    args.add(panels)
    args.add(target)
    for d in (count, depth):
        args.size(d)
    symbol = ctx.code(("pairs", "panels"), _emit_panels)
    moved = (_FLOAT + ITEM) * PANEL * product((count, depth))
    return Call(symbol, tuple(args.items), cost=Cost("round", 0, moved))


def _emit_panels(f: Function) -> None:
    source, target = (f.slot(f.args[0], i, "ptr") for i in range(2))
    count, depth = (f.slot(f.args[0], 2 + i) for i in range(2))
    row = _FLOAT * PANEL
    half = f.mul(rounded_up(f, depth, BLOCK), BLOCK // 2)
    zero = f.f32(0.0, PANEL)
    with units(f, [count]) as (panel,):
        there = f.gep(source, f.mul(panel, depth), row)
        here = f.gep(target, f.mul(panel, half), row)

        def store(at: Val, first: Val, second: Val) -> None:
            f.store(interleaved(f, first, second), f.gep(here, at, row))

        whole = f.ashr(depth, 1)
        with f.loop(0, whole) as turn:
            at = f.gep(there, turn.index, 2 * row)
            store(turn.index, f.load(vec(PANEL), at), f.load(vec(PANEL), f.gep(at, row)))
        with f.if_(f.icmp("ne", f.and_(depth, 1), 0)):
            store(whole, f.load(vec(PANEL), f.gep(there, whole, 2 * row)), zero)
        with f.loop(f.ashr(f.add(depth, 1), 1), half) as turn:
            store(turn.index, zero, zero)
    f.ret()
