"""Reads at places that data gives: gather, pick; and windows as columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from netc.codegen.operand import Kernel, Operand
from netc.codegen.triton.body import Coord
from netc.codegen.triton.flat import Flat
from netc.codegen.triton.formula import convert
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.codegen.triton.source import Source
from netc.ir.dims import Dim
from netc.ir.ops.indexing import Gather, Im2col, Iota, Pick
from netc.ir.ops.windows import axis_of
from netc.ir.types import DType


def whole_number(src: Source, value: str, dtype: DType) -> str:
    """An index as i32, cut toward zero; −1 where it is not a number."""
    if dtype is DType.F32:
        value = src.let(f"tl.where({value} == {value}, {value}, -1.0)")
    return convert(src, value, dtype, DType.I32)


def unravelled(src: Source, index: str, shape: Sequence[Dim], part: str) -> list[Coord]:
    """The coordinates of the element of this number, counted row by row."""
    coords = [Coord("0")] * len(shape)
    real = [a for a, d in enumerate(shape) if d != 1]
    for a in reversed(real):
        if a == real[0]:
            coords[a] = Coord(index, part)
            break
        coords[a] = Coord(src.let(f"{index} % {src.size(shape[a])}"), part)
        index = src.let(f"{index} // {src.size(shape[a])}")
    return coords


def ravelled(src: Source, coords: Sequence[Coord], shape: Sequence[Dim]) -> str:
    """The number of the element at these coordinates, counted row by row."""
    index = "0"
    for c, size in zip(coords, shape, strict=True):
        head = "" if index == "0" else f"({index}) * {src.size(size)} + "
        index = f"{head}{c.text}"
    return src.let(index)


@rule(Gather)
def gather(ctx: Lowering, k: Kernel) -> Launch:
    """x at the index along an axis, NaN where there is no such item."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Gather)
    flat, (x, index) = Flat(ctx, k), k.anchor_operands()
    axis, batch = axis_of(k.anchor.op.axis, x.type.rank), k.anchor.op.batch
    end = axis + index.type.rank - batch
    before, after = flat.coords[:axis], flat.coords[end:]
    chosen = [*before[:batch], *flat.coords[axis:end]]
    return _picked(flat, x, index, chosen, (before, after))


@rule(Iota)
def iota(ctx: Lowering, k: Kernel) -> Launch:
    """The place along the axis."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Iota)
    flat = Flat(ctx, k)
    axis = axis_of(k.anchor.op.axis, len(flat.shape))
    return flat.finish({k.anchor.out: flat.src.let(f"({flat.index(axis)}).to(tl.float32)")})


@rule(Pick)
def pick(ctx: Lowering, k: Kernel) -> Launch:
    """x at the label along an axis, one label per place of the others."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Pick)
    flat, (x, label) = Flat(ctx, k), k.anchor_operands()
    axis = axis_of(k.anchor.op.axis, x.type.rank)
    before, after = flat.coords[:axis], flat.coords[axis + 1 :]
    sizes = (*x.type.shape[:axis], *x.type.shape[axis + 1 :])
    chosen = [*before, *after]
    if label.type.shape != sizes:
        place = ravelled(flat.src, chosen, sizes)
        chosen = unravelled(flat.src, place, label.type.shape, "lane")
    return _picked(flat, x, label, chosen, (before, after))


def _picked(
    flat: Flat,
    x: Operand,
    index: Operand,
    chosen: Sequence[Coord],
    around: tuple[Sequence[Coord], Sequence[Coord]],
) -> Launch:
    """The element of x that the index names, between the coordinates around it."""
    src, (before, after) = flat.src, around
    given = flat.body.read(index, chosen, flat.tile)
    at = whole_number(src, given, index.type.dtype)
    at = src.let(f"{flat.lane} * 0 + {at}")
    legal = src.let(f"({at} >= 0) & ({at} < {src.size(x.type.shape[len(before)])})")
    coords = [*before, Coord(at, "lane"), *after]
    there = flat.body.read(x, coords, flat.tile, legal)
    picked = src.let(f'tl.where({legal}, {there}, float("nan"))')
    assert flat.k.anchor is not None
    return flat.finish({flat.k.anchor.out: picked})


@rule(Im2col)
def im2col(ctx: Lowering, k: Kernel) -> Launch:
    """Row (channel, window position) of the result at a place: x there, 0 outside."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, Im2col)
    flat, (x,) = Flat(ctx, k), k.anchor_operands()
    src, (kernel, stride, pad, dilation) = flat.src, op.window()
    row = flat.index(1)
    channel = src.let(f"{row} // {math.prod(kernel)}")
    tap = src.let(f"{row} % {math.prod(kernel)}")
    taps = unravelled(src, tap, kernel, "lane")
    coords, masks = [flat.coords[0], Coord(channel, "lane")], []
    for a in range(len(kernel)):
        step = f"{flat.index(a + 2)} * {stride[a]} - {pad[a]}"
        at = src.let(f"{step} + ({taps[a].text}) * {dilation[a]}")
        coords.append(Coord(at, "lane"))
        if pad[a]:
            masks.append(f"({at} >= 0) & ({at} < {src.size(x.type.shape[a + 2])})")
    inside = src.let(" & ".join(masks)) if masks else ""
    there = flat.body.read(x, coords, flat.tile, inside)
    return flat.finish({k.anchor.out: there})
