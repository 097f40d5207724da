"""Unpooling, and boxes laid over feature maps."""

from __future__ import annotations

import numpy as np

from netc.codegen.cpu.anchors.access import Access, Args, plain_access
from netc.codegen.cpu.anchors.points import Point, inside, lower_points, whole_number, with_tail
from netc.codegen.cpu.anchors.units import units
from netc.codegen.cpu.emit import Function, Val
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import Call, Kernel
from netc.ir.dims import Dim
from netc.ir.ops.boxes import PriorBox
from netc.ir.ops.image import Unpool
from netc.ir.types import DType


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
        step = f.select(vertical, f.f64(op.step[0]), f.f64(op.step[1]))
    else:
        cells = f.cast("sitofp", f.select(vertical, rows, columns), "double")
        step = f.fdiv(scale, cells)
    centre = f.fadd(f.cast("sitofp", index, "double"), f.f64(op.offset))
    side = f.load("double", f.gep(p.addresses[0], inner, 8), 8)
    box = f.fdiv(f.fadd(f.fmul(centre, step), side), scale)
    if op.clip:
        zero, one = f.f64(0.0), f.f64(1.0)
        box = f.select(f.fcmp("olt", box, zero), zero, box)
        box = f.select(f.fcmp("ogt", box, one), one, box)
    variance = f.load("float", f.gep(p.addresses[1], which, 4))
    first = f.icmp("eq", p.indices[1], 0)
    return f.select(first, f.cast("fptrunc", box, "float"), variance)
