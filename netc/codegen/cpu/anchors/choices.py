"""Pools that choose: where the largest element lies, and pooling by chance."""

from __future__ import annotations

from collections.abc import Sequence

from netc.codegen.cpu.anchors.access import Access, plain_access
from netc.codegen.cpu.anchors.points import Point, counter, lower_points, number
from netc.codegen.cpu.anchors.randoms import hashed_uniform
from netc.codegen.cpu.anchors.ranking import order_key
from netc.codegen.cpu.anchors.windows import AXIS_SLOTS, Axis, Span, span, walk
from netc.codegen.cpu.emit import FALSE, TRUE, Function, Val
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import Call, Kernel, row_major
from netc.ir.dims import Dim
from netc.ir.ops.pooling import MaxPoolIndex, Pool
from netc.ir.ops.random import StochasticPool


def _plane(ctx: Lowering, k: Kernel, op: Pool) -> tuple[list[Access], list[Dim]]:
    """x at the first element of each plane, the result's numbering, and the window's numbers."""
    assert k.anchor is not None
    (x,) = k.anchor_operands()
    own = plain_access(ctx, x, x.type.shape)
    kernel, stride, pad = op.window()
    still = (0,) * len(kernel)
    numbers: list[Dim] = []
    for i, size in enumerate(x.type.shape[2:]):
        numbers += [size, kernel[i], stride[i], pad[i], own.strides[2 + i] * 4]
    source = Access(own.arg, own.dtype, (*own.strides[:2], *still))
    return [source, counter(row_major(k.anchor.types[0].shape))], numbers


def _spans(p: Point) -> list[Span]:
    f, out = p.f, []
    for i, index in enumerate(p.indices[2:]):
        size, kernel, step, pad, stride = p.numbers[AXIS_SLOTS * i : AXIS_SLOTS * (i + 1)]
        out.append(span(f, Axis(size, stride, kernel, step, pad, f.const(1)), index))
    return out


@rule(MaxPoolIndex)
def lower_index(ctx: Lowering, k: Kernel) -> Call:
    """The place of the first largest element of each window; −1 of an empty one."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, MaxPoolIndex)
    operands, numbers = _plane(ctx, k, op)
    return lower_points(ctx, k, ("index", len(op.kernel)), operands, numbers, _first_largest)


def _first_largest(p: Point) -> Val:
    f, spans = p.f, _spans(p)

    def step(address: Val, taps: list[Val], best: list[Val]) -> list[Val]:
        place: Val | None = None
        for s, tap in zip(spans, taps, strict=True):
            here = f.add(s.start, tap)
            place = here if place is None else f.add(f.mul(place, s.axis.size), here)
        assert place is not None
        key = f.sext(order_key(f, f.load("float", address)))
        above = f.icmp("sgt", key, best[0])
        return [f.select(above, key, best[0]), f.select(above, place, best[1])]

    lowest = f.const(-(1 << 62))
    _, place = walk(f, spans, p.addresses[0], [lowest, f.const(-1)], step)
    return f.cast("sitofp", place, "float")


@rule(StochasticPool)
def lower_stochastic(ctx: Lowering, k: Kernel) -> Call:
    """In training the element where the running sum reaches u · Σx, else Σx² / Σx."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, StochasticPool)
    operands, numbers = _plane(ctx, k, op)
    key = ("stochastic", len(op.kernel), op.train, op.seed)
    return lower_points(ctx, k, key, operands, numbers, lambda p: _by_chance(p, op))


def _by_chance(p: Point, op: StochasticPool) -> Val:
    f, spans, base = p.f, _spans(p), p.addresses[0]
    zero = f.f32(0.0)

    def add(address: Val, _: list[Val], sums: list[Val]) -> list[Val]:
        x = f.load("float", address)
        return [f.fadd(sums[0], x), f.fma(x, x, sums[1])]

    total, squares = walk(f, spans, base, [zero, zero], add)
    if not op.train:
        some = f.fcmp("ugt", total, zero)
        return f.select(some, f.fdiv(squares, total), zero)
    u = hashed_uniform(f, op.seed, number(f, p.addresses[1]))
    level = f.fmul(u, total)
    picked = _reaching(f, spans, base, level)
    return f.select(f.fcmp("uno", total, total), total, picked)


def _reaching(f: Function, spans: Sequence[Span], base: Val, level: Val) -> Val:
    """The first element with which the running sum is not below the level."""

    def step(address: Val, _: list[Val], state: list[Val]) -> list[Val]:
        total, found, done = state
        x = f.load("float", address)
        total = f.fadd(total, x)
        first = f.and_(f.fcmp("uge", total, level), f.xor(done, TRUE))
        return [total, f.select(first, x, found), f.or_(done, first)]

    return walk(f, spans, base, [f.f32(0.0), f.f32(0.0), FALSE], step)[1]
