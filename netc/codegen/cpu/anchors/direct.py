"""Convolution and its transpose straight from the definition, into row-major results.

For any number of spatial axes, any groups, strides and dilations.
Vectors hold sixteen output channels of one pixel, a tile a few pixels of a row; sums pass through
the stack to be stored channel by channel. Groups with few output channels take their channels
singly, and vectors then hold neighbouring pixels. Windows are clipped, so no padding is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np

from netc.codegen.cpu.anchors.access import Args
from netc.codegen.cpu.anchors.lines import Window, in_lines, lines_call
from netc.codegen.cpu.anchors.results import Results, Writer
from netc.codegen.cpu.anchors.results import Row as Line
from netc.codegen.cpu.anchors.units import units
from netc.codegen.cpu.anchors.windows import AXIS_SLOTS, Axis, Span, add_axes, read_axes, span
from netc.codegen.cpu.emit import Function, Val, const_float, vec
from netc.codegen.cpu.lowering import Lowering
from netc.codegen.operand import BLOCK, Call, Kernel, Operand
from netc.ir.op import Array
from netc.ir.ops.convolution import Conv, ConvTranspose, Windowed

_PANEL = 16  # output channels of a vector group
_FEW = 4  # with fewer output channels in a group, they are taken singly


@dataclass(frozen=True)
class Direct:
    """What the code depends on."""

    results: Results = field(compare=False)
    transposed: bool
    axes: int
    panel: int  # output channels together: 16 or 1
    even: bool  # pixels of a row are one element apart in the input
    dense: bool  # no dilation

    @property
    def together(self) -> int:
        """Channels summed before the next window is begun, as matrix kernels do; 0: all."""
        return BLOCK if self.axes == 2 else 0


def lower_direct_conv(ctx: Lowering, k: Kernel) -> Call:
    """A convolution with a row-major result."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Conv)
    x, w, *bias = k.anchor_operands()
    return direct_call(ctx, k, x, window_of(k.anchor.op, w), bias)


def lower_direct_transpose(ctx: Lowering, k: Kernel) -> Call:
    """The transpose with a row-major result, each gathered from the inputs that add to it."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, ConvTranspose)
    x, w, *bias = k.anchor_operands()
    return direct_call(ctx, k, x, window_of(k.anchor.op, w), bias, transposed=True)


def window_of(op: Windowed, w: Operand) -> Window:
    """Weights by output channel, also of a transpose, and the numbers of the window."""
    weights = np.asarray(w.array, np.float32).reshape(w.type.sizes({}))
    if isinstance(op, ConvTranspose):  # [c, o, …] -> [o, c, …], group by group
        parts = np.split(weights, op.groups)
        weights = np.concatenate([p.swapaxes(0, 1) for p in parts])
    return Window(weights, op.groups, *op.window(weights.ndim - 2))


def direct_call(
    ctx: Lowering,
    k: Kernel,
    x: Operand,
    w: Window,
    bias: Sequence[Operand],
    transposed: bool = False,
) -> Call:
    """The kernel of one window over x, into the row-major outputs of k."""
    kernel = w.weights.shape[2:]
    outputs = w.weights.shape[0] // w.groups
    results = Results(ctx, k, blocked=False, shape=k.outs[0].type.shape)
    panel = _PANEL if outputs >= _FEW else 1
    packed_bias = _bias(bias, w.groups, outputs, panel)
    if panel == 1 and not transposed and in_lines(ctx.target, x, w):
        return lines_call(ctx, x, w, packed_bias, results)
    across = x.strides[-1] * (w.stride[-1] if w.stride else 1) if kernel else 0
    dense = set(w.dilation) <= {1}
    d = Direct(results, transposed, len(kernel), panel, across == 1, dense)
    args = Args()
    _add_source(ctx, args, x)
    for n in (w.weights.shape[1], outputs, w.groups, -(-outputs // panel)):
        args.size(n)
    args.add(ctx.weight(_panels(w.weights, w.groups, panel, d.together)))
    args.add(ctx.weight(packed_bias))
    add_axes(args, x.type.shape[2:], kernel, w.stride, w.pad, dilation=w.dilation)
    results.arguments(args)
    symbol = ctx.code(("direct", d, results.key), lambda f: _Direct(f, d).emit())
    return Call(symbol, tuple(args.items))


def _add_source(ctx: Lowering, args: Args, x: Operand) -> None:
    """Address and byte strides: image, channel, then the spatial axes."""
    assert not x.is_c8, "blocks give blocks"
    args.add(ctx.address(x))
    for s in x.strides:
        args.size(s * 4)


def _panels(weights: Array, groups: int, panel: int, together: int) -> Array:
    """[o, c, k…] as [group][panel][channels taken together][taps][c][lane]."""
    o, c = weights.shape[:2]
    together = together or max(1, c)
    each = o // groups
    count = -(-each // panel)
    taps = int(np.prod(weights.shape[2:]))
    out = np.zeros((groups, count * panel, c, taps), np.float32)
    out[:, :each] = weights.reshape(groups, each, c, taps)
    split = out.reshape(groups, count, panel, c, taps).transpose(0, 1, 4, 3, 2)
    parts = [split[..., i : i + together, :] for i in range(0, c, together)]
    flat = [part.reshape(groups, count, -1) for part in parts]
    return np.concatenate(flat, axis=2) if flat else np.zeros(0, np.float32)


def _bias(bias: Sequence[Operand], groups: int, outputs: int, panel: int) -> Array:
    padded = -(-outputs // panel) * panel
    out = np.zeros((groups, padded), np.float32)
    for b in bias:
        out[:, :outputs] = np.asarray(b.array, np.float32).reshape(groups, outputs)
    return out


class _Direct:
    def __init__(self, f: Function, d: Direct) -> None:
        self.f, self.d = f, d
        self.source = f.slot(f.args[0], 0, "ptr")
        self.image, self.lane = (f.slot(f.args[0], i) for i in (1, 2))
        spatial = [f.slot(f.args[0], 3 + i) for i in range(d.axes)]
        first = 3 + d.axes
        numbers = [f.slot(f.args[0], first + i) for i in range(4)]
        self.channels, self.outputs, self.groups, self.panels = numbers
        self.weights = f.slot(f.args[0], first + 4, "ptr")
        self.bias = f.slot(f.args[0], first + 5, "ptr")
        self.axes = read_axes(f, first + 6, spatial)
        self.writer = Writer(f, d.results, first + 6 + AXIS_SLOTS * d.axes)
        self.lanes = min(d.panel, f.target.lanes)
        self.parts = d.panel // self.lanes
        self.taps = f.const(1)
        for a in self.axes:
            self.taps = f.mul(self.taps, a.kernel)
        self.scratch = f.alloca(4 * d.panel * 8)

    def emit(self) -> None:
        """The kernel: one unit is a row of one panel."""
        f = self.f
        outer = self.writer.sizes[2:-1] if self.d.axes else []
        sizes = [self.writer.sizes[0], self.groups, self.panels, *outer]
        with units(f, sizes) as (image, group, panel, *place):
            number = f.add(f.mul(group, self.panels), panel)
            size = f.mul(f.mul(self.channels, self.taps), 4 * self.d.panel)
            row = _Row(
                self,
                weights=f.gep(self.weights, f.mul(number, size)),
                bias=f.gep(self.bias, f.mul(number, 4 * self.d.panel)),
                source=f.gep(self.source, f.mul(image, self.image)),
                channel=f.mul(group, self.channels),
                first=f.add(f.mul(group, self.outputs), f.mul(panel, self.d.panel)),
                count=f.smin(f.sub(self.outputs, f.mul(panel, self.d.panel)), self.d.panel),
                indices=[image, *place],
            )
            row.emit()
        f.ret()


@dataclass(frozen=True)
class _Channels:
    """Input channels of the group that are summed together, and their weights."""

    first: Val
    count: Val
    weights: Val


# One element of the window over some channels, at (bytes, number of the element); and all of them.
Each: TypeAlias = Callable[[Val, Val, list[Val]], list[Val]]
Taps: TypeAlias = Callable[[Each, list[Val]], list[Val]]


@dataclass(frozen=True)
class _Row:
    """One row of results of one panel of output channels."""

    d: _Direct
    weights: Val
    bias: Val
    source: Val
    channel: Val  # first input channel
    first: Val  # first output channel
    count: Val  # output channels
    indices: list[Val]  # image, outer spatial places

    def emit(self) -> None:
        """All pixels: tiles where the window is inside, single pixels elsewhere."""
        f, d = self.d.f, self.d.d
        if not d.axes:
            self.put(self.sums([], f.const(0), 1), f.const(0), 1)
            return
        width = self.d.writer.sizes[-1]
        if d.transposed:
            with f.loop(0, width) as turn:
                self.put(self.gathered(turn.index), turn.index, 1)
            return
        axis = self.d.axes[-1]
        outer = zip(self.d.axes[:-1], self.indices[1:], strict=True)
        spans = [span(f, a, i, not d.dense) for a, i in outer]
        low, high = self._inside(axis, width)
        inner = Span(axis, f.const(0), f.const(0), axis.kernel)
        start = low
        for tile in self._tiles():
            stop = f.add(start, f.mul(f.sdiv(f.sub(high, start), tile), tile))
            with f.loop(start, stop, tile) as turn:
                self.put(self.sums([*spans, inner], turn.index, tile), turn.index, tile)
            start = stop
        done = f.sub(start, low)
        with f.loop(0, f.sub(width, done)) as turn:
            behind = f.icmp("sge", turn.index, low)
            x = f.select(behind, f.add(turn.index, done), turn.index)
            here = span(f, axis, x, not d.dense)
            clipped = Span(axis, f.const(0), here.low, here.high)
            self.put(self.sums([*spans, clipped], x, 1), x, 1)

    def _tiles(self) -> tuple[int, ...]:
        """Pixels of a tile, the most first."""
        lanes = self.d.f.target.lanes
        if self.d.d.panel == 1:
            return (lanes,) if self.d.d.even else ()
        return {16: (8, 4), 8: (4, 2)}.get(lanes, (2,))

    def _inside(self, axis: Axis, width: Val) -> tuple[Val, Val]:
        """The pixels whose window lies inside along the last axis."""
        f = self.d.f
        low = f.smax(f.sdiv(f.sub(f.add(axis.pad, axis.step), 1), axis.step), 0)
        low = f.smin(low, width)
        reach = f.mul(f.sub(axis.kernel, 1), axis.dilation)
        room = f.sub(f.sub(f.add(axis.size, axis.pad), reach), 1)
        count = f.add(f.sdiv(room, axis.step), 1)
        high = f.smin(f.select(f.icmp("slt", room, 0), f.const(0), count), width)
        return low, f.smax(high, low)

    def _summed(self, window: Taps, pixels: int) -> list[Val]:
        """The sums of windows over all channels, some channels after others, and the bias."""
        f, d = self.d.f, self.d
        size = f.mul(d.taps, 4 * d.d.panel)
        lanes = pixels if d.d.panel == 1 else d.lanes
        none = [f.splat(const_float(0.0), lanes)] * (1 if d.d.panel == 1 else pixels * d.parts)
        if not d.d.together:
            channels = _Channels(f.const(0), d.channels, self.weights)
            sums = window(partial(self._each, channels, pixels), none)
        else:
            with f.loop(0, d.channels, d.d.together, carry=none) as turn:
                count = f.smin(f.sub(d.channels, turn.index), d.d.together)
                weights = f.gep(self.weights, f.mul(turn.index, size))
                channels = _Channels(turn.index, count, weights)
                turn.next(window(partial(self._each, channels, pixels), turn.values))
            sums = turn.results
        if d.d.panel == 1:
            return [f.fadd(sums[0], f.splat(f.load("float", self.bias), pixels))]
        each = 4 * d.lanes
        parts = [f.load(vec(d.lanes), f.gep(self.bias, i * each)) for i in range(d.parts)]
        return [f.fadd(acc, b) for acc, b in zip(sums, parts * pixels, strict=True)]

    def sums(self, spans: Sequence[Span], x: Val, pixels: int) -> list[Val]:
        """The sums of some pixels from x on, over the window and all channels."""
        f = self.d.f
        shift = f.const(0)
        if spans:
            last = spans[-1].axis
            shift = f.mul(f.sub(f.mul(x, last.step), last.pad), last.stride)

        def window(each: Each, sums: list[Val]) -> list[Val]:
            return self._window(each, spans, shift, f.const(0), sums)

        return self._summed(window, pixels)

    def _window(
        self, each: Each, spans: Sequence[Span], shift: Val, tap: Val, sums: list[Val]
    ) -> list[Val]:
        """Loops over the window; `tap` numbers its elements, `shift` counts bytes."""
        f = self.d.f
        if not spans:
            return each(shift, tap, sums)
        s, *rest = spans
        base = f.mul(tap, s.axis.kernel)
        with f.loop(s.low, s.high, carry=sums) as turn:
            place = f.add(s.start, f.mul(turn.index, s.axis.dilation))
            here = f.add(shift, f.mul(place, s.axis.stride))
            inner = f.add(base, turn.index)
            turn.next(self._window(each, rest, here, inner, turn.values))
        return turn.results

    def _each(
        self, channels: _Channels, pixels: int, shift: Val, tap: Val, sums: list[Val]
    ) -> list[Val]:
        """One element of the window, channel by channel."""
        f, d = self.d.f, self.d
        size = 4 * d.d.panel
        weights = f.gep(channels.weights, f.mul(tap, f.mul(channels.count, size)))
        begin = f.add(self.channel, channels.first)
        source = f.gep(self.source, shift)
        offsets = self._offsets(pixels)
        first = f.gep(source, f.mul(begin, d.lane))
        with f.loop(0, channels.count, carry=[first, weights, *sums]) as turn:
            here, row, *acc = turn.values
            following = [f.gep(here, d.lane), f.gep(row, size)]
            turn.next([*following, *self._step(here, row, acc, offsets)])
        return turn.results[2:]

    def _offsets(self, pixels: int) -> list[Val | int]:
        """Bytes from the first pixel of a tile to each."""
        if self.d.d.even:
            return [4 * p for p in range(pixels)]
        out: list[Val | int] = [0]
        for p in range(1, pixels):
            last = self.d.axes[-1]
            out.append(self.d.f.mul(self.d.f.mul(last.step, last.stride), p))
        return out

    def _step(
        self, source: Val, row: Val, sums: Sequence[Val], offsets: Sequence[Val | int]
    ) -> list[Val]:
        """One element of the window in one channel."""
        f, d = self.d.f, self.d
        if d.d.panel == 1:
            pixels = len(offsets)
            w = f.splat(f.load("float", row), pixels)
            return [f.fma(f.load(vec(pixels), source), w, sums[0])]
        size = 4 * d.lanes
        w_parts = [f.load(vec(d.lanes), f.gep(row, i * size)) for i in range(d.parts)]
        out = []
        for p, offset in enumerate(offsets):
            value = f.splat(f.load("float", f.gep(source, offset)), d.lanes)
            for i, w in enumerate(w_parts):
                out.append(f.fma(value, w, sums[p * d.parts + i]))
        return out

    def gathered(self, x: Val) -> list[Val]:
        """The sums of one pixel of the transpose: over taps that reach it, then channels."""
        f = self.d.f
        places = [*self.indices[1:], x]
        axes = list(zip(self.d.axes, places, strict=True))

        def window(each: Each, sums: list[Val]) -> list[Val]:
            return self._reaching(each, axes, f.const(0), f.const(0), sums)

        return self._summed(window, 1)

    def _reaching(
        self, each: Each, axes: list[tuple[Axis, Val]], shift: Val, tap: Val, sums: list[Val]
    ) -> list[Val]:
        """Loops over window positions k where (place + pad − k · dilation) / stride is whole."""
        if not axes:
            return each(shift, tap, sums)
        if self.d.d.dense:
            return self._evenly(each, axes, shift, tap, sums)
        f = self.d.f
        (axis, place), *rest = axes
        at = f.add(place, axis.pad)
        base = f.mul(tap, axis.kernel)
        with f.loop(0, axis.kernel, carry=sums) as turn:
            back = f.sub(at, f.mul(turn.index, axis.dilation))
            index = f.sdiv(back, axis.step)
            exact = f.icmp("eq", f.mul(index, axis.step), back)
            inside = f.and_(f.icmp("sge", back, 0), f.icmp("slt", index, axis.size))
            with f.if_(f.and_(exact, inside)) as side:
                moved = f.add(shift, f.mul(index, axis.stride))
                inner = f.add(base, turn.index)
                side.give(self._reaching(each, rest, moved, inner, turn.values))
                side.otherwise()
                side.give(turn.values)
            turn.next(side.results)
        return turn.results

    def _evenly(
        self, each: Each, axes: list[tuple[Axis, Val]], shift: Val, tap: Val, sums: list[Val]
    ) -> list[Val]:
        """The same without dilation: the positions lie a stride apart, one input each."""
        f = self.d.f
        (axis, place), *rest = axes
        at = f.add(place, axis.pad)
        base = f.mul(tap, axis.kernel)
        last = f.sdiv(at, axis.step)  # the input that position `at` modulo stride meets
        skipped = f.smax(f.sub(f.add(last, 1), axis.size), 0)
        first = f.add(f.sub(at, f.mul(last, axis.step)), f.mul(skipped, axis.step))
        stop = f.smin(axis.kernel, f.add(at, 1))
        index = f.sub(last, skipped)
        with f.loop(first, stop, axis.step, [index, *sums]) as turn:
            here, *acc = turn.values
            moved = f.add(shift, f.mul(here, axis.stride))
            done = self._reaching(each, rest, moved, f.add(base, turn.index), acc)
            turn.next([f.sub(here, 1), *done])
        return turn.results[1:]

    def put(self, sums: Sequence[Val], x: Val, pixels: int) -> None:
        """Sums to the results: straight, or by way of the stack, channel by channel."""
        f, d = self.d.f, self.d
        if d.d.panel == 1:
            self._line(self.first).put(sums[0], x)
            return
        for p in range(pixels):
            for i in range(d.parts):
                place = 4 * (p * _PANEL + i * d.lanes)
                f.store(sums[p * d.parts + i], f.gep(d.scratch, place))
        with f.loop(0, self.count) as turn:
            here = f.gep(d.scratch, turn.index, 4)
            acc = Val(vec(pixels), "poison")
            for p in range(pixels):
                acc = f.insert(acc, f.load("float", f.gep(here, 4 * _PANEL * p)), p)
            self._line(f.add(self.first, turn.index)).put(acc, x)

    def _line(self, channel: Val) -> Line:
        image, *outer = self.indices
        if not self.d.d.axes:
            return self.d.writer.row([image], channel)
        return self.d.writer.row([image, channel, *outer])
