"""Rows that are kept, moved to the front."""

from __future__ import annotations

from netc.codegen.operand import Kernel, Operand
from netc.codegen.triton.body import Body, Coord, Tile
from netc.codegen.triton.formula import TYPES
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.codegen.triton.rows import Rows
from netc.codegen.triton.source import Source
from netc.ir.gpu_code import Variant
from netc.ir.ops.indexing import Compact
from netc.ir.types import DType

WIDE = 1024  # rows of the selector that are looked at together


@rule(Compact)
def compact(ctx: Lowering, k: Kernel) -> list[Launch]:
    """A launch for each tensor and one for the count."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, Compact)
    *tensors, selector = k.anchor_operands()
    launches = []
    for value, out in zip(k.body.outputs.values(), k.outs, strict=True):
        if value.index == len(tensors):
            launches.append(_count(ctx, k, selector, out))
        else:
            launches.append(_move(ctx, k, selector, tensors[value.index], out))
    return launches


def _kept(body: Body, selector: Operand, count: str, start: str) -> tuple[str, str]:
    """Rows `start` and on of the selector: their numbers, and 1 for each that is kept."""
    src = body.src
    index = src.let(f"{start} + tl.arange(0, {WIDE})[None, :]")
    tile = Tile({"col": f"{index} < {count}"}, index)
    value = body.read(selector, _row(selector, index, "col"), tile)
    return index, src.let(f"({_chosen(index, value)} & ({index} < {count})).to(tl.int32)")


def _chosen(index: str, value: str) -> str:
    """Whether rows are kept: a tile like `index`, also where the selector has one row."""
    return f"({index} * 0 + {value} != 0)"


def _row(selector: Operand, index: str, part: str) -> list[Coord]:
    return [Coord(index, part), *[Coord("0")] * (selector.type.rank - 1)]


def _count(ctx: Lowering, k: Kernel, selector: Operand, out: Operand) -> Launch:
    """How many rows are kept."""
    src = Source()
    body, count = Body(ctx, src, k), src.size(selector.type.shape[0])
    src.line(f"total = tl.zeros((1, {WIDE}), tl.int32)")
    with src.block(f"for start in range(0, {count}, {WIDE}):"):
        src.line(f"total += {_kept(body, selector, count, 'start')[1]}")
    src.line("out = tl.sum(total, 1, keep_dims=True).to(tl.int64)")
    body.write(out, [], Tile({"row": ""}, "out"), "out")
    return ctx.launch(src, (1,), [Variant((1,))])


def _move(ctx: Lowering, k: Kernel, selector: Operand, x: Operand, out: Operand) -> Launch:
    """Each row to its place: behind the kept ones before it, or as zeros behind all that are."""
    rows = Rows(ctx, k, x.type.shape, range(1, x.type.rank), [x, out])
    src, row = rows.src, rows.row
    count = src.size(selector.type.shape[0])
    src.line(f"before = tl.zeros((ROWS, {WIDE}), tl.int32)")
    src.line(f"total = tl.zeros((ROWS, {WIDE}), tl.int32)")
    with src.block(f"for start in range(0, {count}, {WIDE}):"):
        index, kept = _kept(rows.body, selector, count, "start")
        src.line(f"total += {kept}")
        src.line(f"before += tl.where({index} < {row}, {kept}, 0)")
    src.line("total = tl.sum(total, 1, keep_dims=True)")
    src.line("before = tl.sum(before, 1, keep_dims=True)")
    own = rows.body.read(selector, _row(selector, row, "row"), rows.tile)
    own = src.let(f"({row} >= 0) & {_chosen(row, own)}")
    target = Coord(src.let(f"tl.where({own}, before, total + {row} - before)"), "row")
    zero = "0.0" if x.type.dtype is DType.F32 else "0"
    with rows.chunks() as chunk:
        here = rows.body.read(x, chunk.coords, chunk.tile)
        zeros = f"tl.full((ROWS, CHUNK), {zero}, {TYPES[x.type.dtype]})"
        moved = src.let(f"tl.where({own}, {here}, {zeros})")
        rows.body.write(out, [target, *chunk.coords[1:]], chunk.tile, moved)
    return rows.launch()
