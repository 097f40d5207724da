"""Operands of products in INT8: bytes, in scratch memory, with a scale and a zero for each image.

Nothing is said beforehand about the values that will come: a run takes an image's range, from its
least to its largest element (and 0), and counts in 254ths of it. So no image depends on another,
nor does a group of channels: for each its part of an image is an image of its own.
Of the many images of an inner product, its rows, each is rounded by one thread; of maps, several
threads take the range first. Four channels that are neighbours are multiplied at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from netc.codegen.cpu import mathlib
from netc.codegen.cpu.anchors.access import Access, Args, Shape, collapse
from netc.codegen.cpu.anchors.folds import across, add, get
from netc.codegen.cpu.anchors.pairs import (
    Planes,
    Rounded,
    blocks_in,
    planes_in,
    put_planes,
    whole_blocks,
    whole_planes,
)
from netc.codegen.cpu.anchors.units import ceil_div as rounded_up
from netc.codegen.cpu.anchors.units import count, share, units, walk
from netc.codegen.cpu.emit import Function, Val, const_int, vec
from netc.codegen.cpu.epilogue import SCALES
from netc.codegen.cpu.lowering import Lowering
from netc.codegen.cpu.packing import IN_QUADS
from netc.codegen.cpu.stored import size_of, widen
from netc.codegen.operand import BLOCK, SCRATCH, Call, Cost, Operand, row_major
from netc.ir.dims import Dim, ceil_div, product
from netc.ir.gemm_plan import PANEL
from netc.ir.graph import Node
from netc.ir.plan import BufferArg
from netc.ir.types import DType, TensorType

_FLOAT = 4  # bytes
_LANES = 32  # that are looked at at once: extremes of 16 wait for one another
_PIECE = 4096  # elements of a row that are a unit of work
_PARTS = 32  # of an image whose ranges are taken by themselves
_RANGES = 2 * _FLOAT * _PARTS  # bytes of them
_ALONE = 1 << 15  # elements of an image that one thread does
_SHORT, _LONG = 2 * BLOCK, 1 << 16  # fewer are as fast in float32; the sums of more may overflow
_STEPS = 254.0  # of an image's range: what rounding adds stays within a byte
_LEAST = 1e-37  # that a step may be, so that its inverse is a number
_WHOLE = 12582912.0  # 1.5 · 2²³: a float32 near it is a whole number, and its last bits say which


def are_quads(ctx: Lowering, kernel: Node, channels: int, depth: int) -> bool:
    """Whether a product is of bytes: in INT8, where sums fit, of more channels than pairs take."""
    return ctx.is_int8(kernel) and channels > 2 and _SHORT <= depth <= _LONG


def in_bytes(ctx: Lowering, x: Operand, channels: int, halo: tuple[int, ...]) -> Rounded:
    """Maps in groups of so many channels, with so much of the zeros around them."""
    if not x.is_c8:
        return _planes_in_bytes(ctx, x, channels, halo)
    source, shape = whole_blocks(ctx, x, halo)
    at, calls = _rounded(ctx, *_by_group(source, shape, ceil_div(channels, BLOCK)))
    made = blocks_in(x, halo, IN_QUADS, at)
    return Rounded(made, calls, at + made.sizes[0] * made.strides[0])


def _planes_in_bytes(ctx: Lowering, x: Operand, channels: int, halo: tuple[int, ...]) -> Rounded:
    """Row-major maps as [N, groups · ⌈channels / 4⌉, H, W, 4]."""
    source = whole_planes(ctx, x)
    at, call = _reading(ctx, *_by_group(source, x.type.shape, channels), alone=False)
    made, size = planes_in(x, channels, halo, IN_QUADS, at)
    args = Args()
    args.add(BufferArg(SCRATCH, 0))
    args.access(source)
    put_planes(args, made, channels)
    symbol = ctx.code(("quads", "planes"), _emit_planes)
    cost = Cost("round", 0, _FLOAT * x.type.count + size)
    rounding = Call(symbol, tuple(args.items), cost=cost)
    return Rounded(made, (call(_emit_ranges, _FLOAT), rounding), at + size)


def _by_group(source: Access, shape: Shape, size: Dim) -> tuple[Access, Shape]:
    """With an axis of groups of so many channels, or blocks of them, behind that of images."""
    images, channels, *rest = shape
    first, step, *steps = source.strides
    assert isinstance(channels, int)
    assert isinstance(size, int)
    strides = (first, size * step, step, *steps)
    return replace(source, strides=strides), (images, channels // size, size, *rest)


def rows_in_bytes(ctx: Lowering, type: TensorType, rows: Access) -> Rounded:
    """Rows one behind the other, each filled up with zeros to a multiple of eight."""
    images, last = type.shape
    grouped = replace(rows, strides=(rows.strides[0], 0, rows.strides[1]))
    at, calls = _rounded(ctx, grouped, (images, 1, last))
    wide = (images, ceil_div(last, BLOCK) * BLOCK)
    made = Operand(type, SCRATCH, at, row_major(wide), element=IN_QUADS)
    return Rounded(made, calls, at + product(wide))


def _rounded(ctx: Lowering, source: Access, shape: Shape) -> tuple[Dim, tuple[Call, ...]]:
    """Where in scratch memory the bytes begin, and the calls that round images to them.

    Axes are those of images, groups and whatever a group has.
    """
    each = product(shape[2:])
    alone = isinstance(each, int) and each <= _ALONE
    at, call = _reading(ctx, source, shape, alone)
    if alone:
        return at, (call(_emit_alone, source.item + 1),)
    return at, (call(_emit_ranges, source.item), call(_emit_rounded, source.item + 1))


def _reading(
    ctx: Lowering, source: Access, shape: Shape, alone: bool
) -> tuple[Dim, Callable[[Callable[[_Images], None], int], Call]]:
    """Where their bytes begin, behind scales and ranges, and calls that read images."""
    images, groups, *outer, last = shape
    at = (SCALES if alone else SCALES + _RANGES) * images * groups
    target = BufferArg(SCRATCH, at)
    wide = row_major((images, groups, *outer, ceil_div(last, BLOCK) * BLOCK))
    inside = replace(source, strides=source.strides[2:])
    inner = Access(target, source.dtype, wide[2:])
    sizes, ways = collapse((*outer, last), [inside, inner], inner=True)
    args = Args()
    args.add(BufferArg(SCRATCH, 0))
    args.size(images * groups)
    args.size(groups)
    for first, way, item in zip((source.strides, wide), ways, (source.item, 1), strict=True):
        args.add(way.arg)
        for step in (*first[:2], *way.strides[:-1]):
            args.size(step * item)
    for d in sizes:
        args.size(d)
    blocks = sizes[-1] == BLOCK and len(sizes) > 1
    axes = len(sizes)

    def call(emit: Callable[[_Images], None], moved: int) -> Call:
        key = ("quads", emit, axes, blocks, source.element)
        symbol = ctx.code(key, lambda f: emit(_Images(f, axes, blocks, source.element)))
        cost = Cost("round", 0, moved * product(shape))
        return Call(symbol, tuple(args.items), cost=cost)

    return at, call


class _Images:
    """The arguments of a call: images of rows, or of rows of blocks that do not lie side by side.

    Each group of an image is an image here. A unit of work is a piece of a row, or a row of blocks.
    """

    def __init__(self, f: Function, axes: int, blocks: bool, element: str) -> None:
        self.f, self.blocks, self.element = f, blocks, element
        self.item = size_of(DType.F32, element)
        self.tables = f.slot(f.args[0], 0, "ptr")
        self.images, self.groups = (f.slot(f.args[0], 1 + i) for i in range(2))
        starts = [3 + i * (2 + axes) for i in range(2)]
        self.bases = [f.slot(f.args[0], start, "ptr") for start in starts]
        self.steps = [
            [f.slot(f.args[0], start + 1 + j) for j in range(1 + axes)] for start in starts
        ]
        sizes = [f.slot(f.args[0], 7 + 2 * axes + i) for i in range(axes)]
        self.row = sizes[-2] if blocks else sizes[-1]
        pieces = f.const(1) if blocks else rounded_up(f, self.row, _PIECE)
        self.units = [*sizes[: -2 if blocks else -1], pieces]

    def each(
        self,
        image: Val,
        indices: Sequence[Val],
        carry: list[Val],
        body: Callable[[Val, Val, int, list[Val]], list[Val]],
    ) -> list[Val]:
        """`body(elements, target, lanes, carried)` for all of a unit: some as they are stored, and
        where to put bytes; lanes beyond a row's end are 0."""
        f = self.f
        there, here = self.bases
        places = [f.sdiv(image, self.groups), f.srem(image, self.groups), *indices[:-1]]
        for index, down, up in zip(places, *self.steps, strict=False):
            there = f.gep(there, f.mul(index, down))
            here = f.gep(here, f.mul(index, up))
        if self.blocks:
            down, up = (steps[-1] for steps in self.steps)
            with f.loop(0, self.row, carry=carry) as turn:
                value = self._stored(f.gep(there, f.mul(turn.index, down)), BLOCK)
                turn.next(body(value, f.gep(here, f.mul(turn.index, up)), BLOCK, turn.values))
            return turn.results
        first = f.mul(indices[-1], _PIECE)
        left = f.smin(f.sub(self.row, first), _PIECE)
        there, here = f.gep(there, first, self.item), f.gep(here, first)
        whole = f.and_(left, -_LANES)
        with f.loop(0, whole, _LANES, carry=carry) as turn:
            value = self._stored(f.gep(there, turn.index, self.item), _LANES)
            turn.next(body(value, f.gep(here, turn.index), _LANES, turn.values))
        with f.loop(whole, left, BLOCK, carry=turn.results) as turn:
            value = self._last(f.gep(there, turn.index, self.item), f.sub(left, turn.index))
            turn.next(body(value, f.gep(here, turn.index), BLOCK, turn.values))
        return turn.results

    def _stored(self, address: Val, lanes: int) -> Val:
        return self.f.load(vec(lanes, "i16" if self.element else "float"), address, self.item)

    def _last(self, address: Val, left: Val) -> Val:
        """Eight elements, of which so many are there; of blocks all are."""
        if self.element:
            return self._stored(address, BLOCK)
        return self.f.masked_load(address, self.f.lane_mask(left, BLOCK), vec(BLOCK))


def _emit_alone(x: _Images) -> None:
    """Each image by one thread."""
    f = x.f
    with units(f, [x.images]) as (image,):
        scale = _Scale(f, *_range(x, image, f.const(0), count(f, x.units)))
        scale.store(f.gep(x.tables, image, SCALES))
        with walk(f, f.const(0), count(f, x.units), x.units) as turn:
            x.each(image, turn.indices, [], scale.round)
    f.ret()


def _emit_ranges(x: _Images) -> None:
    """The range of each part of each image."""
    f = x.f
    total = count(f, x.units)
    with units(f, [x.images, f.const(_PARTS)]) as (image, part):
        low, high = _range(x, image, *share(f, total, part, f.const(_PARTS)))
        here = f.gep(_ranges(f, x.tables, x.images, image), part, _FLOAT)
        f.store(low, here)
        f.store(high, f.gep(here, _PARTS * _FLOAT))
    f.ret()


def _range(x: _Images, image: Val, start: Val, stop: Val) -> tuple[Val, Val]:
    """The least and the largest element of some units and 0; NaN where one is no number."""
    if x.element:
        return _range_of_bits(x, image, start, stop)
    f = x.f
    zero = f.f32(0.0, _LANES)

    def wider(value: Val, target: Val, lanes: int, found: list[Val]) -> list[Val]:
        if lanes < _LANES:
            value = f.shuffle(value, value, [*range(lanes)] * (_LANES // lanes))
        low, high, odd = found
        low, high = mathlib.at_most(f, low, value), mathlib.at_least(f, high, value)
        return [low, high, f.fma(value, zero, odd)]  # of NaN and infinities NaN, else 0

    with walk(f, start, stop, x.units, [zero] * 3) as turn:
        turn.next(x.each(image, turn.indices, turn.values, wider))
    low, high, odd = turn.results
    low, high = across(f, low, mathlib.at_most), across(f, high, mathlib.at_least)
    return f.fadd(low, across(f, odd, add)), high


def _range_of_bits(x: _Images, image: Val, start: Val, stop: Val) -> tuple[Val, Val]:
    """The same of bfloat16, whose bits are in the order of its values: as integers with a sign from
    0 up, as integers without one from 0 down. What is no number lies behind all that are."""
    f = x.f

    def wider(value: Val, target: Val, lanes: int, found: list[Val]) -> list[Val]:
        if lanes < _LANES:
            value = f.shuffle(value, value, [*range(lanes)] * (_LANES // lanes))
        return [_lower(f, found[0], value), _upper(f, found[1], value)]

    with walk(f, start, stop, x.units, [const_int(0, vec(_LANES, "i16"))] * 2) as turn:
        turn.next(x.each(image, turn.indices, turn.values, wider))
    lower, upper = (across(f, v, j) for v, j in zip(turn.results, (_lower, _upper), strict=True))
    lower = f.select(f.icmp("slt", lower, 0), lower, f.const(0, "i16"))
    low, high = widen(f, lower), widen(f, upper)
    zero = f.f32(0.0)
    return f.fma(high, zero, f.fma(low, zero, low)), high


def _lower(f: Function, a: Val, b: Val) -> Val:
    return f.intrinsic("llvm.umax", a, b)


def _upper(f: Function, a: Val, b: Val) -> Val:
    return f.intrinsic("llvm.smax", a, b)


def _emit_rounded(x: _Images) -> None:
    """Images whose parts' ranges are there."""
    f = x.f
    with units(f, [x.images, *x.units]) as (image, *indices):
        scale = _scale(f, x.tables, x.images, image, indices)
        x.each(image, indices, [], scale.round)
    f.ret()


def _emit_planes(f: Function) -> None:
    """The same, of planes: four neighbours become the bytes of a pixel."""
    tables, source = (f.slot(f.args[0], i, "ptr") for i in range(2))
    steps = [f.slot(f.args[0], 2 + i) for i in range(3)]
    planes = Planes(f, 7)
    with planes.rows() as (image, group, plane, y):
        one = f.add(f.mul(image, planes.groups), group)
        scale = _scale(f, tables, f.mul(planes.images, planes.groups), one, [plane, y])
        first = f.shl(plane, 2)
        channel = f.add(f.mul(group, planes.channels), first)
        there = source
        for index, step in zip((image, channel, f.sub(y, planes.down)), steps, strict=True):
            there = f.gep(there, f.mul(index, step))
        last = f.sub(f.sub(planes.channels, first), 1)  # what is behind it meets weights of 0
        four = [f.gep(there, f.mul(f.smin(last, i), steps[1])) for i in range(4)]

        def some(at: Val, mask: Val | None) -> Val:
            return _word(scale, [get(f, f.gep(p, at, _FLOAT), PANEL, mask) for p in four])

        planes.fill(y, some, _word(scale, [f.f32(0.0, PANEL)] * 4))
    f.ret()


def _word(scale: _Scale, four: Sequence[Val]) -> Val:
    """Four elements in each lane."""
    f = scale.f
    word = const_int(0, vec(PANEL, "i32"))
    for i, value in enumerate(four):
        word = f.or_(word, f.shl(f.and_(scale.whole(value), 0xFF), 8 * i))
    return f.cast("bitcast", word, vec(PANEL))


def _ranges(f: Function, tables: Val, images: Val, image: Val) -> Val:
    """Where the ranges of an image's parts lie: their least elements, then their largest."""
    return f.gep(f.gep(tables, images, SCALES), image, _RANGES)


def _scale(f: Function, tables: Val, images: Val, image: Val, unit: Sequence[Val]) -> _Scale:
    """How an image is counted whose ranges are there; its first unit of work leaves that."""
    ranges = _ranges(f, tables, images, image)
    low, high = (f.load(vec(_PARTS), f.gep(ranges, i * _FLOAT * _PARTS)) for i in range(2))
    scale = _Scale(f, across(f, low, mathlib.minimum), across(f, high, mathlib.at_least))
    with _first(f, unit):
        scale.store(f.gep(tables, image, SCALES))
    return scale


@contextmanager
def _first(f: Function, indices: Sequence[Val]) -> Iterator[None]:
    """What is done at the first unit of an image only."""
    total = indices[0]
    for index in indices[1:]:
        total = f.add(total, index)
    with f.if_(f.icmp("eq", total, 0)):
        yield


class _Scale:
    """How the elements of one image are counted: byte = x / scale + zero, rounded to nearest."""

    def __init__(self, f: Function, low: Val, high: Val) -> None:
        self.f = f
        lower, upper = (f.fdiv(end, f.f32(_STEPS)) for end in (low, high))
        self.scale = mathlib.maximum(f, f.fsub(upper, lower), f.f32(_LEAST))
        self.times = f.fdiv(f.f32(1.0), self.scale)
        near = f.fma(f.fneg(low), self.times, f.f32(0.25))  # the ends come to -0.25 to 254.75
        signed = 0.0 if f.target.is_x86 else 128.0  # bytes have a sign
        rounded = f.fadd(near, f.f32(_WHOLE))
        self.zero = f.fsub(rounded, f.f32(_WHOLE + signed))

    def store(self, at: Val) -> None:
        """Leave what an epilogue reads: the scale, and less the byte that stands for 0."""
        f = self.f
        f.store(f.splat(self.scale, PANEL), at)
        whole = f.cast("bitcast", f.fsub(f.f32(_WHOLE), self.zero), "i32")
        zero = f.sub(whole, int(np.float32(_WHOLE).view(np.int32)))
        f.store(f.splat(zero, PANEL), f.gep(at, SCALES // 2))

    def whole(self, value: Val) -> Val:
        """Some elements as integers whose last eight bits are their bytes."""
        f, lanes = self.f, value.lanes
        value = value if value.element == "float" else widen(f, value)
        zero = f.splat(f.fadd(self.zero, f.f32(_WHOLE)), lanes)
        near = f.fma(value, f.splat(self.times, lanes), zero)
        return f.cast("bitcast", near, vec(lanes, "i32"))

    def round(self, value: Val, target: Val, lanes: int, nothing: list[Val]) -> list[Val]:
        """Store the bytes of some elements."""
        f = self.f
        f.store(f.cast("trunc", self.whole(value), vec(lanes, "i8")), target, 1)
        return nothing
