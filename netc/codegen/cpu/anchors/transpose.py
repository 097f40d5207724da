"""Register transposes: exchanging bits of the register number with bits of the lane number.

Elements of 2^r registers of 2^l lanes are named by the bits of their register and lane. One stage
pairs registers that differ in one bit and, by two shuffles a pair, swaps that bit with one of the
lane's bits, ordering the lane bits at will. A few stages make any of the transposes needed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netc.codegen.cpu.emit import Function, Val


@dataclass(frozen=True)
class Stage:
    """Swap register bit `up` with lane bit `down`; the lane bits afterwards, highest first."""

    up: str
    down: str
    lanes: tuple[str, ...]


def _number(bits: Sequence[str], assignment: dict[str, int]) -> int:
    out = 0
    for b in bits:
        out = 2 * out + assignment[b]
    return out


def _assignment(bits: Sequence[str], number: int) -> dict[str, int]:
    return {b: number >> (len(bits) - 1 - i) & 1 for i, b in enumerate(bits)}


def exchange(
    f: Function, vectors: dict[int, Val], regs: Sequence[str], lanes: Sequence[str], stage: Stage
) -> tuple[dict[int, Val], list[str], list[str]]:
    """One stage: the registers by number, their bits, the lane bits."""
    count = 1 << len(lanes)
    new_regs = [stage.down if b == stage.up else b for b in regs]
    out: dict[int, Val] = {}
    for number in vectors:
        bits = _assignment(new_regs, number)
        mask = []
        for lane in range(count):
            here = {**bits, **_assignment(stage.lanes, lane)}
            mask.append(here[stage.up] * count + _number(lanes, here))
        low = _number(regs, {**bits, stage.up: 0})
        high = _number(regs, {**bits, stage.up: 1})
        out[number] = f.shuffle(vectors[low], vectors[high], mask)
    return out, new_regs, list(stage.lanes)


# From eight channel rows (register c2 c1 c0) of 16, 8 or 4 pixels to channels in the low lanes.
_TO_CHANNELS = {
    16: (
        Stage("c0", "p1", ("p3", "p2", "p0", "c0")),
        Stage("c1", "p2", ("p3", "p0", "c1", "c0")),
        Stage("c2", "p3", ("p0", "c2", "c1", "c0")),
    ),
    8: (
        Stage("c0", "p1", ("p2", "p0", "c0")),
        Stage("c1", "p0", ("p2", "c1", "c0")),
        Stage("c2", "p2", ("c2", "c1", "c0")),
    ),
    4: (Stage("c0", "p1", ("p0", "c0")), Stage("c1", "p0", ("c1", "c0"))),
}
_PIXELS = {16: ("p3", "p2", "p1", "p0"), 8: ("p2", "p1", "p0"), 4: ("p1", "p0")}


def to_channels(f: Function, rows: Sequence[Val]) -> list[Val]:
    """Eight rows, one a channel, of `lanes` pixels -> the same pixels, eight channels each."""
    lanes = rows[0].lanes
    vectors, regs, bits = dict(enumerate(rows)), ["c2", "c1", "c0"], list(_PIXELS[lanes])
    for stage in _TO_CHANNELS[lanes]:
        vectors, regs, bits = exchange(f, vectors, regs, bits, stage)
    order = _pixel_order(lanes)
    return [vectors[_number(regs, _assignment(order, i))] for i in range(8)]


def _pixel_order(lanes: int) -> list[str]:
    """The register bits, highest first, that put vectors of pixels in the order of memory."""
    return {16: ["p3", "p2", "p1"], 8: ["p2", "p1", "p0"], 4: ["p1", "p0", "c2"]}[lanes]


def to_rows(f: Function, vectors: Sequence[Val]) -> list[Val]:
    """The inverse of `to_channels`."""
    lanes = vectors[0].lanes
    stages = _TO_CHANNELS[lanes]
    before = [_PIXELS[lanes], *(s.lanes for s in stages)]
    regs, bits = _pixel_order(lanes), list(before[-1])
    out = dict(enumerate(vectors))
    for stage, lane_bits in zip(reversed(stages), reversed(before[:-1]), strict=True):
        undo = Stage(stage.down, stage.up, tuple(lane_bits))
        out, regs, bits = exchange(f, out, regs, bits, undo)
    return [out[_number(regs, _assignment(["c2", "c1", "c0"], i))] for i in range(8)]
