"""Ops that move elements: copies with strides, one call for each piece of the result.

Each rule says how the source is walked over the shape of a piece; the element-wise kernels do the
rest, tail included.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from netc.codegen.cpu.anchors.access import (
    Access,
    Shape,
    blocked_access,
    plain_access,
    shifted,
)
from netc.codegen.cpu.anchors.elementwise import map_accesses, map_blocked
from netc.codegen.cpu.anchors.formula import Tail
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import BLOCK, Call, Kernel, Operand, row_major
from netc.errors import UnsupportedError
from netc.ir.dims import Dim, ceil_div
from netc.ir.ops.devices import Copy
from netc.ir.ops.shape import Concat, Crop, Flatten, Pad, Reshape, Slice, Tile, Transpose
from netc.ir.ops.windows import axis_of
from netc.ir.types import Layout


class _Pieces:
    """The result of a copy, piece by piece."""

    def __init__(self, ctx: Lowering, k: Kernel) -> None:
        assert k.anchor is not None
        self.ctx, self.k, self.tail = ctx, k, Tail(k)
        type = k.anchor.types[0]
        self.shape: Shape = type.shape
        self.blocked = type.layout is Layout.C8
        make = blocked_access if self.blocked else plain_access
        self.rest = [make(ctx, o, self.shape) for o in (*self.tail.operands, *k.outs)]
        for o in k.outs:
            if o.type.shape != self.shape or (o.is_c8 and not self.blocked):
                raise UnsupportedError(f"{o.type} does not end a copy of {type}", k.node.loc)

    def source(self, o: Operand) -> Access:
        """An operand over its own axes, blocked or not as the result is."""
        shape = o.type.shape
        make = blocked_access if self.blocked else plain_access
        return make(self.ctx, o, shape)

    def put(self, source: Access, sizes: Shape, starts: Shape | None = None) -> Call:
        """The piece of these sizes that begins at `starts`, read from `source`."""
        begin = starts or (0,) * len(self.shape)
        rest = [shifted(a, self._in_blocks(begin)) for a in self.rest]
        return self.walk([source, *rest], sizes)

    def _in_blocks(self, starts: Shape) -> Shape:
        if not self.blocked:
            return starts
        channel = starts[1]
        if isinstance(channel, int) and channel % BLOCK == 0:
            return (starts[0], channel // BLOCK, *starts[2:])
        message = f"channel {channel} is not the first of a block"
        raise UnsupportedError(message, self.k.node.loc)

    def walk(self, accesses: Sequence[Access], sizes: Shape) -> Call:
        """All operands given by strides over `sizes`; blocked, axis 1 counts channels."""
        outs, formula = len(self.k.outs), self.tail.formula
        if not self.blocked:
            return map_accesses(self.ctx, formula, accesses, outs, sizes)
        over = (sizes[0], ceil_div(sizes[1], BLOCK), *sizes[2:])
        return map_blocked(self.ctx, formula, accesses, outs, over, sizes[1])


@rule(Copy)
def lower_copy(ctx: Lowering, k: Kernel) -> Call:
    """The source as it is."""
    pieces = _Pieces(ctx, k)
    return pieces.put(pieces.source(k.anchor_operands()[0]), pieces.shape)


@rule(Transpose)
def lower_transpose(ctx: Lowering, k: Kernel) -> Call:
    """Strides in another order."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Transpose)
    pieces = _Pieces(ctx, k)
    source = pieces.source(k.anchor_operands()[0])
    order = k.anchor.op.order(len(pieces.shape))
    moved = replace(source, strides=tuple(source.strides[p] for p in order))
    return pieces.put(moved, pieces.shape)


@rule(Concat)
def lower_concat(ctx: Lowering, k: Kernel) -> tuple[Call, ...]:
    """One copy per operand."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Concat)
    pieces, at = _Pieces(ctx, k), [0] * len(k.anchor.types[0].shape)
    axis = axis_of(k.anchor.op.axis, len(at))
    starts: list[Dim] = list(at)
    calls = []
    for o in k.anchor_operands():
        calls.append(pieces.put(pieces.source(o), o.type.shape, tuple(starts)))
        starts[axis] = starts[axis] + o.type.shape[axis]
    return tuple(calls)


@rule(Slice)
def lower_slice(ctx: Lowering, k: Kernel) -> Call:
    """The source from an element of the axis on."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, Slice)
    pieces = _Pieces(ctx, k)
    starts: list[Dim] = [0] * len(pieces.shape)
    axis = axis_of(op.axis, len(starts))
    starts[axis] = op.start
    if pieces.blocked and axis == 1:
        if op.start % BLOCK != 0:
            raise UnsupportedError(f"channel {op.start} begins no block", k.node.loc)
        starts[1] = op.start // BLOCK
    return pieces.put(shifted(pieces.source(k.anchor_operands()[0]), tuple(starts)), pieces.shape)


@rule(Crop)
def lower_crop(ctx: Lowering, k: Kernel) -> Call:
    """The source from an element of several axes on."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Crop)
    pieces = _Pieces(ctx, k)
    starts = k.anchor.op.offsets(len(pieces.shape))
    return pieces.put(shifted(pieces.source(k.anchor_operands()[0]), starts), pieces.shape)


@rule(Pad)
def lower_pad(ctx: Lowering, k: Kernel) -> tuple[Call, ...]:
    """The middle, and before and after it along each axis a constant or what lies within."""
    assert k.anchor is not None
    op, x = k.anchor.op, k.anchor_operands()[0]
    assert isinstance(op, Pad)
    pieces = _Pieces(ctx, k)
    before, after = op.sides(len(pieces.shape))
    if op.mode != "constant":
        return _from_within(pieces, x, op.mode, before, after)
    value = np.atleast_1d(x.type.dtype.element(op.value))
    constant = Access(ctx.weight(value), x.type.dtype, (0,) * len(before))
    calls = [pieces.put(pieces.source(x), x.type.shape, before)]
    for axis, d in enumerate(x.type.shape):
        inner = [*x.type.shape[:axis], 0, *pieces.shape[axis + 1 :]]
        starts: list[Dim] = [*before[:axis], 0, *(0,) * (len(before) - axis - 1)]
        for start, size in ((0, before[axis]), (before[axis] + d, after[axis])):
            if size:
                inner[axis], starts[axis] = size, start
                calls.append(pieces.put(constant, tuple(inner), tuple(starts)))
    return tuple(calls)


def _from_within(
    pieces: _Pieces, x: Operand, mode: str, before: Sequence[int], after: Sequence[int]
) -> tuple[Call, ...]:
    """A copy for each combination of before, middle and after: the source is walked backwards
    where it is mirrored, and stands still at an edge."""
    walked = zip(x.type.shape, before, after, strict=True)
    calls = []
    for part in itertools.product(*(_parts(mode, *axis) for axis in walked)):
        sizes, starts, first, way = zip(*part, strict=True)
        source = shifted(pieces.source(x), first)
        turned = tuple(s * w for s, w in zip(source.strides, way, strict=True))
        calls.append(pieces.put(replace(source, strides=turned), sizes, starts))
    return tuple(calls)


def _parts(mode: str, size: Dim, before: int, after: int) -> list[tuple[Dim, Dim, Dim, int]]:
    """Parts of an axis of the result: size, start, where the source begins, and its direction."""
    parts: list[tuple[Dim, Dim, Dim, int]] = [(size, before, 0, 1)]
    mirrored = mode == "reflect"
    way = -1 if mirrored else 0
    if before:
        parts.append((before, 0, before if mirrored else 0, way))
    if after:
        parts.append((after, before + size, size - (2 if mirrored else 1), way))
    return parts


@rule(Tile)
def lower_tile(ctx: Lowering, k: Kernel) -> Call:
    """The axis becomes two, along the first of which the source stands still."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Tile)
    pieces, x = _Pieces(ctx, k), k.anchor_operands()[0]
    axis = axis_of(k.anchor.op.axis, len(pieces.shape))
    size = x.type.shape[axis]
    sizes = (*pieces.shape[:axis], k.anchor.op.times, size, *pieces.shape[axis + 1 :])
    source = _split(pieces.source(x), axis, 0)
    rest = [_split(a, axis, a.strides[axis] * size) for a in pieces.rest]
    return pieces.walk([source, *rest], sizes)


def _split(a: Access, axis: int, stride: Dim) -> Access:
    """With one more axis, of this stride, before `axis`."""
    return replace(a, strides=(*a.strides[:axis], stride, *a.strides[axis:]))


@rule(Reshape, Flatten)
def lower_reshape(ctx: Lowering, k: Kernel) -> Call:
    """A dense source, walked as the result is."""
    pieces, x = _Pieces(ctx, k), k.anchor_operands()[0]
    if not x.dense and x.array is None:
        raise UnsupportedError("a reshape needs its source without gaps", k.node.loc)
    own = pieces.source(x)
    return pieces.put(replace(own, strides=row_major(pieces.shape)), pieces.shape)
