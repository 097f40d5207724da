"""Resizing, unpooling, and boxes laid over feature maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from netc.codegen.operand import Kernel, Operand
from netc.codegen.triton.anchors.indexing import ravelled, unravelled, whole_number
from netc.codegen.triton.body import Coord
from netc.codegen.triton.flat import Flat
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.codegen.triton.source import Source
from netc.ir.dims import Dim
from netc.ir.ops.boxes import PriorBox
from netc.ir.ops.image import ResizeBilinear, Unpool
from netc.ir.plan import BufferArg


def _double(src: Source, value: Dim) -> str:
    """A size as a float64 scalar."""
    if isinstance(value, int):
        return repr(float(value))
    return src.let(f"{src.size(value)}.to(tl.float64)")


@rule(ResizeBilinear)
def resize_bilinear(ctx: Lowering, k: Kernel) -> Launch:
    """Four neighbours, weighted."""
    assert k.anchor is not None
    op, (x,) = k.anchor.op, k.anchor_operands()
    assert isinstance(op, ResizeBilinear)
    flat = Flat(ctx, k)
    above, below, down = _neighbours(flat, 2, x.type.shape[2], op.align_corners)
    left, right, across = _neighbours(flat, 3, x.type.shape[3], op.align_corners)
    mixed = []
    for column in (left, right):
        ends = [
            flat.body.read(x, [*flat.coords[:2], row, column], flat.tile) for row in (above, below)
        ]
        mixed.append(_mix(flat.src, ends, down))
    return flat.finish({k.anchor.out: _mix(flat.src, mixed, across)})


def _mix(src: Source, ends: list[str], weight: str) -> str:
    """The first by 1 − weight and the second by the weight."""
    return src.let(f"{ends[0]} * (1.0 - {weight}) + {ends[1]} * {weight}")


def _neighbours(flat: Flat, axis: int, size: Dim, corners: bool) -> tuple[Coord, Coord, str]:
    """The first input read, the second, and the weight of the second.

    Place i of the result is at i·(in − 1)/(out − 1), or at ((2i + 1)·in − out)/(2·out): whole
    numbers, so that lanes are known to read neighbours.
    """
    src, out = flat.src, flat.shape[axis]
    near = isinstance(size, int) and isinstance(out, int) and 2 * size * out < 1 << 31
    index = src.let(f"{flat.index(axis)}.to({'tl.int32' if near else 'tl.int64'})")
    last = src.let(f"{src.size(size)} - 1") if not isinstance(size, int) else str(size - 1)
    if corners:
        share = (
            str(max(out - 1, 1)) if isinstance(out, int) else f"tl.maximum({src.size(out)} - 1, 1)"
        )
        share, far = src.let(share), src.let(f"{index} * {last}")
    else:
        share = src.let(f"{src.size(out)} * 2")
        far = src.let(f"tl.maximum(({index} * 2 + 1) * {src.size(size)} - {src.size(out)}, 0)")
        far = src.let(f"tl.minimum({far}, ({index} * 0 + {last}) * {share})")
    low = src.let(f"{far} // {share}")
    high = src.let(f"tl.minimum({low} + 1, {last})")
    part = src.let(f"({far} - {low} * {share}).to(tl.float32)")
    weight = src.let(f"tl.div_rn({part}, tl.zeros_like({part}) + {share})")
    return Coord(low, "lane"), Coord(high, "lane"), weight


@rule(Unpool)
def unpool(ctx: Lowering, k: Kernel) -> list[Launch]:
    """The last source of each element, found by its number, which is kept where the result goes."""
    assert k.anchor is not None
    (x, index), out = k.anchor_operands(), k.outs[0]
    if out.element:
        return [_cleared(ctx, k, "0.0"), _walked(ctx, k, x, index, out), _in_place(ctx, k, out)]
    return [_cleared(ctx, k, "-1"), _numbered(ctx, k, x, index, out), _taken(ctx, k, x, out)]


def _numbers(src: Source, out: Operand) -> str:
    """The result's memory as integers."""
    pointer = out.pointer()
    assert isinstance(pointer, BufferArg)
    return src.pointer(pointer, "i32")


def _cleared(ctx: Lowering, k: Kernel, value: str) -> Launch:
    flat, out = Flat(ctx, k), k.outs[0]
    pointer = flat.src.operand(out) if out.element else _numbers(flat.src, out)
    there = flat.body.offset(out, list(zip(flat.coords, out.strides, strict=True)))
    zero = f"{flat.lane} * 0"
    flat.src.line(f"tl.store({pointer} + {zero}{there}, {zero} + {value}, mask={flat.inside})")
    return flat.launch()


def _target(flat: Flat, index: Operand, out: Operand, coords: list[Coord]) -> tuple[str, str]:
    """How far from the result's first element the one lies that an index names; whether it is."""
    src, (rows, columns) = flat.src, out.type.shape[2:]
    given = flat.body.read(index, coords, flat.tile)
    at = whole_number(src, given, index.type.dtype)
    legal = src.let(f"{flat.inside} & ({at} >= 0) & ({at} < {src.size(rows * columns)})")
    at = src.let(f"tl.where({legal}, {at}, 0)")
    place = unravelled(src, at, (rows, columns), "lane")
    spot = [*coords[:2], *place]
    there = flat.body.offset(out, list(zip(spot, out.strides, strict=True)))
    return src.let(f"{flat.lane} * 0{there}"), legal


def _numbered(ctx: Lowering, k: Kernel, x: Operand, index: Operand, out: Operand) -> Launch:
    """The number of the last source of each element: a maximum does not depend on order."""
    flat = Flat(ctx, k, [x])
    there, legal = _target(flat, index, out, flat.coords)
    number = ravelled(flat.src, flat.coords[2:], x.type.shape[2:])
    number = flat.src.let(f"{flat.lane} * 0 + {number}")
    pointer = _numbers(flat.src, out)
    order = f'mask={legal}, sem="relaxed"'
    flat.src.line(f"tl.atomic_max({pointer} + {there}, {number}, {order})")
    return flat.launch()


def _taken(ctx: Lowering, k: Kernel, x: Operand, out: Operand) -> Launch:
    """Each element from its source."""
    flat = Flat(ctx, k)
    src = flat.src
    own = flat.body.offset(out, list(zip(flat.coords, out.strides, strict=True)))
    spot = f"{_numbers(src, out)} + {flat.lane} * 0{own}"
    number = src.let(f"tl.load({spot}, mask={flat.inside}, other=-1)")
    found = src.let(f"{number} >= 0")
    safe = src.let(f"tl.where({found}, {number}, 0)")
    place = unravelled(src, safe, x.type.shape[2:], "lane")
    there = flat.body.read(x, [*flat.coords[:2], *place], flat.tile, found)
    assert k.anchor is not None
    return flat.finish({k.anchor.out: src.let(f"tl.where({found}, {there}, 0.0)")})


def _walked(ctx: Lowering, k: Kernel, x: Operand, index: Operand, out: Operand) -> Launch:
    """Results of 16 bits hold no numbers: each lane walks over a plane, so the last stays."""
    plane = replace(x, type=x.type.with_shape(x.type.shape[:2]), strides=x.strides[:2])
    flat = Flat(ctx, k, [plane])
    src, (rows, columns) = flat.src, map(flat.src.size, x.type.shape[2:])
    with src.block(f"for y in range({rows}):"), src.block(f"for x in range({columns}):"):
        coords = [*flat.coords[:2], Coord("y"), Coord("x")]
        there, legal = _target(flat, index, out, coords)
        value = flat.body.read(x, coords, flat.tile)
        value = src.let(f"tl.zeros_like({flat.lane}).to(tl.float32) + {value}")
        src.line(f"tl.store({src.operand(out)} + {there}, {value}, mask={legal})")
    return flat.launch()


def _in_place(ctx: Lowering, k: Kernel, out: Operand) -> Launch:
    """What follows, where the first result lies."""
    flat = Flat(ctx, k)
    assert k.anchor is not None
    return flat.finish({k.anchor.out: flat.body.read(out, flat.coords, flat.tile)})


@rule(PriorBox)
def prior_box(ctx: Lowering, k: Kernel) -> Launch:
    """Corners from the cell and a table of half sides, in float64; then variances."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, PriorBox)
    x, image = (v.type for v in k.anchor.inputs)
    flat = Flat(ctx, k)
    src = flat.src
    sides = np.array(op.sides(), np.float64) / 2
    corners = np.concatenate([-sides, sides], -1).reshape(-1)
    variance = np.array(op.variance * (4 // len(op.variance)), np.float32)
    height, width = (_double(src, d) for d in op.img_size or image.shape[2:])
    at = flat.index(2)
    cell, inner = src.let(f"{at} // {corners.size}"), src.let(f"{at} % {corners.size}")
    which = src.let(f"{at} % 4")
    vertical = src.let(f"(({at} % 2) == 1)")
    columns = src.size(x.shape[3])
    index = src.let(f"tl.where({vertical}, {cell} // {columns}, {cell} % {columns})")
    scale = src.let(f"tl.where({vertical}, {_wide(flat, height)}, {_wide(flat, width)})")
    if op.step:
        down, across = (repr(float(s)) for s in op.step)
        step = src.let(f"tl.where({vertical}, {_wide(flat, down)}, {_wide(flat, across)})")
    else:
        cells = src.let(f"tl.where({vertical}, {src.size(x.shape[2])}, {columns})")
        step = src.let(f"{scale} / {cells}.to(tl.float64)")
    table = src.pointer(ctx.weight(corners), "fp64")
    side = src.let(f"tl.load({table} + {inner}, mask={flat.inside}, other=0.0)")
    box = src.let(f"(({index}.to(tl.float64) + {float(op.offset)!r}) * {step} + {side}) / {scale}")
    if op.clip:
        box = src.let(f"tl.where({box} < 0.0, 0.0, {box})")
        box = src.let(f"tl.where({box} > 1.0, 1.0, {box})")
    table = src.pointer(ctx.weight(variance), "fp32")
    spread = src.let(f"tl.load({table} + {which}, mask={flat.inside}, other=0.0)")
    out = src.let(f"tl.where({flat.index(1)} == 0, {box}.to(tl.float32), {spread})")
    return flat.finish({k.anchor.out: out})


def _wide(flat: Flat, number: str) -> str:
    """A float64 scalar as a tile."""
    return flat.src.let(f"tl.full({flat.lane}.shape, 0.0, tl.float64) + {number}")
