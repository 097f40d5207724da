"""Local response normalization across channels.

Blocked: a vector's neighbours in channel are lanes of the same or the next blocks, so squares of
three blocks (or more, for wide windows) are shuffled past each other; blocks beyond the edges are
read from a line of zeros. Row-major: element by element, channels at their stride.
"""

from __future__ import annotations

from collections.abc import Sequence

from netc.codegen.cpu import mathlib
from netc.codegen.cpu.anchors.access import Args
from netc.codegen.cpu.anchors.pooling import input_port
from netc.codegen.cpu.anchors.results import Lane, Results, Row, Writer, lanes_of
from netc.codegen.cpu.anchors.streams import Ports
from netc.codegen.cpu.anchors.units import units
from netc.codegen.cpu.emit import Function, Val
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.cpu.stored import read
from netc.codegen.operand import BLOCK, Call, Kernel
from netc.ir.ops.normalization import Lrn


@rule(Lrn, short=True)
def lower_lrn(ctx: Lowering, k: Kernel) -> Call:
    """One kernel for either layout."""
    assert k.anchor is not None
    op, x = k.anchor.op, k.anchor_operands()[0]
    assert isinstance(op, Lrn)
    results = Results(ctx, k)
    access, port = input_port(ctx, x)
    args = Args()
    args.access(access)
    if not results.blocked:
        args.size(x.type.shape[1])
        args.size(op.size // 2)
    results.arguments(args)
    reach = op.size // 2 if results.blocked else None
    key = ("lrn", repr((op.alpha / op.size, op.beta, op.k)), reach, port, results.key)

    def emit(f: Function) -> None:
        source = Ports(f, [port], 0)
        if results.blocked:
            _Blocked(f, op, source, Writer(f, results, source.end)).emit()
        else:
            _emit_plain(f, op, source, Writer(f, results, source.end + 2))
        f.ret()

    return Call(ctx.code(key, emit), tuple(args.items))


def _scaled(f: Function, op: Lrn, x: Val, total: Val) -> Val:
    """x · (k + alpha/size · total)^−beta."""
    lanes = x.lanes
    base = f.fma(f.f32(op.alpha / op.size, lanes), total, f.f32(op.k, lanes))
    if op.beta == 0.75:
        root = f.intrinsic("llvm.sqrt", base)
        return f.fdiv(x, f.fmul(root, f.intrinsic("llvm.sqrt", root)))
    if op.beta == 0.5:
        return f.fdiv(x, f.intrinsic("llvm.sqrt", base))
    if op.beta == 1.0:
        return f.fdiv(x, base)
    return f.fmul(x, mathlib.power(f, base, f.f32(-op.beta, lanes), -op.beta))


class _Blocked:
    """Rows of pixels of one channel block, its neighbours alongside."""

    def __init__(self, f: Function, op: Lrn, source: Ports, writer: Writer) -> None:
        self.f, self.op, self.source, self.writer = f, op, source, writer
        self.reach, self.item = op.size // 2, source.ports[0].item
        self.sides = -(-self.reach // BLOCK)  # blocks on each side that are read

    def emit(self) -> None:
        """The kernel."""
        f = self.f
        zeros = f.module.constant("float", [0.0] * 16)
        blocks, width = self.writer.sizes[1], self.writer.sizes[3]
        plane = self.source.outer[0][1]
        with units(f, self.writer.sizes[:3]) as indices:
            _, here = self.source.row(0, indices)
            places: list[tuple[Val, Val]] = []
            for d in range(-self.sides, self.sides + 1):
                block = f.add(indices[1], d)
                inside = f.icmp("ult", block, blocks)  # a negative one is huge
                there = f.gep(here, f.mul(plane, d))
                step = f.select(inside, f.const(self.item * BLOCK), f.const(0))
                places.append((f.select(inside, there, zeros), step))
            row = self.writer.row(indices)
            self._pixels(places, width, row)

    def _pixels(self, places: Sequence[tuple[Val, Val]], width: Val, row: Row) -> None:
        f, lanes = self.f, self.f.target.lanes
        start = f.const(0)
        if lanes > BLOCK and self.writer.results.even:
            start = f.and_(width, -2)
            with f.loop(0, start, 2) as turn:
                self._vector(places, turn.index, [Lane(0, lanes)], row)
        with f.loop(start, width) as turn:
            self._vector(places, turn.index, lanes_of(f, True), row)

    def _vector(
        self, places: Sequence[tuple[Val, Val]], x: Val, parts: Sequence[Lane], row: Row
    ) -> None:
        """One pixel, or two in one vector."""
        f = self.f
        count, element = parts[0].count, self.source.ports[0].element
        whole: list[list[Val]] = []  # by block, by part
        for base, step in places:
            here = f.gep(base, f.mul(x, step))
            places_of = [f.gep(here, self.item * p.first) for p in parts]
            whole.append([read(f, place, count, element) for place in places_of])
        squares = [[f.fmul(v, v) for v in block] for block in whole]
        at = f.shl(x, 3)
        for number, part in enumerate(parts):
            total = squares[self.sides][number]
            for d in range(1, self.reach + 1):
                pair = f.fadd(self._shifted(squares, part, -d), self._shifted(squares, part, d))
                total = f.fadd(total, pair)
            row.put(_scaled(f, self.op, whole[self.sides][number], total), at, part.first)

    def _shifted(self, squares: Sequence[Sequence[Val]], part: Lane, by: int) -> Val:
        """The squares of the channels `by` further on, in the lanes of one part."""
        count = part.count
        wanted = []
        for lane in range(count):
            pixel, channel = divmod(part.first + lane, BLOCK)
            block, inside = divmod(channel + by, BLOCK)
            number, index = divmod(pixel * BLOCK + inside, count)
            wanted.append((block + self.sides, number, index))
        sources = list(dict.fromkeys((b, n) for b, n, _ in wanted))
        vectors = [squares[b][n] for b, n in sources]
        assert len(vectors) <= 2
        picks = [sources.index((b, n)) * count + i for b, n, i in wanted]
        return self.f.shuffle(vectors[0], vectors[-1], picks)


def _emit_plain(f: Function, op: Lrn, source: Ports, writer: Writer) -> None:
    """Element by element."""
    channels, reach = f.slot(f.args[0], source.end), f.slot(f.args[0], source.end + 1)
    strides = [*source.outer[0], source.steps[0][0]]
    with units(f, writer.sizes[:-1]) as outer:
        row = writer.row(outer)
        with f.loop(0, writer.sizes[-1]) as turn:
            indices = [*outer, turn.index]
            here = source.bases[0]
            for i, s in zip(indices, strides, strict=True):
                here = f.gep(here, f.mul(i, s))
            low = f.smax(f.sub(0, reach), f.sub(0, indices[1]))
            high = f.smin(f.add(reach, 1), f.sub(channels, indices[1]))
            with f.loop(low, high, carry=[f.f32(0.0)]) as window:
                v = f.load("float", f.gep(here, f.mul(window.index, strides[1])))
                window.next([f.fma(v, v, window.values[0])])
            row.put(_scaled(f, op, f.load("float", here), window.results[0]), turn.index)
