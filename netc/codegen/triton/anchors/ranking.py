"""Searches for the largest: argmax, and the accuracies that count them.

Elements are compared as integers: the float's bits in an order-preserving form, NaN above all, and
below them the index, which settles ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netc.codegen.operand import Kernel, Operand
from netc.codegen.triton.anchors.indexing import ravelled, unravelled, whole_number
from netc.codegen.triton.body import Body, Coord, Tile
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.codegen.triton.rows import Chunk, Rows, power_of_two
from netc.codegen.triton.source import Source
from netc.ir.dims import Dim, product
from netc.ir.gpu_code import Variant
from netc.ir.ops.reduction import Accuracy, AccuracyPerClass, ArgMax
from netc.ir.ops.windows import axis_of

FEW = 8  # results of a row up to which it is searched anew for each
COUNTING = (64, 128, 16), (64, 32, 4)  # elements ranked, those compared with at once, warps
_LOWEST, _HIGHEST = -(1 << 63), (1 << 63) - 1
_TOP = 0x7FFFFFFF


@rule(ArgMax)
def argmax(ctx: Lowering, k: Kernel) -> Launch:
    """Few results of a row are searched for one after the other, many are placed by their ranks."""
    assert k.anchor is not None
    op, x = k.anchor.op, k.anchor.inputs[0]
    assert isinstance(op, ArgMax)
    rank = x.type.rank
    along = range(1, rank) if op.axis is None else [axis_of(op.axis, rank)]
    return (_search if op.top_k <= FEW else _count)(ctx, k, op, along)


def _search(ctx: Lowering, k: Kernel, op: ArgMax, along: Sequence[int]) -> Launch:
    """Each row is searched once for every result it gives, below the one before."""
    assert k.anchor is not None
    x = k.anchor.inputs[0]
    rows = Rows(ctx, k, x.type.shape, along, k.anchor_operands(), merge=False)
    src = rows.src

    def keys(chunk: Chunk) -> str:
        value = rows.value(x, chunk, "0.0")
        places = [chunk.coords[a] for a in along]
        index = ravelled(src, places, [x.type.shape[a] for a in along])
        key = _key(src, op, value, f"({chunk.index} * 0 + {index})")
        return src.let(f"tl.where({chunk.inside}, {key}, {_LOWEST})")

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
        src.line(f"number = {_low(op, '(limit & 0xFFFFFFFF)')}.to(tl.float32)")
        _put(rows.body, op, rows.coords, Coord("turn"), rows.tile)
    return rows.launch()


def _count(ctx: Lowering, k: Kernel, op: ArgMax, along: Sequence[int]) -> Launch:
    """An element's rank is how many of its row are larger; a program ranks some of one row."""
    assert k.anchor is not None
    x, src = k.anchor.inputs[0], Source()
    body, shape = Body(ctx, src, k), x.type.shape
    extent = product(shape[a] for a in along)
    size = src.size(extent)
    kept = [a for a in range(len(shape)) if a not in along]
    src.constant("BLOCK")
    src.constant("CHUNK")
    number = src.let(f"tl.program_id(0) // tl.cdiv({size}, BLOCK)")
    row = [Coord("0")] * len(shape)
    for a, c in zip(kept, unravelled(src, number, [shape[a] for a in kept], ""), strict=True):
        row[a] = c

    def keys(index: str, part: str) -> tuple[str, str]:
        """The elements at places of the row, and their keys, the lowest outside."""
        inside = src.let(f"{index} < {size}")
        coords = list(row)
        found = unravelled(src, index, [shape[a] for a in along], part)
        for a, c in zip(along, found, strict=True):
            coords[a] = c
        value = body.at(x, coords, Tile({part: inside}, index), {})
        return value, src.let(f"tl.where({inside}, {_key(src, op, value, index)}, {_LOWEST})")

    first = src.let(f"tl.program_id(0) % tl.cdiv({size}, BLOCK) * BLOCK")
    own = src.let(f"{first} + tl.arange(0, BLOCK)[:, None]")
    value, key = keys(own, "row")
    src.line("larger = tl.zeros((BLOCK, CHUNK), tl.int32)")
    with src.block(f"for start in range(0, {size}, CHUNK):"):
        _, others = keys(src.let("start + tl.arange(0, CHUNK)[None, :]"), "col")
        src.line(f"larger += ({others} > {key}).to(tl.int32)")
    src.line("rank = tl.sum(larger, 1, keep_dims=True)")
    src.line(f"value = {value}")
    src.line(f"number = {own}.to(tl.float32)")
    tile = Tile({"row": src.let(f"({own} < {size}) & (rank < {op.top_k})")}, "rank")
    _put(body, op, row, Coord("rank", "row"), tile)
    return ctx.launch(src, (extent, product(shape[a] for a in kept)), _variants(extent))


def _variants(size: Dim) -> list[Variant]:
    """The tiles of COUNTING, no larger than a row of this size, and no more warps than they use."""
    top = power_of_two(size) if isinstance(size, int) else max(max(b, c) for b, c, _ in COUNTING)
    tiles = dict.fromkeys((min(b, top), min(c, top), w) for b, c, w in COUNTING)
    variants = (
        Variant((b, 1), (("BLOCK", b), ("CHUNK", c)), warps=min(w, max(1, b * c // 256)))
        for b, c, w in tiles
    )
    return list(dict.fromkeys(variants))


def _put(body: Body, op: ArgMax, row: Sequence[Coord], turn: Coord, tile: Tile) -> None:
    """The names `number` and `value` as the results of a turn, where the row is along its axes."""
    assert body.k.anchor is not None
    out = body.k.anchor.out
    if op.axis is not None:
        axis = axis_of(op.axis, len(row))
        coords = [*row[:axis], turn, *row[axis + 1 :]]
        body.finish(coords, tile, {out: "value" if op.values else "number"})
        return
    rest = [Coord("0")] * (out.type.rank - 3)
    for place, name in enumerate(("number", "value")[: 2 if op.values else 1]):
        body.finish([row[0], Coord(str(place)), turn, *rest], tile, {out: name})


def _key(src: Source, op: ArgMax, value: str, index: str) -> str:
    """An i64 that orders as elements do, and where they are equal by their places."""
    return src.let(f"({_ordered(src, value)} << 32) | {_low(op, index)}")


def _low(op: ArgMax, index: str) -> str:
    """The lower half of a key for an index, or the index for such a half."""
    return f"({_TOP} - {index})" if op.first else index


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
