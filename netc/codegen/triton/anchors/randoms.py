"""Random numbers: a hash of (seed, element), then the op's formula."""

from __future__ import annotations

from netc.codegen.operand import Kernel, row_major
from netc.codegen.triton.flat import Flat
from netc.codegen.triton.formula import TritonScalars
from netc.codegen.triton.lowering import Launch, Lowering, rule
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


def uniform(flat: Flat, seed: int) -> str:
    """u in [0, 1) for the element of each lane, numbered row by row: 24 bits of SplitMix64."""
    src = flat.src
    terms = [
        f"({c.text}) * {src.size(stride)}"
        for c, stride in zip(flat.coords, row_major(flat.shape), strict=True)
        if c.text != "0"
    ]
    index = src.let(" + ".join(terms) or f"{flat.lane} * 0")
    z = src.let(f"({index}.to(tl.uint64) + 1) * {GOLDEN} + {stream(seed)}")
    for shift, factor in ((30, MIX_1), (27, MIX_2)):
        z = src.let(f"({z} ^ ({z} >> {shift})) * {factor}")
    bits = src.let(f"({z} ^ ({z} >> 31)) >> 40")
    return src.let(f"{bits}.to(tl.int32).to(tl.float32) * {2.0**-24!r}")


@rule(RandomUniform, RandomNormal, Dropout)
def random(ctx: Lowering, k: Kernel) -> Launch:
    """One number an element."""
    assert k.anchor is not None
    op, (x,) = k.anchor.op, k.anchor_operands()
    assert isinstance(op, Random)
    flat = Flat(ctx, k)
    u = uniform(flat, getattr(op, "seed", 0))
    own = flat.body.read(x, flat.coords, flat.tile) if isinstance(op, Dropout) else u
    b = TritonScalars(flat.src, flat.lane)
    return flat.finish({k.anchor.out: op.scalar(S(b, u), S(b, own)).h})
