"""Softmax and its logarithm along any axis, in three passes: maximum, sum, results.

Exponentials wait in the result's own memory for their sum, where it has room for vectors of them;
else they are computed twice.
Where the axis is the last one a row is folded along it; else vectors go along the last axis.
"""

from __future__ import annotations

from collections.abc import Sequence

from netc.codegen.cpu import mathlib
from netc.codegen.cpu.anchors.access import Args, plain_access
from netc.codegen.cpu.anchors.folds import add, each_vector, fold_row, largest
from netc.codegen.cpu.anchors.formula import Formula, Tail
from netc.codegen.cpu.anchors.reductions import merged, operands_of
from netc.codegen.cpu.anchors.streams import Port, Ports, Stream, plain_port
from netc.codegen.cpu.anchors.units import ceil_div, units
from netc.codegen.cpu.emit import Function, Val
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import Call, Kernel
from netc.ir.ops.normalization import LogSoftmax, Softmax
from netc.ir.types import DType

_CHUNK = 256  # neighbouring results in one unit
_LOWEST = -float("inf")


@rule(Softmax, LogSoftmax)
def lower_softmax(ctx: Lowering, k: Kernel) -> Call:
    """One kernel, element-wise work before and after included."""
    assert k.anchor is not None
    op, value = k.anchor.op, k.anchor.inputs[0]
    assert isinstance(op, Softmax)
    shape, head, tail = value.type.shape, Formula([value]), Tail(k)
    operands = (*operands_of(k, head), *tail.operands, *k.outs)
    accesses = [plain_access(ctx, o, shape) for o in operands]
    sizes, walked, along = merged(shape, accesses, {op.axis % len(shape)})
    if not any(along):  # an axis of size 1
        sizes, along = (*sizes, 1), (*along, True)
        walked = [a.extended(1) for a in walked]
    ports = tuple(plain_port(a) for a in walked)
    args = Args()
    for d in sizes:
        args.size(d)
    for a in walked:
        args.access(a)
    log = isinstance(op, LogSoftmax)
    key = ("softmax", log, along, ports, head.key, tail.key)
    symbol = ctx.code(key, lambda f: _Softmax(f, along, ports, (head, tail), log).emit())
    return Call(symbol, tuple(args.items))


class _Softmax:
    def __init__(
        self,
        f: Function,
        along: tuple[bool, ...],
        ports: tuple[Port, ...],
        formulas: tuple[Formula, Tail],
        log: bool,
    ) -> None:
        self.f, self.along, self.log = f, along, log
        self.head, self.tail = formulas
        self.sizes = [f.slot(f.args[0], i) for i in range(len(along))]
        self.ports = Ports(f, ports, len(along))
        self.heads = len(self.head.leaves)
        self.axis = along.index(True)
        self.even = all(p.mode in "c0" and p.dtype is DType.F32 for p in ports)
        self.first_out = self.heads + len(self.tail.operands)
        home = ports[self.first_out]
        self.kept = not log and home.mode == "c" and home.dtype is DType.F32

    def emit(self) -> None:
        """The kernel."""
        kept = [d for i, d in enumerate(self.sizes[:-1]) if i != self.axis]
        if self.along[-1]:
            with units(self.f, kept) as indices:
                self._row(self.ports.streams(indices))
        else:
            with units(self.f, [*kept, ceil_div(self.f, self.sizes[-1], _CHUNK)]) as indices:
                self._vectors(indices[:-1], indices[-1])
        self.f.ret()

    def _read(self, streams: Sequence[Stream], at: Val, lanes: int, mask: Val | None) -> Val:
        """x at some elements."""
        loads = [s.get(at, lanes, mask) for s in streams[: self.heads]]
        return self.head.apply(self.f, lanes, loads)[0]

    def _grown(self, streams: Sequence[Stream], at: Val, top: Val, mask: Val | None) -> Val:
        """e to x less the maximum at some elements, for their sum."""
        x = self._read(streams, at, top.lanes, mask)
        grown = mathlib.exp(self.f, self.f.fsub(x, top))
        if self.kept:
            streams[self.first_out].put(grown, at, mask)
        return grown

    def _write(
        self, streams: Sequence[Stream], at: Val, sums: tuple[Val, Val], mask: Val | None
    ) -> None:
        """The result at some elements, from the maximum and the sum (or its logarithm)."""
        f, (top, total) = self.f, sums
        lanes = top.lanes
        if self.kept:
            y = f.fdiv(streams[self.first_out].get(at, lanes, mask), total)
        else:
            d = f.fsub(self._read(streams, at, lanes, mask), top)
            y = f.fsub(d, total) if self.log else f.fdiv(mathlib.exp(f, d), total)
        loads = [s.get(at, lanes, mask) for s in streams[self.heads : self.first_out]]
        values = self.tail.apply(f, lanes, y, loads)
        for s, value in zip(streams[self.first_out :], values, strict=True):
            s.put(value, at, mask)

    def _total(self, total: Val) -> Val:
        return mathlib.log(self.f, total) if self.log else total

    def _row(self, streams: Sequence[Stream]) -> None:
        f, count = self.f, self.sizes[-1]

        def load(at: Val, lanes: int, mask: Val | None) -> Val:
            return self._read(streams, at, lanes, mask)

        top = fold_row(f, count, load, largest, _LOWEST, self.even)

        def grown(at: Val, lanes: int, mask: Val | None) -> Val:
            return self._grown(streams, at, f.splat(top, lanes), mask)

        total = self._total(fold_row(f, count, grown, add, 0.0, self.even))

        def finish(at: Val, lanes: int, mask: Val | None) -> None:
            sums = f.splat(top, lanes), f.splat(total, lanes)
            self._write(streams, at, sums, mask)

        each_vector(f, count, finish, self.even)

    def _vectors(self, kept: Sequence[Val], chunk: Val) -> None:
        f = self.f
        start = f.mul(chunk, _CHUNK)
        count = f.smin(f.sub(self.sizes[-1], start), _CHUNK)

        def vector(at: Val, lanes: int, mask: Val | None) -> None:
            depth = self.sizes[self.axis]
            with f.loop(0, depth, carry=[f.f32(_LOWEST, lanes)]) as turn:
                x = self._read(self._streams(kept, turn.index, start), at, lanes, mask)
                turn.next([largest(f, turn.values[0], x)])
            top = turn.results[0]
            with f.loop(0, depth, carry=[f.f32(0.0, lanes)]) as turn:
                grown = self._grown(self._streams(kept, turn.index, start), at, top, mask)
                turn.next([f.fadd(turn.values[0], grown)])
            total = self._total(turn.results[0])
            with f.loop(0, depth) as turn:
                self._write(self._streams(kept, turn.index, start), at, (top, total), mask)

        each_vector(f, count, vector, self.even)

    def _streams(self, kept: Sequence[Val], index: Val, start: Val) -> list[Stream]:
        indices = [*kept[: self.axis], index, *kept[self.axis :]]
        return self.ports.streams(indices, start)
