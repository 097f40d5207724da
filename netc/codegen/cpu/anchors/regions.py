"""Pooling over regions: a unit is a row of bins of one region and plane, or block of planes.

A plane is read for all regions before the next, so that it stays in the cache.
Bins are found by the steps of the reference in float32, in its order, so that they are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from netc.codegen.cpu import mathlib
from netc.codegen.cpu.anchors.access import Args, plain_access
from netc.codegen.cpu.anchors.points import inside, whole_number
from netc.codegen.cpu.anchors.pooling import input_port
from netc.codegen.cpu.anchors.results import Lane, Results, Writer, lanes_of
from netc.codegen.cpu.anchors.streams import Port, Ports
from netc.codegen.cpu.anchors.units import units
from netc.codegen.cpu.emit import Function, Val, vec
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import Call, Kernel
from netc.ir.ops.regions import FARTHEST, THINNEST, PsRoiPool, RoiPool
from netc.ir.types import DType

_REGION_SLOTS = 4  # address, stride from region to region, from number to number, lane


@dataclass(frozen=True)
class _Pooling:
    """What the code depends on."""

    results: Results = field(compare=False)
    source: Port
    parts: bool  # R-FCN's: planes of its own for each bin, and means
    scale: float


@rule(RoiPool, PsRoiPool)
def lower_regions(ctx: Lowering, k: Kernel) -> Call:
    """One kernel for both kinds."""
    assert k.anchor is not None
    op, (x, rois) = k.anchor.op, k.anchor_operands()
    assert isinstance(op, RoiPool | PsRoiPool)
    access, port = input_port(ctx, x)
    results = Results(ctx, k)
    p = _Pooling(results, port, isinstance(op, PsRoiPool), float(np.float32(op.scale)))
    args = Args()
    args.access(access)
    args.access(plain_access(ctx, rois, rois.type.shape))
    for d in (x.type.shape[0], *x.type.shape[2:]):
        args.size(d)
    results.arguments(args)
    symbol = ctx.code(("regions", p, results.key), lambda f: _emit(f, p))
    return Call(symbol, tuple(args.items))


def _emit(f: Function, p: _Pooling) -> None:
    source = Ports(f, [p.source], 0)
    base, (batch, plane, vertical) = source.bases[0], source.outer[0]
    horizontal = source.steps[0][0]
    rois = [f.slot(f.args[0], source.end, "ptr"), f.slot(f.args[0], source.end + 1)]
    step = f.slot(f.args[0], source.end + 2)
    first = source.end + _REGION_SLOTS
    images, height, width = (f.slot(f.args[0], first + i) for i in range(3))
    writer = Writer(f, p.results, first + 3)
    with units(f, [*writer.sizes[1:3], writer.sizes[0]]) as (channel, row, region):
        here = f.gep(rois[0], f.mul(region, rois[1]))
        numbers = [f.load("float", f.gep(here, f.mul(step, i))) for i in range(1, 5)]
        image = whole_number(f, here, DType.F32)
        legal = inside(f, image, images)
        across = _Line(f, p, numbers[0], numbers[2], writer.sizes[3], width)
        down = _Line(f, p, numbers[1], numbers[3], writer.sizes[2], height)
        top, bottom = down.bin(row)
        rows = top, f.select(legal, bottom, f.const(0))
        from_image = f.gep(base, f.mul(f.select(legal, image, f.const(0)), batch))
        out = writer.row([region, channel, row])
        with f.loop(0, writer.sizes[3]) as turn:
            number = channel
            if p.parts:
                number = f.add(f.mul(channel, writer.sizes[2]), row)
                number = f.add(f.mul(number, writer.sizes[3]), turn.index)
            window = _Window(f, p, rows, across.bin(turn.index), (vertical, horizontal))
            at = f.shl(turn.index, 3) if p.results.blocked else turn.index
            for lane in lanes_of(f, p.results.blocked):
                place = f.gep(f.gep(from_image, f.mul(number, plane)), 4 * lane.first)
                out.put(window.joined(place, lane), at, lane.first)
    f.ret()


def _nearest(f: Function, x: Val) -> Val:
    """The nearest whole number, a half away from zero; llvm.round would be a call."""
    size = f.intrinsic("llvm.fabs", x)
    low = f.intrinsic("llvm.floor", size)
    up = f.fcmp("oge", f.fsub(size, low), f.f32(0.5))
    more = f.fadd(low, f.select(up, f.f32(1.0), f.f32(0.0)))
    return mathlib.copysign(f, more, x)


def _held(f: Function, x: Val) -> Val:
    return mathlib.at_most(f, mathlib.at_least(f, x, f.f32(-FARTHEST)), f.f32(FARTHEST))


class _Line:
    """The bins of a region along one axis."""

    def __init__(
        self, f: Function, p: _Pooling, first: Val, last: Val, count: Val, size: Val
    ) -> None:
        self.f, self.parts, self.size = f, p.parts, size
        one, scale = f.f32(1.0), f.f32(p.scale)
        if p.parts:
            self.start = _held(f, f.fmul(_nearest(f, first), scale))
            end = _held(f, f.fmul(f.fadd(_nearest(f, last), one), scale))
            length = mathlib.maximum(f, f.fsub(end, self.start), f.f32(THINNEST))
        else:
            self.start, end = (_nearest(f, _held(f, f.fmul(v, scale))) for v in (first, last))
            length = mathlib.maximum(f, f.fadd(f.fsub(end, self.start), one), one)
        self.step = f.fdiv(length, f.cast("sitofp", count, "float"))

    def bin(self, index: Val) -> tuple[Val, Val]:
        """The first pixel of a bin, and the one behind it."""
        return self._edge(index, "llvm.floor"), self._edge(self.f.add(index, 1), "llvm.ceil")

    def _edge(self, index: Val, rounded: str) -> Val:
        f = self.f
        at = f.fmul(f.cast("sitofp", index, "float"), self.step)
        if self.parts:
            place = f.intrinsic(rounded, f.fadd(_held(f, at), self.start))
        else:
            place = f.fadd(f.intrinsic(rounded, at), self.start)
        name = f.module.declare("llvm.fptosi.sat.i64.f32", "i64", ["float"])
        whole = f.value("i64", f"call i64 @{name}({place})")  # 0 of NaN
        return f.smin(f.smax(whole, 0), self.size)


class _Window:
    """The pixels of one bin, all inside the image."""

    def __init__(
        self,
        f: Function,
        p: _Pooling,
        rows: tuple[Val, Val],
        columns: tuple[Val, Val],
        strides: tuple[Val, Val],
    ) -> None:
        self.f, self.mean, self.rows, self.columns, self.strides = (
            f,
            p.parts,
            rows,
            columns,
            strides,
        )
        tall, wide = (f.icmp("slt", low, high) for low, high in (rows, columns))
        self.some = f.and_(tall, wide)

    def joined(self, plane: Val, lane: Lane) -> Val:
        """The largest pixel, or their mean; 0 of none."""
        f = self.f
        zero = f.f32(0.0 if self.mean else -float("inf"), lane.count)
        with f.loop(*self.rows, carry=[zero]) as row:
            line = f.gep(plane, f.mul(row.index, self.strides[0]))
            with f.loop(*self.columns, carry=[zero]) as turn:
                pixel = f.load(vec(lane.count), f.gep(line, f.mul(turn.index, self.strides[1])))
                turn.next([self._join(turn.values[0], pixel)])
            row.next([self._join(row.values[0], turn.results[0])])
        total = row.results[0]
        if self.mean:
            area = f.mul(*(f.sub(high, low) for low, high in (self.rows, self.columns)))
            total = f.fdiv(total, f.splat(f.cast("sitofp", area, "float"), lane.count))
        return f.select(self.some, total, f.f32(0.0, lane.count))

    def _join(self, a: Val, b: Val) -> Val:
        return self.f.fadd(a, b) if self.mean else mathlib.maximum(self.f, a, b)
