"""The one driver of convolutions and inner products, and the epilogues that end them.

A unit of work is (images together, pixel block, panels of output channels, group). Units do not
depend on the number of threads, so neither do results. In a unit, chunks of K pass over the
block's tiles, sums waiting in a few kilobytes of stack; then the epilogue, written for one fused
body, turns sums into outputs. Blocks and tiles are cut evenly, so there are no thin edge tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netc.codegen.cpu.emit import Function, Int, Module, Val, vec
from netc.codegen.cpu.microkernel import PANEL_ROW, microkernels
from netc.ir.gemm_plan import BLOCK, PANEL, SCRATCH, Slot

Body = Callable[[Function, Val, Sequence[Val], Sequence[Val]], Val]

# args, scratch, first pixel, pixels, panel, panels, first image, group
EPILOGUE_PARAMS = ("ptr", "ptr", "i64", "i64", "i64", "i64", "i64", "i64")
_UNIT_PARAMS = ("ptr", "ptr", "i64", "i64", "i64", "i64", "ptr")
_PIXEL_SLOTS = 4


@dataclass(frozen=True)
class Epilogue:
    """What becomes of sums: `body(f, sums, channel operands, pixel operands)` on a few lanes.

    `padded`: the channels of a group are no multiple of eight, so lanes beyond them are stored
    as zero. `rows`: the output is plain rows, where lanes beyond the channels are not touched.
    """

    body: Body
    channels: int = 0
    pixels: int = 0
    padded: bool = True
    rows: bool = False

    def slots(self) -> int:
        """Eight-byte slots of the whole argument block."""
        return Slot.OPERANDS + self.channels + _PIXEL_SLOTS * self.pixels


class GemmFamily:
    """The microkernels and the driver of one module, emitted once at first use."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self._driver: Function | None = None

    def kernel(self, epilogue: Epilogue) -> Function:
        """A kernel `(args, tid, nthreads)` with this epilogue."""
        if self._driver is None:
            table = microkernels(self.module)
            self._driver = _driver(self.module, _unit(self.module, table))
        finish = _epilogue(self.module, epilogue)
        f = self.module.kernel()
        f.call(self._driver, *f.args, finish.pointer)
        f.ret()
        return f


class _Slots:
    """Reads of one argument block."""

    def __init__(self, f: Function, args: Val) -> None:
        self.f, self.args = f, args

    def size(self, slot: int) -> Val:
        """A size or a stride."""
        return self.f.slot(self.args, slot)

    def ptr(self, slot: int) -> Val:
        """An address."""
        return self.f.slot(self.args, slot, "ptr")


def _ceil_div(f: Function, a: Val, b: Val) -> Val:
    return f.sdiv(f.add(a, f.sub(b, 1)), b)


def _share(f: Function, total: Val, part: Int, parts: Val) -> Val:
    """Where part `part` of `total` things cut into `parts` begins."""
    return f.sdiv(f.mul(total, part), parts)


def _driver(module: Module, unit: Function) -> Function:
    """Cut the units among threads in contiguous runs; decode and do each."""
    f = module.function("gemm", ("ptr", "i64", "i64", "ptr"), internal=True)
    args, tid, nthreads, finish = f.args
    slots = _Slots(f, args)
    images, together = slots.size(Slot.IMAGES), slots.size(Slot.TOGETHER)
    per_image, block = slots.size(Slot.PER_IMAGE), slots.size(Slot.PIXEL_BLOCK)
    ntiles = slots.size(Slot.NTILES)
    outer = f.icmp("ne", slots.size(Slot.CHANNELS_OUTER), 0)
    most = f.mul(together, per_image)
    blocks_each = _ceil_div(f, most, block)
    blocks = f.mul(_ceil_div(f, images, together), blocks_each)
    columns = f.mul(slots.size(Slot.GROUPS), ntiles)
    total = f.mul(blocks, columns)
    fast = f.select(outer, blocks, columns)
    start = _share(f, total, tid, nthreads)
    stop = _share(f, total, f.add(tid, 1), nthreads)
    with f.loop(start, stop) as turn:
        slow_index, fast_index = f.sdiv(turn.index, fast), f.srem(turn.index, fast)
        column = f.select(outer, slow_index, fast_index)
        row = f.select(outer, fast_index, slow_index)
        first = f.mul(f.sdiv(row, blocks_each), together)
        here = f.mul(f.smin(together, f.sub(images, first)), per_image)
        count = _ceil_div(f, here, block)
        number = f.srem(row, blocks_each)
        with f.if_(f.icmp("slt", number, count)):
            p0 = _share(f, here, number, count)
            p1 = _share(f, here, f.add(number, 1), count)
            tile = f.gep(slots.ptr(Slot.TILES), f.srem(column, ntiles), 16)
            group = f.sdiv(column, ntiles)
            f.call(unit, args, tile, p0, f.sub(p1, p0), first, group, finish)
    f.ret()
    return f


def _unit(module: Module, table: Val) -> Function:
    """All of K for one block of pixels and one tile of panels, then the epilogue."""
    f = module.function("gemm_unit", _UNIT_PARAMS, internal=True)
    args, tile, p0, pixels, first, group, finish = f.args
    slots = _Slots(f, args)
    scratch = f.alloca(SCRATCH)
    panel, panels, most = (f.sext(f.load("i32", f.gep(tile, 4 * i))) for i in range(3))
    n8, n1 = slots.size(Slot.N8), slots.size(Slot.N1)
    stride = f.mul(f.add(f.mul(n8, BLOCK), n1), PANEL_ROW)
    index = f.add(f.mul(group, slots.size(Slot.PANELS)), panel)
    weights = f.gep(slots.ptr(Slot.WEIGHTS), f.mul(index, stride))
    shift = f.mul(first, slots.size(Slot.IMAGE_STRIDE))
    shift = f.add(shift, f.mul(group, slots.size(Slot.GROUP_STRIDE)))
    source = f.gep(slots.ptr(Slot.INPUT), shift, 4)
    offsets = f.gep(slots.ptr(Slot.PIXELS), p0, 4)
    tiles = _ceil_div(f, pixels, most)
    thin, fat = f.sdiv(pixels, tiles), f.srem(pixels, tiles)  # the first `fat` have one more
    kernels = f.gep(table, f.mul(panels, 16), 4)
    chunks = f.smax(_ceil_div(f, n8, slots.size(Slot.CHUNK)), 1)
    with f.loop(0, chunks) as chunk:
        begin = _share(f, n8, chunk.index, chunks)
        end = _share(f, n8, f.add(chunk.index, 1), chunks)
        steps = f.sub(end, begin)
        last = f.icmp("eq", chunk.index, f.sub(chunks, 1))
        singles = f.select(last, n1, f.const(0))
        taps = f.gep(slots.ptr(Slot.TAPS), begin, 4)
        rows = f.gep(weights, begin, BLOCK * PANEL_ROW)
        with f.loop(0, tiles) as turn:
            at = f.add(f.mul(turn.index, thin), f.smin(turn.index, fat))
            count = f.add(thin, f.zext(f.icmp("slt", turn.index, fat)))
            distance = f.sext(f.load("i32", f.gep(kernels, count, 4)))
            sums = f.gep(scratch, f.mul(at, f.mul(panels, PANEL_ROW)))
            here = f.gep(offsets, at, 4)
            kernel = f.gep(table, distance)
            f.call(kernel, source, here, taps, steps, singles, rows, stride, sums, chunk.index)
    f.call(finish, args, scratch, p0, pixels, panel, panels, first, group)
    f.ret()
    return f


class _Place:
    """Where eight channels of a block's pixels lie in one blocked or row-major tensor."""

    def __init__(self, slots: _Slots, at: int, first: Val, channel: Val, p0: Val) -> None:
        f = self.f = slots.f
        shift = f.mul(first, slots.size(at + 2))
        shift = f.add(shift, f.mul(f.lshr(channel, 3), slots.size(at + 3)))
        self.base = f.gep(slots.ptr(at), shift, 4)
        self.offsets = f.gep(slots.ptr(at + 1), p0, 4)

    def pixel(self, index: Val) -> Val:
        """The address of pixel `index` of the block."""
        f = self.f
        offset = f.sext(f.load("i32", f.gep(self.offsets, index, 4)))
        return f.gep(self.base, offset, 4)


def _epilogue(module: Module, epilogue: Epilogue) -> Function:
    """Eight channels at a time, pixel by pixel: sums and operands in, outputs out."""
    f = module.function(f"e{len(module.functions)}", EPILOGUE_PARAMS, internal=True)
    args, scratch, p0, pixels, panel, panels, first, group = f.args
    slots = _Slots(f, args)
    limit = slots.size(Slot.OUT_CHANNELS)
    padded = f.mul(slots.size(Slot.PANELS), f.mul(group, PANEL))
    start = f.mul(panel, PANEL)
    stop = f.smin(f.add(start, f.mul(panels, PANEL)), limit)
    with f.loop(start, stop, BLOCK) as turn:
        channel = f.add(f.mul(group, limit), turn.index)
        places = [_Place(slots, Slot.OUTPUT, first, channel, p0)]
        operands = Slot.OPERANDS + epilogue.channels
        for i in range(epilogue.pixels):
            places.append(_Place(slots, operands + _PIXEL_SLOTS * i, first, channel, p0))
        lane = _Lanes(f, epilogue, f.sub(limit, turn.index))
        constants = [
            lane.read(f.gep(slots.ptr(Slot.OPERANDS + i), f.add(padded, turn.index), 4), False)
            for i in range(epilogue.channels)
        ]
        sums = f.gep(scratch, f.sub(turn.index, start), 4)
        with f.loop(0, pixels) as pixel:
            row = f.gep(sums, f.mul(pixel.index, f.mul(panels, PANEL_ROW)))
            out, *rest = [place.pixel(pixel.index) for place in places]
            read = [lane.read(p, epilogue.rows) for p in rest]
            for part, acc in enumerate(lane.read(row, False)):
                chosen = [c[part] for c in constants]
                value = epilogue.body(f, acc, chosen, [r[part] for r in read])
                lane.write(part, value, out)
    f.ret()
    return f


class _Lanes:
    """Eight channels as vectors of the target, and which of them exist."""

    def __init__(self, f: Function, epilogue: Epilogue, left: Val) -> None:
        self.f, self.epilogue = f, epilogue
        self.lanes = min(BLOCK, f.target.lanes)
        self.parts = range(BLOCK // self.lanes)
        self.masks = [
            f.lane_mask(f.sub(left, part * self.lanes), self.lanes)
            for part in self.parts
            if epilogue.padded
        ]

    def _address(self, base: Val, part: int) -> Val:
        return self.f.gep(base, 4 * self.lanes * part)

    def read(self, base: Val, partial: bool) -> list[Val]:
        """Eight floats; when `partial`, only those that exist are touched."""
        f, type = self.f, vec(self.lanes)
        if partial and self.masks:
            return [f.masked_load(self._address(base, p), self.masks[p], type) for p in self.parts]
        return [f.load(type, self._address(base, p)) for p in self.parts]

    def write(self, part: int, value: Val, base: Val) -> None:
        """Existing lanes, and zeros beyond them where the layout has room."""
        f, address = self.f, self._address(base, part)
        if not self.masks:
            f.store(value, address)
        elif self.epilogue.rows:
            f.masked_store(value, address, self.masks[part])
        else:
            zero = f.f32(0.0, self.lanes)
            f.store(f.select(self.masks[part], value, zero), address)
