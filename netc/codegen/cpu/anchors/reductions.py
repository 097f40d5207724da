"""Sums, means and maxima over axes, with element-wise work before and after.

Axes are merged first. Where the last axis is reduced, a row is folded along it; where it is kept,
vectors of neighbouring results are folded together.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace

from netc.codegen.cpu.anchors.access import Access, Args, collapse, plain_access
from netc.codegen.cpu.anchors.folds import (
    Join,
    across,
    add,
    each_vector,
    fold_row,
    fold_vectors,
    largest,
    nest,
)
from netc.codegen.cpu.anchors.formula import Formula, Tail
from netc.codegen.cpu.anchors.pooling import input_port
from netc.codegen.cpu.anchors.results import Results, Writer
from netc.codegen.cpu.anchors.streams import Port, Ports, Stream, plain_port
from netc.codegen.cpu.anchors.units import ceil_div, units
from netc.codegen.cpu.emit import Function, Val
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.cpu.stored import read, size_of
from netc.codegen.operand import BLOCK, Call, Kernel, Operand
from netc.errors import UnsupportedError
from netc.ir.dims import Dim
from netc.ir.ops.pooling import Global, GlobalAvgPool, GlobalMaxPool
from netc.ir.ops.reduction import Reduce, ReduceMax, ReduceMean, ReduceSum
from netc.ir.types import DType

_CHUNK = 256  # results of a row in one unit
_TURNS = 64  # elements between additions to the outer sum, where results are vectors


@dataclass(frozen=True)
class Reduction:
    """What the code depends on: which merged axes are reduced, and how each operand runs."""

    kind: str  # sum mean max
    reduced: tuple[bool, ...]
    ports: tuple[Port, ...]  # of the head, then of the tail and the outputs
    head: Formula = field(compare=False)
    tail: Tail = field(compare=False)

    @property
    def join(self) -> Join:
        """How two values become one."""
        return largest if self.kind == "max" else add

    @property
    def start(self) -> float:
        """The value of nothing."""
        return -float("inf") if self.kind == "max" else 0.0


_KINDS = {"reduce_sum": "sum", "reduce_mean": "mean", "reduce_max": "max"}


@rule(ReduceSum, ReduceMean, ReduceMax)
def lower_reduce(ctx: Lowering, k: Kernel) -> Call:
    """One kernel for the three."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, Reduce)
    type = k.anchor.inputs[0].type
    return reduce_axes(ctx, k, _KINDS[op.name], op.over(type.rank))


def reduce_axes(ctx: Lowering, k: Kernel, kind: str, axes: Sequence[int]) -> Call:
    """The kernel that reduces these axes of the anchor's first input."""
    assert k.anchor is not None
    value = k.anchor.inputs[0]
    shape, head, tail = value.type.shape, Formula([value]), Tail(k)
    heads = [plain_access(ctx, o, shape) for o in operands_of(k, head)]
    result = k.anchor.types[0].shape
    rest = [plain_access(ctx, o, result) for o in (*tail.operands, *k.outs)]
    for o in k.outs:
        if o.type.shape != result:
            raise UnsupportedError(f"{o.type} does not end a reduction to {result}", k.node.loc)
    kept = len(result) == len(shape)
    spread = [_spread(a, shape, axes, kept) for a in rest]
    sizes, walked, reduced = merged(shape, [*heads, *spread], set(axes))
    ports = tuple(plain_port(a) for a in walked)
    r = Reduction(kind, reduced, ports, head, tail)
    args = Args()
    for d in sizes:
        args.size(d)
    for a in walked:
        args.access(a)
    key = ("reduce", r, head.key, tail.key)
    return Call(ctx.code(key, lambda f: _emit(f, r)), tuple(args.items))


def operands_of(k: Kernel, formula: Formula) -> list[Operand]:
    """Where the leaves of a formula lie."""
    found = [k.operand(v) for v in formula.leaves]
    return [o for o in found if o is not None]


def merged(
    shape: tuple[Dim, ...], accesses: Sequence[Access], marked: Set[int]
) -> tuple[tuple[Dim, ...], list[Access], tuple[bool, ...]]:
    """Neighbouring axes merged where every operand runs on evenly, never marked with others.

    Returns sizes, operands, and which of the axes that are left are marked.
    """
    parts: list[tuple[bool, tuple[Dim, ...], list[Access]]] = []
    start = 0
    for end in range(1, len(shape) + 1):
        mark = start in marked
        if end < len(shape) and (end in marked) == mark:
            continue
        cut = [replace(a, strides=a.strides[start:end]) for a in accesses]
        sizes, some = collapse(shape[start:end], cut)
        if sizes != (1,):
            parts.append((mark, sizes, some))
        start = end
    if not parts:
        return (1,), [replace(a, strides=(1,)) for a in accesses], (False,)
    joined = [
        replace(a, strides=tuple(s for _, _, some in parts for s in some[i].strides))
        for i, a in enumerate(accesses)
    ]
    flags = tuple(mark for mark, sizes, _ in parts for _ in sizes)
    return tuple(d for _, sizes, _ in parts for d in sizes), joined, flags


def _spread(a: Access, shape: Sequence[Dim], axes: Sequence[int], kept: bool) -> Access:
    """Strides of a result over the shape that was reduced: 0 along reduced axes."""
    own = iter(a.strides)
    out: list[Dim] = []
    for i in range(len(shape)):
        if i in axes:
            out.append(0)
            if kept:
                next(own)
        else:
            out.append(next(own))
    return replace(a, strides=tuple(out))


class _Body:
    """The kernel's code at one unit of results."""

    def __init__(self, f: Function, r: Reduction) -> None:
        self.f, self.r = f, r
        axes = len(r.reduced)
        self.sizes = [f.slot(f.args[0], i) for i in range(axes)]
        self.ports = Ports(f, r.ports, axes)
        self.inner = self.sizes[-1]
        outer = list(zip(self.sizes, r.reduced, strict=True))[:-1]
        self.kept = [d for d, reduced in outer if not reduced]
        self.loops = [d for d, reduced in outer if reduced]
        self.count = f.const(1)
        for d, reduced in zip(self.sizes, r.reduced, strict=True):
            self.count = f.mul(self.count, d) if reduced else self.count
        self.heads = len(r.head.leaves)

    def indices(self, kept: Sequence[Val], loops: Sequence[Val]) -> list[Val]:
        """Kept and reduced indices in the order of the outer axes."""
        some, others = iter(kept), iter(loops)
        return [next(others) if reduced else next(some) for reduced in self.r.reduced[:-1]]

    def streams(self, kept: Sequence[Val], loops: Sequence[Val], start: Val) -> list[Stream]:
        """The streams of the head along the last axis."""
        every = self.ports.streams(self.indices(kept, loops), start)
        return every[: self.heads]

    def load(self, streams: Sequence[Stream], at: Val, lanes: int, mask: Val | None) -> Val:
        """The value reduced, at some elements of the last axis."""
        read = [s.get(at, lanes, mask) for s in streams]
        return self.r.head.apply(self.f, lanes, read)[0]

    def finish(self, acc: Val) -> Val:
        """The result of all joined."""
        if self.r.kind != "mean":
            return acc
        f = self.f
        return f.fdiv(acc, f.splat(f.cast("sitofp", self.count, "float"), acc.lanes))

    def put(self, streams: Sequence[Stream], acc: Val, at: Val, mask: Val | None) -> None:
        """A result through the tail to the outputs."""
        f, tail = self.f, self.r.tail
        cut = len(tail.operands)
        read = [s.get(at, acc.lanes, mask) for s in streams[:cut]]
        values = tail.apply(f, acc.lanes, self.finish(acc), read)
        for s, value in zip(streams[cut:], values, strict=True):
            s.put(value, at, mask)


def _emit(f: Function, r: Reduction) -> None:
    body = _Body(f, r)
    if r.reduced[-1]:
        _emit_rows(body)
    else:
        _emit_vectors(body)
    f.ret()


def _emit_rows(b: _Body) -> None:
    """The last axis is folded along rows; one result a unit."""
    f, r = b.f, b.r
    even = all(p.mode in "c0" and p.is_whole_float for p in r.ports[: b.heads])
    with units(f, b.kept) as kept:
        with nest(f, b.loops, [f.f32(r.start)]) as turn:
            streams = b.streams(kept, turn.indices, f.const(0))
            part = fold_row(
                f,
                b.inner,
                lambda at, lanes, mask: b.load(streams, at, lanes, mask),
                r.join,
                r.start,
                even,
            )
            turn.next([r.join(f, turn.values[0], part)])
        zeros = [f.const(0)] * len(b.loops)
        outs = b.ports.streams(b.indices(kept, zeros), 0)[b.heads :]
        b.put(outs, turn.results[0], f.const(0), None)


def _emit_vectors(b: _Body) -> None:
    """The last axis is kept: each vector of neighbouring results goes over the reduced axes."""
    f, r = b.f, b.r
    even = all(p.mode in "c0" and p.is_whole_float for p in r.ports)
    with units(f, [*b.kept, ceil_div(f, b.inner, _CHUNK)]) as indices:
        *kept, chunk = indices
        start = f.mul(chunk, _CHUNK)
        count = f.smin(f.sub(b.inner, start), _CHUNK)
        zeros = [f.const(0)] * len(b.loops)
        outs = b.ports.streams(b.indices(kept, zeros), start)[b.heads :]

        def vector(at: Val, lanes: int, mask: Val | None) -> None:
            total = _fold_apart(b, kept, start, at, lanes, mask)
            b.put(outs, total, at, mask)

        each_vector(f, count, vector, even)


def _fold_apart(
    b: _Body, kept: Sequence[Val], start: Val, at: Val, lanes: int, mask: Val | None
) -> Val:
    """One vector of results: loops over the reduced axes, the innermost in blocks."""
    f, r = b.f, b.r
    first = f.f32(r.start, lanes)
    if not b.loops:
        streams = b.streams(kept, [], start)
        return r.join(f, first, b.load(streams, at, lanes, mask))
    *outer, last = b.loops
    with nest(f, outer, [first]) as turn:
        with f.loop(0, last, _TURNS, carry=turn.values) as block:
            stop = f.smin(f.add(block.index, _TURNS), last)
            with f.loop(block.index, stop, carry=[first]) as inner:
                streams = b.streams(kept, [*turn.indices, inner.index], start)
                value = b.load(streams, at, lanes, mask)
                inner.next([r.join(f, inner.values[0], value)])
            block.next([r.join(f, block.values[0], inner.results[0])])
        turn.next(block.results)
    return turn.results[0]


@rule(GlobalAvgPool, GlobalMaxPool, short=True)
def lower_global(ctx: Lowering, k: Kernel) -> Call:
    """All spatial axes: rows of blocked maps eight lanes wide, or a reduction."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Global)
    kind = "mean" if isinstance(k.anchor.op, GlobalAvgPool) else "max"
    found = k.operand(k.anchor.inputs[0])
    if found is None or not found.is_c8:
        return reduce_axes(ctx, k, kind, range(2, k.anchor.inputs[0].type.rank))
    return _lower_blocked(ctx, k, kind, found)


def _lower_blocked(ctx: Lowering, k: Kernel, kind: str, x: Operand) -> Call:
    results = Results(ctx, k)
    access, _ = input_port(ctx, x)
    height, width = x.type.shape[2:]
    access, port = input_port(ctx, replace(x, strides=access.strides))
    args = Args()
    args.access(access)
    for d in (height, width, height * width):  # rows apart, so that a halo changes no sum
        args.size(d)
    results.arguments(args)
    key = ("global", kind, results.key)
    symbol = ctx.code(key, lambda f: _emit_blocked(f, kind, port, results))
    return Call(symbol, tuple(args.items))


def _emit_blocked(f: Function, kind: str, port: Port, results: Results) -> None:
    join, start = (largest, -float("inf")) if kind == "max" else (add, 0.0)
    source = Ports(f, [port], 0)
    height, width, count = (f.slot(f.args[0], source.end + i) for i in range(3))
    writer = Writer(f, results, source.end + 3)
    narrow = min(BLOCK, f.target.lanes)
    with units(f, writer.sizes[:2]) as indices:
        _, base = source.row(0, [*indices, 0])
        row = writer.row([*indices, f.const(0)])
        for first in range(0, BLOCK, narrow):
            with f.loop(0, height, carry=[f.f32(start, narrow)]) as line:
                here = f.gep(base, f.mul(line.index, source.outer[0][2]))
                here = f.gep(here, port.item * first)
                part = _blocked_row(f, here, port.element, width, join, start)
                line.next([join(f, line.values[0], part)])
            acc = line.results[0]
            if kind == "mean":
                acc = f.fdiv(acc, f.splat(f.cast("sitofp", count, "float"), narrow))
            row.put(acc, f.const(0), first)
    f.ret()


def _blocked_row(
    f: Function, base: Val, element: str, pixels: Val, join: Join, start: float
) -> Val:
    """One row of pixels folded into the lanes of one."""
    lanes = f.target.lanes
    narrow = min(BLOCK, lanes)
    step = max(1, lanes // BLOCK)  # pixels in a vector
    pixel = size_of(DType.F32, element) * BLOCK  # bytes

    def load(at: Val, count: int, mask: Val | None) -> Val:
        there = f.gep(base, f.ashr(at, count.bit_length() - 1), pixel * step)
        return read(f, there, count, element)

    whole_vectors = f.mul(f.sdiv(pixels, step), lanes)
    total, done = fold_vectors(f, whole_vectors, lanes, 4, load, join, start)
    first = f.mul(f.sdiv(done, lanes), step)
    with f.loop(first, pixels, carry=[across(f, total, join, narrow)]) as turn:
        value = read(f, f.gep(base, turn.index, pixel), narrow, element)
        turn.next([join(f, turn.values[0], value)])
    return turn.results[0]
