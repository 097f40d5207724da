"""Searches for the largest: argmax, and the accuracies that count them.

Elements are compared as integers: the float's bits in an order-preserving form, NaN above all, and
below them the index, which settles ties.
"""

from __future__ import annotations

from dataclasses import dataclass

from netc.codegen.operand import Kernel, Operand
from netc.codegen.triton.anchors.indexing import ravelled, unravelled, whole_number
from netc.codegen.triton.body import Body, Coord, Tile
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.codegen.triton.rows import Chunk, Rows, power_of_two
from netc.codegen.triton.source import Source
from netc.ir.dims import product
from netc.ir.gpu_code import Variant
from netc.ir.ops.reduction import Accuracy, AccuracyPerClass, ArgMax
from netc.ir.ops.windows import axis_of

_LOWEST, _HIGHEST = -(1 << 63), (1 << 63) - 1
_TOP = 0x7FFFFFFF


@rule(ArgMax)
def argmax(ctx: Lowering, k: Kernel) -> Launch:
    """Each row is searched once for every result it gives, below the one before."""
    assert k.anchor is not None
    op, (x,) = k.anchor.op, k.anchor_operands()
    assert isinstance(op, ArgMax)
    rank = x.type.rank
    along = range(1, rank) if op.axis is None else [axis_of(op.axis, rank)]
    rows = Rows(ctx, k, x.type.shape, along, [x], merge=False)
    src = rows.src

    def keys(chunk: Chunk) -> str:
        value = rows.value(k.anchor.inputs[0], chunk, "0.0")  # type: ignore[union-attr]
        places = [chunk.coords[a] for a in along]
        index = ravelled(src, places, [x.type.shape[a] for a in along])
        both = src.let(f"({_ordered(src, value)} << 32) | ({chunk.index} * 0 + {index})")
        return src.let(f"tl.where({chunk.inside}, {both}, {_LOWEST})")

    if rows.whole:
        with rows.chunks() as chunk:
            held = keys(chunk)
    src.line(f"limit = tl.full((ROWS, 1), {_HIGHEST}, tl.int64)")
    with src.block(f"for turn in range({op.top_k}):"):
        src.line(f"best = tl.full((ROWS, CHUNK), {_LOWEST}, tl.int64)")
        with rows.chunks() as chunk:
            key = held if rows.whole else keys(chunk)
            src.line(f"best = tl.maximum(best, tl.where({key} < limit, {key}, {_LOWEST}))")
        src.line("limit = tl.max(best, 1, keep_dims=True)")
        src.line("bits = (limit >> 32).to(tl.int32)")
        src.line(f"bits = bits ^ ((bits >> 31) & {_TOP})")
        src.line("value = bits.to(tl.float32, bitcast=True)")
        src.line("number = (limit & 0xFFFFFFFF).to(tl.float32)")
        _put(rows, op)
    return rows.launch()


def _put(rows: Rows, op: ArgMax) -> None:
    """The results of one turn."""
    k, turn = rows.k, Coord("turn")
    assert k.anchor is not None
    out = k.anchor.out
    if op.axis is not None:
        axis = axis_of(op.axis, len(rows.shape))
        coords = [*rows.coords[:axis], turn, *rows.coords[axis + 1 :]]
        rows.body.finish(coords, rows.tile, {out: "value" if op.values else "number"})
        return
    rest = [Coord("0")] * (out.type.rank - 3)
    for place, name in enumerate(("number", "value")[: 2 if op.values else 1]):
        coords = [rows.coords[0], Coord(str(place)), turn, *rest]
        rows.body.finish(coords, rows.tile, {out: name})


def _ordered(src: Source, x: str) -> str:
    """An i64 that orders as the float does: −0 as 0, NaN above all."""
    bits = src.let(f"({x} + 0.0).to(tl.int32, bitcast=True)")
    key = src.let(f"{bits} ^ (({bits} >> 31) & {_TOP})")
    return src.let(f"tl.where({x} == {x}, {key}, {_TOP}).to(tl.int64)")


@rule(Accuracy, AccuracyPerClass)
def accuracy(ctx: Lowering, k: Kernel) -> Launch:
    """The share of labels that are right: of all in one program, or of a class in each."""
    return _Accuracy(ctx, k).launch()


@dataclass(frozen=True)
class _Labels:
    """The labels of some places: coordinates of x there, and what is inside."""

    coords: list[Coord]  # along all axes but that of the classes
    legal: str
    given: str


class _Accuracy:
    def __init__(self, ctx: Lowering, k: Kernel) -> None:
        assert k.anchor is not None
        op, (self.x, self.label) = k.anchor.op, k.anchor_operands()
        assert isinstance(op, Accuracy)
        self.ctx, self.k, self.op, self.anchor = ctx, k, op, k.anchor
        self.apart = isinstance(op, AccuracyPerClass)
        shape = self.x.type.shape
        self.axis = axis_of(op.axis, len(shape))
        self.sizes = (*shape[: self.axis], *shape[self.axis + 1 :])
        (self.classes,) = (d for d in (shape[self.axis],) if isinstance(d, int))
        self.src = Source()
        self.body = Body(ctx, self.src, k)

    def launch(self) -> Launch:
        """The whole kernel."""
        src = self.src
        src.constant("PLACES")
        src.constant("CHUNK")
        src.line("wanted = tl.program_id(0)")
        src.line("total = tl.zeros((PLACES, 1), tl.int32)")
        src.line("hits = tl.zeros((PLACES, 1), tl.int32)")
        count = src.size(product(self.sizes))
        with src.block(f"for first in range(0, {count}, PLACES):"):
            self._judge(self._labels(count))
        src.line("total = tl.maximum(tl.sum(total, 0, keep_dims=True), 1)")
        src.line("hits = tl.sum(hits, 0, keep_dims=True)")
        src.line("share = (hits.to(tl.float64) / total.to(tl.float64)).to(tl.float32)")
        coords = [Coord("wanted")] if self.apart else []
        self.body.finish(coords, Tile({"row": ""}, "share"), {self.anchor.out: "share"})
        extent = self.classes if self.apart else 1
        sizes = (("PLACES", 32), ("CHUNK", min(128, power_of_two(self.classes))))
        return self.ctx.launch(src, (extent,), [Variant((1,), sizes)])

    def _labels(self, count: str) -> _Labels:
        src = self.src
        place = src.let("first + tl.arange(0, PLACES)[:, None]")
        legal = src.let(f"{place} < {count}")
        tile = Tile({"row": legal}, place)
        label: Operand = self.label
        spots = unravelled(src, place, label.type.shape, "row")
        value = self.body.read(label, spots, tile)
        given = whole_number(src, value, label.type.dtype)
        given = src.let(f"{place} * 0 + {given}")
        return _Labels(unravelled(src, place, self.sizes, "row"), legal, given)

    def _judge(self, labels: _Labels) -> None:
        """Add whether each place counts, and whether its label is among the best."""
        src, given = self.src, labels.given
        named = src.let(f"{labels.legal} & ({given} >= 0) & ({given} < {self.classes})")
        counts = labels.legal
        if self.apart:
            counts = named = src.let(f"{named} & ({given} == wanted)")
        if self.op.ignore is not None:
            counts = src.let(f"{counts} & ({given} != {self.op.ignore})")
        own = self._score(labels, Coord(given, "row"), Tile({"row": named}, given))
        src.line("below = tl.zeros((PLACES, CHUNK), tl.int32)")
        with src.block(f"for c in range(0, {self.classes}, CHUNK):"):
            rival = src.let("c + tl.arange(0, CHUNK)[None, :]")
            inside = src.let(f"{named} & ({rival} < {self.classes})")
            tile = Tile({"row": named, "col": f"{rival} < {self.classes}"}, inside)
            score = self._score(labels, Coord(rival, "col"), tile)
            src.line(f"below += (({score} < {own}) & {inside}).to(tl.int32)")
        rivals = f"{self.classes - 1} - tl.sum(below, 1, keep_dims=True)"
        right = f"{counts} & {named} & ({rivals} < {self.op.top_k})"
        src.line(f"total += {counts}.to(tl.int32)")
        src.line(f"hits += ({right}).to(tl.int32)")

    def _score(self, labels: _Labels, class_: Coord, tile: Tile) -> str:
        coords = [*labels.coords[: self.axis], class_, *labels.coords[self.axis :]]
        return self.body.read(self.x, coords, tile)
