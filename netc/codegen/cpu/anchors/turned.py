"""Copies whose source runs along another axis than their result: square tiles, turned in registers.

The source is contiguous along one of the outer axes, the results along the inner one. Tiles of
eight by a few elements are read along the first, transposed, and written along the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from netc.codegen.cpu.anchors.access import Access, Shape
from netc.codegen.cpu.anchors.formula import Formula
from netc.codegen.cpu.anchors.streams import Port, Ports
from netc.codegen.cpu.anchors.transpose import to_channels
from netc.codegen.cpu.anchors.units import ceil_div, units
from netc.codegen.cpu.emit import Function, Val, vec
from netc.codegen.operand import BLOCK
from netc.ir.types import DType

_STRIP = 32  # elements along the source's axis in one unit


def turned(sizes: Shape, accesses: Sequence[Access]) -> tuple[Shape, list[Access]] | None:
    """Axes in an order that suits tiles, the source's own one last but one; None where none do."""
    if len(sizes) < 2 or len(accesses) != 2:
        return None
    if any(a.dtype is not DType.F32 or a.element for a in accesses):
        return None
    source, out = accesses
    if out.strides[-1] != 1 or source.strides[-1] in (0, 1):
        return None
    fits = [
        i
        for i, (d, s) in enumerate(zip(sizes[:-1], source.strides, strict=False))
        if s == 1 and not (isinstance(d, int) and d < BLOCK)
    ]
    if not fits:
        return None
    rest = [i for i in range(len(sizes) - 1) if i != fits[0]]
    order = [*rest, fits[0], len(sizes) - 1]
    moved = [replace(a, strides=tuple(a.strides[i] for i in order)) for a in accesses]
    return tuple(sizes[i] for i in order), moved


@dataclass(frozen=True)
class _Strip:
    """One unit: rows `first` to `last` along the source's axis, whole inner axis."""

    f: Function
    formula: Formula
    source: Val
    out: Val
    step: Val  # source bytes along the inner axis
    pitch: Val  # result bytes along the source's axis

    def tile(self, a: Val, i: Val, count: int) -> None:
        """`count` elements along the source's axis by eight along the inner one."""
        f = self.f
        rows = []
        for n in range(BLOCK):
            there = f.gep(self.source, f.mul(f.add(i, n), self.step))
            rows.append(f.load(vec(count), f.gep(there, a, 4)))
        parts = BLOCK // count
        for n, value in enumerate(to_channels(f, rows)):
            row, part = divmod(n, parts)
            here = f.gep(self.out, f.mul(f.add(a, row), self.pitch))
            (result,) = self.formula.apply(f, count, [value])
            f.store(result, f.gep(f.gep(here, i, 4), 4 * count * part))

    def single(self, first: Val, last: Val, begin: Val, end: Val) -> None:
        """Element by element, a rectangle."""
        f = self.f
        with f.loop(first, last) as a, f.loop(begin, end) as i:
            there = f.gep(self.source, f.mul(i.index, self.step))
            value = f.load("float", f.gep(there, a.index, 4))
            here = f.gep(self.out, f.mul(a.index, self.pitch))
            (result,) = self.formula.apply(f, 1, [value])
            f.store(result, f.gep(here, i.index, 4))


def emit_turned(f: Function, ports: tuple[Port, ...], formula: Formula) -> None:
    """The kernel; slots are the sizes, the source, the result."""
    axes = ports[0].axes
    sizes = [f.slot(f.args[0], i) for i in range(axes + 1)]
    both = Ports(f, ports, axes + 1)
    *outer, along, inner = sizes
    count = min(BLOCK, f.target.lanes)
    with units(f, [*outer, ceil_div(f, along, _STRIP)]) as indices:
        (_, source), (_, out) = (both.row(i, [*indices[:-1], 0]) for i in (0, 1))
        strip = _Strip(f, formula, source, out, both.steps[0][0], both.outer[1][-1])
        first = f.mul(indices[-1], _STRIP)
        last = f.smin(f.add(first, _STRIP), along)
        even = f.add(first, f.and_(f.sub(last, first), -count))
        whole = f.and_(inner, -BLOCK)
        with f.loop(0, whole, BLOCK) as i, f.loop(first, even, count) as a:
            strip.tile(a.index, i.index, count)
        strip.single(first, even, whole, inner)
        strip.single(even, last, f.const(0), inner)
    f.ret()
