"""The one driver of convolutions and inner products, and the epilogues that end them.

A unit of work is (images together, pixel block, panels of output channels, group). Units do not
depend on the number of threads, so neither do results. In a unit, chunks of K pass over the
block's tiles, sums waiting in a few kilobytes of stack; then the epilogue, written for one fused
body, turns sums into outputs. Blocks and tiles are cut evenly, so there are no thin edge tiles.
"""

from __future__ import annotations

from netc.codegen.cpu.emit import Function, Int, Module, Val
from netc.codegen.cpu.epilogue import Epilogue, Slots, emit_epilogue
from netc.codegen.cpu.microkernel import PANEL_ROW, microkernels
from netc.ir.gemm_plan import BLOCK, SCRATCH, Slot

__all__ = ["Epilogue", "GemmFamily"]

_UNIT_PARAMS = ("ptr", "ptr", "i64", "i64", "i64", "i64", "ptr")


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
        finish = emit_epilogue(self.module, epilogue)
        f = self.module.kernel()
        f.call(self._driver, *f.args, finish.pointer)
        f.ret()
        return f


def _ceil_div(f: Function, a: Val, b: Val) -> Val:
    return f.sdiv(f.add(a, f.sub(b, 1)), b)


def _share(f: Function, total: Val, part: Int, parts: Val) -> Val:
    """Where part `part` of `total` things cut into `parts` begins."""
    return f.sdiv(f.mul(total, part), parts)


def _driver(module: Module, unit: Function) -> Function:
    """Cut the units among threads in contiguous runs; decode and do each."""
    f = module.function("gemm", ("ptr", "i64", "i64", "ptr"), internal=True)
    args, tid, nthreads, finish = f.args
    slots = Slots(f, args)
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
    slots = Slots(f, args)
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
    enough = f.smin(panels, f.lshr(pixels, 2))  # a tile for each panel to be asked for ahead
    tiles = f.smax(_ceil_div(f, pixels, most), enough)
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
        size = f.mul(f.sub(end, begin), BLOCK * PANEL_ROW)
        beyond = f.sub(f.mul(stride, panels), f.mul(begin, BLOCK * PANEL_ROW))
        later = f.select(last, beyond, size)
        with f.loop(0, tiles) as turn:
            at = f.add(f.mul(turn.index, thin), f.smin(turn.index, fat))
            count = f.add(thin, f.zext(f.icmp("slt", turn.index, fat)))
            distance = f.sext(f.load("i32", f.gep(kernels, count, 4)))
            sums = f.gep(scratch, f.mul(at, f.mul(panels, PANEL_ROW)))
            here = f.gep(offsets, at, 4)
            ahead = f.add(later, f.mul(turn.index, stride))
            ahead = f.select(f.icmp("slt", turn.index, panels), ahead, f.const(0))
            kernel, again = f.gep(table, distance), chunk.index
            f.call(kernel, source, here, taps, steps, singles, rows, stride, sums, again, ahead)
    f.call(finish, args, scratch, p0, pixels, panel, panels, first, group)
    f.ret()
    return f
