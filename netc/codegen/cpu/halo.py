"""Zeros around planes: what a padded convolution reads beyond its input."""

from __future__ import annotations

from netc.codegen.cpu.emit import Function, Val
from netc.codegen.cpu.lowering import Lowering
from netc.codegen.operand import BLOCK, Call, Operand
from netc.ir.dims import Dim, most, product
from netc.ir.plan import ALIGN, IntArg


def zero_halo(ctx: Lowering, o: Operand) -> Call:
    """Zero the rows and columns around every plane of a buffer.

    A plane is zeros above, then for each row zeros at its left and right, then zeros below; the
    right of a row and the left of the next lie together.
    """
    lane = BLOCK if o.is_c8 else 1
    row, column = o.strides[-2:]
    height, width = o.sizes[-2:]
    high, wide = o.halo
    planes = product(o.sizes[:-2])
    plane = (height + 2 * high) * row
    symbol = ctx.code(("zero_halo",), _emit)
    edge = (high * row + wide * column) * o.item  # zeros before the first element of a plane
    inner, gap = (n * lane * o.item for n in (width, 2 * wide))
    args = (planes, plane * o.item, row * o.item, height, edge, inner, gap)
    assert lane == column
    return Call(symbol, (o.pointer(-edge), *(IntArg(a) for a in args)))


def halo_bytes(o: Operand) -> Dim:
    """The bytes that zeros move: of a row at least the cache line they lie in."""
    row, column = o.strides[-2:]
    high, wide = o.halo
    height = o.sizes[-2]
    line = most(2 * wide * column * o.item, ALIGN)
    return product(o.sizes[:-2]) * (2 * high * row * o.item + height * line)


def _emit(f: Function) -> None:
    args, tid, nthreads = f.args
    base = f.slot(args, 0, "ptr")
    planes, plane, row, height, edge, inner, gap = (f.slot(args, i) for i in range(1, 8))
    start = f.sdiv(f.mul(planes, tid), nthreads)
    stop = f.sdiv(f.mul(planes, f.add(tid, 1)), nthreads)
    with f.loop(start, stop) as turn:
        here = f.gep(base, f.mul(turn.index, plane))
        _zero(f, here, edge)
        first = f.gep(here, f.add(edge, inner))
        with f.loop(0, f.sub(height, 1)) as line:
            _zero(f, f.gep(first, f.mul(line.index, row)), gap)
        last = f.gep(first, f.mul(f.sub(height, 1), row))
        _zero(f, last, edge)
    f.ret()


def _zero(f: Function, at: Val, size: Val) -> None:
    """Zero `size` bytes, a multiple of 4."""
    lanes = f.target.lanes
    step = 4 * lanes
    whole = f.mul(f.sdiv(size, step), step)
    with f.loop(0, whole, step) as turn:
        f.store(f.f32(0.0, lanes), f.gep(at, turn.index))
    with f.loop(whole, size, 4) as turn:
        f.store(f.f32(0.0), f.gep(at, turn.index))
