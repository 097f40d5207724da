"""Ops that move elements: every lane finds where its element comes from."""

from __future__ import annotations

from netc.codegen.operand import Kernel
from netc.codegen.triton.body import Coord
from netc.codegen.triton.flat import Flat
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.ir.graph import Value
from netc.ir.ops.image import ResizeNearest
from netc.ir.ops.layout import ToBlocked, ToPlain
from netc.ir.ops.shape import Crop, Pad, Tile, Transpose
from netc.ir.ops.windows import axis_of


def _source(k: Kernel) -> Value:
    assert k.anchor is not None
    return k.anchor.inputs[0]


def _finish(flat: Flat, coords: list[Coord]) -> Launch:
    """The element at these coordinates, and what follows."""
    x = flat.body.at(_source(flat.k), coords, flat.tile, {})
    assert flat.k.anchor is not None
    return flat.finish({flat.k.anchor.out: x})


@rule(ToBlocked, ToPlain)
def layout(ctx: Lowering, k: Kernel) -> Launch:
    """There are no channel blocks on a GPU."""
    flat = Flat(ctx, k)
    return _finish(flat, flat.coords)


@rule(Transpose)
def transpose(ctx: Lowering, k: Kernel) -> Launch:
    """Axis perm[i] of the source is axis i of the result."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Transpose)
    flat = Flat(ctx, k)
    coords = list(flat.coords)
    for c, axis in zip(flat.coords, k.anchor.op.order(len(coords)), strict=True):
        coords[axis] = c
    return _finish(flat, coords)


@rule(Crop)
def crop(ctx: Lowering, k: Kernel) -> Launch:
    """The source from an element on."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Crop)
    flat = Flat(ctx, k)
    starts = k.anchor.op.offsets(len(flat.coords))
    moved = [
        Coord(flat.src.let(f"{flat.index(a)} + {start}"), "lane") if start else c
        for a, (c, start) in enumerate(zip(flat.coords, starts, strict=True))
    ]
    return _finish(flat, moved)


@rule(Pad)
def pad(ctx: Lowering, k: Kernel) -> Launch:
    """The source where the place is one of its own, else the value or what lies within."""
    assert k.anchor is not None
    op, x = k.anchor.op, _source(k)
    assert isinstance(op, Pad)
    flat = Flat(ctx, k)
    coords, masks = list(flat.coords), []
    before, after = op.sides(len(coords))
    for a, size in enumerate(x.type.shape):
        if not before[a] and not after[a]:
            continue
        at = flat.src.let(f"{flat.index(a)} - {before[a]}")
        if op.mode != "constant":
            at = _within(flat, op.mode, at, flat.src.size(size))
        coords[a] = Coord(at, "lane")
        masks.append(f"({at} >= 0) & ({at} < {flat.src.size(size)})")
    if not masks or op.mode != "constant":
        return _finish(flat, coords)
    inside = flat.src.let(" & ".join(masks))
    dtype = x.type.dtype
    there = flat.body.at(x, coords, flat.tile, {}, inside)
    around = flat.full(dtype.element(op.value), dtype)
    return flat.finish({k.anchor.out: flat.src.let(f"tl.where({inside}, {there}, {around})")})


def _within(flat: Flat, mode: str, at: str, size: str) -> str:
    """The place of an axis that stands for one before or behind it."""
    if mode == "edge":
        return flat.src.let(f"tl.minimum(tl.maximum({at}, 0), {size} - 1)")
    return flat.src.let(f"{size} - 1 - tl.abs({size} - 1 - tl.abs({at}))")


@rule(Tile)
def tile(ctx: Lowering, k: Kernel) -> Launch:
    """The place along the axis starts again at every end of the source."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Tile)
    flat, shape = Flat(ctx, k), _source(k).type.shape
    axis = axis_of(k.anchor.op.axis, len(shape))
    coords = list(flat.coords)
    at = flat.src.let(f"{flat.index(axis)} % {flat.src.size(shape[axis])}")
    coords[axis] = Coord(at, "lane")
    return _finish(flat, coords)


@rule(ResizeNearest)
def resize_nearest(ctx: Lowering, k: Kernel) -> Launch:
    """Rows and columns stand still for a while."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, ResizeNearest)
    flat = Flat(ctx, k)
    places = [
        Coord(flat.src.let(f"{flat.index(axis)} // {times}"), "lane")
        for axis, times in zip((2, 3), k.anchor.op.scale, strict=True)
    ]
    return _finish(flat, [*flat.coords[:2], *places])
