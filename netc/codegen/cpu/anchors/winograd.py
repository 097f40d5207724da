"""3×3 convolutions with a quarter of the products: Winograd's filtering F(4×4, 3×3).

Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A for each tile of 4×4 outputs, from the 6×6 inputs d around it; over
channels the ⊙ are 36 matrix products, which the matrix kernel does as 36 groups (Lavin and Gray,
"Fast Algorithms for Convolutional Neural Networks", 2016, §4.2 and 4.3). Three steps: inputs to
36 planes, products, planes to outputs; what lies between is scratch memory.

Sums are rounded more often: the errors are two to three times those of the other kernels with the
points ±5/8 and ±3/2 (eight times with the usual ±1 and ±2). An infinity or NaN among a tile's
inputs makes all its outputs NaN. Layers that are to be `exact` do without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from netc.codegen.cpu.anchors.access import Access, Args, pack_blocks
from netc.codegen.cpu.anchors.filters import FAR, NEAR, both_ways, filters
from netc.codegen.cpu.anchors.matrices import (
    Matrix,
    form_of,
    matrix_args,
    pixels_together,
    taps_of,
)
from netc.codegen.cpu.anchors.pairs import ITEM, are_pairs
from netc.codegen.cpu.anchors.results import Lane, Results, Row, Writer, lanes_of
from netc.codegen.cpu.anchors.units import units
from netc.codegen.cpu.emit import Function, Val, vec
from netc.codegen.cpu.gemm import Epilogue
from netc.codegen.cpu.lowering import Lowering
from netc.codegen.cpu.stored import SHORT, read, size_of, write
from netc.codegen.operand import BLOCK, SCRATCH, Call, Cost, Kernel, Operand, in_one_memory
from netc.ir.dims import Dim, ceil_div, least, most
from netc.ir.filtering import GATHER, PLANES, SEEN, SPREAD, TILE, tiles_of, usual_sizes
from netc.ir.ops.convolution import Conv
from netc.ir.plan import MadeArg
from netc.ir.types import DType, TensorType

MOST_SCRATCH = 16 << 20  # bytes for each image; large ones are cut into bands
MOST_BANDS = 128  # three calls each; in all larger images a band is about 4 % of the image
_FLOAT = 4  # bytes
_PIXEL = _FLOAT * BLOCK  # bytes
_LINE = 64  # bytes of a cache line


def _item(pairs: bool) -> int:
    """Bytes of an element of the maps that are multiplied."""
    return ITEM if pairs else _FLOAT


@dataclass(frozen=True)
class Planes:
    """36 maps in scratch memory, one value a tile: [N, 36, groups, channels of one, tiles]."""

    images: Dim
    groups: int
    channels: int
    tiles: tuple[Dim, Dim]  # down and across
    offset: Dim = 0
    pairs: bool = False  # of bfloat16

    @property
    def item(self) -> int:
        """Bytes of an element."""
        return _item(self.pairs)

    @property
    def apart(self) -> Dim:
        """Elements from group to group: an odd number of cache lines, or maps would share the
        same few places of a cache."""
        size, line = self.channels * self.tiles[0] * self.tiles[1], _LINE // self.item
        return ceil_div(size, 2 * line) * (2 * line) + line

    @property
    def size(self) -> Dim:
        """Bytes in all."""
        return self.images * (PLANES * self.groups * self.apart) * self.item

    @property
    def values(self) -> Dim:
        """Elements of all channels in one map, of all images."""
        return self.images * self.groups * self.channels * self.tiles[0] * self.tiles[1]

    @property
    def operand(self) -> Operand:
        """The same as channel blocks."""
        channels = PLANES * self.groups * self.channels
        type = TensorType(DType.F32, (self.images, channels, *self.tiles)).blocked()
        row = self.tiles[1] * BLOCK
        image = PLANES * self.groups * self.apart
        strides = (image, self.tiles[0] * row, row, BLOCK)
        element = SHORT if self.pairs else ""
        return Operand(type, SCRATCH, self.offset, strides, element=element)

    def put_into(self, args: Args) -> None:
        """What `_Maps` reads."""
        args.add(self.operand.pointer())
        image, block, row, _ = self.operand.strides
        for stride in (image, self.apart, block, row, self.groups * self.apart):
            args.size(self.item * stride)
        args.size(self.channels // BLOCK)


class _Maps:
    """The same in the code."""

    SLOTS = 7

    def __init__(self, f: Function, first: int) -> None:
        self.f, self.base = f, f.slot(f.args[0], first, "ptr")
        self.strides = [f.slot(f.args[0], first + 1 + i) for i in range(4)]
        self.apart, self.blocks = (f.slot(f.args[0], first + 5 + i) for i in range(2))

    def row(self, image: Val, block: Val, y: Val) -> Val:
        """The address of a row of tiles of a channel block."""
        f, place = self.f, self.base
        indices = (image, f.sdiv(block, self.blocks), f.srem(block, self.blocks), y)
        for index, stride in zip(indices, self.strides, strict=True):
            place = f.gep(place, f.mul(index, stride))
        return place

    def places(self, address: Val) -> list[Val]:
        """The same place in every map."""
        f = self.f
        return [address, *(f.gep(address, f.mul(self.apart, i)) for i in range(1, PLANES))]


@dataclass(frozen=True)
class Band:
    """Some rows of tiles, what is seen of the inputs and what the products sum up to."""

    first: Dim
    outs: int  # channels of a group that there are; the last block may have more
    seen: Planes
    summed: Planes


def lower_winograd(ctx: Lowering, k: Kernel) -> tuple[Call, ...]:
    """Three calls for each band of a convolution, which follow one another in one memory.

    In LOW the products are of pairs of bfloat16: what is summed before and after is float32.
    """
    x, w, *bias = k.anchor_operands()
    shape = w.type.sizes({})
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Conv)
    groups, pairs = k.anchor.op.groups, are_pairs(ctx, k.node, shape[1])
    plain = ctx.packed(w, ("conv", groups))
    products = filters(ctx, plain, shape, groups, pairs)
    bands = _bands(ctx.usual, x, groups, shape[0] // groups, shape[1], pairs)
    size = bands[0].seen.size + bands[0].summed.size
    calls: list[Call] = []
    for band in bands:
        calls.append(replace(_spread(ctx, x, band), gives=False))
        calls.append(replace(_products(ctx, band, products), gives=False))
        calls.append(replace(_gathered(ctx, k, band, bias), part=f"row {band.first}"))
    return in_one_memory(calls, size)


def _bands(
    sizes: Mapping[str, int], x: Operand, groups: int, outs: int, ins: int, pairs: bool
) -> list[Band]:
    """As many bands, all about alike, as the scratch memory asks for."""
    images, (down, across) = x.type.shape[0], tiles_of(x.type)
    usual = usual_sizes(x.type, (down, across), sizes)
    size = PLANES * math.prod(usual) * groups * (_item(pairs) * ins + _FLOAT * outs)
    count = min(usual[0], -(-size // MOST_SCRATCH), MOST_BANDS)
    each = ceil_div(down, count)
    start = Planes(images, groups, ins, (each, across), pairs=pairs).size
    bands = []
    for number in range(count):
        first = number * each
        if isinstance(down, int) and isinstance(first, int) and first >= down:
            break
        tiles = (most(1, least(each, down - first)), across)  # of small images some lie outside
        seen = Planes(images, groups, ins, tiles, pairs=pairs)
        summed = Planes(images, groups, -(-outs // BLOCK) * BLOCK, tiles, start)
        bands.append(Band(first, outs, seen, summed))
    return bands


def _products(ctx: Lowering, band: Band, weights: MadeArg) -> Call:
    """36 matrix products for each group, as groups of one."""
    seen, ins = band.seen.operand, band.seen.channels
    tiles, steps = seen.type.shape[2:], seen.strides[2:]
    taps, n8, n1 = taps_of(seen, ins, (1, 1), steps)
    m = Matrix(
        source=seen,
        shift=0,
        images=seen.type.shape[0],
        together=pixels_together(seen.type.shape[0], tiles),
        outputs=tiles,
        in_steps=steps,
        in_image=seen.strides[0],
        in_group=band.seen.apart,
        taps=taps,
        n8=n8,
        n1=n1,
        groups=PLANES * band.seen.groups,
        channels=band.outs,
        weights=weights,
        apart=band.summed.apart,
    )
    padded, form = band.outs % BLOCK != 0, form_of(seen)
    sums = Epilogue(lambda f, acc, channels, pixels: acc, padded=padded)
    symbol = ctx.shared(("sums", padded, form), lambda: ctx.gemm.kernel(sums, form))
    flops = 2 * PLANES * band.seen.values * band.summed.channels
    weights_bytes = band.seen.item * PLANES * band.seen.groups * ins * band.summed.channels
    moved = band.seen.size + band.summed.size + weights_bytes
    args = tuple(matrix_args(ctx, m, band.summed.operand))
    return Call(symbol, args, cost=Cost("products of tiles", flops, moved))


# ---- inputs to planes -------------------------------------------------------------------------


def _spread(ctx: Lowering, x: Operand, band: Band) -> Call:
    """Bᵀ d B of every tile; zeros of the halo stand for whatever lies outside."""
    assert all(h >= 1 for h in x.halo), "padding needs a halo"
    args = Args()
    args.access(Access(x.pointer(), DType.F32, x.strides, element=x.element))
    band.seen.put_into(args)
    images, blocks, height, width = x.sizes
    for d in (images, blocks, *band.seen.tiles, height, width, band.first):
        args.size(d)
    pairs = band.seen.pairs
    key = ("winograd", "spread", x.element, pairs)
    symbol = ctx.code(key, lambda f: _emit_spread(f, x.element, pairs))
    moved = band.seen.size + x.item * TILE * TILE * band.seen.values
    cost = Cost("inputs to tiles", SPREAD * band.seen.values, moved)
    return Call(symbol, tuple(args.items), cost=cost)


def _emit_spread(f: Function, element: str, pairs: bool) -> None:
    item, seen = _item(pairs), size_of(DType.F32, element)
    source, strides = f.slot(f.args[0], 0, "ptr"), [f.slot(f.args[0], 1 + i) for i in range(3)]
    maps = _Maps(f, 6)
    sizes = [f.slot(f.args[0], 6 + maps.SLOTS + i) for i in range(7)]
    images, blocks, down, across, height, width, first = sizes
    with units(f, [images, blocks, down]) as (image, block, y):
        plane = f.gep(f.gep(source, f.mul(image, strides[0])), f.mul(block, strides[1]))
        rows = [f.gep(plane, f.mul(r, strides[2])) for r in _inside(f, f.add(y, first), height)]
        out = maps.row(image, block, y)
        with f.loop(0, across) as turn:
            columns = [f.mul(c, seen * BLOCK) for c in _inside(f, turn.index, width)]
            places = maps.places(f.gep(out, turn.index, item * BLOCK))
            for part in lanes_of(f, True):
                lines = [f.gep(row, seen * part.first) for row in rows]
                tile = [[read(f, f.gep(r, c), part.count, element) for c in columns] for r in lines]
                values = both_ways(f, tile, _spread_line)
                for place, value in zip(places, values, strict=True):
                    write(f, value, f.gep(place, item * part.first), SHORT if pairs else "")
    f.ret()


def _inside(f: Function, tile: Val, size: Val) -> list[Val]:
    """The places along an axis that a tile sees; −1, a zero of the halo, for those beyond it."""
    first = f.sub(f.shl(tile, 2), 1)
    places = [f.add(first, i) for i in range(SEEN)]
    return [*places[:2], *(f.select(f.icmp("sle", p, size), p, f.const(-1)) for p in places[2:])]


def _read(f: Function, address: Val, part: Lane) -> Val:
    return f.load(vec(part.count), f.gep(address, 4 * part.first))


def _spread_line(f: Function, d: Sequence[Val]) -> list[Val]:
    """Bᵀ d: what is left of Π(x − points) when one of the points is taken out, at each."""
    both, product = NEAR**2 + FAR**2, (NEAR * FAR) ** 2

    def pair(point: float, other: float) -> list[Val]:
        even, odd = _times(f, -(other**2), d[2], d[4]), _times(f, -(other**2), d[1], d[3])
        return [_times(f, p, odd, even) for p in (point, -point)]

    first, last = (_times(f, product, d[i], _times(f, -both, d[i + 2], d[i + 4])) for i in (0, 1))
    return [first, *pair(NEAR, FAR), *pair(FAR, NEAR), last]


def _times(f: Function, factor: float, a: Val, b: Val) -> Val:
    """factor · a + b."""
    return f.fma(f.f32(factor, a.lanes), a, b)


# ---- planes to outputs ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gather:
    """What the code depends on."""

    results: Results = field(compare=False)
    bias: bool


def _gathered(ctx: Lowering, k: Kernel, band: Band, bias: Sequence[Operand]) -> Call:
    """Aᵀ m A of every tile, plus bias, through the element-wise tail."""
    results = Results(ctx, k, blocked=True)
    args = Args()
    band.summed.put_into(args)
    values = np.asarray(bias[0].array if bias else np.zeros(BLOCK), np.float32)
    args.add(ctx.weight(pack_blocks(values.reshape(1, -1, 1, 1))))
    for d in (*band.summed.tiles, band.first):
        args.size(d)
    results.arguments(args)
    g = _Gather(results, bool(bias))
    symbol = ctx.code(("winograd", g, results.key), lambda f: _Gathered(f, g).emit())
    moved = band.summed.size + _FLOAT * TILE * TILE * band.summed.values
    cost = Cost("tiles to results", GATHER * band.summed.values, moved)
    return Call(symbol, tuple(args.items), cost=cost)


class _Gathered:
    def __init__(self, f: Function, g: _Gather) -> None:
        self.f, self.g = f, g
        self.maps = _Maps(f, 0)
        at = self.maps.SLOTS
        self.bias = f.slot(f.args[0], at, "ptr")
        self.down, self.across, self.first = (f.slot(f.args[0], at + 1 + i) for i in range(3))
        self.writer = Writer(f, g.results, at + 4)
        self.held = f.alloca(TILE * TILE * _PIXEL)

    def emit(self) -> None:
        """The kernel: one unit is a row of tiles of one channel block."""
        f = self.f
        images, blocks, height, width = self.writer.sizes
        with units(f, [images, blocks, self.down]) as (image, block, y):
            source = self.maps.row(image, block, y)
            first, last = f.shl(f.add(y, self.first), 2), f.sub(height, 1)
            lines = [f.smin(f.add(first, i), last) for i in range(TILE)]
            rows = [self.writer.row([image, block, line]) for line in lines]
            bias = f.gep(self.bias, f.mul(block, _PIXEL))
            fits = f.icmp("sle", f.add(first, TILE), height)
            whole = f.select(fits, f.ashr(width, 2), f.const(0))
            with f.loop(0, whole) as turn:
                self._whole_tile(f.gep(source, turn.index, _PIXEL), bias, rows, turn.index)
            count = f.smin(f.sub(height, first), TILE)
            with f.loop(whole, self.across) as turn:
                self._hold(f.gep(source, turn.index, _PIXEL), bias)
                self._put_held([image, block, first], count, turn.index)
        f.ret()

    def _tile(self, source: Val, bias: Val, part: Lane) -> list[Val]:
        """The 16 outputs of one tile in some lanes, row by row."""
        f = self.f
        sums = [_read(f, place, part) for place in self.maps.places(source)]
        tile = [sums[i : i + SEEN] for i in range(0, PLANES, SEEN)]
        values = both_ways(f, tile, _gather_line)
        if not self.g.bias:
            return values
        added = f.load(vec(part.count), f.gep(bias, 4 * part.first))
        return [f.fadd(v, added) for v in values]

    def _whole_tile(self, source: Val, bias: Val, rows: Sequence[Row], x: Val) -> None:
        at = self.f.shl(x, 5)  # elements: four pixels of eight
        for part in lanes_of(self.f, True):
            for i, value in enumerate(self._tile(source, bias, part)):
                rows[i // TILE].put(value, at, i % TILE * BLOCK + part.first)

    def _hold(self, source: Val, bias: Val) -> None:
        """The outputs of a tile on the stack."""
        f = self.f
        for part in lanes_of(f, True):
            for i, value in enumerate(self._tile(source, bias, part)):
                f.store(value, f.gep(self.held, i * _PIXEL + 4 * part.first))

    def _put_held(self, indices: list[Val], rows: Val, x: Val) -> None:
        """Of a tile on the stack those outputs that exist."""
        f = self.f
        image, block, first = indices
        start = f.shl(x, 2)
        count = f.smin(f.sub(self.writer.sizes[3], start), TILE)
        with f.loop(0, rows) as line:
            row = self.writer.row([image, block, f.add(first, line.index)])
            here = f.gep(self.held, line.index, TILE * _PIXEL)
            with f.loop(0, count) as turn:
                at = f.shl(f.add(start, turn.index), 3)
                for part in lanes_of(f, True):
                    place = f.gep(f.gep(here, turn.index, _PIXEL), 4 * part.first)
                    row.put(f.load(vec(part.count), place), at, part.first)


def _gather_line(f: Function, m: Sequence[Val]) -> list[Val]:
    """Aᵀ m: powers 0 to 3 of the points."""
    even = [f.fadd(m[i], m[i + 1]) for i in (1, 3)]
    odd = [f.fsub(m[i], m[i + 1]) for i in (1, 3)]

    def power(n: int, pair: Sequence[Val]) -> Val:
        near = f.fmul(f.f32(NEAR**n, pair[0].lanes), pair[0])
        return _times(f, FAR**n, pair[1], near)

    total = f.fadd(f.fadd(m[0], even[0]), even[1])
    return [total, power(1, odd), power(2, even), f.fadd(power(3, odd), m[5])]
