"""Searches for the largest: argmax, and the accuracies that count them.

Elements are compared as integers: the float's bits in an order-preserving form, NaN above all, and
below them the index, which settles ties.
"""

from __future__ import annotations

from netc.codegen.cpu.anchors.access import Access, Args, plain_access
from netc.codegen.cpu.anchors.points import inside, whole_number, with_tail
from netc.codegen.cpu.anchors.units import units
from netc.codegen.cpu.emit import FALSE, TRUE, Function, Val
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import Call, Kernel, row_major
from netc.ir.dims import Dim, product
from netc.ir.ops.reduction import Accuracy, AccuracyPerClass, ArgMax
from netc.ir.ops.windows import axis_of
from netc.ir.types import DType

_HIGHEST = (1 << 63) - 1


def order_key(f: Function, x: Val) -> Val:
    """An i32 that orders as the float does: −0 as 0, NaN above all."""
    plus = f.fadd(x, f.f32(0.0))
    bits = f.cast("bitcast", plus, "i32")
    key = f.xor(bits, f.and_(f.ashr(bits, 31), 0x7FFFFFFF))
    return f.select(f.fcmp("uno", x, x), f.const(0x7FFFFFFF, "i32"), key)


@rule(ArgMax)
def lower_argmax(ctx: Lowering, k: Kernel) -> tuple[Call, ...]:
    """Each row is searched once for every result it gives, below the one before."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, ArgMax)
    (x,), out = k.anchor_operands(), k.outs[0]
    own = plain_access(ctx, x, x.type.shape)
    args = Args()
    if op.axis is None:
        outer, size = x.type.shape[0], product(x.type.shape[1:])
        inner: Dim = 1
        steps: tuple[Dim, ...] = (size, 0, 1)
        given: tuple[Dim, ...] = (out.strides[0], 0, out.strides[2], out.strides[1])
    else:
        axis = axis_of(op.axis, x.type.rank)
        outer, size = product(x.type.shape[:axis]), x.type.shape[axis]
        inner = product(x.type.shape[axis + 1 :])
        steps = (size * inner, 1, inner)
        given = (inner * op.top_k, 1, inner, 0)
    args.access(Access(own.arg, own.dtype, steps))
    args.access(Access(out.pointer(), out.type.dtype, given))
    for d in (outer, inner, size, op.top_k):
        args.size(d)
    both = op.axis is None and op.values
    values = op.axis is not None and op.values
    symbol = ctx.code(("argmax", both, values), lambda f: _emit_argmax(f, both, values))
    return with_tail(ctx, k, Call(symbol, tuple(args.items)))


def _emit_argmax(f: Function, both: bool, values: bool) -> None:
    args = f.args[0]
    source, target = f.slot(args, 0, "ptr"), f.slot(args, 5, "ptr")
    steps = [f.slot(args, 1 + i) for i in range(3)]
    given = [f.slot(args, 6 + i) for i in range(4)]
    outer, inner, size, count = (f.slot(args, 11 + i) for i in range(4))
    with units(f, [outer, inner]) as (i, j):
        row = f.gep(f.gep(source, f.mul(i, steps[0])), f.mul(j, steps[1]))
        out = f.gep(f.gep(target, f.mul(i, given[0])), f.mul(j, given[1]))
        with f.loop(0, count, carry=[f.const(_HIGHEST)]) as turn:
            best = _next_below(f, row, steps[2], size, turn.values[0])
            here = f.gep(out, f.mul(turn.index, given[2]))
            number = f.and_(best, 0xFFFFFFFF)
            value = f.load("float", f.gep(row, f.mul(number, steps[2])))
            index = f.cast("sitofp", number, "float")
            f.store(value if values else index, here)
            if both:
                f.store(value, f.gep(here, given[3]))
            turn.next([best])
    f.ret()


def _next_below(f: Function, row: Val, step: Val, size: Val, limit: Val) -> Val:
    """The largest (key, index) of a row that is below `limit`."""
    with f.loop(0, size, carry=[f.const(-(1 << 63))]) as turn:
        value = f.load("float", f.gep(row, f.mul(turn.index, step)))
        key = f.shl(f.sext(order_key(f, value)), 32)
        both = f.or_(key, turn.index)
        fits = f.and_(f.icmp("slt", both, limit), f.icmp("sgt", both, turn.values[0]))
        turn.next([f.select(fits, both, turn.values[0])])
    return turn.results[0]


@rule(Accuracy, AccuracyPerClass)
def lower_accuracy(ctx: Lowering, k: Kernel) -> tuple[Call, ...]:
    """The share of labels that are right: of all, or a unit for each class."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, Accuracy)
    x, label = k.anchor_operands()
    axis = axis_of(op.axis, x.type.rank)
    own, labels = (plain_access(ctx, o, o.type.shape) for o in (x, label))
    apart = isinstance(op, AccuracyPerClass)
    classes, inner = x.type.shape[axis], product(x.type.shape[axis + 1 :])
    args = Args()
    for arg in (own.arg, labels.arg, k.outs[0].pointer()):
        args.add(arg)
    strides = row_major((product(x.type.shape[:axis]), classes, inner))
    places = product(x.type.shape[:axis]) * inner
    for d in (places, inner, strides[0] * 4, inner * 4, classes, op.top_k, op.ignore or 0):
        args.size(d)
    ignores, dtype = op.ignore is not None, label.type.dtype
    key = ("accuracy", apart, ignores, dtype)
    symbol = ctx.code(key, lambda f: _Accuracy(f, apart, ignores, dtype).emit())
    return with_tail(ctx, k, Call(symbol, tuple(args.items)))


class _Accuracy:
    def __init__(self, f: Function, apart: bool, ignores: bool, dtype: DType) -> None:
        self.f, self.apart, self.ignores, self.dtype = f, apart, ignores, dtype
        args = f.args[0]
        self.source, self.labels, self.out = (f.slot(args, i, "ptr") for i in range(3))
        numbers = [f.slot(args, 3 + i) for i in range(7)]
        self.places, self.inner, self.outer_step, self.step = numbers[:4]
        self.classes, self.top, self.ignore = numbers[4:]

    def emit(self) -> None:
        """The kernel."""
        f = self.f
        with units(f, [self.classes if self.apart else f.const(1)]) as (wanted,):
            with f.loop(0, self.places, carry=[f.const(0), f.const(0)]) as turn:
                counts, right = self._judge(turn.index, wanted)
                total, hits = turn.values
                turn.next([f.add(total, f.zext(counts)), f.add(hits, f.zext(right))])
            total, hits = turn.results
            share = f.fdiv(*(f.cast("sitofp", v, "double") for v in (hits, f.smax(total, 1))))
            f.store(f.cast("fptrunc", share, "float"), f.gep(self.out, wanted, 4))
        f.ret()

    def _judge(self, place: Val, wanted: Val) -> tuple[Val, Val]:
        """Whether a place counts, and whether its label is right."""
        f = self.f
        label = whole_number(f, f.gep(self.labels, place, self.dtype.size), self.dtype)
        counts = f.icmp("ne", label, self.ignore) if self.ignores else TRUE
        legal = inside(f, label, self.classes)
        if self.apart:
            legal = f.and_(legal, f.icmp("eq", label, wanted))
            counts = f.and_(counts, legal)
        with f.if_(f.and_(counts, legal)) as side:
            side.give([self._among_best(place, label)])
            side.otherwise()
            side.give([FALSE])
        return counts, side.results[0]

    def _among_best(self, place: Val, label: Val) -> Val:
        """Whether fewer than top_k other classes fail to score below the label's."""
        f = self.f
        outer, inner = f.sdiv(place, self.inner), f.srem(place, self.inner)
        row = f.gep(f.gep(self.source, f.mul(outer, self.outer_step)), inner, 4)
        own = f.load("float", f.gep(row, f.mul(label, self.step)))
        with f.loop(0, self.classes, carry=[f.const(0)]) as turn:
            value = f.load("float", f.gep(row, f.mul(turn.index, self.step)))
            below = f.zext(f.fcmp("olt", value, own))
            turn.next([f.add(turn.values[0], below)])
        rivals = f.sub(f.sub(self.classes, 1), turn.results[0])
        return f.icmp("slt", rivals, self.top)
