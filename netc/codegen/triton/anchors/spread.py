"""Transposed convolutions in many groups: every lane sums the taps that reach it.

A place p of the result is reached by tap t from x at (p + pad − t·dilation) / stride where that is
whole. Without dilation those are every stride-th tap, from the first that fits p on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from netc.codegen.operand import Kernel, Operand, row_major
from netc.codegen.triton.body import Coord
from netc.codegen.triton.flat import Flat
from netc.codegen.triton.lowering import Launch, Lowering
from netc.codegen.triton.window import UNROLLED
from netc.ir.ops.convolution import Windowed
from netc.ir.ops.windows import known


@dataclass(frozen=True)
class _Reach:
    """One axis: how many taps are tried, and of each where it is, its place in x, what fits."""

    flat: Flat
    at: str  # p + pad
    kernel: int
    stride: int
    dilation: int
    size: str  # of x

    @property
    def count(self) -> int:
        """Taps that are tried."""
        return -(-self.kernel // self.stride) if self.dilation == 1 else self.kernel

    def tap(self, number: str) -> tuple[str, str, str]:
        """The tap, its place in x, and the mask."""
        src = self.flat.src
        if self.dilation == 1:
            tap = src.let(f"{self.at} % {self.stride} + {number} * {self.stride}")
            place = src.let(f"{self.at} // {self.stride} - {number}")
            some = [f"({tap} < {self.kernel})"] if self.kernel % self.stride else []
            fits = [*some, f"({place} >= 0)", f"({place} < {self.size})"]
            return tap, place, src.let(" & ".join(fits))
        far = src.let(f"{self.at} - {number} * {self.dilation}")
        held = src.let(f"tl.maximum({far}, 0)")
        place = src.let(f"{held} // {self.stride}")
        whole = f"({held} % {self.stride} == 0)"
        fits = [f"({far} >= 0)", whole, f"({place} < {self.size})"]
        return f"({self.flat.lane} * 0 + {number})", place, src.let(" & ".join(fits))


def spread(ctx: Lowering, k: Kernel, op: Windowed, x: Operand, w: Operand) -> Launch:
    """Channels of a group one by one; constant weights of single ones lie as [tap, channel]."""
    assert k.anchor is not None
    flat = Flat(ctx, k)
    taps = known(w.type.shape[2:], "taps")
    window = zip(taps, *op.window(len(taps)), x.type.shape[2:], strict=True)
    reaches = [
        _Reach(flat, flat.src.let(f"{flat.index(a)} + {p}"), n, s, d, flat.src.size(size))
        for a, (n, s, p, d, size) in enumerate(window, start=2)
    ]
    flat.src.line(f"acc = {flat.full(0)}")
    _Sum(flat, reaches, x, _turned(w) if _single(op, w) else w, op.groups).emit()
    out = "acc"
    for bias in k.anchor.inputs[2:]:
        added = flat.body.at(bias, [flat.coords[1]], flat.tile, {})
        out = flat.src.let(f"acc + {added}")
    return flat.finish({k.anchor.out: out})


def _single(op: Windowed, w: Operand) -> bool:
    return w.type.shape[:2] == (op.groups, 1) and w.array is not None


def _turned(w: Operand) -> Operand:
    """Constant weights [channel, 1, taps…] as [taps…, 1, channel] in memory, axes as they were."""
    assert w.array is not None
    packed = np.ascontiguousarray(np.moveaxis(w.array, 0, -1), np.float32)
    *outer, last = row_major(packed.shape)
    return replace(w, strides=(last, *outer), array=packed)


class _Sum:
    """All taps of all lanes, axis by axis."""

    def __init__(
        self, flat: Flat, reaches: Sequence[_Reach], x: Operand, w: Operand, groups: int
    ) -> None:
        self.flat, self.reaches, self.x, self.w = flat, reaches, x, w
        self.unrolled = math.prod(r.count for r in reaches) <= UNROLLED
        channels, self.outs = w.type.shape[:2]
        self.each = channels // groups

    def emit(self) -> None:
        """The sum over the channels of a group."""
        src, channel = self.flat.src, self.flat.coords[1].text
        if self.each == self.outs == 1:
            self._walk(Coord(channel, "lane"), Coord("0"), [], [], [])
            return
        each, outs = src.size(self.each), src.size(self.outs)
        group = src.let(f"({channel}) // {outs}")
        own = Coord(src.let(f"({channel}) % {outs}"), "lane")
        with src.block(f"for c in range({each}):"):
            source = Coord(src.let(f"{self.flat.lane} * 0 + {group} * {each} + c"), "lane")
            self._walk(source, own, [], [], [])

    def _walk(
        self, source: Coord, own: Coord, places: list[str], taps: list[str], masks: list[str]
    ) -> None:
        """The taps that are left, given places in x, taps and masks so far."""
        if len(places) == len(self.reaches):
            self._add(source, own, places, taps, masks)
            return
        reach, src = self.reaches[len(places)], self.flat.src

        def enter(number: str) -> None:
            tap, place, mask = reach.tap(number)
            self._walk(source, own, [*places, place], [*taps, tap], [*masks, mask])

        if self.unrolled:
            for number in range(reach.count):
                enter(str(number))
            return
        name = src.name()
        with src.block(f"for {name} in range({reach.count}):"):
            enter(name)

    def _add(
        self, source: Coord, own: Coord, places: list[str], taps: list[str], masks: list[str]
    ) -> None:
        flat, inside = self.flat, " & ".join(f"({m})" for m in masks)
        at = [flat.coords[0], source, *(Coord(p, "lane") for p in places)]
        a = flat.body.read(self.x, at, flat.tile, inside)
        spot = [source, own, *(Coord(t, "lane") for t in taps)]
        b = flat.body.read(self.w, spot, flat.tile, inside)
        flat.src.line(f"acc = tl.fma({a}, tl.zeros_like(acc) + {b}, acc)")
