"""Searches for the largest: argmax, and the accuracies that count them.

Elements are compared as integers: the float's bits in an order-preserving form, NaN above all, and
below them the index, which settles ties.
"""

from __future__ import annotations

from dataclasses import dataclass

from netc.codegen.cpu.anchors.access import Access, Args, plain_access
from netc.codegen.cpu.anchors.heaps import FULL, Heap
from netc.codegen.cpu.anchors.points import inside, whole_number, with_tail
from netc.codegen.cpu.anchors.units import share, units
from netc.codegen.cpu.emit import FALSE, TRUE, Function, Val
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import SCRATCH, Call, Kernel, row_major
from netc.ir.dims import Dim, least, most, product
from netc.ir.ops.reduction import Accuracy, AccuracyPerClass, ArgMax
from netc.ir.ops.windows import axis_of
from netc.ir.plan import BufferArg
from netc.ir.types import DType

FEW = 64  # elements to look at up to which a row is searched anew for each result
HEAPS = 256  # at most, for any number of rows; each serves some of them
_LAST = 0xFFFFFFFE  # the highest index: below it, no key is FULL


def order_key(f: Function, x: Val) -> Val:
    """An i32 that orders as the float does: −0 as 0, NaN above all."""
    plus = f.fadd(x, f.f32(0.0))
    bits = f.cast("bitcast", plus, "i32")
    key = f.xor(bits, f.and_(f.ashr(bits, 31), 0x7FFFFFFF))
    return f.select(f.fcmp("uno", x, x), f.const(0x7FFFFFFF, "i32"), key)


@rule(ArgMax)
def lower_argmax(ctx: Lowering, k: Kernel) -> tuple[Call, ...]:
    """Few results of a row are searched for one after the other, many are kept in a heap."""
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
    form = _Form(op.axis is None and op.values, op.axis is not None and op.values, op.first)
    if op.top_k == 1 or (isinstance(size, int) and op.top_k * size <= FEW):
        symbol = ctx.code(("argmax", form), lambda f: _Search(f, form).search())
        return with_tail(ctx, k, Call(symbol, tuple(args.items)))
    depth = op.top_k.bit_length() - 1
    heaps = least(most(outer * inner, 1), HEAPS)
    args.add(BufferArg(SCRATCH))
    args.size(heaps)
    args.size(depth)
    symbol = ctx.code(("argmax in heaps", form), lambda f: _Search(f, form).select())
    return with_tail(ctx, k, Call(symbol, tuple(args.items), scratch=heaps * (16 << depth)))


@dataclass(frozen=True)
class _Form:
    """What the code of a search depends on."""

    both: bool  # indices, and values beside them
    values: bool  # instead of indices
    first: bool  # the lowest index wins a tie


class _Search:
    """The largest of rows, as keys: an element's order above its index, or what is left of it."""

    def __init__(self, f: Function, form: _Form) -> None:
        self.f, self.form = f, form
        args = f.args[0]
        self.source, self.target = f.slot(args, 0, "ptr"), f.slot(args, 5, "ptr")
        self.steps = [f.slot(args, 1 + i) for i in range(3)]
        self.given = [f.slot(args, 6 + i) for i in range(4)]
        self.outer, self.inner, self.size, self.count = (f.slot(args, 11 + i) for i in range(4))

    def search(self) -> None:
        """Search each row once for every result it gives, below the one before."""
        f = self.f
        with units(f, [self.outer, self.inner]) as (i, j):
            row, out = self._row(i, j)
            with f.loop(0, self.count, carry=[f.const(FULL)]) as turn:
                best = self._next_below(row, turn.values[0])
                self._put(row, best, out, turn.index)
                turn.next([best])
        f.ret()

    def select(self) -> None:
        """Read each row once, and keep the largest so far; their least is what others must beat.

        A heap serves rows that follow one another, whichever thread they are done by.
        """
        f = self.f
        scratch = f.slot(f.args[0], 15, "ptr")
        heaps, depth = (f.slot(f.args[0], 16 + i) for i in range(2))
        with units(f, [heaps]) as (number,):
            heap = Heap(f, f.gep(scratch, f.shl(number, f.add(depth, 4))), depth)
            heap.clear()
            start, stop = share(f, f.mul(self.outer, self.inner), number, heaps)
            with f.loop(start, stop) as turn:
                row = self._row(f.sdiv(turn.index, self.inner), f.srem(turn.index, self.inner))
                self._select(heap, *row)
        f.ret()

    def _select(self, heap: Heap, row: Val, out: Val) -> None:
        """The largest of a row in falling order, by a heap that is left as it was."""
        f = self.f
        with f.loop(0, self.count) as turn:
            heap.set(f.add(turn.index, 1), self._key(row, turn.index))
        heap.order()
        with f.loop(self.count, self.size, carry=[heap.top()]) as turn:
            key = self._key(row, turn.index)
            with f.if_(f.icmp("sgt", key, turn.values[0])) as side:
                heap.replace_top(key)
                side.give([heap.top()])
                side.otherwise()
                side.give(turn.values)
            turn.next(side.results)
        with f.loop(0, self.count) as turn:
            self._put(row, heap.top(), out, f.sub(f.sub(self.count, 1), turn.index))
            heap.replace_top(FULL)

    def _row(self, i: Val, j: Val) -> tuple[Val, Val]:
        """Where a row begins, and what it gives."""
        f = self.f
        row = f.gep(f.gep(self.source, f.mul(i, self.steps[0])), f.mul(j, self.steps[1]))
        return row, f.gep(f.gep(self.target, f.mul(i, self.given[0])), f.mul(j, self.given[1]))

    def _key(self, row: Val, index: Val) -> Val:
        f = self.f
        value = f.load("float", f.gep(row, f.mul(index, self.steps[2])))
        low = f.sub(_LAST, index) if self.form.first else index
        return f.or_(f.shl(f.sext(order_key(f, value)), 32), low)

    def _next_below(self, row: Val, limit: Val) -> Val:
        """The largest key of a row that is below `limit`."""
        f = self.f
        with f.loop(0, self.size, carry=[f.const(-(1 << 63))]) as turn:
            key = self._key(row, turn.index)
            fits = f.and_(f.icmp("slt", key, limit), f.icmp("sgt", key, turn.values[0]))
            turn.next([f.select(fits, key, turn.values[0])])
        return turn.results[0]

    def _put(self, row: Val, key: Val, out: Val, place: Val) -> None:
        """Store what a key stands for as the result at a place."""
        f = self.f
        low = f.and_(key, 0xFFFFFFFF)
        number = f.sub(_LAST, low) if self.form.first else low
        here = f.gep(out, f.mul(place, self.given[2]))
        value = f.load("float", f.gep(row, f.mul(number, self.steps[2])))
        index = f.cast("sitofp", number, "float")
        f.store(value if self.form.values else index, here)
        if self.form.both:
            f.store(value, f.gep(here, self.given[3]))


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
