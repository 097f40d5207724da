"""Curves of speed-up as one SVG: a panel for each net, what limits each curve under it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from xml.sax.saxutils import escape

COLOURS = ("#0072b2", "#d55e00", "#00855f")  # told apart by the colour-blind too
WIDTH, HEIGHT = 260.0, 230.0  # of the axes of a panel
PANEL = 380.0  # from the left of one panel to that of the next
LEFT, TOP = 58.0, 106.0
LINE = 13.5  # height of a line of words
CHARACTERS = 60  # of a line under a panel
_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" width="{w:.0f}" height="{h:.0f}" \
viewBox="0 0 {w:.0f} {h:.0f}" font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" \
font-size="11" fill="#1f2933">
<rect width="100%" height="100%" fill="#ffffff"/>"""


class Measured(Protocol):
    """What is drawn of a point."""

    @property
    def net(self) -> str:
        """The panel."""

    @property
    def way(self) -> str:
        """The curve."""

    @property
    def gpus(self) -> int:
        """Along."""

    @property
    def speedup(self) -> float:
        """Up."""

    @property
    def limit(self) -> str:
        """A sentence."""


@dataclass(frozen=True)
class Axes:
    """Both in powers of two, so that the ideal is a straight line."""

    left: float
    gpus: tuple[int, ...]
    low: int  # the least power shown upward

    @property
    def high(self) -> float:
        """The greatest power shown upward."""
        return math.log2(max(2, *self.gpus))

    def x(self, gpus: float) -> float:
        """Across, in pixels."""
        return self.left + WIDTH * math.log2(gpus) / self.high

    def y(self, speedup: float) -> float:
        """Down, in pixels."""
        return TOP + HEIGHT * (self.high - math.log2(speedup)) / (self.high - self.low)


def picture(title: str, points: Sequence[Measured]) -> str:
    """The whole document."""
    nets = tuple(dict.fromkeys(p.net for p in points))
    ways = tuple(dict.fromkeys(p.way for p in points))
    gpus = tuple(sorted({p.gpus for p in points}))
    low = min(-1, math.floor(math.log2(min(p.speedup for p in points))))
    parts, bottom = [], 0.0
    for i, net in enumerate(nets):
        axes = Axes(LEFT + i * PANEL, gpus, low)
        parts += _frame(axes, net)
        curves = [[p for p in points if (p.net, p.way) == (net, way)] for way in ways]
        for curve, colour in zip(curves, COLOURS, strict=False):
            parts += _curve(axes, curve, colour)
        parts += _ends(axes, [curve[-1] for curve in curves])
        words, end = _limits(axes, [curve[-1] for curve in curves])
        parts += words
        bottom = max(bottom, end)
    width = max(LEFT + len(nets) * PANEL - 40, 640.0)
    head = [_HEAD.format(w=width, h=bottom + 14), *_legend(title, ways)]
    return "\n".join([*head, *parts, "</svg>", ""])


def _text(x: float, y: float, said: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{style}>{escape(said)}</text>'


def _legend(title: str, ways: Sequence[str]) -> Iterator[str]:
    yield _text(20, 28, title, ' font-size="16" font-weight="bold"')
    x = 22.0
    for i, way in enumerate(ways):
        yield f'<path d="M{x:.1f} 48h26" stroke="{COLOURS[i]}" stroke-width="2"/>'
        yield _mark(i, x + 13, 48)
        yield _text(x + 33, 52, way)
        x += 58 + 6.2 * len(way)
    yield f'<path d="M{x:.1f} 48h26" stroke="#5b6570" stroke-dasharray="5 4"/>'
    yield _text(x + 33, 52, "ideal")


def _mark(curve: int, x: float, y: float) -> str:
    """A disc, a square, a triangle."""
    fill = f'fill="{COLOURS[curve]}"'
    if curve == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {fill}/>'
    if curve == 1:
        return f'<rect x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2" {fill}/>'
    return f'<path d="M{x:.1f} {y - 4.8:.1f}l4.6 8.2h-9.2z" {fill}/>'


def _frame(axes: Axes, net: str) -> Iterator[str]:
    """The net's name, lines and numbers of both axes, and the ideal."""
    right, bottom = axes.left + WIDTH, TOP + HEIGHT
    centred = ' text-anchor="middle"'
    yield _text(axes.left + WIDTH / 2, TOP - 16, net, f'{centred} font-size="14"')
    for gpus in axes.gpus:
        x = axes.x(gpus)
        yield f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#e3e7eb"/>'
        yield _text(x, bottom + 16, str(gpus), centred)
    for power in range(axes.low, math.floor(axes.high) + 1):
        y, said = axes.y(2.0**power), f"{2.0**power:g}"
        strong = "#9aa5b1" if power == 0 else "#e3e7eb"
        yield f'<path d="M{axes.left} {y:.1f}H{right}" stroke="{strong}"/>'
        yield _text(axes.left - 8, y + 4, said, ' text-anchor="end"')
    yield _text(axes.left + WIDTH / 2, bottom + 33, "GPUs", centred)
    x, y = axes.left - 36, TOP + HEIGHT / 2
    yield _text(x, y, "speed-up", f'{centred} transform="rotate(-90 {x:.1f} {y:.1f})"')
    most = axes.gpus[-1]
    ideal = f"M{axes.left} {axes.y(1):.1f}L{axes.x(most):.1f} {axes.y(most):.1f}"
    yield f'<path d="{ideal}" stroke="#5b6570" stroke-dasharray="5 4"/>'


def _curve(axes: Axes, curve: Sequence[Measured], colour: str) -> Iterator[str]:
    at = [(axes.x(p.gpus), axes.y(p.speedup)) for p in curve]
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
    yield f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
    yield from (_mark(COLOURS.index(colour), x, y) for x, y in at[1:])


def _ends(axes: Axes, ends: Sequence[Measured]) -> Iterator[str]:
    """The speed-up at the end of each curve, one below the other."""
    above = -math.inf
    for i, p in sorted(enumerate(ends), key=lambda item: -item[1].speedup):
        y = max(axes.y(p.speedup) + 4, above + LINE)
        style = f' fill="{COLOURS[i]}" font-weight="bold"'
        yield _text(axes.x(p.gpus) + 9, y, f"{p.speedup:.2f}", style)
        above = y


def _limits(axes: Axes, ends: Sequence[Measured]) -> tuple[list[str], float]:
    """What limits each curve, and where the words end."""
    y, x = TOP + HEIGHT + 62, axes.left - 36
    parts = [_text(x, y, f"What limits on {axes.gpus[-1]} GPUs", ' font-weight="bold"')]
    for i, p in enumerate(ends):
        y += 6
        parts.append(_mark(i, x + 5, y + LINE - 4))
        for line in textwrap.wrap(f"{p.way}: {p.limit}", CHARACTERS):
            y += LINE
            parts.append(_text(x + 16, y, line))
    return parts, y
