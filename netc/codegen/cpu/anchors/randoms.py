"""Random numbers: a hash of (seed, element), then the op's formula."""

from __future__ import annotations

from netc.codegen.cpu.anchors.access import plain_access
from netc.codegen.cpu.anchors.formula import LlvmScalars
from netc.codegen.cpu.anchors.points import Point, counter, lower_points, number
from netc.codegen.cpu.emit import Function, Val
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import Call, Kernel, row_major
from netc.ir.ops.random import (
    GOLDEN,
    MIX_1,
    MIX_2,
    Dropout,
    Random,
    RandomNormal,
    RandomUniform,
    stream,
)
from netc.ir.scalar import S


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def hashed_uniform(f: Function, seed: int, index: Val) -> Val:
    """u in [0, 1) for element `index`: 24 bits of SplitMix64."""
    z = f.add(f.mul(f.add(index, 1), _signed(GOLDEN)), _signed(stream(seed)))
    for shift, factor in ((30, MIX_1), (27, MIX_2)):
        z = f.mul(f.xor(z, f.lshr(z, shift)), _signed(factor))
    bits = f.lshr(f.xor(z, f.lshr(z, 31)), 40)
    return f.fmul(f.cast("sitofp", bits, "float"), f.f32(2.0**-24))


@rule(RandomUniform, RandomNormal, Dropout)
def lower_random(ctx: Lowering, k: Kernel) -> Call:
    """One number an element, in row-major order."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, Random)
    (x,) = k.anchor_operands()
    shape = x.type.shape
    own = plain_access(ctx, x, shape)
    operands = (own, counter(row_major(shape)))
    if not shape:
        operands = (own.extended(0), counter((0,)))
    return lower_points(ctx, k, repr(op), operands, (), lambda p: _drawn(p, op))


def _drawn(p: Point, op: Random) -> Val:
    f, b = p.f, LlvmScalars(p.f, 1)
    u = hashed_uniform(f, getattr(op, "seed", 0), number(f, p.addresses[1]))
    made: Val = op.scalar(S(b, u), S(b, p.at(0))).h
    return made
