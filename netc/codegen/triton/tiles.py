"""Which tile sizes a matrix kernel is compiled for: candidates, ranked by a model of the machine.

The model counts what each multiprocessor must multiply and bring in, wave by wave; it only has to
put good candidates among the first few, for which is best is measured when a plan is bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from netc.codegen.precision import Precision
from netc.ir.gpu_code import Variant

PROCESSORS = 132  # of an H100 or H200; an A100 has 108
SHARED = 227 << 10  # bytes of shared memory a multiprocessor has for blocks
SPLIT_PROGRAMS = 1024  # the most programs of a launch that shares sums: bounds its scratch
SPLIT_TILE = 64 * 64  # the most results a program of such a launch has
TILES = 2  # tile sizes that are compiled per layer and batch size
KEPT = 8  # candidates per batch size: a tile with several ways to split costs no more code

_RATES = {  # multiply-adds a cycle and multiprocessor
    Precision.EXACT: 128,
    Precision.HIGH: 1024 / 3,
    Precision.MEDIUM: 1024,
    Precision.LOW: 2048,
    Precision.FP16: 2048,
}
# Fitted to 242 convolutions and inner products of four nets, batch 1 and 128, on one H200: over
# them the first candidate takes 1.04 of the time of the best, the best of three 1.02.
_REACHED = {True: 0.4, False: 0.21}  # of the rate, from 64 rows on and below
_CACHE = 36.5  # bytes a cycle and multiprocessor from the second-level cache
_START = 2090  # cycles until the first product of a program
_STEP, _STEP_DEPTH, _STEP_MORE = 66, 0.75, 26  # cycles of a step besides its products
_ALONE = 1.5  # how much longer a step takes that no other program hides
_STORE = 0.11  # cycles a result
_MERGE, _MERGE_BYTES = 3900, 80  # cycles to meet, bytes a cycle of partial sums
_WARPS, _RESULTS = 19, 76_500  # what a multiprocessor holds at once
_SMALL = (64, 64, 32, 4, 3)  # a tile as `_shapes` has them
_ROUND = 0.11  # how much of the last wave's idle time counts


@dataclass(frozen=True)
class Work:
    """One product: rows and columns of each group, depth in runs, and bytes of an element."""

    rows: int
    columns: int
    run: int  # of the depth, that is walked without a gap
    runs: int
    groups: int
    item: int

    def steps(self, depth: int) -> int:
        """How many chunks of this depth the whole depth takes."""
        return self.runs * -(-self.run // depth)


def _shapes(precision: Precision, run: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Rows, columns, depth, warps, stages; runs of the depth that are short have small chunks."""
    if precision is Precision.EXACT:
        yield from (
            (16, 64, 32, 4, 3),
            (32, 32, 32, 4, 3),
            (32, 64, 32, 4, 3),
            (64, 64, 16, 4, 3),
            (128, 64, 16, 8, 3),
            (128, 128, 16, 8, 3),
        )
        return
    wide = 4 // precision.item
    for rows, columns, warps in (
        (16, 32, 4),
        (16, 64, 4),
        (32, 32, 4),
        (32, 64, 4),
        (64, 32, 4),
        (64, 64, 4),
        (64, 128, 4),
        (128, 32, 4),
        (128, 64, 4),
        (128, 64, 8),
        (128, 128, 8),
    ):
        yield rows, columns, 32 * wide, warps, 4 if rows * columns <= 8192 else 3
        if run % (32 * wide) in range(1, 16 * wide + 1):
            yield rows, columns, 16 * wide, warps, 4
        if rows <= 64 and columns <= 64:
            yield rows, columns, 64 * wide, warps, 3
    yield 16, 64, 128 * wide, 4, 3
    yield 64, 64, 32 * wide, 4, 5
    if precision is not Precision.HIGH:  # three products need too many registers
        yield 64, 256, 32 * wide, 8, 3
        yield 128, 256, 32 * wide, 8, 3


def candidates(work: Work, precision: Precision, split: bool) -> list[Variant]:
    """The variants to compile for a product of this size, the best first."""
    found: list[tuple[float, Variant]] = []
    for rows, columns, depth, warps, stages in _shapes(precision, work.run):
        if stages * (rows + columns) * depth * work.item > SHARED:
            continue
        for parts in (1, 2, 4, 8, 16) if split else (1,):
            if parts > 1 and (rows * columns > SPLIT_TILE or parts > work.steps(depth)):
                continue
            made = _variant(rows, columns, depth, parts, warps, stages)
            if not made.limit or made.programs(_extents(work)) <= made.limit:
                found.append((_cycles(work, precision, made, depth), made))
    found.sort(key=lambda pair: pair[0])
    kept: list[Variant] = []
    tiles: set[object] = set()
    for _, made in found:
        tile = made.constants, made.warps, made.stages
        if len(kept) < KEPT and (tile in tiles or len(tiles) < TILES):
            tiles.add(tile)
            kept.append(made)
    return kept


def _extents(work: Work) -> tuple[int, int, int]:
    return work.rows, work.columns, work.groups


def _variant(rows: int, columns: int, depth: int, parts: int, warps: int, stages: int) -> Variant:
    constants = (("BM", rows), ("BN", columns), ("BK", depth))
    limit = SPLIT_PROGRAMS if parts > 1 else 0
    return Variant((rows, columns, 1), constants, parts, warps, stages, limit)


def _cycles(work: Work, precision: Precision, v: Variant, depth: int) -> float:
    """About how long a launch takes, in cycles of a multiprocessor."""
    rows, columns, _ = v.tile
    programs = v.programs(_extents(work))
    shared = v.stages * (rows + columns) * depth * work.item
    held = SHARED // shared, _WARPS // v.warps, _RESULTS // (rows * columns)
    resident = min(max(1, min(held)), -(-programs // PROCESSORS))
    multiply = rows * columns * depth / (_RATES[precision] * _REACHED[rows >= 64])
    longest = max(multiply, (rows + columns) * depth * work.item / _CACHE)
    alone = longest * _ALONE + _STEP + depth * _STEP_DEPTH
    step = max(resident * (longest + _STEP_MORE), alone)
    exact = programs / (PROCESSORS * resident)
    waves = 1.0 if exact <= 1 else _ROUND * -(-exact // 1) + (1 - _ROUND) * exact
    steps = -(-work.steps(depth) // v.repeat)
    merge = 0.0
    if v.repeat > 1:
        merge = _MERGE + rows * columns * v.repeat * 4 / _MERGE_BYTES
    return waves * (steps * step + _START + rows * columns * _STORE * resident) + merge


def best(works: Sequence[Work], precision: Precision) -> tuple[Variant, ...]:
    """The candidates for any of several sizes (batches) of one product, each once.

    One of them at least takes any size, and one is small enough for the registers of any machine.
    """
    found = [v for work in works for v in candidates(work, precision, split=True)]
    if all(v.limit for v in found):
        found += candidates(works[-1], precision, split=False)[:1]
    if all(v.tile[0] * v.tile[1] > _SMALL[0] * _SMALL[1] for v in found):
        rows, columns, depth, warps, stages = _SMALL
        found.append(_variant(rows, columns, depth * 4 // precision.item, 1, warps, stages))
    return tuple(dict.fromkeys(found))
