"""Convolutions of single channels: there is no product to be made, every lane sums."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from netc.codegen.operand import WEIGHTS, Kernel, Operand
from netc.codegen.triton.anchors.spread import spread
from netc.codegen.triton.body import Coord
from netc.codegen.triton.flat import Flat
from netc.codegen.triton.lowering import Launch, Lowering
from netc.codegen.triton.source import Source
from netc.codegen.triton.window import UNROLLED
from netc.ir.graph import Value
from netc.ir.ops.convolution import ConvTranspose, Windowed
from netc.ir.types import DType, TensorType


def is_thin(op: Windowed, x: Operand, w: Operand) -> bool:
    """Whether a convolution in groups is no product: of single channels, or of computed w."""
    fixed = w.buffer == WEIGHTS and w.array is not None
    if isinstance(op, ConvTranspose):
        return op.groups > 1 and (not fixed or w.type.shape[:2] == (op.groups, 1))
    return w.type.shape[1] == 1 and op.groups > 1 and fixed


def depthwise(ctx: Lowering, k: Kernel, op: Windowed, x: Operand, w: Operand) -> Launch:
    """Each channel convolved alone; weights lie as [tap, channel]."""
    assert k.anchor is not None
    if isinstance(op, ConvTranspose):
        return spread(ctx, k, op, x, w)
    assert w.array is not None
    flat = Flat(ctx, k)
    src = flat.src
    batch, channel, *_ = flat.coords
    sizes = w.type.sizes({})
    taps = sizes[2:]
    stride, pad, dilation = op.window(len(taps))
    packed = np.ascontiguousarray(w.array.reshape(sizes[0], -1).T, np.float32)
    table = Operand(TensorType(DType.F32, packed.shape), WEIGHTS, 0, (sizes[0], 1), array=packed)
    each = sizes[0] // op.groups
    source = channel if each == 1 else Coord(src.let(f"{channel.text} // {each}"), channel.part)
    starts = [
        src.let(f"{flat.index(axis)} * {s} - {p}")
        for axis, (s, p) in enumerate(zip(stride, pad, strict=True), start=2)
    ]

    def tap(spot: Sequence[str], number: str) -> None:
        """One tap of the window: how far it is from the start along each axis, and its row."""
        coords, inside = [batch, source], []
        for i, (start, place) in enumerate(zip(starts, spot, strict=True)):
            where = src.let(f"{start} + {place}")
            coords.append(Coord(where, "lane"))
            if pad[i]:
                inside.append(f"({where} >= 0) & ({where} < {src.size(x.type.shape[i + 2])})")
        a = flat.body.read(x, coords, flat.tile, " & ".join(inside))
        b = flat.body.read(table, [Coord(number), channel], flat.tile)
        src.line(f"acc = tl.fma({a}, tl.zeros_like(acc) + {b}, acc)")

    src.line(f"acc = tl.zeros_like({flat.lane}).to(tl.float32)")
    _walk(src, taps, dilation, tap)
    bias = k.anchor.inputs[2:]
    known: dict[Value, str] = {}
    out = "acc"
    if bias:
        added = flat.body.at(bias[0], [channel], flat.tile, {})
        out = src.let(f"acc + {added}")
    known[k.anchor.out] = out
    return flat.finish(known)


def _walk(
    src: Source, taps: Sequence[int], dilation: Sequence[int], tap: Callable[[list[str], str], None]
) -> None:
    """`tap` for every tap of a window; the first axes of a large one are loops."""
    outer = next(i for i in range(len(taps) + 1) if math.prod(taps[i:]) <= UNROLLED)
    with ExitStack() as loops:
        spot, number = [], ""
        for count, step in zip(taps[:outer], dilation, strict=False):
            name = src.name()
            loops.enter_context(src.block(f"for {name} in range({count}):"))
            number = src.let(f"{number} * {count} + {name}") if number else name
            spot.append(f"{name} * {step}")
        first = f"{number} * {math.prod(taps[outer:])} + " if number else ""
        for i, places in enumerate(itertools.product(*map(range, taps[outer:]))):
            rest = [str(at * step) for at, step in zip(places, dilation[outer:], strict=True)]
            tap([*spot, *rest], f"{first}{i}")
