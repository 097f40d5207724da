"""Reads at places that data gives: gather, pick, im2col, compact."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from netc.codegen.cpu.anchors.access import Access, Args, plain_access
from netc.codegen.cpu.anchors.formula import Tail
from netc.codegen.cpu.anchors.points import (
    NAN,
    Point,
    counter,
    guarded,
    inside,
    lower_points,
    number,
    over_results,
    whole_number,
)
from netc.codegen.cpu.anchors.results import Results, Row, Writer
from netc.codegen.cpu.anchors.units import share, units
from netc.codegen.cpu.anchors.windows import AXIS_SLOTS
from netc.codegen.cpu.emit import Function, Int, Val, vec
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import Call, Kernel, Operand, row_major
from netc.errors import UnsupportedError
from netc.ir.dims import Dim, product
from netc.ir.ops.indexing import Compact, Gather, Im2col, Iota, Pick
from netc.ir.ops.windows import axis_of
from netc.ir.types import DType

_FEW = 4  # elements at a time behind the last whole vector of a row


@rule(Gather)
def lower_gather(ctx: Lowering, k: Kernel) -> Call:
    """x at the index along an axis, NaN where there is no such item."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Gather)
    x, index = k.anchor_operands()
    axis, batch = axis_of(k.anchor.op.axis, x.type.rank), k.anchor.op.batch
    own = plain_access(ctx, x, x.type.shape)
    picks = plain_access(ctx, index, index.type.shape)
    still: tuple[Dim, ...] = (0,) * (index.type.rank - batch)
    before, after = own.strides[:axis], own.strides[axis + 1 :]
    source = Access(own.arg, own.dtype, (*before, *still, *after) or (0,))
    apart = (0,) * (axis - batch)
    chosen = (*picks.strides[:batch], *apart, *picks.strides[batch:], *(0,) * len(after)) or (0,)
    at = Access(picks.arg, picks.dtype, chosen)
    numbers = (x.type.shape[axis], own.strides[axis] * own.dtype.size)
    dtype = index.type.dtype
    if after and after[-1] == 1:
        results, key = Results(ctx, k), ("gather rows", dtype)
        return over_results(
            ctx, results, key, (source, at), numbers, lambda f: _emit_rows(f, results, dtype)
        )
    return lower_points(
        ctx, k, ("gather", dtype), (source, at), numbers, lambda p: _picked(p, dtype)
    )


def _emit_rows(f: Function, results: Results, dtype: DType) -> None:
    """Whole rows: an index is read once for all elements of one."""
    slots = results.axes + 2
    bases = [f.slot(f.args[0], i * slots, "ptr") for i in range(2)]
    strides = [[f.slot(f.args[0], i * slots + 1 + j) for j in range(results.axes)] for i in (0, 1)]
    size, step = (f.slot(f.args[0], 2 * slots + i) for i in range(2))
    writer = Writer(f, results, 2 * slots + 2)
    *outer, width = writer.sizes
    with units(f, outer) as indices:
        source, place = bases
        for i, along, aside in zip(indices, *strides, strict=False):
            source, place = f.gep(source, f.mul(i, along)), f.gep(place, f.mul(i, aside))
        index = whole_number(f, place, dtype)
        row = writer.row(indices)
        with f.if_(inside(f, index, size)) as side:
            here = f.gep(source, f.mul(index, step))
            _copied(f, row, width, lambda at, lanes: f.load(vec(lanes), f.gep(here, at, 4)))
            side.otherwise()
            _copied(f, row, width, lambda at, lanes: f.f32(NAN, lanes))
    f.ret()


def _copied(f: Function, row: Row, width: Val, value: Callable[[Val, int], Val]) -> None:
    """A row of values: vectors, then a few at a time, then one by one."""
    begin = f.const(0)
    for lanes in (f.target.lanes, _FEW, 1):
        whole = f.and_(width, -lanes)
        with f.loop(begin, whole, lanes) as turn:
            row.put(value(turn.index, lanes), turn.index)
        begin = whole


@rule(Iota)
def lower_iota(ctx: Lowering, k: Kernel) -> Call:
    """The place along the axis."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Iota)
    (x,) = k.anchor_operands()
    axis = axis_of(k.anchor.op.axis, x.type.rank)
    places = counter([int(a == axis) for a in range(x.type.rank)])
    return lower_points(ctx, k, ("iota",), (places,), (), _place)


def _place(p: Point) -> Val:
    return p.f.cast("sitofp", number(p.f, p.addresses[0]), "float")


@rule(Pick)
def lower_pick(ctx: Lowering, k: Kernel) -> Call:
    """x at the label along an axis, one label per place of the others."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Pick)
    x, label = k.anchor_operands()
    axis = axis_of(k.anchor.op.axis, x.type.rank)
    own = plain_access(ctx, x, x.type.shape)
    source = Access(own.arg, own.dtype, (*own.strides[:axis], 0, *own.strides[axis + 1 :]))
    places = (*x.type.shape[:axis], 1, *x.type.shape[axis + 1 :])
    labels = plain_access(ctx, label, label.type.shape)
    at = Access(labels.arg, labels.dtype, row_major(places))
    numbers = (x.type.shape[axis], own.strides[axis] * own.dtype.size)
    dtype = label.type.dtype
    return lower_points(
        ctx, k, ("gather", dtype), (source, at), numbers, lambda p: _picked(p, dtype)
    )


def _picked(p: Point, dtype: DType) -> Val:
    f, (size, stride) = p.f, p.numbers
    index = whole_number(f, p.addresses[1], dtype)
    legal = inside(f, index, size)
    return guarded(f, legal, lambda: p.at(0, f.mul(index, stride)), f.f32(NAN))


@rule(Im2col)
def lower_im2col(ctx: Lowering, k: Kernel) -> Call:
    """Row (channel, window position) of the result at a place: x there, 0 outside."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, Im2col)
    (x,) = k.anchor_operands()
    own = plain_access(ctx, x, x.type.shape)
    channel, *spatial = (s * 4 for s in own.strides[1:])
    kernel, stride, pad, dilation = op.window()
    numbers: list[Dim] = []
    for i, size in enumerate(x.type.shape[2:]):
        numbers += [size, kernel[i], stride[i], pad[i], dilation[i]]
    assert len(numbers) == AXIS_SLOTS * len(kernel)
    numbers += [channel, *spatial]
    source = Access(own.arg, own.dtype, (own.strides[0], *(0,) * (1 + len(kernel))))
    axes = len(kernel)
    return lower_points(ctx, k, ("im2col", axes), (source,), numbers, lambda p: _column(p, axes))


def _column(p: Point, axes: int) -> Val:
    f = p.f
    rest, taps = p.indices[1], []
    for i in reversed(range(axes)):
        size = p.numbers[AXIS_SLOTS * i + 1]
        taps.append(f.srem(rest, size))
        rest = f.sdiv(rest, size)
    offset = f.mul(rest, p.numbers[AXIS_SLOTS * axes])
    legal: Val | None = None
    for i, tap in enumerate(reversed(taps)):
        size, _, step, pad, dilation = p.numbers[AXIS_SLOTS * i : AXIS_SLOTS * (i + 1)]
        place = f.add(f.sub(f.mul(p.indices[2 + i], step), pad), f.mul(tap, dilation))
        here = inside(f, place, size)
        legal = here if legal is None else f.and_(legal, here)
        offset = f.add(offset, f.mul(place, p.numbers[AXIS_SLOTS * axes + 1 + i]))
    assert legal is not None
    return guarded(f, legal, lambda: p.at(0, offset), f.f32(0.0))


@rule(Compact)
def lower_compact(ctx: Lowering, k: Kernel) -> tuple[Call, ...]:
    """A call for each tensor and one for the count: rows that are kept, then zeros."""
    if not Tail(k).plain:
        raise UnsupportedError("compact has several results and takes no tail", k.node.loc)
    *tensors, selector = k.anchor_operands()
    rows = selector.type.shape[0]
    calls = []
    for x, out in zip(tensors, k.outs, strict=False):
        args = _compact_args(ctx, selector, rows)
        args.add(plain_access(ctx, x, x.type.shape).arg)
        args.add(out.pointer())
        args.size(product(x.type.shape[1:]))
        size = x.type.dtype.size
        symbol = ctx.code(("compact", size), partial(_emit_compact, size=size))
        calls.append(Call(symbol, tuple(args.items)))
    args = _compact_args(ctx, selector, rows)
    args.add(k.outs[-1].pointer())
    calls.append(Call(ctx.code(("count",), _emit_count), tuple(args.items)))
    return tuple(calls)


def _compact_args(ctx: Lowering, selector: Operand, rows: Dim) -> Args:
    args = Args()
    args.add(plain_access(ctx, selector, selector.type.shape).arg)
    args.size(rows)
    return args


def _kept(f: Function, selector: Val, row: Val) -> Val:
    value = f.load("float", f.gep(selector, row, 4))
    return f.fcmp("une", value, f.f32(0.0))


def _kept_of(f: Function, selector: Val, start: Int, stop: Val) -> Val:
    """How many of these rows are kept."""
    with f.loop(start, stop, carry=[f.const(0)]) as turn:
        kept = f.zext(_kept(f, selector, turn.index))
        turn.next([f.add(turn.values[0], kept)])
    return turn.results[0]


def _emit_count(f: Function) -> None:
    args, tid, _ = f.args
    selector, rows = f.slot(args, 0, "ptr"), f.slot(args, 1)
    with f.if_(f.icmp("eq", tid, 0)):
        f.store(_kept_of(f, selector, 0, rows), f.slot(args, 2, "ptr"), 8)
    f.ret()


def _emit_compact(f: Function, size: int) -> None:
    """A thread moves its share of the rows that are kept, then makes its share of the zeros."""
    args, tid, nthreads = f.args
    selector, rows = f.slot(args, 0, "ptr"), f.slot(args, 1)
    source, target, width = f.slot(args, 2, "ptr"), f.slot(args, 3, "ptr"), f.slot(args, 4)
    start, stop = share(f, rows, tid, nthreads)
    element, row = f"i{8 * size}", f.mul(width, size)
    with f.loop(start, stop, carry=[_kept_of(f, selector, 0, start)]) as turn:
        (place,) = turn.values
        kept = _kept(f, selector, turn.index)
        with f.if_(kept):
            here, there = f.gep(source, f.mul(turn.index, row)), f.gep(target, f.mul(place, row))
            with f.loop(0, width) as each:
                value = f.load(element, f.gep(here, each.index, size), size)
                f.store(value, f.gep(there, each.index, size), size)
        turn.next([f.add(place, f.zext(kept))])
    total = f.add(turn.results[0], _kept_of(f, selector, stop, rows))
    first, last = (f.mul(v, width) for v in share(f, f.sub(rows, total), tid, nthreads))
    behind = f.gep(target, f.mul(total, row))
    with f.loop(first, last) as each:
        f.store(f.const(0, element), f.gep(behind, each.index, size), size)
    f.ret()
