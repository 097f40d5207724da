"""Non-maximum suppression: each box of a group in turn against those that were kept before it.

What is kept stands in scratch memory, in blocks of 16 boxes: x0 of all, then y0, x1, y1 and sizes.
A block begins as boxes that meet nothing; a box with a NaN becomes one. So vectors need no masks.
"""

from __future__ import annotations

import math

from netc.codegen.cpu.anchors.access import Args, plain_access
from netc.codegen.cpu.anchors.results import Results, Row, Writer
from netc.codegen.cpu.anchors.units import ceil_div, units
from netc.codegen.cpu.emit import FALSE, Function, Val, vec
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import SCRATCH, Call, Kernel
from netc.ir import dims
from netc.ir.ops.boxes import NonMaxSuppression
from netc.ir.plan import BufferArg

_BLOCK = 16  # boxes; the lanes of the widest vectors
_ROW = 4 * _BLOCK  # bytes
_NOWHERE = (math.inf, math.inf, -math.inf, -math.inf, 0.0)  # corners and size: meets no box


@rule(NonMaxSuppression)
def lower_suppression(ctx: Lowering, k: Kernel) -> Call:
    """A unit is a group."""
    assert k.anchor is not None
    op, (boxes,) = k.anchor.op, k.anchor_operands()
    assert isinstance(op, NonMaxSuppression)
    results, args = Results(ctx, k), Args()
    *groups, count, _ = boxes.type.shape
    room = dims.ceil_div(count, _BLOCK) * (5 * _ROW)
    args.access(plain_access(ctx, boxes, boxes.type.shape))
    args.add(BufferArg(SCRATCH, 0))
    args.size(room)
    results.arguments(args)
    key = (repr(op), results.key, results.axes)
    symbol = ctx.code(key, lambda f: _Group(f, op, results).emit())
    return Call(symbol, tuple(args.items), scratch=dims.most(1, dims.product(groups) * room))


class _Group:
    def __init__(self, f: Function, op: NonMaxSuppression, results: Results) -> None:
        self.f, self.op = f, op
        axes, args = results.axes, f.args[0]
        self.boxes = f.slot(args, 0, "ptr")
        *self.outer, self.step, self.across = (f.slot(args, 1 + i) for i in range(axes + 1))
        self.scratch, self.room = f.slot(args, axes + 3, "ptr"), f.slot(args, axes + 4)
        self.writer = Writer(f, results, axes + 5)

    def emit(self) -> None:
        """The kernel."""
        f = self.f
        *sizes, count = self.writer.sizes
        with units(f, sizes) as indices:
            number, first = f.const(0), self.boxes
            for i, size, stride in zip(indices, sizes, self.outer, strict=True):
                number = f.add(f.mul(number, size), i)
                first = f.gep(first, f.mul(i, stride))
            kept = f.gep(self.scratch, f.mul(number, self.room))
            self._group(first, kept, count, self.writer.row(indices))
        f.ret()

    def _group(self, first: Val, kept: Val, count: Val, row: Row) -> None:
        f = self.f
        with f.loop(0, count, carry=[f.const(0), f.f32(self.op.overlap)]) as turn:
            many, threshold = turn.values
            box = self._box(f.gep(first, f.mul(turn.index, self.step)))
            with f.loop(0, ceil_div(f, many, _BLOCK), carry=[FALSE]) as search:
                search.done = self._meets(f.gep(kept, search.index, 5 * _ROW), box, threshold)
                search.next([search.done])
            with f.if_(search.results[0]) as side:
                side.give([f.f32(0.0), many, threshold])
                side.otherwise()
                self._keep(kept, many, box)
                side.give([f.f32(1.0), f.add(many, 1), self._lowered(threshold)])
            flag, *following = side.results
            row.put(flag, turn.index)
            turn.next(following)

    def _box(self, here: Val) -> list[Val]:
        """The corners of a box, and its size."""
        f = self.f
        x0, y0, x1, y1 = (f.load("float", f.gep(here, f.mul(self.across, i))) for i in range(4))
        bad = f.or_(f.fcmp("uno", x0, y0), f.fcmp("uno", x1, y1))
        x0, x1 = f.select(bad, f.f32(math.inf), x0), f.select(bad, f.f32(-math.inf), x1)
        turned = f.or_(f.fcmp("olt", x1, x0), f.fcmp("olt", y1, y0))
        whole = f.fmul(self._side(x0, x1), self._side(y0, y1))
        return [x0, y0, x1, y1, f.select(turned, f.f32(0.0), whole)]

    def _side(self, low: Val, high: Val) -> Val:
        f = self.f
        return f.fadd(f.fsub(high, low), f.f32(self.op.border, low.lanes))

    def _meets(self, block: Val, box: list[Val], threshold: Val) -> Val:
        """Whether a box overlaps with one of a block by more than the threshold."""
        f, lanes = self.f, self.f.target.lanes
        wide = [f.splat(v, lanes) for v in box]
        limit, zero, found = f.splat(threshold, lanes), f.f32(0.0, lanes), None
        for first in range(0, _BLOCK, lanes):
            starts = [_ROW * row + 4 * first for row in range(5)]
            others = [f.load(vec(lanes), f.gep(block, s), 4 * lanes) for s in starts]
            low = [self._larger(a, b) for a, b in zip(wide[:2], others[:2], strict=True)]
            high = [self._smaller(a, b) for a, b in zip(wide[2:4], others[2:4], strict=True)]
            sides = [self._larger(self._side(a, b), zero) for a, b in zip(low, high, strict=True)]
            inter = f.fmul(*sides)
            ratio = f.fdiv(inter, f.fsub(f.fadd(wide[4], others[4]), inter))
            hit = f.fcmp("ogt", ratio, limit)
            found = hit if found is None else f.or_(found, hit)
        assert found is not None
        return f.icmp("ne", f.cast("bitcast", found, f"i{lanes}"), f.const(0, f"i{lanes}"))

    def _larger(self, a: Val, b: Val) -> Val:
        """The larger; b where one is NaN."""
        return self.f.select(self.f.fcmp("ogt", a, b), a, b)

    def _smaller(self, a: Val, b: Val) -> Val:
        return self.f.select(self.f.fcmp("olt", a, b), a, b)

    def _keep(self, kept: Val, many: Val, box: list[Val]) -> None:
        """Put a box behind those that are kept."""
        f = self.f
        lane = f.and_(many, _BLOCK - 1)
        block = f.gep(kept, f.ashr(many, 4), 5 * _ROW)
        with f.if_(f.icmp("eq", lane, 0)):
            for i, v in enumerate(_NOWHERE):
                f.store(f.f32(v, _BLOCK), f.gep(block, i * _ROW), _ROW)
        for i, value in enumerate(box):
            f.store(value, f.gep(f.gep(block, i * _ROW), lane, 4))

    def _lowered(self, threshold: Val) -> Val:
        """The threshold behind a box that is kept."""
        f, eta = self.f, self.op.eta
        if eta == 1:
            return threshold
        return f.select(
            f.fcmp("ogt", threshold, f.f32(0.5)), f.fmul(threshold, f.f32(eta)), threshold
        )
