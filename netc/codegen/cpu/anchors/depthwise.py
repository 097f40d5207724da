"""Depthwise convolution on blocked maps, and groups of 2, 4 or 8 channels.

Every channel is alone, and lanes never mix; or a vector of inputs is taken apart, so that each lane
has the first channel of its group, then each the second.
A tile is a few rows by a few vectors of outputs (a vector of sixteen lanes is two neighbouring
pixels), so that an input once loaded serves several rows. Tiles are cut so that the last one
overlaps its neighbour instead of being smaller, unless the tail reads what an earlier tile wrote.
Of bfloat16 a vector holds four pixels: even channels are its words shifted, odd ones its words cut.
Zeros of the halo stand for padding. Large windows loop over their taps, row by row of outputs; of
groups, small ones do over their columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from netc.codegen.cpu.anchors.access import Args, pack_blocks
from netc.codegen.cpu.anchors.direct import window_of
from netc.codegen.cpu.anchors.lines import Window
from netc.codegen.cpu.anchors.pooling import input_port, load_pixels
from netc.codegen.cpu.anchors.results import Lane, Results, Row, Writer, lanes_of
from netc.codegen.cpu.anchors.streams import Port, Ports
from netc.codegen.cpu.anchors.units import ceil_div, units
from netc.codegen.cpu.emit import Function, Val, vec
from netc.codegen.cpu.lowering import Lowering
from netc.codegen.cpu.stored import read
from netc.codegen.cpu.target import Target
from netc.codegen.operand import BLOCK, Call, Kernel, Operand
from netc.ir.op import Array
from netc.ir.ops.convolution import Conv

_PIXEL = 4 * BLOCK  # bytes of weights
_UNROLLED = 25  # taps
_FEW = 4  # channels of a group in straight code
_TALLEST = 7  # rows of a window of groups in straight code
_WORDS = BLOCK // 2  # of a pixel of bfloat16


@dataclass(frozen=True)
class Shape:
    """What the code depends on. Without `taps` it loops over a window of any size."""

    results: Results = field(compare=False)
    source: Port
    bias: bool
    together: int  # channels of a group
    stride: tuple[int, int]
    taps: tuple[int, int] | None
    dilation: tuple[int, int] | None
    rows: int  # of a tile
    vectors: int  # of a row of a tile
    overlap: bool


def _is_small(together: int, kernel: Sequence[int]) -> bool:
    """Whether the code is written for one window."""
    return kernel[0] * kernel[1] <= _UNROLLED if together == 1 else kernel[0] <= _TALLEST


def _tile(target: Target, small: bool) -> tuple[int, int]:
    """Rows and vectors of a tile: eight sums and a few inputs fit the registers."""
    if not small:
        return 1, 4
    return (4, 2) if target.registers == 32 else (2, 4 if target.fma else 3)


def lower_depthwise(ctx: Lowering, k: Kernel) -> Call:
    """The kernel of a convolution whose groups lie within blocks (`netc.ir.grouping`)."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, Conv)
    x, w = k.anchor_operands()[:2]
    window = window_of(op, w)
    assert all(p <= h for p, h in zip(window.pad, x.halo, strict=True)), "padding needs a halo"
    return depthwise_call(ctx, k, window, Results(ctx, k))


def depthwise_call(ctx: Lowering, k: Kernel, w: Window, results: Results) -> Call:
    """The kernel of one window over the anchor's input."""
    x, _, *bias = k.anchor_operands()
    weights = pack_blocks(w.weights.transpose(1, 0, 2, 3)).transpose(1, 2, 3, 0, 4)
    stride, dilation, (*kernel, together) = w.stride, w.dilation, weights.shape[1:4]
    small = _is_small(together, kernel)
    access, port = input_port(ctx, x)
    rows, vectors = _tile(ctx.target, small)
    read_again = any(p.mode in "cxb" for p in results.ports[: len(results.tail.operands)])
    s = Shape(
        results,
        port,
        bool(bias),
        together,
        (stride[0], stride[1]),
        (kernel[0], kernel[1]) if small else None,
        (dilation[0], dilation[1]) if small else None,
        rows,
        vectors if results.even else 1,
        not read_again,
    )
    args = Args()
    args.access(access)
    args.add(ctx.weight(np.ascontiguousarray(weights)))
    args.add(ctx.weight(_packed_bias(bias, weights.shape[0])))
    for n in (*kernel, *dilation, *w.pad):
        args.size(n)
    results.arguments(args)
    symbol = ctx.code(("depthwise", s, results.key), lambda f: _Depthwise(f, s).emit())
    return Call(symbol, tuple(args.items))


def _packed_bias(bias: Sequence[Operand], blocks: int) -> Array:
    out = np.zeros(blocks * BLOCK, np.float32)
    for b in bias:
        out[: b.type.sizes({})[0]] = np.asarray(b.array, np.float32).reshape(-1)
    return out


class _Depthwise:
    def __init__(self, f: Function, s: Shape) -> None:
        self.f, self.s = f, s
        self.source = Ports(f, [s.source], 0)
        first = self.source.end
        self.weights = f.slot(f.args[0], first, "ptr")
        self.bias = f.slot(f.args[0], first + 1, "ptr")
        numbers = [f.slot(f.args[0], first + 2 + i) for i in range(6)]
        self.kernel, self.dilation, self.pad = numbers[:2], numbers[2:4], numbers[4:]
        self.writer = Writer(f, s.results, first + 8)
        self.line = self.source.outer[0][2]  # bytes from row to row of the input
        self.pixel = s.source.item * BLOCK  # bytes of one there
        lanes = f.target.lanes
        even = lanes > BLOCK and s.results.even
        short = bool(s.source.element) and s.together == 1
        self.halves = short and s.taps is not None and even and s.stride[1] <= 2
        self.wide = Lane(0, lanes) if self.halves or (even and s.stride[1] == 1) else None
        self.narrow = lanes_of(f, True)
        self.pixels = s.vectors * (2 if self.wide else 1)  # of a row of a tile

    def emit(self) -> None:
        """The kernel: one unit is a few rows of one plane."""
        f, s = self.f, self.s
        images, blocks, height, width = self.writer.sizes
        with units(f, [images, blocks, ceil_div(f, height, s.rows)]) as (n, block, number):
            _, base = self.source.row(0, [n, block, f.sub(0, self.pad[0])])
            base = f.gep(base, f.mul(self.pad[1], -self.pixel))
            taps = f.mul(self.kernel[0], self.kernel[1])
            size = f.mul(taps, s.together * _PIXEL)
            weights = f.gep(self.weights, f.mul(block, size))
            bias = f.gep(self.bias, f.mul(block, _PIXEL))
            plane = _Plane(self, base, weights, bias, [n, block])
            self._strip(plane, f.mul(number, s.rows), height, width)
        f.ret()

    def _strip(self, plane: _Plane, y: Val, height: Val, width: Val) -> None:
        """The rows of one unit, from y on."""
        f, s = self.f, self.s
        if s.overlap:
            y0 = f.smin(y, f.sub(height, s.rows))
            fits = f.icmp("sge", y0, 0)
        else:
            y0 = y
            fits = f.icmp("sle", f.add(y, s.rows), height)
        fits = f.and_(fits, f.icmp("sge", width, self.pixels))
        with f.if_(fits) as side:
            done = self._tiles(plane, y0, width)
            if not s.overlap:
                plane.single_pixels(y0, f.const(s.rows), done, width)
            side.otherwise()
            plane.single_pixels(y, f.smin(f.sub(height, y), s.rows), f.const(0), width)

    def _tiles(self, plane: _Plane, y: Val, width: Val) -> Val:
        """Tiles across; how many pixels they cover."""
        f, s = self.f, self.s
        rows = [self.writer.row([*plane.indices, f.add(y, r)]) for r in range(s.rows)]
        tiles = plane.prepared(y)
        if s.overlap:
            with f.loop(0, width, self.pixels) as turn:
                x = f.smin(turn.index, f.sub(width, self.pixels))
                self._tile(tiles, rows, x)
            return width
        whole = f.mul(f.sdiv(width, self.pixels), self.pixels)
        with f.loop(0, whole, self.pixels) as turn:
            self._tile(tiles, rows, turn.index)
        return whole

    def _tile(self, tiles: _Tiles, rows: Sequence[Row], x: Val) -> None:
        f, s = self.f, self.s
        at = f.shl(x, 3)
        for part in [self.wide] if self.wide else self.narrow:
            sums = tiles.sums(x, part)
            for row, line in zip(rows, sums, strict=True):
                for v, acc in enumerate(line):
                    row.put(acc, at, v * self.pixels // s.vectors * BLOCK + part.first)


class _Plane:
    """One channel block of one image."""

    def __init__(
        self, d: _Depthwise, base: Val, weights: Val, bias: Val, indices: list[Val]
    ) -> None:
        self.d, self.f, self.base, self.indices = d, d.f, base, indices
        self.weights, self.bias = weights, bias

    def prepared(self, y: Val) -> _Tiles:
        """What the tiles of a strip share, read before the loop across."""
        return _Tiles(self, y)

    def doubled(self, address: Val, part: Lane) -> Val:
        """Eight channel values for one pixel, or for two."""
        f = self.f
        if part.count <= BLOCK:
            return f.load(vec(part.count), f.gep(address, 4 * part.first))
        eight = f.load(vec(BLOCK), address)
        return f.shuffle(eight, eight, [i % BLOCK for i in range(part.count)])

    def vectors(self, address: Val, part: Lane) -> list[Val]:
        """Eight channel values as they meet each vector of a row of a tile."""
        if not self.d.halves:
            return [self.doubled(address, part)] * self.d.s.vectors
        eight = self.f.load(vec(BLOCK), address)
        picks = [2 * (i % _WORDS) for i in range(part.count)]
        return [self.f.shuffle(eight, eight, [p + odd for p in picks]) for odd in range(2)]

    def start(self, part: Lane) -> Val:
        """The bias, or zero."""
        zero = self.f.f32(0.0, part.count)
        return self.doubled(self.bias, part) if self.d.s.bias else zero

    def starts(self, part: Lane) -> list[Val]:
        """The same as it meets each vector of a row of a tile."""
        zero = self.f.f32(0.0, part.count)
        return self.vectors(self.bias, part) if self.d.s.bias else [zero] * self.d.s.vectors

    def single_pixels(self, y: Val, rows: Val, first: Val, stop: Val) -> None:
        """`rows` rows from y on, pixels `first` to `stop` of each, one by one."""
        f, d = self.f, self.d
        with f.loop(0, rows) as line:
            here = f.add(y, line.index)
            row = d.writer.row([*self.indices, here])
            tiles = _Tiles(self, here, single=True)
            with f.loop(first, stop) as turn:
                for part in d.narrow:
                    ((acc,),) = tiles.looped(turn.index, part, 1)
                    row.put(acc, f.shl(turn.index, 3), part.first)


class _Tiles:
    """Tiles whose first row of outputs is y."""

    def __init__(self, plane: _Plane, y: Val, single: bool = False) -> None:
        self.plane, self.d, self.f = plane, plane.d, plane.f
        f, s = self.f, self.d.s
        self.base = f.gep(plane.base, f.mul(f.mul(y, s.stride[0]), self.d.line))
        self.item, self.pixel = s.source.item, self.d.pixel
        self.lines: dict[int, Val] = {}
        self.held: dict[int, list[Val]] = {}
        if single or s.taps is None:
            return
        assert s.dilation is not None
        kh, kw = s.taps
        for r in range(s.rows):
            for i in range(kh):
                offset = r * s.stride[0] + i * s.dilation[0]
                if offset not in self.lines:
                    self.lines[offset] = f.gep(self.base, f.mul(self.d.line, offset))
        parts = [self.d.wide] if self.d.wide else self.d.narrow
        if s.together == 1 and f.target.registers == 32 and kh * kw <= 9 and len(parts) == 1:
            for tap in range(kh * kw):
                self.held[tap] = plane.vectors(f.gep(plane.weights, tap * _PIXEL), parts[0])

    def _weights(self, tap: int, part: Lane) -> list[Val]:
        if tap in self.held:
            return self.held[tap]
        return self.plane.vectors(self.f.gep(self.plane.weights, tap * _PIXEL), part)

    def sums(self, x: Val, part: Lane) -> list[list[Val]]:
        """Sums by row and vector."""
        if self.d.s.taps is None:
            return self.looped(x, part)
        return self.unrolled(x, part) if self.d.s.together == 1 else self.grouped(x, part)

    def _uses(self, offset: int) -> list[tuple[int, int]]:
        """The rows of outputs that a row of inputs serves, and the window's row it meets there."""
        s = self.d.s
        assert s.taps is not None
        assert s.dilation is not None
        met = [(r, *divmod(offset - r * s.stride[0], s.dilation[0])) for r in range(s.rows)]
        return [(r, i) for r, i, off in met if off == 0 and 0 <= i < s.taps[0]]

    def unrolled(self, x: Val, part: Lane) -> list[list[Val]]:
        """Every channel alone; inputs are read once for all rows they serve."""
        f, s = self.f, self.d.s
        assert s.taps is not None
        assert s.dilation is not None
        step = f.mul(x, s.stride[1] * self.pixel)
        sums = [self.plane.starts(part)] * s.rows
        for offset in sorted(self.lines):
            here = f.gep(f.gep(self.lines[offset], step), self.item * part.first)
            uses = self._uses(offset)
            seen: dict[int, Val] = {}
            for j in range(s.taps[1]):
                inputs = self._inputs(here, j * s.dilation[1], part, seen)
                for r, i in uses:
                    terms = zip(
                        inputs, self._weights(i * s.taps[1] + j, part), sums[r], strict=True
                    )
                    sums[r] = [f.fma(x, w, acc) for x, w, acc in terms]
        return [self._in_pixels(line) for line in sums] if self.d.halves else sums

    def grouped(self, x: Val, part: Lane) -> list[list[Val]]:
        """Groups of channels, one column of the window after the other."""
        f, s = self.f, self.d.s
        assert s.taps is not None
        assert s.dilation is not None
        columns, across = s.taps[1], s.dilation[1] * self.pixel
        first = f.add(f.mul(x, s.stride[1] * self.pixel), self.item * part.first)

        def few(number: Val, sums: list[Val]) -> list[Val]:
            with f.loop(0, columns, carry=sums) as turn:
                step = f.add(first, f.mul(turn.index, across))
                weights = f.gep(self.plane.weights, f.mul(turn.index, s.together * _PIXEL))
                weights = f.gep(weights, f.mul(number, _FEW * _PIXEL))
                turn.next(self._column(step, weights, number, part, turn.values))
            return turn.results

        done = self._by_few(self.plane.starts(part) * s.rows, few)
        return [done[r * s.vectors : (r + 1) * s.vectors] for r in range(s.rows)]

    def _column(
        self, step: Val, weights: Val, number: Val, part: Lane, sums: Sequence[Val]
    ) -> list[Val]:
        """A few channels at one column of the window; sums by row, then vector."""
        f, s = self.f, self.d.s
        assert s.taps is not None
        out, line = list(sums), s.taps[1] * s.together * _PIXEL
        for offset in sorted(self.lines):
            here = f.gep(self.lines[offset], step)
            for c, values in enumerate(self._apart(here, number, part, s.vectors)):
                for r, i in self._uses(offset):
                    w = self.plane.doubled(f.gep(weights, i * line + c * _PIXEL), part)
                    for at, value in enumerate(values, r * s.vectors):
                        out[at] = f.fma(value, w, out[at])
        return out

    def _by_few(self, sums: list[Val], act: Callable[[Val, list[Val]], list[Val]]) -> list[Val]:
        """`act` on all channels of a group, a few at a time, which are numbered."""
        turns = -(-self.d.s.together // _FEW)
        if turns == 1:
            return act(self.f.const(0), sums)
        with self.f.loop(0, turns, carry=sums) as turn:
            turn.next(act(turn.index, turn.values))
        return turn.results

    def _apart(self, here: Val, number: Val, part: Lane, vectors: int) -> Iterator[list[Val]]:
        """For each of a few channels of a group what the vectors of a row meet at one tap."""
        f, s, lanes = self.f, self.d.s, part.count
        few, element = min(s.together, _FEW), s.source.element
        each = max(1, lanes // BLOCK) * s.stride[1]
        if s.together == 1:
            yield [self._read(here, v * each, part) for v in range(vectors)]
            return
        if s.together > _FEW:  # a block is a group
            here = f.gep(f.gep(here, -self.item * part.first), f.mul(number, _FEW * self.item))
        if few >= lanes:  # one value for all lanes
            for c in range(few):
                places = [
                    f.gep(here, v * each * self.pixel + c * self.item) for v in range(vectors)
                ]
                yield [f.splat(read(f, p, 1, element), lanes) for p in places]
            return
        if s.together > _FEW:
            whole = [self._repeated(here, v * each, part) for v in range(vectors)]
        else:
            whole = [self._read(here, v * each, part) for v in range(vectors)]
        for c in range(few):
            picks = [i // few * few + c for i in range(lanes)]
            yield [f.shuffle(v, v, picks) for v in whole]

    def _repeated(self, here: Val, pixel: int, part: Lane) -> Val:
        """The same few channels for each few lanes of a pixel, or of two."""
        f, s = self.f, self.d.s
        pixels = [pixel + i * s.stride[1] for i in range(part.count // BLOCK)]
        read_ = [read(f, f.gep(here, p * self.pixel), _FEW, s.source.element) for p in pixels]
        picks = [i // BLOCK * _FEW + i % _FEW for i in range(part.count)]
        return f.shuffle(read_[0], read_[-1], picks)

    def _inputs(self, here: Val, first: int, part: Lane, seen: dict[int, Val]) -> list[Val]:
        """What the vectors of a row of a tile meet at one tap, which begins with this pixel."""
        s = self.d.s
        if self.d.halves:
            return self._in_halves(here, first)
        each = self.d.pixels // s.vectors  # pixels in a vector
        pixels = [v * each * s.stride[1] + first for v in range(s.vectors)]
        for pixel in pixels:
            if pixel not in seen:
                seen[pixel] = self._read(here, pixel, part)
        return [seen[pixel] for pixel in pixels]

    def _in_halves(self, here: Val, first: int) -> list[Val]:
        """The even channels of four pixels, and the odd ones."""
        f, lanes = self.f, self.f.target.lanes
        words = vec(lanes, "i32")
        bits = f.load(words, f.gep(here, first * self.pixel), 2)
        if self.d.s.stride[1] == 2:  # pixels 0 and 2 of these, 4 and 6: no more is there
            rest = f.load(words, f.gep(here, (first + 3) * self.pixel), 2)
            picks = [p * _WORDS + i for p in (0, 2, 5, 7) for i in range(_WORDS)]
            bits = f.shuffle(bits, rest, picks)
        halves = f.shl(bits, 16), f.and_(bits, -(1 << 16))
        return [f.cast("bitcast", half, vec(lanes)) for half in halves]

    def _in_pixels(self, halves: list[Val]) -> list[Val]:
        """Even and odd channels side by side, pixel by pixel."""
        even, odd = halves
        lanes = even.lanes
        picks = [i + side for i in range(lanes) for side in (0, lanes)]
        return [self.f.shuffle(even, odd, picks[at : at + lanes]) for at in (0, lanes)]

    def _read(self, base: Val, pixel: int, part: Lane) -> Val:
        """Some channels of one pixel of the input, or of two that meet neighbours of the result."""
        s, address = self.d.s, self.f.gep(base, pixel * self.pixel)
        return load_pixels(self.f, address, part.count, s.stride[1], s.source.element)

    def looped(self, x: Val, part: Lane, vectors: int | None = None) -> list[list[Val]]:
        """The sums of one row, taps in loops, in the order of straight code."""
        f, d = self.f, self.d
        s, count = d.s, vectors or d.s.vectors
        here = f.gep(self.base, f.mul(x, s.stride[1] * self.pixel))
        here = f.gep(here, self.item * part.first)
        column = s.together * _PIXEL
        rows = d.kernel[0], f.mul(d.dilation[0], d.line), f.mul(d.kernel[1], column)
        columns = d.kernel[1], f.mul(d.dilation[1], self.pixel), f.const(column)
        outer, inner = (rows, columns) if s.together == 1 else (columns, rows)

        def few(number: Val, sums: list[Val]) -> list[Val]:
            first = f.gep(self.plane.weights, f.mul(number, _FEW * _PIXEL))
            with f.loop(0, outer[0], carry=sums) as line:
                there = f.gep(here, f.mul(line.index, outer[1]))
                weights = f.gep(first, f.mul(line.index, outer[2]))
                with f.loop(0, inner[0], carry=line.values) as turn:
                    tap = f.gep(there, f.mul(turn.index, inner[1]))
                    w = f.gep(weights, f.mul(turn.index, inner[2]))
                    acc = turn.values
                    for c, values in enumerate(self._apart(tap, number, part, count)):
                        lanes = self.plane.doubled(f.gep(w, c * _PIXEL), part)
                        acc = [f.fma(v, lanes, a) for v, a in zip(values, acc, strict=True)]
                    turn.next(acc)
                line.next(turn.results)
            return line.results

        return [self._by_few([self.plane.start(part)] * count, few)]
