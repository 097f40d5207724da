"""Row-major convolutions of one input channel each, such as depthwise ones over volumes.

Vectors hold pixels of a row. For any number of spatial axes. Lanes beyond either end of an input
row are read as zero, under a mask, so that edges are no slower than the middle. Sums have the order
of those of `direct.py`: a layer's part, with fewer output channels, computes what the whole does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from netc.codegen.cpu.anchors.access import Args
from netc.codegen.cpu.anchors.results import Results, Row, Writer
from netc.codegen.cpu.anchors.units import units
from netc.codegen.cpu.anchors.windows import AXIS_SLOTS, Span, add_axes, read_axes, span, walk
from netc.codegen.cpu.emit import Function, Val, vec
from netc.codegen.cpu.lowering import Lowering
from netc.codegen.cpu.target import Target
from netc.codegen.operand import BLOCK, Call, Operand
from netc.ir.op import Array

_WIDEST = 8  # taps across
_FEW = 4  # pixels at a time where a row ends


@dataclass(frozen=True)
class Line:
    """What the code depends on: taps across, pixels between outputs, and between taps."""

    results: Results = field(compare=False)
    axes: int
    taps: int
    step: int
    dilation: int
    dense: bool  # no dilation along the other axes


@dataclass(frozen=True)
class Window:
    """Weights [o, channels of a group, k…], and which inputs an output meets; `pad` may be < 0."""

    weights: Array
    groups: int
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]


def in_lines(target: Target, x: Operand, w: Window) -> bool:
    """Whether there is such a kernel: lanes can be read under a mask, and channels are alone."""
    masks = target.lanes >= BLOCK and bool(w.stride) and w.weights.shape[1] == 1
    return masks and x.strides[-1] == 1 and w.stride[-1] <= 2 and w.weights.shape[-1] <= _WIDEST


def lines_call(ctx: Lowering, x: Operand, w: Window, bias: Array, results: Results) -> Call:
    """The kernel of one window."""
    kernel = w.weights.shape[2:]
    s = Line(
        results, len(kernel), kernel[-1], w.stride[-1], w.dilation[-1], set(w.dilation[:-1]) <= {1}
    )
    args = Args()
    args.add(ctx.address(x))
    for d in x.strides:
        args.size(d * x.item)
    args.size(w.weights.shape[0] // w.groups)
    args.add(ctx.weight(np.ascontiguousarray(w.weights)))
    args.add(ctx.weight(bias))
    add_axes(args, x.type.shape[2:], kernel, w.stride, w.pad, dilation=w.dilation)
    results.arguments(args)
    symbol = ctx.code(("lines", s, results.key), lambda f: _Lines(f, s).emit())
    return Call(symbol, tuple(args.items))


class _Lines:
    def __init__(self, f: Function, s: Line) -> None:
        self.f, self.s, self.lanes = f, s, f.target.lanes
        self.source = f.slot(f.args[0], 0, "ptr")
        self.image, self.channel, *spatial = (f.slot(f.args[0], 1 + i) for i in range(2 + s.axes))
        first = 3 + s.axes
        self.outputs = f.slot(f.args[0], first)
        self.weights, self.bias = (f.slot(f.args[0], first + 1 + i, "ptr") for i in range(2))
        self.axes = read_axes(f, first + 3, spatial)
        self.writer = Writer(f, s.results, first + 3 + AXIS_SLOTS * s.axes)
        self.end = f.alloca(4 * self.lanes)
        self.taps = f.const(1)
        for a in self.axes:
            self.taps = f.mul(self.taps, a.kernel)

    def emit(self) -> None:
        """The kernel: one unit is a row of results, by two vectors and the last by one."""
        f = self.f
        *outer, width = self.writer.sizes
        with units(f, outer) as (image, output, *place):
            group = f.sdiv(output, self.outputs)
            base = f.gep(self.source, f.mul(image, self.image))
            base = f.gep(base, f.mul(group, self.channel))
            weights = f.gep(self.weights, f.mul(output, self.taps), 4)
            whole = zip(self.axes[:-1], place, strict=True)
            spans = [span(f, a, i, not self.s.dense) for a, i in whole]
            bias = f.splat(f.load("float", f.gep(self.bias, output, 4)), self.lanes)
            row = self.writer.row([image, output, *place])
            line = _Row(self, base, weights, spans)
            twice = 2 * self.lanes
            pairs = f.mul(f.sdiv(f.add(width, self.lanes - 1), twice), twice)
            for begin, stop, vectors in ((f.const(0), pairs, 2), (pairs, width, 1)):
                with f.loop(begin, stop, vectors * self.lanes) as turn:
                    for i, value in enumerate(line.sums(turn.index, vectors)):
                        self._put(
                            row, f.fadd(value, bias), f.add(turn.index, i * self.lanes), width
                        )
        f.ret()

    def _put(self, row: Row, value: Val, at: Val, width: Val) -> None:
        """A vector of results, or what of it is left of the row."""
        f = self.f
        with f.if_(f.icmp("sle", f.add(at, self.lanes), width)) as side:
            row.put(value, at)
            side.otherwise()
            f.store(value, self.end)
            count = f.sub(width, at)
            few = f.and_(count, -_FEW)
            for begin, stop, lanes in ((f.const(0), few, _FEW), (few, count, 1)):
                with f.loop(begin, stop, lanes) as turn:
                    here = f.load(vec(lanes), f.gep(self.end, turn.index, 4))
                    row.put(here, f.add(at, turn.index))


@dataclass(frozen=True)
class _Row:
    """One row of results of one channel."""

    d: _Lines
    base: Val
    weights: Val
    spans: Sequence[Span]

    def sums(self, x: Val, vectors: int) -> list[Val]:
        """The sums of some vectors of pixels from x on, without the bias."""
        f, d = self.d.f, self.d
        s, axis = d.s, d.axes[-1]
        first = f.sub(f.mul(x, s.step), axis.pad)
        masks = {at: self._mask(f.add(first, at)) for at in self._places(vectors)}
        shifted = f.gep(self.base, first, 4)

        def step(address: Val, indices: list[Val], sums: list[Val]) -> list[Val]:
            tap = f.const(0)
            for a, i in zip(d.axes[:-1], indices, strict=True):
                tap = f.add(f.mul(tap, a.kernel), i)
            weights = f.gep(self.weights, f.mul(tap, s.taps), 4)
            for k in range(s.taps):
                w = f.splat(f.load("float", f.gep(weights, 4 * k)), d.lanes)
                loads = [self._load(address, masks, v, k) for v in range(vectors)]
                sums = [f.fma(value, w, acc) for value, acc in zip(loads, sums, strict=True)]
            return sums

        return walk(f, self.spans, shifted, [f.f32(0.0, d.lanes)] * vectors, step)

    def _places(self, vectors: int) -> list[int]:
        """Where vectors are read, in pixels from the first on."""
        s, lanes = self.d.s, self.d.lanes
        each = [v * lanes for v in range(vectors * s.step)]
        return sorted({k * s.dilation + v for k in range(s.taps) for v in each})

    def _mask(self, first: Val) -> Val:
        """Which of the pixels from `first` on there are."""
        f, lanes = self.d.f, self.d.lanes
        short = f.splat(f.cast("trunc", first, "i32"), lanes)
        size = f.splat(f.cast("trunc", self.d.axes[-1].size, "i32"), lanes)
        return f.icmp("ult", f.add(short, f.iota(lanes)), size)

    def _load(self, address: Val, masks: dict[int, Val], vector: int, tap: int) -> Val:
        """The pixels that a vector of results meets at a tap across."""
        f, s, lanes = self.d.f, self.d.s, self.d.lanes
        first = tap * s.dilation + vector * s.step * lanes
        places = [first + i * lanes for i in range(s.step)]
        read = [f.masked_load(f.gep(address, 4 * p), masks[p], vec(lanes)) for p in places]
        if s.step == 1:
            return read[0]
        return f.shuffle(read[0], read[1], range(0, 2 * lanes, 2))
