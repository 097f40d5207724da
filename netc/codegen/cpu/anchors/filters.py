"""Weights for Winograd's filtering: 3×3 windows as 36 planes, G g Gᵀ, made when a net is loaded.

They take four times the room of the windows, so a file does not hold them. Sums are of float64,
and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from netc.codegen.cpu.anchors.access import Args
from netc.codegen.cpu.anchors.pairs import interleaved
from netc.codegen.cpu.anchors.units import units
from netc.codegen.cpu.emit import Function, Val, const_float, vec
from netc.codegen.cpu.lowering import Lowering
from netc.codegen.operand import BLOCK, Call, Cost
from netc.ir.filtering import PLANES
from netc.ir.gemm_plan import PANEL
from netc.ir.plan import BufferArg, MadeArg, WeightArg

NEAR, FAR = 5 / 8, 3 / 2  # polynomials are taken at 0, ±NEAR, ±FAR and ∞
_TAPS, _ROW = 9, 4 * PANEL  # bytes of a panel's weights for one tap of one channel
Line: TypeAlias = Callable[[Function, Sequence[Val]], list[Val]]


def both_ways(f: Function, tile: Sequence[Sequence[Val]], line: Line) -> list[Val]:
    """A transform of all rows, then of all columns; the results row by row."""
    across = [line(f, row) for row in tile]
    columns = [line(f, list(column)) for column in zip(*across, strict=True)]
    return [value for row in zip(*columns, strict=True) for value in row]


def filters(
    ctx: Lowering, plain: WeightArg, shape: tuple[int, ...], groups: int, pairs: bool
) -> MadeArg:
    """w[o, c, 3, 3], packed as a convolution's, as [36 · groups, panels, c, 16], or in pairs."""
    panels = groups * -(-(shape[0] // groups) // PANEL)
    eights = shape[1] // BLOCK
    floats = panels * eights * BLOCK * _ROW  # bytes of a plane in float32
    plane = floats // 2 if pairs else floats

    def call(target: BufferArg) -> Call:
        args = Args()
        args.add(plain)
        args.add(target)
        for size in (panels, eights, plane):
            args.size(size)
        symbol = ctx.code(("winograd", "filters", pairs), lambda f: _emit_filters(f, pairs))
        flops = floats // 4 * 2 * PLANES
        cost = Cost("windows to planes", flops, _TAPS * floats + PLANES * plane)
        return Call(symbol, tuple(args.items), cost=cost)

    return ctx.setup.make(("filters", plain, shape, groups, pairs), PLANES * plane, call)


def _emit_filters(f: Function, pairs: bool) -> None:
    source, target = (f.slot(f.args[0], i, "ptr") for i in range(2))
    panels, eights, plane = (f.slot(f.args[0], i) for i in range(2, 5))
    lanes = max(2, f.target.lanes // 2)
    with units(f, [panels, eights]) as (panel, eight):
        place = f.add(f.mul(panel, eights), eight)
        windows = f.gep(source, place, _TAPS * BLOCK * _ROW)
        rows = BLOCK // 2 if pairs else BLOCK
        made = f.gep(target, place, rows * _ROW)
        with f.loop(0, rows) as row, f.loop(0, _ROW, 4 * lanes) as turn:
            out = f.gep(f.gep(made, row.index, _ROW), turn.index)
            first = f.gep(f.gep(windows, row.index, BLOCK // rows * _ROW), turn.index)
            values = _filtered(f, first, lanes)
            if pairs:
                both = _filtered(f, f.gep(first, _ROW), lanes)
                values = [interleaved(f, *pair) for pair in zip(values, both, strict=True)]
            for i, value in enumerate(values):
                f.store(value, f.gep(out, f.mul(plane, i)))
    f.ret()


def _filtered(f: Function, first: Val, lanes: int) -> list[Val]:
    """The 36 values of some windows, whose taps lie eight rows apart."""
    taps = [f.load(vec(lanes), f.gep(first, i * BLOCK * _ROW)) for i in range(_TAPS)]
    exact = [f.cast("fpext", tap, vec(lanes, "double")) for tap in taps]
    rows = [exact[i : i + 3] for i in range(0, _TAPS, 3)]
    return [f.cast("fptrunc", v, vec(lanes)) for v in both_ways(f, rows, _filter_line)]


def _filter_line(f: Function, g: Sequence[Val]) -> list[Val]:
    """G g: a polynomial's values at the points, over Π of the differences to other points."""

    def times(factor: float, value: Val) -> Val:
        return f.fmul(const_float(factor, value.type), value)

    def pair(point: float, other: float) -> list[Val]:
        scale = 1 / (2 * point**2 * (point**2 - other**2))
        even = f.fadd(times(scale, g[0]), times(scale * point**2, g[2]))
        odd = times(scale * point, g[1])
        return [f.fadd(even, odd), f.fsub(even, odd)]

    return [times((NEAR * FAR) ** -2, g[0]), *pair(NEAR, FAR), *pair(FAR, NEAR), g[2]]
