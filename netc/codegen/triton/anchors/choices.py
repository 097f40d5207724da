"""Pools that choose: where the largest element lies, and pooling by chance."""

from __future__ import annotations

from collections.abc import Sequence

from netc.codegen.operand import Kernel
from netc.codegen.triton.anchors.randoms import uniform
from netc.codegen.triton.body import Coord
from netc.codegen.triton.flat import Flat
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.codegen.triton.window import Window
from netc.ir.ops.pooling import MaxPoolIndex
from netc.ir.ops.random import StochasticPool


@rule(MaxPoolIndex)
def max_pool_index(ctx: Lowering, k: Kernel) -> Launch:
    """The place of the first largest tap, NaN above all; −1 of none."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, MaxPoolIndex)
    flat, (x,) = Flat(ctx, k), k.anchor_operands()
    src, window = flat.src, Window(flat, x.type, k.anchor.op)
    src.line(f"best = {flat.full(0)}")
    src.line(f"found = tl.full({flat.lane}.shape, -1, tl.int32)")

    def step(places: Sequence[Coord], inside: str) -> None:
        tap = flat.body.read(x, [*flat.coords[:2], *places], flat.tile, inside)
        number = places[0].text
        for place, size in zip(places[1:], x.type.shape[3:], strict=True):
            number = f"({number}) * {src.size(size)} + {place.text}"
        lost = f"(({tap} != {tap}) & (best == best))"
        above = f"(found < 0) | ({tap} > best) | {lost}"
        taken = src.let(f"({inside}) & ({above})" if inside else above)
        src.line(f"best = tl.where({taken}, {tap}, best)")
        src.line(f"found = tl.where({taken}, {number}, found)")

    window.walk(step)
    return flat.finish({k.anchor.out: src.let("found.to(tl.float32)")})


@rule(StochasticPool)
def stochastic_pool(ctx: Lowering, k: Kernel) -> Launch:
    """In training the tap where the running sum reaches u · Σx, else Σx² / Σx."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, StochasticPool)
    flat, (x,) = Flat(ctx, k), k.anchor_operands()
    src, window = flat.src, Window(flat, x.type, op)
    src.line(f"total = {flat.full(0)}")
    src.line(f"squares = {flat.full(0)}")

    def tap(places: Sequence[Coord], inside: str) -> str:
        return flat.body.read(x, [*flat.coords[:2], *places], flat.tile, inside)

    def add(places: Sequence[Coord], inside: str) -> None:
        here = tap(places, inside)
        src.line(f"total = total + {here}")
        src.line(f"squares = tl.fma({here}, {here}, squares)")

    window.walk(add)
    if not op.train:
        mean = src.let("tl.div_rn(squares, total)")
        some = "(total > 0.0) | (total != total)"
        return flat.finish({k.anchor.out: src.let(f"tl.where({some}, {mean}, 0.0)")})
    level = src.let(f"{uniform(flat, op.seed)} * total")
    src.line(f"running = {flat.full(0)}")
    src.line(f"picked = {flat.full(0)}")
    src.line(f"open = {flat.lane} >= 0")

    def pick(places: Sequence[Coord], inside: str) -> None:
        here = tap(places, inside)
        src.line(f"running = running + {here}")
        reached = f"open & (running >= {level})"
        first = src.let(f"{reached} & {inside}" if inside else reached)
        src.line(f"picked = tl.where({first}, {here}, picked)")
        src.line(f"open = open & ({first} == 0)")

    window.walk(pick)
    return flat.finish({k.anchor.out: src.let("tl.where(total == total, picked, total)")})
