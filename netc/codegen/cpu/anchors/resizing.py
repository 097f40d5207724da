"""Resizing: every pixel several times, or rows and columns mixed.

A unit is one row of one plane. Its pixels are repeated in registers; or its two source rows are
mixed into the stack first, at the source's width, and then columns of that, whose places and
weights a thread finds once for all its rows.
"""

from __future__ import annotations

from collections.abc import Callable

from netc.codegen.cpu.anchors.access import Access
from netc.codegen.cpu.anchors.points import over_results
from netc.codegen.cpu.anchors.results import Results, Row, Writer, lanes_of, result_access
from netc.codegen.cpu.anchors.streams import (
    Port,
    Ports,
    Stream,
    blocked_port,
    gathered,
    plain_port,
)
from netc.codegen.cpu.anchors.units import ceil_div, count, share, units, walk
from netc.codegen.cpu.emit import Function, Int, Val, vec
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import BLOCK, Call, Kernel, Operand
from netc.ir.ops.image import ResizeBilinear, ResizeNearest

_UNROLLED = 8  # copies of a pixel
_COLUMNS = 256  # of a strip, and of the inputs they are made of
_PIECE = 4  # lanes of what is left of a row-major row, before single elements


def _source(ctx: Lowering, x: Operand, results: Results) -> tuple[Access, Port]:
    """The anchor's input over its own axes, laid out as the result is."""
    access = result_access(ctx, x, x.type.shape, results.blocked)
    return access, (blocked_port if results.blocked else plain_port)(access)


@rule(ResizeNearest, short=True)
def lower_nearest(ctx: Lowering, k: Kernel) -> Call:
    """A row of the source serves several rows, each of its pixels several of theirs."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, ResizeNearest)
    (x,) = k.anchor_operands()
    results = Results(ctx, k)
    access, port = _source(ctx, x, results)
    down, across = k.anchor.op.scale
    key, numbers = ("nearest", across, port), (down, x.type.shape[3])
    return over_results(
        ctx, results, key, (access,), numbers, lambda f: _emit_nearest(f, across, port, results)
    )


def _emit_nearest(f: Function, across: int, port: Port, results: Results) -> None:
    source = Ports(f, [port], 0)
    down, width = (f.slot(f.args[0], source.end + i) for i in range(2))
    writer = Writer(f, results, source.end + 2)
    with units(f, writer.sizes[:3]) as (image, plane, y):
        left = writer.left(plane) if results.blocked else None
        (line,) = source.streams([image, plane, f.sdiv(y, down)], 0, left)
        row = writer.row([image, plane, y])
        if results.blocked:
            _repeat_blocks(f, line, row, width, across, results.even)
        else:
            _repeat_elements(f, line, row, width, across)
    f.ret()


def _repeat_blocks(
    f: Function, line: Stream, row: Row, width: Val, across: int, even: bool
) -> None:
    """Each pixel of eight channels; two copies fill a vector of sixteen lanes."""
    pair = across % 2 == 0 and even and f.target.lanes > BLOCK
    each = 2 if pair else 1
    with f.loop(0, width) as turn:
        at, first = f.shl(turn.index, 3), f.mul(turn.index, across * BLOCK)
        for part in lanes_of(f, True):
            value = line.load(at, part.count, part.first)
            wide = f.shuffle(value, value, [*range(part.count)] * each) if pair else value

            def put(number: Int, wide: Val = wide, extra: int = part.first) -> None:
                row.put(wide, f.add(first, f.mul(f.const(number), each * BLOCK)), extra)

            _times(f, across // each, put)


def _repeat_elements(f: Function, line: Stream, row: Row, width: Val, across: int) -> None:
    """Vectors of elements where there are few copies of each, and the rest one by one."""
    begin = f.const(0)
    for lanes in _widths(f) if across <= _UNROLLED else ():
        whole = f.and_(width, -lanes)
        with f.loop(begin, whole, lanes) as turn:
            value = line.load(turn.index, lanes)
            first = f.mul(turn.index, across)
            for number in range(across):
                start = number * lanes
                picks = [i // across for i in range(start, start + lanes)]
                row.put(f.shuffle(value, value, picks), first, start)
        begin = whole
    lanes = min(across & -across, f.target.lanes)
    with f.loop(begin, width) as turn:
        value = f.splat(line.load(turn.index, 1), lanes)
        first = f.mul(turn.index, across)
        _times(f, across // lanes, lambda i: row.put(value, f.add(first, f.mul(i, lanes))))


def _times(f: Function, count: int, act: Callable[[Int], None]) -> None:
    """`act` on every number below `count`, without a loop where they are few."""
    if count <= _UNROLLED:
        for number in range(count):
            act(number)
        return
    with f.loop(0, count) as turn:
        act(turn.index)


def _widths(f: Function) -> list[int]:
    """The vectors a row-major row is cut into, but for single elements."""
    return sorted({f.target.lanes, _PIECE}, reverse=True)


@rule(ResizeBilinear, short=True)
def lower_bilinear(ctx: Lowering, k: Kernel) -> Call:
    """Four neighbours, weighted; places are found in float64 as the reference finds them."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, ResizeBilinear)
    (x,) = k.anchor_operands()
    results = Results(ctx, k)
    access, port = _source(ctx, x, results)
    corners = op.align_corners
    key, numbers = ("bilinear", corners, port), x.type.shape[2:]
    return over_results(
        ctx, results, key, (access,), numbers, lambda f: _emit_bilinear(f, corners, port, results)
    )


def _emit_bilinear(f: Function, corners: bool, port: Port, results: Results) -> None:
    """Strips of columns are the outermost axis, so that a thread seldom begins another."""
    source = Ports(f, [port], 0)
    height, width = (f.slot(f.args[0], source.end + i) for i in range(2))
    writer = Writer(f, results, source.end + 2)
    *outer, rows, columns = writer.sizes
    down = _Line(f, height, rows, corners)
    strip = _Strip(f, _Line(f, width, columns, corners), columns, results.blocked)
    sizes = [strip.strips, *outer, rows]
    _, tid, nthreads = f.args
    start, stop = share(f, count(f, sizes), tid, nthreads)
    with walk(f, start, stop, sizes, [f.const(-1)]) as unit:
        number, image, plane, y = unit.indices
        begin = f.mul(number, strip.size)
        length = f.smin(f.sub(columns, begin), strip.size)
        with f.if_(f.icmp("ne", number, unit.values[0])):
            strip.find(begin, length)
        above, below, weight = down.neighbours(y)
        left = writer.left(plane) if results.blocked else None
        first, inputs = strip.inputs(length)
        lines = [source.streams([image, plane, v], first, left)[0] for v in (above, below)]
        strip.mix_rows(lines, weight, inputs)
        strip.mix_columns(writer.row([image, plane, y], begin), length, first)
        unit.next([number])
    f.ret()


class _Strip:
    """Neighbouring columns of results: what they are mixed of and how, in tables on the stack."""

    def __init__(self, f: Function, across: _Line, columns: Val, blocked: bool) -> None:
        self.f, self.across, self.blocked = f, across, blocked
        self.close = f.fcmp("ole", across.step, f.f64(1.0))  # no input lies between neighbours
        room = f.fdiv(f.f64(_COLUMNS - 2), across.step)
        most = f.select(f.fcmp("olt", room, f.f64(_COLUMNS)), room, f.f64(_COLUMNS))
        some = f.smax(f.cast("fptosi", most, "i64"), 1)
        self.size = f.select(self.close, f.const(_COLUMNS), some)
        self.strips = ceil_div(f, columns, self.size)
        self.item = 4 * (BLOCK if blocked else 1)  # bytes of a pixel of mixed rows
        beyond = 2 * f.target.lanes  # read, not used
        self.mixed = f.alloca((_COLUMNS + beyond) * self.item)
        self.places, self.shares, self.others = (f.alloca(4 * _COLUMNS) for _ in range(3))

    def find(self, begin: Val, length: Val) -> None:
        """The tables: the first input of each column, its weight, and that of the second."""
        f = self.f
        with f.loop(0, length) as turn:
            place, _, share = self.across.neighbours(f.add(begin, turn.index))
            f.store(f.cast("trunc", place, "i32"), f.gep(self.places, turn.index, 4))
            f.store(share, f.gep(self.shares, turn.index, 4))
            f.store(f.fsub(f.f32(1.0), share), f.gep(self.others, turn.index, 4))

    def _place(self, at: Val) -> Val:
        return self.f.sext(self.f.load("i32", self.f.gep(self.places, at, 4)))

    def inputs(self, length: Val) -> tuple[Val, Val]:
        """The first input column of the strip, and how many there are."""
        f = self.f
        first = self._place(f.const(0))
        last = f.smin(f.add(self._place(f.sub(length, 1)), 1), self.across.end)
        return first, f.add(f.sub(last, first), 1)

    def mix_rows(self, lines: list[Stream], weight: Val, inputs: Val) -> None:
        """Two rows of inputs; the last pixel is there again, for who looks beyond the edge."""
        f = self.f
        other = f.fsub(f.f32(1.0), weight)
        elements = f.shl(inputs, 3) if self.blocked else inputs
        begin = f.const(0)
        for lanes in self._row_widths(lines):
            whole = f.and_(elements, -lanes)
            with f.loop(begin, whole, lanes) as turn:
                top, bottom = (line.load(turn.index, lanes) for line in lines)
                value = _mix(f, top, bottom, weight, other)
                f.store(value, f.gep(self.mixed, turn.index, 4))
            begin = whole
        behind = f.gep(self.mixed, f.mul(inputs, self.item))
        pixel = vec(self.item // 4)
        f.store(f.load(pixel, f.gep(behind, -self.item)), behind)

    def _row_widths(self, lines: list[Stream]) -> list[int]:
        lanes = self.f.target.lanes
        if self.blocked:
            return sorted({lanes, min(lanes, BLOCK)}, reverse=True)
        return [*_widths(self.f), 1]

    def mix_columns(self, row: Row, length: Val, first: Val) -> None:
        """Columns of the mixed row to the results."""
        f = self.f
        base = f.gep(self.mixed, f.mul(f.sub(0, first), self.item))
        if self.blocked:
            self._mix_blocks(row, length, base)
            return
        begin = f.const(0)
        if _picks_lanes(f):
            begin = f.select(self.close, f.and_(length, -f.target.lanes), begin)
            with f.loop(0, begin, f.target.lanes) as turn:
                row.put(self._picked(turn.index, base), turn.index)
        for lanes in (_PIECE, 1):
            whole = f.and_(length, -lanes)
            with f.loop(begin, whole, lanes) as turn:
                row.put(self._gathered(turn.index, lanes, base), turn.index)
            begin = f.smax(begin, whole)

    def _mix_blocks(self, row: Row, length: Val, base: Val) -> None:
        f = self.f
        with f.loop(0, length) as turn:
            here = f.gep(base, self._place(turn.index), self.item)
            weights = [f.load("float", w) for w in self._weights(turn.index)]
            for part in lanes_of(f, True):
                near = [f.gep(here, self.item * i + 4 * part.first) for i in range(2)]
                low, high = (f.load(vec(part.count), n) for n in near)
                row.put(_mix(f, low, high, *weights), f.shl(turn.index, 3), part.first)

    def _weights(self, at: Val) -> list[Val]:
        """Where the weights of a column lie, the second neighbour's first."""
        return [self.f.gep(table, at, 4) for table in (self.shares, self.others)]

    def _picked(self, at: Val, base: Val) -> Val:
        """A vector of columns whose inputs lie within one, and within one that begins after."""
        f, lanes = self.f, self.f.target.lanes
        here = f.gep(self.places, at, 4)
        first = f.load("i32", here)
        picks = f.sub(f.load(vec(lanes, "i32"), here), f.splat(first, lanes))
        start = f.gep(base, f.sext(first), 4)
        low, high = (f.load(vec(lanes), f.gep(start, 4 * i)) for i in range(2))
        weights = [f.load(vec(lanes), w) for w in self._weights(at)]
        return _mix(f, _pick(f, low, picks), _pick(f, high, picks), *weights)

    def _gathered(self, at: Val, lanes: int, base: Val) -> Val:
        """A few columns, wherever their inputs lie."""
        f = self.f
        places = [f.gep(base, self._place(f.add(at, i)), 4) for i in range(lanes)]
        low, high = (gathered(f, "float", [f.gep(p, 4 * i) for p in places], 4) for i in range(2))
        weights = [f.load(vec(lanes), w) for w in self._weights(at)]
        return _mix(f, low, high, *weights)


def _mix(f: Function, a: Val, b: Val, weight: Val, other: Val) -> Val:
    """a · other + b · weight; weights are vectors too, or one number."""
    wide, rest = (v if v.lanes > 1 else f.splat(v, a.lanes) for v in (weight, other))
    return f.fadd(f.fmul(a, rest), f.fmul(b, wide))


def _picks_lanes(f: Function) -> bool:
    """Whether one instruction gives the lanes of a vector in any order."""
    return f.target.is_x86 and f.target.lanes >= BLOCK


def _pick(f: Function, a: Val, picks: Val) -> Val:
    """The lanes of a at these numbers."""
    name = {8: "llvm.x86.avx2.permps", 16: "llvm.x86.avx512.permvar.sf.512"}[a.lanes]
    f.module.declare(name, a.type, [a.type, picks.type])
    return f.value(a.type, f"call {a.type} @{name}({a}, {picks})")


class _Line:
    """One axis: how far inputs lie apart, divided once."""

    def __init__(self, f: Function, size: Val, out: Val, corners: bool) -> None:
        self.f, self.corners = f, corners
        self.end = f.sub(size, 1)
        n, m = (f.cast("sitofp", v, "double") for v in (size, out))
        self.last = f.fsub(n, f.f64(1.0))
        gaps = f.fsub(m, f.f64(1.0)) if corners else m
        some = f.fcmp("ogt", gaps, f.f64(0.0))
        step = f.fdiv(self.last if corners else n, f.select(some, gaps, f.f64(1.0)))
        self.step = f.select(some, step, f.f64(0.0))

    def neighbours(self, index: Val) -> tuple[Val, Val, Val]:
        """The first input read, the second, and the weight of the second."""
        f = self.f
        i = f.cast("sitofp", index, "double")
        if self.corners:
            at = f.fmul(i, self.step)
        else:
            half = f.f64(0.5)
            at = f.fsub(f.fmul(f.fadd(i, half), self.step), half)
            at = f.select(f.fcmp("olt", at, f.f64(0.0)), f.f64(0.0), at)
            at = f.select(f.fcmp("ogt", at, self.last), self.last, at)
        low = f.smin(f.cast("fptosi", at, "i64"), self.end)
        weight = f.fsub(at, f.cast("sitofp", low, "double"))
        return low, f.smin(f.add(low, 1), self.end), f.cast("fptrunc", weight, "float")
