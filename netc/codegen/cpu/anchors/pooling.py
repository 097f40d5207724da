"""Pooling: windows of any size on any number of axes, and 2-D windows unrolled on blocked maps.

Where the whole window lies inside the image, small windows are unrolled and two neighbouring
pixels may share a vector; at the edges loops run over what is left of the window. A maximum may
read a row twice, so it needs no edge rows: rows outside are replaced by the nearest inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from netc.codegen.cpu import mathlib
from netc.codegen.cpu.anchors.access import Access, Args
from netc.codegen.cpu.anchors.folds import tree
from netc.codegen.cpu.anchors.results import Lane, Results, Row, Writer, lanes_of
from netc.codegen.cpu.anchors.streams import Port, Ports
from netc.codegen.cpu.anchors.units import units
from netc.codegen.cpu.anchors.windows import (
    AXIS_SLOTS,
    Axis,
    Span,
    add_axes,
    extent,
    read_axes,
    span,
    walk,
)
from netc.codegen.cpu.emit import Function, Val
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.cpu.stored import read, size_of
from netc.codegen.operand import BLOCK, Call, Kernel, Operand
from netc.ir.ops.pooling import AvgPool, MaxPool, Pool
from netc.ir.types import DType

_UNROLLED = 12  # taps


@dataclass(frozen=True)
class Pooling:
    """What the code of a pooling kernel depends on."""

    results: Results = field(compare=False)
    source: Port
    mean: bool
    axes: int
    taps: tuple[int, int] | None  # unrolled
    step: int | None  # between pixels, where it is unrolled


def input_port(ctx: Lowering, x: Operand) -> tuple[Access, Port]:
    """An anchor's input with all its strides; the innermost one is an argument too."""
    access = Access(ctx.address(x), x.type.dtype, tuple(x.strides), element=x.element)
    return access, Port("s", x.type.dtype, len(x.strides) - 1, element=x.element)


@rule(MaxPool, AvgPool, short=True)
def lower_pool(ctx: Lowering, k: Kernel) -> Call:
    """One kernel for maxima and means."""
    assert k.anchor is not None
    op, x = k.anchor.op, k.anchor_operands()[0]
    assert isinstance(op, Pool)
    kernel, stride, pad = op.window()
    access, port = input_port(ctx, x)
    results = Results(ctx, k)
    small = x.is_c8 and kernel[0] * kernel[1] <= _UNROLLED
    p = Pooling(
        results,
        port,
        isinstance(op, AvgPool),
        len(kernel),
        (kernel[0], kernel[1]) if small else None,
        stride[1] if small else None,
    )
    args = Args()
    args.access(access)
    add_axes(args, x.type.shape[2:], kernel, stride, pad)
    results.arguments(args)
    symbol = ctx.code(("pool", p, results.key), lambda f: _emit(f, p))
    return Call(symbol, tuple(args.items))


def _emit(f: Function, p: Pooling) -> None:
    source = Ports(f, [p.source], 0)
    strides = [*source.outer[0], source.steps[0][0]]
    axes = read_axes(f, source.end, strides[2:])
    writer = Writer(f, p.results, source.end + AXIS_SLOTS * p.axes)
    with units(f, writer.sizes[:-1]) as indices:
        base = source.bases[0]
        for i, s in zip(indices[:2], strides[:2], strict=True):
            base = f.gep(base, f.mul(i, s))
        spans = [span(f, a, i) for a, i in zip(axes[:-1], indices[2:], strict=True)]
        line = _Line(f, p, axes[-1], spans, base, writer.row(indices), writer.sizes[-1])
        if p.taps is None:
            line.edges(f.const(0), f.const(0), line.clipped)
        else:
            line.unrolled()
    f.ret()


class _Line:
    """One row of outputs."""

    def __init__(
        self,
        f: Function,
        p: Pooling,
        across: Axis,
        spans: Sequence[Span],
        base: Val,
        row: Row,
        width: Val,
    ) -> None:
        self.f, self.p, self.across, self.spans = f, p, across, spans
        self.base, self.row, self.width = base, row, width
        self.lanes, self.item = lanes_of(f, p.results.blocked), p.source.item
        self.count = f.const(1)
        for s in spans:
            self.count = f.mul(self.count, extent(f, s))

    def edges(self, first: Val, last: Val, pixel: Callable[[Val, Span], None]) -> None:
        """All outputs of the row but those from `first` to `last`, one by one."""
        f = self.f
        inner = f.sub(last, first)
        with f.loop(0, f.sub(self.width, inner)) as turn:
            after = f.icmp("sge", turn.index, first)
            x = f.select(after, f.add(turn.index, inner), turn.index)
            pixel(x, span(f, self.across, x))

    def clipped(self, x: Val, here: Span) -> None:
        """The output at x from what is left of its window."""
        f = self.f
        zero = [f.f32(0.0 if self.p.mean else -float("inf"), w.count) for w in self.lanes]
        acc = walk(f, [*self.spans, here], self.base, zero, self._step)
        if self.p.mean:
            whole = f.cast("sitofp", f.mul(self.count, extent(f, here)), "float")
            acc = [f.fdiv(a, f.splat(whole, a.lanes)) for a in acc]
        at = f.shl(x, 3) if self.p.results.blocked else x
        for w, a in zip(self.lanes, acc, strict=True):
            self.row.put(a, at, w.first)

    def _step(self, address: Val, indices: list[Val], acc: list[Val]) -> list[Val]:
        f = self.f
        loads = [self._read(address, w) for w in self.lanes]
        return [self._joined(f, a, x) for a, x in zip(acc, loads, strict=True)]

    def _read(self, pixel: Val, part: Lane) -> Val:
        """Some channels of a pixel."""
        address = self.f.gep(pixel, self.item * part.first)
        return read(self.f, address, part.count, self.p.source.element)

    def unrolled(self) -> None:
        """Outputs whose window lies inside by straight code, the others by `edges`."""
        f, a = self.f, self.across
        (s,) = self.spans
        low = f.sdiv(f.sub(f.add(a.pad, a.step), 1), a.step)
        room = f.sub(f.add(a.size, a.pad), a.kernel)
        high = f.sdiv(f.add(room, a.step), a.step)
        high = f.smin(f.select(f.icmp("slt", room, 0), f.const(0), high), self.width)
        if self.p.mean:
            full = f.icmp("eq", f.sub(s.high, s.low), s.axis.kernel)
        else:
            full = f.icmp("slt", s.low, s.high)
        low, high = f.smin(low, self.width), f.select(full, high, f.const(0))
        empty = f.icmp("sge", low, high)
        low = f.select(empty, f.const(0), low)
        high = f.select(empty, f.const(0), high)
        rows = self._rows(s)
        self._inner(low, high, rows)
        if self.p.mean:
            self.edges(low, high, self.clipped)
            return
        taken = f.icmp("slt", s.low, s.high)
        self.edges(low, high, lambda x, here: self._nearest(x, here, rows, taken))

    def _nearest(self, x: Val, here: Span, rows: Sequence[Val], taken: Val) -> None:
        """The maximum at x, columns outside replaced by the nearest inside; −∞ of no elements."""
        f, a = self.f, self.across
        assert self.p.taps is not None
        some = f.and_(taken, f.icmp("slt", here.low, here.high))
        with f.if_(some) as side:
            columns = []
            for j in range(self.p.taps[1]):
                column = f.smax(f.smin(f.add(here.start, j), f.sub(a.size, 1)), 0)
                columns.append(f.mul(f.add(column, a.pad), a.stride))
            results = []
            for w in self.lanes:
                loads = [self._read(f.gep(r, c), w) for r in rows for c in columns]
                results.append(tree(f, loads, mathlib.maximum))
            side.give(results)
            side.otherwise()
            side.give([f.f32(-float("inf"), w.count) for w in self.lanes])
        for w, value in zip(self.lanes, side.results, strict=True):
            self.row.put(value, f.shl(x, 3), w.first)

    def _rows(self, s: Span) -> list[Val]:
        """Addresses of the window's rows, those outside replaced by the nearest inside."""
        f, out = self.f, []
        assert self.p.taps is not None
        for i in range(self.p.taps[0]):
            j = f.smin(f.smax(f.const(i), s.low), f.sub(s.high, 1))
            y = f.add(s.start, j)
            row = f.gep(self.base, f.mul(y, s.axis.stride))
            out.append(f.gep(row, f.mul(f.sub(0, self.across.pad), self.across.stride)))
        return out

    def _inner(self, low: Val, high: Val, rows: Sequence[Val]) -> None:
        f = self.f
        start = low
        wide = f.target.lanes
        if wide > BLOCK and self.p.results.even:
            paired = f.add(low, f.and_(f.sub(high, low), -2))
            with f.loop(low, paired, 2) as turn:
                self._pixels(rows, turn.index, [Lane(0, wide)])
            start = paired
        with f.loop(start, high) as turn:
            self._pixels(rows, turn.index, self.lanes)

    def _pixels(self, rows: Sequence[Val], x: Val, lanes: Sequence[Lane]) -> None:
        """One pixel, or two in one vector."""
        f = self.f
        assert self.p.taps is not None
        assert self.p.step is not None
        at = f.mul(x, self.p.step * self.item * BLOCK)
        for w in lanes:
            places = [f.gep(f.gep(row, at), self.item * w.first) for row in rows]
            lines = [self._columns(place, w) for place in places]
            acc = tree(f, lines, self._joined)
            if self.p.mean:
                size = self.p.taps[0] * self.p.taps[1]
                acc = f.fmul(acc, f.f32(1.0 / size, w.count))
            self.row.put(acc, f.shl(x, 3), w.first)

    def _columns(self, place: Val, w: Lane) -> Val:
        """One row of a window joined."""
        f = self.f
        assert self.p.taps is not None
        assert self.p.step is not None
        taps = [f.gep(place, self.item * BLOCK * j) for j in range(self.p.taps[1])]
        element = self.p.source.element
        loads = [load_pixels(f, tap, w.count, self.p.step, element) for tap in taps]
        return tree(f, loads, self._joined)

    def _joined(self, f: Function, a: Val, x: Val) -> Val:
        return f.fadd(a, x) if self.p.mean else mathlib.maximum(f, a, x)


def load_pixels(f: Function, address: Val, lanes: int, step: int, element: str) -> Val:
    """A vector of one pixel, or of two that lie `step` pixels apart."""
    if lanes <= BLOCK or step == 1:
        return read(f, address, lanes, element)
    low = read(f, address, BLOCK, element)
    there = f.gep(address, size_of(DType.F32, element) * BLOCK * step)
    high = read(f, there, BLOCK, element)
    return f.shuffle(low, high, range(2 * BLOCK))
