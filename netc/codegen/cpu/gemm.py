"""The one driver of convolutions and inner products, and the epilogues that end them.

A unit of work is (images together, pixel block, panels of output channels, group). No result
depends on how units are cut or who does them. In a unit, chunks of K pass over the
block's tiles, sums waiting in a few kilobytes of stack; then the epilogue, written for one fused
body, turns sums into outputs. Blocks and tiles are cut evenly, so there are no thin edge tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from netc.codegen.cpu.emit import Function, Int, Module, Val
from netc.codegen.cpu.epilogue import Epilogue, Slots, emit_epilogue
from netc.codegen.cpu.microkernel import (
    FORMS,
    PAIRS,
    PANEL_ROW,
    QUADS,
    SINGLES,
    Form,
    microkernels,
    tile_pixels,
)
from netc.ir.gemm_plan import PARTS, SCRATCH, Slot

__all__ = ["FORMS", "PAIRS", "QUADS", "SINGLES", "Epilogue", "Form", "GemmFamily", "emit_gemm"]

_WORD, _LINE = 8, 64  # bytes
_UNITS = 6  # for each thread at least, where there are pixels enough
_LEAST_PIXELS = 12  # of a block cut small for the sake of threads
_UNIT_PARAMS = ("ptr", *("i64",) * 6, "ptr")  # panel, panels, pixel, pixels, image, group

_DRIVER_PARAMS = ("ptr", "i64", "i64", "ptr")


class GemmFamily:
    """The matrix kernels of one module; microkernels and drivers are in libraries of their own."""

    def __init__(self, module: Module) -> None:
        self.module = module

    def kernel(self, epilogue: Epilogue, form: Form) -> Function:
        """A kernel `(args, tid, nthreads)` with this epilogue."""
        driver = self.module.external(form.driver, _DRIVER_PARAMS)
        finish = emit_epilogue(self.module, epilogue)
        f = self.module.kernel()
        f.call(driver, *f.args, finish.pointer)
        f.ret()
        return f


def emit_gemm(module: Module, form: Form) -> None:
    """Add the microkernels and the driver to a module."""
    _driver(module, form, _unit(module, form, microkernels(module, form)))


def _ceil_div(f: Function, a: Val, b: Int) -> Val:
    return f.sdiv(f.add(a, f.sub(b, 1)), b)


def _share(f: Function, total: Val, part: Int, parts: Val) -> Val:
    """Where part `part` of `total` things cut into `parts` begins."""
    return f.sdiv(f.mul(total, part), parts)


class _Cut:
    """How a kernel's work is cut: blocks of pixels by columns (tiles of panels, group by group).

    Pixels sum over K in one order whatever the cut, so several threads may have smaller blocks
    than one: small images would else keep one thread only.
    """

    def __init__(self, f: Function, slots: Slots, nthreads: Val) -> None:
        self.f = f
        self.images, self.together = slots.size(Slot.IMAGES), slots.size(Slot.TOGETHER)
        self.per_image, self.width = slots.size(Slot.PER_IMAGE), slots.size(Slot.PANELS)
        self.ntiles = _ceil_div(f, self.width, max(tile_pixels(f.target)))
        self.panels = f.mul(slots.size(Slot.GROUPS), self.width)
        self.columns = f.mul(slots.size(Slot.GROUPS), self.ntiles)
        self.outer = f.icmp("ne", slots.size(Slot.CHANNELS_OUTER), 0)
        rounds = _ceil_div(f, self.images, self.together)
        pixels = f.mul(self.together, self.per_image)
        largest = slots.size(Slot.PIXEL_BLOCK)
        usual = _ceil_div(f, pixels, largest)
        with f.if_(f.icmp("sgt", nthreads, 1)) as shared:
            shared.give([f.smax(usual, self._wanted(pixels, rounds, nthreads))])
            shared.otherwise()
            shared.give([usual])
        self.each = shared.results[0]  # blocks of one round
        self.blocks = f.mul(rounds, self.each)
        self.block = _ceil_div(f, pixels, f.smax(self.each, 1))

    def _wanted(self, pixels: Val, rounds: Val, nthreads: Val) -> Val:
        """Blocks of a round that give every thread some units, and alike ones."""
        f = self.f
        have = f.smax(f.mul(rounds, self.columns), 1)
        needed = _ceil_div(f, f.mul(nthreads, _UNITS), have)
        bounded = f.smin(needed, f.sdiv(pixels, _LEAST_PIXELS))
        even = f.sub(bounded, f.srem(bounded, nthreads))
        return f.select(f.icmp("sge", bounded, nthreads), even, bounded)

    def start(self, tid: Val, nthreads: Val) -> Val:
        """The first unit of thread `tid`: cut by panels, as tiles differ in width."""
        f = self.f
        at = _share(f, f.mul(self.panels, self.blocks), tid, nthreads)
        with f.if_(self.outer) as side:
            column, begin, width = self._column(f.sdiv(at, self.blocks))
            block = f.sdiv(f.sub(at, f.mul(begin, self.blocks)), width)
            side.give([f.add(f.mul(column, self.blocks), block)])
            side.otherwise()
            column, _, _ = self._column(f.srem(at, self.panels))
            side.give([f.add(f.mul(f.sdiv(at, self.panels), self.columns), column)])
        return side.results[0]

    def _column(self, panel: Val) -> tuple[Val, Val, Val]:
        """The column that holds a panel, its first panel, and its width."""
        f = self.f
        group, inside = f.sdiv(panel, self.width), f.srem(panel, self.width)
        index = f.sdiv(f.sub(f.mul(f.add(inside, 1), self.ntiles), 1), self.width)
        begin, width = self.tile(index)
        column = f.add(f.mul(group, self.ntiles), index)
        return column, f.add(f.mul(group, self.width), begin), width

    def tile(self, index: Val) -> tuple[Val, Val]:
        """The first panel of a tile of a group, and how many it has.

        Panels are cut evenly: one alone is bound by its loads, a fifth slower than several.
        """
        begin = _share(self.f, self.width, index, self.ntiles)
        end = _share(self.f, self.width, self.f.add(index, 1), self.ntiles)
        return begin, self.f.sub(end, begin)


def _driver(module: Module, form: Form, unit: Function) -> Function:
    """Cut the units into runs, one a thread; who is done takes units of the others' runs.

    Each run has a counter of the units taken. Every thread looks in vain once for more in each,
    and the last to do so sets the counter back for the next time.
    """
    f = module.function(form.driver, _DRIVER_PARAMS)
    args, tid, nthreads, finish = f.args
    cut = _Cut(f, Slots(f, args), nthreads)
    with f.if_(f.icmp("sgt", f.mul(cut.blocks, cut.columns), 0)):
        parts = f.smin(nthreads, PARTS)
        home = f.sdiv(f.mul(tid, parts), nthreads)
        with f.loop(0, parts) as visit:
            part = f.srem(f.add(home, visit.index), parts)
            begin = cut.start(part, parts)
            size = f.sub(cut.start(f.add(part, 1), parts), begin)
            counter = f.gep(f.gep(args, Slot.COUNTERS * _WORD), part, _LINE)
            with _taken(f, counter, size, nthreads) as index:
                _do(f, cut, f.add(begin, index), unit, finish)
    f.ret()
    return f


@contextmanager
def _taken(f: Function, counter: Val, size: Val, nthreads: Val) -> Iterator[Val]:
    """Each unit this thread takes of a run, until there is none left."""
    turn, work, done = (f.new_label() for _ in range(3))
    f.emit(f"br label %{turn}")
    f.label(turn)
    index = f.atomic_add(counter, f.const(1), "monotonic")
    f.emit(f"br {f.icmp('slt', index, size)}, label %{work}, label %{done}")
    f.label(work)
    yield index
    f.emit(f"br label %{turn}")
    f.label(done)
    last = f.icmp("eq", index, f.sub(f.add(size, nthreads), 1))
    with f.if_(last):
        f.atomic_store(f.const(0), counter, "monotonic")


def _do(f: Function, cut: _Cut, index: Val, unit: Function, finish: Val) -> None:
    """Decode a unit's number and do it."""
    args = f.args[0]
    fast = f.select(cut.outer, cut.blocks, cut.columns)
    slow_index, fast_index = f.sdiv(index, fast), f.srem(index, fast)
    column = f.select(cut.outer, slow_index, fast_index)
    row = f.select(cut.outer, fast_index, slow_index)
    first = f.mul(f.sdiv(row, cut.each), cut.together)
    here = f.mul(f.smin(cut.together, f.sub(cut.images, first)), cut.per_image)
    number = f.srem(row, cut.each)
    count = _ceil_div(f, here, cut.block)  # fewer in a last round of fewer images
    with f.if_(f.icmp("slt", number, count)):
        p0 = _share(f, here, number, count)
        p1 = _share(f, here, f.add(number, 1), count)
        panel, panels = cut.tile(f.srem(column, cut.ntiles))
        group = f.sdiv(column, cut.ntiles)
        f.call(unit, args, panel, panels, p0, f.sub(p1, p0), first, group, finish)


def _most_pixels(f: Function, panels: Val) -> Val:
    """The most pixels that a tile of so many panels may have."""
    (_, most), *rest = sorted(tile_pixels(f.target).items())
    found = f.const(most)
    for width, pixels in rest:
        found = f.select(f.icmp("eq", panels, width), f.const(pixels), found)
    return found


def _unit(module: Module, form: Form, table: Val) -> Function:
    """All of K for one block of pixels and one tile of panels, then the epilogue."""
    f = module.function("gemm_unit", _UNIT_PARAMS, internal=True)
    args, panel, panels, p0, pixels, first, group, finish = f.args
    slots = Slots(f, args)
    scratch = f.alloca(SCRATCH)
    n8, n1 = slots.size(Slot.N8), slots.size(Slot.N1)
    stride = f.mul(f.add(f.mul(n8, form.rows), n1), PANEL_ROW)
    index = f.add(f.mul(group, slots.size(Slot.PANELS)), panel)
    weights = f.gep(slots.ptr(Slot.WEIGHTS), f.mul(index, stride))
    shift = f.mul(first, slots.size(Slot.IMAGE_STRIDE))
    shift = f.add(shift, f.mul(group, slots.size(Slot.GROUP_STRIDE)))
    source = f.gep(slots.ptr(Slot.INPUT), shift, form.item)
    offsets = f.gep(slots.ptr(Slot.PIXELS), p0, 4)
    enough = f.smin(panels, f.lshr(pixels, 2))  # a tile for each panel to be asked for ahead
    tiles = f.smax(_ceil_div(f, pixels, _most_pixels(f, panels)), enough)
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
        rows = f.gep(weights, begin, form.eight)
        size = f.mul(f.sub(end, begin), form.eight)
        beyond = f.sub(f.mul(stride, panels), f.mul(begin, form.eight))
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
