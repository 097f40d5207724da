"""Pooling over regions: every lane goes over the pixels of its bin, as far as any lane of its tile.

Bins are found by the steps of the reference in float32, in its order. What is held in bounds
between a product and a sum keeps the two from becoming one operation, which would round once.
"""

from __future__ import annotations

from dataclasses import dataclass

from netc.codegen.operand import Kernel
from netc.codegen.triton.anchors.indexing import whole_number
from netc.codegen.triton.anchors.pools import LARGER, LOWEST
from netc.codegen.triton.body import Coord
from netc.codegen.triton.flat import Flat
from netc.codegen.triton.formula import convert
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.codegen.triton.source import number
from netc.ir.dims import Dim
from netc.ir.gpu_code import Variant
from netc.ir.ops.regions import FARTHEST, THINNEST, PsRoiPool, RoiPool
from netc.ir.types import DType

_LANES = (  # few, so that their bins are of one region, and many numbers of each fit registers
    Variant((256,), (("BLOCK", 256),), warps=4),
    Variant((128,), (("BLOCK", 128),), warps=4),
)
_SMALLER = "tl.minimum({}, {}, propagate_nan=tl.PropagateNan.ALL)"


@rule(RoiPool)
def roi_pool(ctx: Lowering, k: Kernel) -> Launch:
    """The largest pixel of each bin, 0 of none."""
    bins = _Bins(ctx, k)
    src, flat = bins.flat.src, bins.flat
    src.line(f"acc = {flat.full(float('-inf'))}")
    down, across = (f"for {i} in range(0, {line.most}):" for i, line in bins.lines)
    with src.block(down), src.block(across):
        src.line(f"acc = {LARGER.format('acc', bins.pixel(flat.coords[1], LOWEST))}")
    return bins.finish("acc")


@rule(PsRoiPool)
def ps_roi_pool(ctx: Lowering, k: Kernel) -> Launch:
    """The mean of each bin, of a channel of its own, 0 of none."""
    bins = _Bins(ctx, k)
    src, flat = bins.flat.src, bins.flat
    assert isinstance(bins.op, PsRoiPool)
    group = bins.op.group
    own = src.let(f"({flat.index(1)} * {group} + {flat.index(2)}) * {group} + {flat.index(3)}")
    src.line(f"acc = {flat.full(0)}")
    down, across = (f"for {i} in range(0, {line.most}):" for i, line in bins.lines)
    with src.block(down):
        src.line(f"part = {flat.full(0)}")
        with src.block(across):
            src.line(f"part = part + {bins.pixel(Coord(own, 'lane'), '0.0')}")
        src.line("acc = acc + part")
    area = src.let(f"({bins.rows.extent} * {bins.columns.extent}).to(tl.float32)")
    return bins.finish(src.let(f"tl.div_rn(acc, {area})"))


@dataclass(frozen=True)
class _Range:
    """The pixels of each lane's bin along one axis, and how many the longest has."""

    low: str
    high: str
    extent: str
    most: str


class _Bins:
    """The bins of a result, one a lane."""

    def __init__(self, ctx: Lowering, k: Kernel) -> None:
        assert k.anchor is not None
        op, (self.x, self.rois) = k.anchor.op, k.anchor_operands()
        assert isinstance(op, RoiPool | PsRoiPool)
        self.op, self.out, self.flat = op, k.anchor.out, Flat(ctx, k)
        self.scale = number(op.scale)
        src, shape = self.flat.src, self.x.type.shape
        at = whole_number(src, self._number(0), DType.F32)
        at = src.let(f"{self.flat.lane} * 0 + {at}")
        legal = src.let(f"({at} >= 0) & ({at} < {src.size(shape[0])})")
        self.image = Coord(src.let(f"tl.where({legal}, {at}, 0)"), "lane")
        legal = src.let(f"{legal} & {self.flat.inside}")
        self.rows = self._range(2, shape[2], legal)
        self.columns = self._range(3, shape[3], legal)
        self.lines = (("i", self.rows), ("j", self.columns))

    def _number(self, index: int) -> str:
        """One of the five numbers of each lane's region."""
        flat, coords = self.flat, [self.flat.coords[0], Coord(str(index))]
        read = flat.body.read(self.rois, coords, flat.tile)
        return flat.src.let(f"tl.zeros_like({flat.lane}).to(tl.float32) + {read}")

    def _range(self, axis: int, size: Dim, legal: str) -> _Range:
        """The bins along an axis of the result; empty where the image is not there."""
        src, index = self.flat.src, self.flat.index(axis)
        first, last = (self._number(i) for i in ((2, 4) if axis == 2 else (1, 3)))
        start, length = self._line(first, last)
        count = src.let(f"tl.zeros_like({length}) + {src.size(self.flat.shape[axis])}")
        step = src.let(f"tl.div_rn({length}, {count})")
        low = self._edge(index, step, start, "tl.floor", size)
        high = self._edge(src.let(f"{index} + 1"), step, start, "tl.ceil", size)
        high = src.let(f"tl.where({legal}, {high}, {low})")
        extent = src.let(f"tl.maximum({high} - {low}, 0)")
        return _Range(low, high, extent, src.let(f"tl.max({extent}, 0)"))

    def _line(self, first: str, last: str) -> tuple[str, str]:
        """Where each region begins along an axis, and how long it is."""
        src, scale = self.flat.src, self.scale
        if isinstance(self.op, PsRoiPool):
            first, last = self._nearest(first), src.let(f"{self._nearest(last)} + 1.0")
            start, end = (self._held(f"{v} * {scale}") for v in (first, last))
            length, least = src.let(f"{end} - {start}"), number(THINNEST)
        else:
            start, end = (self._nearest(self._held(f"{v} * {scale}")) for v in (first, last))
            length, least = src.let(f"({end} - {start}) + 1.0"), "1.0"
        return start, src.let(LARGER.format(length, self._full(least)))

    def _edge(self, index: str, step: str, start: str, rounded: str, size: Dim) -> str:
        """A whole number from 0 to the size; 0 of NaN."""
        src = self.flat.src
        at = src.let(f"{index}.to(tl.float32) * {step}")
        if isinstance(self.op, PsRoiPool):
            place = src.let(f"{rounded}({self._held(at)} + {start})")
        else:
            place = src.let(f"{rounded}({at}) + {start}")
        place = convert(src, place, DType.F32, DType.I32)
        return src.let(f"tl.minimum(tl.maximum({place}, 0), {src.size(size)})")

    def _nearest(self, x: str) -> str:
        """The nearest whole number, a half away from zero."""
        src = self.flat.src
        size = src.let(f"tl.abs({x})")
        low = src.let(f"tl.floor({size})")
        more = src.let(f"tl.where({size} - {low} >= 0.5, {low} + 1.0, {low})")
        return src.let(f"tl.where({x} < 0.0, -{more}, {more})")

    def _held(self, x: str) -> str:
        src, (low, high) = self.flat.src, (self._full(number(v)) for v in (-FARTHEST, FARTHEST))
        above = src.let(LARGER.format(src.let(x), low))
        return src.let(_SMALLER.format(above, high))

    def _full(self, text: str) -> str:
        return f"tl.full({self.flat.lane}.shape, {text}, tl.float32)"

    def pixel(self, channel: Coord, other: str) -> str:
        """The pixel (i, j) of each lane's bin, `other` where it has none."""
        src, coords = self.flat.src, [self.image, channel]
        masks = []
        for turn, line in self.lines:
            place = src.let(f"{line.low} + {turn}")
            coords.append(Coord(place, "lane"))
            masks.append(f"({place} < {line.high})")
        inside = src.let(" & ".join(masks))
        return self.flat.body.read(self.x, coords, self.flat.tile, inside, other)

    def finish(self, joined: str) -> Launch:
        """What is joined of a bin's pixels, 0 where it has none, and what follows."""
        some = f"({self.rows.extent} > 0) & ({self.columns.extent} > 0)"
        out = self.flat.src.let(f"tl.where({some}, {joined}, 0.0)")
        self.flat.body.finish(self.flat.coords, self.flat.tile, {self.out: out})
        return self.flat.ctx.launch(self.flat.src, (self.flat.extent,), _LANES)
