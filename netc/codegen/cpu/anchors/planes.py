"""Element-wise kernels that mix row-major planes with channel blocks.

A few pixels of eight channels at a time: rows of planes are read channel by channel and transposed
in registers, or results are transposed back. What does not fill a transpose goes pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

from netc.codegen.cpu.anchors.elementwise import Rows, Unit, chunks, lane_mask, put
from netc.codegen.cpu.anchors.formula import Formula
from netc.codegen.cpu.anchors.streams import Stream
from netc.codegen.cpu.anchors.transpose import to_channels, to_rows
from netc.codegen.cpu.emit import Function, Val, vec
from netc.codegen.operand import BLOCK

_PIXELS = 512  # pixels in a unit


def emit_planes(f: Function, rows: Rows, formula: Formula) -> None:
    """Blocks of `lanes` pixels where planes are read evenly, then single pixels."""
    lanes = f.target.lanes
    even = all(p.mode != "x" or (p.unit and p.is_whole_float) for p in rows.ports)
    with chunks(f, rows, _PIXELS) as unit:
        whole = f.and_(unit.count, -lanes) if even else f.const(0)
        if even:
            bases = {id(s): s.channel_bases(s.base) for s in (*unit.ins, *unit.outs) if _plane(s)}
            with f.loop(0, whole, lanes) as turn:
                _block(f, unit, formula, turn.index, bases)
        narrow = min(lanes, BLOCK)
        vectors = [(i, lane_mask(f, unit.left, narrow, i)) for i in range(0, BLOCK, narrow)]
        with f.loop(f.shl(whole, 3), f.shl(unit.count, 3), BLOCK) as turn:
            _pixel(f, unit, formula, turn.index, vectors)
    f.ret()


def _plane(s: Stream) -> bool:
    return s.port.mode == "x"


def _block(
    f: Function, unit: Unit, formula: Formula, pixel: Val, bases: dict[int, list[Val]]
) -> None:
    """As many pixels as a vector has lanes, all eight channels of them."""
    lanes = f.target.lanes
    at = f.shl(pixel, 3)
    read: list[list[Val]] = []
    for s in unit.ins:
        if _plane(s):
            channel_rows = [f.load(vec(lanes), f.gep(b, pixel, 4)) for b in bases[id(s)]]
            read.append(to_channels(f, channel_rows))
        else:
            read.append([s.load(at, lanes, i * lanes) for i in range(BLOCK)])
    results = [formula.apply(f, lanes, [r[i] for r in read]) for i in range(BLOCK)]
    for number, s in enumerate(unit.outs):
        values = [r[number] for r in results]
        if _plane(s):
            planes = list(zip(bases[id(s)], to_rows(f, values), strict=True))
            for base, value in reversed(planes):  # the last channel that exists is written last
                f.store(value, f.gep(base, pixel, 4))
            continue
        masks = [lane_mask(f, unit.left, lanes, i) for i in (0, lanes % BLOCK)]
        for i, value in enumerate(values):
            put(f, s, value, at, i * lanes, masks[i % 2])


def _pixel(
    f: Function,
    unit: Unit,
    formula: Formula,
    at: Val,
    vectors: Sequence[tuple[int, Val | None]],
) -> None:
    """One pixel, eight channels. Later lanes first: the last channel of a plane is written last."""
    narrow = BLOCK // len(vectors)
    results = [
        formula.apply(f, narrow, [s.load(at, narrow, extra) for s in unit.ins])
        for extra, _ in vectors
    ]
    for (extra, mask), values in reversed(list(zip(vectors, results, strict=True))):
        for stream, value in zip(unit.outs, values, strict=True):
            put(f, stream, value, at, extra, mask)
