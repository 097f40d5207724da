"""Element-wise chains and strided copies, in any mix of layouts.

Axes are merged where every operand runs on evenly; what is left are rows, cut into chunks, and
chunks are the units threads share. Within a chunk whole vectors are computed, then the rest under
a mask, by half vectors, or one by one. Nothing outside the operands is read or written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from netc.codegen.cpu.anchors.access import (
    Access,
    Args,
    Shape,
    blocked_access,
    collapse,
    plain_access,
)
from netc.codegen.cpu.anchors.formula import Formula, LlvmScalars, Tail
from netc.codegen.cpu.anchors.streams import Port, Ports, Stream, blocked_port, plain_port
from netc.codegen.cpu.anchors.turned import emit_turned, turned
from netc.codegen.cpu.anchors.units import ceil_div, units
from netc.codegen.cpu.emit import Function, Val, vec
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import BLOCK, Call, Kernel, Operand
from netc.ir.dims import Dim
from netc.ir.dims import ceil_div as dim_ceil_div
from netc.ir.ops.elementwise import Cast
from netc.ir.ops.layout import ToBlocked, ToPlain
from netc.ir.plan import IntArg
from netc.ir.types import DType

__all__ = ["Formula", "LlvmScalars", "Rows", "Tail", "lower_elementwise", "map_rows"]

CHUNK = 4096  # elements a unit has at most


@dataclass(frozen=True)
class Rows:
    """What the code of an element-wise kernel depends on, besides its formula."""

    ports: tuple[Port, ...]  # inputs, then outputs
    outputs: int
    axes: int  # outer axes
    blocked: bool = False
    padded: bool = False  # lanes beyond the channels are stored as zero

    @property
    def ins(self) -> tuple[Port, ...]:
        """The ports read."""
        return self.ports[: -self.outputs]


@rule(Cast, ToBlocked, ToPlain)
def lower_elementwise(ctx: Lowering, k: Kernel) -> tuple[Call, ...]:
    """One call for each shape among the body's outputs."""
    results = tuple(k.body.outputs.values())
    calls = []
    for shape in dict.fromkeys(o.type.shape for o in k.outs):
        chosen = [i for i, o in enumerate(k.outs) if o.type.shape == shape]
        formula = Formula([results[i] for i in chosen])
        found = [k.operand(v) for v in formula.leaves]
        ins = [o for o in found if o is not None]
        calls.append(map_rows(ctx, formula, ins, [k.outs[i] for i in chosen]))
    return tuple(calls)


def map_rows(
    ctx: Lowering, formula: Formula, ins: Sequence[Operand], outs: Sequence[Operand]
) -> Call:
    """outs = formula(ins) element by element; all outputs have one shape."""
    shape = outs[0].type.shape
    blocked = any(o.is_c8 for o in (*ins, *outs))
    make = blocked_access if blocked else plain_access
    accesses = [make(ctx, o, shape) for o in (*ins, *outs)]
    if not blocked:
        return map_accesses(ctx, formula, accesses, len(outs), shape)
    over = (shape[0], dim_ceil_div(shape[1], BLOCK), *shape[2:])
    return map_blocked(ctx, formula, accesses, len(outs), over, shape[1])


def map_accesses(
    ctx: Lowering, formula: Formula, accesses: Sequence[Access], outputs: int, shape: Shape
) -> Call:
    """outs = formula(ins), where all operands are given by their strides over `shape`."""
    sizes, walked = collapse(shape, accesses)
    moved = turned(sizes, walked)
    sizes, walked = moved or (sizes, walked)
    rows = Rows(tuple(plain_port(a) for a in walked), outputs, len(sizes) - 1)
    args = Args()
    for d in sizes:
        args.size(d)
    for a in walked:
        args.access(a)
    if moved:
        key = ("turned", formula.key, rows)
        symbol = ctx.code(key, lambda f: emit_turned(f, rows.ports, formula))
    else:
        symbol = ctx.code(("rows", formula.key, rows), lambda f: _emit(f, rows, formula))
    return Call(symbol, tuple(args.items))


def map_blocked(
    ctx: Lowering,
    formula: Formula,
    accesses: Sequence[Access],
    outputs: int,
    over: Shape,
    channels: Dim,
) -> Call:
    """The same over a blocked space; axis 1 of `over` counts blocks of these channels."""
    from netc.codegen.cpu.anchors.planes import emit_planes

    padded = not isinstance(channels, int) or channels % BLOCK != 0
    walked = list(accesses)
    if padded:
        # The first channel of a block, walked like an operand: axes across it do not merge.
        walked.append(Access(IntArg(0), DType.U8, (0, BLOCK, *(0,) * (len(over) - 2))))
    sizes, walked = collapse(over, walked, padded, BLOCK)
    counted = walked[: len(accesses)]
    rows = Rows(tuple(blocked_port(a) for a in counted), outputs, len(sizes) - 1, True, padded)
    args = Args()
    for d in sizes:
        args.size(d)
    for a in counted:
        args.access(a)
    if padded:
        args.size(channels)
        args.access(walked[-1])
    emit = emit_planes if any(p.mode == "x" for p in rows.ports) else _emit
    key = ("rows", formula.key, rows)
    return Call(ctx.code(key, lambda f: emit(f, rows, formula)), tuple(args.items))


@dataclass(frozen=True)
class Unit:
    """One chunk of a row: its streams, how many steps it has, and which lanes exist."""

    ins: list[Stream]
    outs: list[Stream]
    count: Val
    left: Val | None


class Channels:
    """The channel each block begins with, and so which of its lanes exist."""

    def __init__(self, f: Function, first: int, axes: int) -> None:
        self.f = f
        self.count = f.slot(f.args[0], first)
        self.strides = [f.slot(f.args[0], first + 2 + i) for i in range(axes)]

    def left(self, indices: Sequence[Val]) -> Val:
        """How many channels there are from the first lane on."""
        left = self.count
        for i, s in zip(indices, self.strides, strict=True):
            left = self.f.sub(left, self.f.mul(i, s))
        return left


@contextmanager
def chunks(f: Function, rows: Rows, size: int) -> Iterator[Unit]:
    """Each chunk of `size` steps, this thread's share of them."""
    ports = Ports(f, rows.ports, rows.axes + 1)
    sizes = [f.slot(f.args[0], i) for i in range(rows.axes)]
    inner = f.slot(f.args[0], rows.axes)
    channels = Channels(f, ports.end, rows.axes) if rows.padded else None
    with units(f, [*sizes, ceil_div(f, inner, size)]) as indices:
        start = f.mul(indices[-1], size)
        count = f.smin(f.sub(inner, start), size)
        left = channels.left(indices[:-1]) if channels else None
        streams = ports.streams(indices[:-1], start, left)
        cut = len(streams) - rows.outputs
        yield Unit(streams[:cut], streams[cut:], count, left)


def lane_mask(f: Function, left: Val | None, lanes: int, first: int = 0) -> Val | None:
    """Which of `lanes` elements of a blocked row, from lane `first` on, are channels that exist."""
    if left is None:
        return None
    numbers = [(first + i) % BLOCK for i in range(lanes)]
    items = ", ".join(f"i32 {n}" for n in numbers)
    limit = f.splat(f.cast("trunc", left, "i32"), lanes)
    return f.icmp("slt", Val(vec(lanes, "i32"), f"<{items}>"), limit)


def put(f: Function, stream: Stream, value: Val, at: Val, extra: int, mask: Val | None) -> None:
    """Store a vector, zero in the lanes of a blocked output that are no channels."""
    if mask is not None and stream.port.mode in "cb":
        zero = Val(value.type, "zeroinitializer")
        value = f.select(mask, value, zero)
    stream.store(value, at, extra)


def _emit(f: Function, rows: Rows, formula: Formula) -> None:
    lanes = f.target.lanes
    scattered = any(p.mode == "s" for p in rows.ports)
    unroll = 1 if scattered or formula.cost > 16 else 2
    parts = max(unroll, BLOCK // lanes if rows.blocked else 1)
    with chunks(f, rows, CHUNK // BLOCK if rows.blocked else CHUNK) as unit:
        count = f.shl(unit.count, 3) if rows.blocked else unit.count
        step = parts * lanes
        whole = f.and_(count, -step)
        vectors = [(i * lanes, lane_mask(f, unit.left, lanes, i * lanes)) for i in range(parts)]
        with f.loop(0, whole, step) as turn:
            _vectors(f, unit, formula, turn.index, lanes, vectors)
        if not rows.blocked or step > BLOCK:
            _rest(f, rows, unit, formula, whole, count)
    f.ret()


def _vectors(
    f: Function,
    unit: Unit,
    formula: Formula,
    at: Val,
    lanes: int,
    vectors: Sequence[tuple[int, Val | None]],
) -> None:
    """Some vectors from element `at` on: all reads, then all writes."""
    results = [
        formula.apply(f, lanes, [s.load(at, lanes, extra) for s in unit.ins])
        for extra, _ in vectors
    ]
    for (extra, mask), values in zip(vectors, results, strict=True):
        for stream, value in zip(unit.outs, values, strict=True):
            put(f, stream, value, at, extra, mask)


def _rest(f: Function, rows: Rows, unit: Unit, formula: Formula, start: Val, count: Val) -> None:
    """The elements behind the last whole vectors."""
    lanes = f.target.lanes
    if rows.blocked:
        narrow = min(lanes, BLOCK)
        vectors = [(i, lane_mask(f, unit.left, narrow, i)) for i in range(0, BLOCK, narrow)]
        with f.loop(start, count, BLOCK) as turn:
            _vectors(f, unit, formula, turn.index, narrow, vectors)
    elif lanes == 4 or any(p.mode == "s" or not p.is_whole_float for p in rows.ports):
        with f.loop(start, count) as turn:
            _vectors(f, unit, formula, turn.index, 1, [(0, None)])
    else:
        with f.loop(start, count, lanes) as turn:
            mask = f.lane_mask(f.sub(count, turn.index), lanes)
            values = formula.apply(f, lanes, [s.masked(turn.index, mask) for s in unit.ins])
            for stream, value in zip(unit.outs, values, strict=True):
                stream.masked_store(value, turn.index, mask)
