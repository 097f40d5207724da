"""Maxima and means of windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from netc.codegen.operand import Kernel
from netc.codegen.triton.body import Coord
from netc.codegen.triton.flat import Flat
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.codegen.triton.window import Window
from netc.ir.ops.pooling import AvgPool, MaxPool, Pool

LOWEST = 'float("-inf")'
LARGER = "tl.maximum({}, {}, propagate_nan=tl.PropagateNan.ALL)"


@rule(MaxPool)
def max_pool(ctx: Lowering, k: Kernel) -> Launch:
    """The largest tap, −∞ of none."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Pool)
    flat, (x,) = Flat(ctx, k), k.anchor_operands()
    window = Window(flat, x.type, k.anchor.op)
    flat.src.line(f"acc = tl.full({flat.lane}.shape, {LOWEST}, tl.float32)")

    def step(places: Sequence[Coord], inside: str) -> None:
        coords = [*flat.coords[:2], *places]
        tap = flat.body.read(x, coords, flat.tile, inside, LOWEST)
        flat.src.line(f"acc = {LARGER.format('acc', tap)}")

    window.walk(step)
    return flat.finish({k.anchor.out: "acc"})


@rule(AvgPool)
def avg_pool(ctx: Lowering, k: Kernel) -> Launch:
    """The taps added row by row, over the window's size."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Pool)
    flat, (x,) = Flat(ctx, k), k.anchor_operands()
    src, window = flat.src, Window(flat, x.type, k.anchor.op)
    src.line(f"acc = tl.zeros_like({flat.lane}).to(tl.float32)")

    @contextmanager
    def row() -> Iterator[None]:
        src.line(f"part = tl.zeros_like({flat.lane}).to(tl.float32)")
        yield
        src.line("acc = acc + part")

    def step(places: Sequence[Coord], inside: str) -> None:
        coords = [*flat.coords[:2], *places]
        src.line(f"part = part + {flat.body.read(x, coords, flat.tile, inside)}")

    window.walk(step, row)
    mean = src.let(f"tl.div_rn(acc, {window.count()})")
    return flat.finish({k.anchor.out: mean})
