"""Products of a few rows: each element of the second matrix is read once, as it lies.

Packing it for the matrix kernels would take longer than the product. Where its columns are
contiguous, each result is a sum along one; where its rows are, some of them at a time are added to
the results. Sums are cut into blocks of the depth, so that errors stay small.
"""

from __future__ import annotations

from dataclasses import replace

from netc.codegen.cpu.anchors.access import Access, Args
from netc.codegen.cpu.anchors.folds import add, each_vector, fold_row, get, put
from netc.codegen.cpu.anchors.units import ceil_div, units
from netc.codegen.cpu.emit import Function, Val
from netc.codegen.cpu.lowering import Lowering
from netc.codegen.operand import Call
from netc.ir.dims import Dim
from netc.ir.gemm_plan import PANEL

_MOST = 4  # rows
_FLOAT = 4  # bytes
_COLUMNS = {False: 1024, True: 32}  # of one unit: of contiguous rows, of contiguous columns
_FACTORS = 8  # held in registers
_BLOCK = 512  # places of the depth that are summed by themselves


def few_rows(
    ctx: Lowering, x: Access, y: Access, out: Access, shape: tuple[Dim, ...], depth: Dim
) -> Call | None:
    """out = x · y over the batch, of this shape; operands by strides over batch, rows, columns.

    None where there are many rows, or nothing lies as these kernels read and write it.
    """
    *batch, rows, columns = shape
    if not isinstance(rows, int) or not 0 < rows <= _MOST:
        return None
    narrow = isinstance(columns, int) and columns < PANEL
    by_rows = y.strides[-1] == out.strides[-1] == 1 and not narrow
    turned = not by_rows and x.strides[-1] == y.strides[-2] == 1
    if not (by_rows or turned):
        return None
    args = Args()
    for access in (x, y, out):
        args.access(access)
    for d in (*batch, columns, depth):
        args.size(d)
    key = ("few rows", rows, len(batch), turned)
    symbol = ctx.code(key, lambda f: _emit(f, rows, len(batch), turned))
    return Call(symbol, tuple(args.items))


def swapped(a: Access) -> Access:
    """Matrices with rows for columns."""
    *outer, rows, columns = a.strides
    return replace(a, strides=(*outer, columns, rows))


def _emit(f: Function, rows: int, axes: int, turned: bool) -> None:
    slots = axes + 4  # of an operand: its address, its strides, that of its lane
    bases = [f.slot(f.args[0], i * slots, "ptr") for i in range(3)]
    steps = [[f.slot(f.args[0], i * slots + 1 + j) for j in range(axes + 2)] for i in range(3)]
    *batch, columns, depth = (f.slot(f.args[0], 3 * slots + i) for i in range(axes + 2))
    width = _COLUMNS[turned]
    sums = f.alloca(rows * width * _FLOAT)  # of a block of the depth
    with units(f, [*batch, ceil_div(f, columns, width)]) as indices:
        places = []
        for base, step in zip(bases, steps, strict=True):
            for index, s in zip(indices[:-1], step, strict=False):
                base = f.gep(base, f.mul(index, s))
            places.append(base)
        first = f.mul(indices[-1], width)
        count = f.smin(f.sub(columns, first), width)
        x, y, out = places
        part = _Part(f, x, steps[0][axes], steps[0][axes + 1], depth, count)
        y = f.gep(y, f.mul(first, steps[1][axes + 1]))
        out = f.gep(out, f.mul(first, steps[2][axes + 1]))
        lines = [f.gep(out, f.mul(steps[2][axes], i)) for i in range(rows)]
        if turned:
            part.along_columns(y, steps[1][axes + 1], lines, steps[2][axes + 1])
        else:
            waiting = [f.gep(sums, i * width * _FLOAT) for i in range(rows)]
            part.along_rows(y, steps[1][axes], waiting, lines)
    f.ret()


class _Part:
    """Some columns of the results of one product."""

    def __init__(self, f: Function, x: Val, row: Val, place: Val, depth: Val, count: Val) -> None:
        self.f, self.x, self.row, self.place = f, x, row, place
        self.depth, self.count = depth, count

    def along_rows(self, y: Val, step: Val, sums: list[Val], lines: list[Val]) -> None:
        """Rows of y are added to sums a few at a time, and the sums of a block to the results."""
        f, size = self.f, max(2, _FACTORS // len(lines))
        self._clear(lines)
        with f.loop(0, self.depth, _BLOCK) as block:
            end = f.smin(f.add(block.index, _BLOCK), self.depth)
            whole = f.sub(end, f.srem(f.sub(end, block.index), size))
            self._clear(sums)
            for start, stop, together in ((block.index, whole, size), (whole, end, 1)):
                with f.loop(start, stop, together) as turn:
                    places = [f.add(turn.index, j) for j in range(together)]
                    self._add(sums, [f.gep(y, f.mul(p, step)) for p in places], places)

            def finish(at: Val, lanes: int, mask: Val | None) -> None:
                for line, total in zip(lines, sums, strict=True):
                    here = f.gep(line, at, _FLOAT)
                    done, more = (get(f, a, lanes, mask) for a in (here, f.gep(total, at, _FLOAT)))
                    put(f, f.fadd(done, more), here, mask)

            each_vector(f, self.count, finish)

    def _clear(self, lines: list[Val]) -> None:
        f = self.f

        def clear(at: Val, lanes: int, mask: Val | None) -> None:
            for line in lines:
                put(f, f.f32(0.0, lanes), f.gep(line, at, _FLOAT), mask)

        each_vector(f, self.count, clear)

    def _add(self, lines: list[Val], sources: list[Val], places: list[Val]) -> None:
        f = self.f
        factors = [
            [f.load("float", f.gep(f.gep(self.x, f.mul(self.row, i)), f.mul(p, self.place)))
             for p in places]
            for i in range(len(lines))
        ]  # fmt: skip

        def more(at: Val, lanes: int, mask: Val | None) -> None:
            read = [get(f, f.gep(s, at, _FLOAT), lanes, mask) for s in sources]
            for line, own in zip(lines, factors, strict=True):
                total = f.fmul(f.splat(own[0], lanes), read[0])
                for factor, value in zip(own[1:], read[1:], strict=True):
                    total = f.fma(f.splat(factor, lanes), value, total)
                here = f.gep(line, at, _FLOAT)
                put(f, f.fadd(get(f, here, lanes, mask), total), here, mask)

        each_vector(f, self.count, more)

    def along_columns(self, y: Val, step: Val, lines: list[Val], apart: Val) -> None:
        """Each result by itself, so many bytes from one to the next."""
        f = self.f
        with f.loop(0, self.count) as turn:
            column = f.gep(y, f.mul(turn.index, step))
            for i, line in enumerate(lines):
                row = f.gep(self.x, f.mul(self.row, i))

                def product(at: Val, lanes: int, mask: Val | None, row: Val = row) -> Val:
                    ends = (f.gep(base, at, _FLOAT) for base in (row, column))
                    a, b = (get(f, end, lanes, mask) for end in ends)
                    return f.fmul(a, b)

                total = fold_row(f, self.depth, product, add, 0.0)
                f.store(total, f.gep(line, f.mul(turn.index, apart)))
