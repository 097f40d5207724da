"""Which tile sizes a matrix kernel is compiled for: candidates, ranked by a model of the machine.

The model counts what each multiprocessor must multiply and bring in, wave by wave; it only has to
put good candidates among the first few, for which is best is measured when a plan is bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from netc.codegen.triton.precision import Precision
from netc.ir.gpu_code import Variant

PROCESSORS = 132  # of an H100 or H200; an A100 has 108
SHARED = 227 << 10  # bytes of shared memory a multiprocessor has for blocks
SPLIT_PROGRAMS = 1024  # the most programs of a launch that shares sums: bounds its scratch
SPLIT_TILE = 64 * 64  # the most results a program of such a launch has
TILES = 4  # tile sizes that are compiled per batch size
KEPT = 8  # candidates per batch size: a tile with several ways to split costs no more code

_RATES = {  # multiply-adds a cycle and multiprocessor
    Precision.EXACT: 128,
    Precision.HIGH: 1024 / 3,
    Precision.MEDIUM: 1024,
    Precision.LOW: 2048,
    Precision.FP16: 2048,
}
_CLOCK = 1.7e9  # Hz
_CACHE = 32  # bytes a cycle and multiprocessor from the second-level cache
_START = 2000  # cycles until the first product of a program
_STEP = 60  # cycles of a step besides its products


@dataclass(frozen=True)
class Work:
    """One product: rows, columns and depth of each group, and bytes of an element."""

    rows: int
    columns: int
    depth: int
    groups: int
    item: int


def _shapes(precision: Precision) -> Iterator[tuple[int, int, int, int, int]]:
    """Rows, columns, depth, warps, stages."""
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
    wide = 2 if precision.element else 1
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
        if rows <= 64 and columns <= 64:
            yield rows, columns, 64 * wide, warps, 3
    if precision in (Precision.LOW, Precision.FP16, Precision.MEDIUM):
        yield 128, 256, 32 * wide, 8, 3


def candidates(work: Work, precision: Precision, split: bool) -> list[Variant]:
    """The variants to compile for a product of this size, the best first."""
    found: list[tuple[float, Variant]] = []
    for rows, columns, depth, warps, stages in _shapes(precision):
        if stages * (rows + columns) * depth * work.item > SHARED:
            continue
        for parts in (1, 2, 4, 8, 16) if split else (1,):
            if parts > 1 and (rows * columns > SPLIT_TILE or depth * parts > work.depth):
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
    together = max(1, min(SHARED // shared, 64 // v.warps, 512 * 64 // (rows * columns) or 1))
    steps = -(-work.depth // (depth * v.repeat))
    multiply = max(rows, 64 if rows >= 64 else 16) * columns * depth / _RATES[precision]
    bring = (rows + columns) * depth * work.item / _CACHE
    resident = min(together, -(-programs // PROCESSORS))
    waves = -(-programs // (PROCESSORS * resident))
    alone = max(multiply, bring) + _STEP
    step = max(resident * max(multiply, bring), alone)
    merge = 0.0 if v.repeat == 1 else 1500 + rows * columns * v.repeat * 4 / 64
    return waves * (steps * step + _START) + merge


def best(works: Sequence[Work], precision: Precision, split: bool) -> tuple[Variant, ...]:
    """The candidates for any of several sizes (batches) of one product, each once.

    One of them at least takes any size.
    """
    found = [v for work in works for v in candidates(work, precision, split)]
    if all(v.limit for v in found):
        found += candidates(works[-1], precision, split=False)[:1]
    return tuple(dict.fromkeys(found))
