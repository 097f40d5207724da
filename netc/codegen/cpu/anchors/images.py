"""Resizing, unpooling, and boxes laid over feature maps."""

from __future__ import annotations

import numpy as np

from netc.codegen.cpu.anchors.access import Access, Args, plain_access
from netc.codegen.cpu.anchors.points import Point, inside, lower_points, whole_number, with_tail
from netc.codegen.cpu.anchors.pooling import input_port
from netc.codegen.cpu.anchors.results import Results, Writer, lanes_of
from netc.codegen.cpu.anchors.streams import Port, Ports
from netc.codegen.cpu.anchors.units import units
from netc.codegen.cpu.emit import Function, Val, const_float
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.cpu.stored import read
from netc.codegen.operand import Call, Kernel
from netc.ir.dims import Dim
from netc.ir.ops.boxes import PriorBox
from netc.ir.ops.image import ResizeBilinear, Unpool
from netc.ir.types import DType


def _double(value: float) -> Val:
    return const_float(value, "double")


@rule(ResizeBilinear, short=True)
def lower_resize(ctx: Lowering, k: Kernel) -> Call:
    """Four neighbours, weighted; places are found in float64 as the reference finds them."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, ResizeBilinear)
    (x,) = k.anchor_operands()
    results = Results(ctx, k)
    access, port = input_port(ctx, x)
    args = Args()
    args.access(access)
    for d in x.type.shape[2:]:
        args.size(d)
    results.arguments(args)
    corners = op.align_corners
    key = ("resize", corners, port, results.key)
    symbol = ctx.code(key, lambda f: _emit_resize(f, corners, port, results))
    return Call(symbol, tuple(args.items))


def _emit_resize(f: Function, corners: bool, port: Port, results: Results) -> None:
    """A unit is a row of one plane: its two source rows and their weight are found once."""
    source = Ports(f, [port], 0)
    writer = Writer(f, results, source.end + 2)
    *_, rows, columns = writer.sizes
    down = _Line(f, f.slot(f.args[0], source.end), rows, corners)
    across = _Line(f, f.slot(f.args[0], source.end + 1), columns, corners)
    vertical, horizontal = source.outer[0][2], source.steps[0][0]
    with units(f, writer.sizes[:3]) as indices:
        _, plane = source.row(0, [*indices[:2], 0])
        above, below, weight = down.neighbours(indices[2])
        lines = [f.gep(plane, f.mul(y, vertical)) for y in (above, below)]
        row = writer.row(indices)
        with f.loop(0, columns) as turn:
            left, right, share = across.neighbours(turn.index)
            places = [f.mul(v, horizontal) for v in (left, right)]
            at = f.shl(turn.index, 3) if results.blocked else turn.index
            for lane in lanes_of(f, results.blocked):
                mixed = []
                for place in places:
                    near = [f.gep(f.gep(line, place), port.item * lane.first) for line in lines]
                    top, bottom = (read(f, n, lane.count, port.element) for n in near)
                    mixed.append(_mix(f, top, bottom, weight))
                row.put(_mix(f, mixed[0], mixed[1], share), at, lane.first)
    f.ret()


def _mix(f: Function, a: Val, b: Val, weight: Val) -> Val:
    """a · (1 − weight) + b · weight."""
    other = f.fsub(f.f32(1.0), weight)
    wide, rest = f.splat(weight, a.lanes), f.splat(other, a.lanes)
    return f.fadd(f.fmul(a, rest), f.fmul(b, wide))


class _Line:
    """One axis: how far inputs lie apart, divided once."""

    def __init__(self, f: Function, size: Val, out: Val, corners: bool) -> None:
        self.f, self.corners = f, corners
        self.end = f.sub(size, 1)
        n, m = (f.cast("sitofp", v, "double") for v in (size, out))
        self.last = f.fsub(n, _double(1.0))
        gaps = f.fsub(m, _double(1.0)) if corners else m
        some = f.fcmp("ogt", gaps, _double(0.0))
        step = f.fdiv(self.last if corners else n, f.select(some, gaps, _double(1.0)))
        self.step = f.select(some, step, _double(0.0))

    def neighbours(self, index: Val) -> tuple[Val, Val, Val]:
        """The first input read, the second, and the weight of the second."""
        f = self.f
        i = f.cast("sitofp", index, "double")
        if self.corners:
            at = f.fmul(i, self.step)
        else:
            half = _double(0.5)
            at = f.fsub(f.fmul(f.fadd(i, half), self.step), half)
            at = f.select(f.fcmp("olt", at, _double(0.0)), _double(0.0), at)
            at = f.select(f.fcmp("ogt", at, self.last), self.last, at)
        low = f.smin(f.cast("fptosi", at, "i64"), self.end)
        weight = f.fsub(at, f.cast("sitofp", low, "double"))
        return low, f.smin(f.add(low, 1), self.end), f.cast("fptrunc", weight, "float")


@rule(Unpool)
def lower_unpool(ctx: Lowering, k: Kernel) -> tuple[Call, ...]:
    """A plane of zeros, then each element at its index; later ones win."""
    assert k.anchor is not None
    x, index = k.anchor_operands()
    out = k.outs[0]
    args = Args()
    for o in (x, index):
        args.access(plain_access(ctx, o, o.type.shape))
    args.access(Access(out.pointer(), out.type.dtype, tuple(out.strides)))
    for d in (*x.type.shape, *out.type.shape[2:]):
        args.size(d)
    symbol = ctx.code(("unpool", index.type.dtype), lambda f: _emit_unpool(f, index.type.dtype))
    return with_tail(ctx, k, Call(symbol, tuple(args.items)))


def _emit_unpool(f: Function, dtype: DType) -> None:
    slots = [[f.slot(f.args[0], 6 * i + 1 + j) for j in range(4)] for i in range(3)]
    bases = [f.slot(f.args[0], 6 * i, "ptr") for i in range(3)]
    images, channels, height, width, rows, columns = (f.slot(f.args[0], 18 + i) for i in range(6))
    with units(f, [images, channels]) as place:
        x, index, out = (
            f.gep(f.gep(b, f.mul(place[0], s[0])), f.mul(place[1], s[1]))
            for b, s in zip(bases, slots, strict=True)
        )
        with f.loop(0, rows) as line, f.loop(0, columns) as turn:
            f.store(f.f32(0.0), _there(f, out, slots[2], line.index, turn.index))
        with f.loop(0, height) as line, f.loop(0, width) as turn:
            at = whole_number(f, _there(f, index, slots[1], line.index, turn.index), dtype)
            with f.if_(inside(f, at, f.mul(rows, columns))):
                value = f.load("float", _there(f, x, slots[0], line.index, turn.index))
                f.store(value, _there(f, out, slots[2], f.sdiv(at, columns), f.srem(at, columns)))
    f.ret()


def _there(f: Function, plane: Val, strides: list[Val], y: Val, x: Val) -> Val:
    return f.gep(f.gep(plane, f.mul(y, strides[2])), f.mul(x, strides[3]))


@rule(PriorBox)
def lower_prior_box(ctx: Lowering, k: Kernel) -> Call:
    """Corners from the cell and a table of half sides, in float64; then variances."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, PriorBox)
    x, image = (v.type for v in k.anchor.inputs)
    sides = np.array(op.sides(), np.float64) / 2
    corners = np.concatenate([-sides, sides], -1).reshape(-1)
    variance = np.array(op.variance * (4 // len(op.variance)), np.float32)
    tables = [
        Access(ctx.weight(corners), DType.U8, (0, 0, 0)),
        Access(ctx.weight(variance), DType.U8, (0, 0, 0)),
    ]
    height, width = op.img_size or image.shape[2:]
    numbers: list[Dim] = [x.shape[2], x.shape[3], height, width, corners.size]
    key = ("prior_box", repr((op.step, op.offset, op.clip)))
    return lower_points(ctx, k, key, tables, numbers, lambda p: _box(p, op))


def _box(p: Point, op: PriorBox) -> Val:
    f = p.f
    rows, columns, height, width, count = p.numbers
    at = p.indices[2]
    which = f.and_(at, 3)
    cell, inner = f.sdiv(at, count), f.srem(at, count)
    vertical = f.icmp("ne", f.and_(which, 1), 0)
    index = f.select(vertical, f.sdiv(cell, columns), f.srem(cell, columns))
    scale = f.cast("sitofp", f.select(vertical, height, width), "double")
    if op.step:
        step = f.select(vertical, _double(op.step[0]), _double(op.step[1]))
    else:
        cells = f.cast("sitofp", f.select(vertical, rows, columns), "double")
        step = f.fdiv(scale, cells)
    centre = f.fadd(f.cast("sitofp", index, "double"), _double(op.offset))
    side = f.load("double", f.gep(p.addresses[0], inner, 8), 8)
    box = f.fdiv(f.fadd(f.fmul(centre, step), side), scale)
    if op.clip:
        zero, one = _double(0.0), _double(1.0)
        box = f.select(f.fcmp("olt", box, zero), zero, box)
        box = f.select(f.fcmp("ogt", box, one), one, box)
    variance = f.load("float", f.gep(p.addresses[1], which, 4))
    first = f.icmp("eq", p.indices[1], 0)
    return f.select(first, f.cast("fptrunc", box, "float"), variance)
