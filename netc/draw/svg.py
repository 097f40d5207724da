"""A picture as SVG text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from netc.draw.boxes import Box, Picture, picture, short
from netc.draw.layers import Layout, layout
from netc.ir.graph import Graph

COLOURS = {
    "input": "#ffffff",
    "convolution": "#b9d7f5",
    "inner product": "#d5c8f2",
    "pooling": "#fbd7ae",
    "normalization": "#f7e9a6",
    "element-wise": "#c7e8c0",
    "reduction": "#f4c4cf",
    "movement": "#dfe3e8",
    "other": "#eee4d8",
}
DEVICE_COLOURS = ("#b9d7f5", "#c7e8c0", "#fbd7ae", "#d5c8f2", "#f4c4cf", "#f7e9a6", "#b6e3e4")
_LINE = 15.0  # height of a line of words
_CHARACTER = 6.5  # mean width at 11.5 px
_LEVEL = 40.0  # between the boxes of two layers, room for a shape
_MARGIN = 28.0
_TOP = 74.0  # title and legend

_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" width="{w:.0f}" height="{h:.0f}" \
viewBox="0 0 {w:.0f} {h:.0f}" font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" \
font-size="11.5">
<rect width="100%" height="100%" fill="#ffffff"/>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" \
orient="auto"><path d="M0 0.8 L8 4 L0 7.2 Z" fill="#5b6570"/></marker></defs>"""


@dataclass(frozen=True)
class Frame:
    """The rectangle of one box."""

    x: float
    y: float
    width: float
    height: float


def draw(graph: Graph, devices: bool = False) -> str:
    """The graph as an SVG document, coloured by family of op or by device."""
    shown = picture(graph)
    widths = [_width(b) for b in shown.boxes]
    placed = layout(widths, [(e.source, e.target) for e in shown.edges])
    frames, tops, bottoms = _frames(shown, placed, widths)
    keys = {_key(b, devices) for b in shown.boxes}
    colours = _device_colours(keys) if devices else {k: COLOURS[k] for k in COLOURS if k in keys}
    right = max((f.x + f.width for f in frames), default=0.0)
    legend = sum(34 + len(name) * _CHARACTER for name in colours)
    right = max(right, *(x + _MARGIN for r in placed.routes for x, _ in r), 340.0, legend)
    height = max((f.y + f.height for f in frames), default=_TOP) + 2 * _MARGIN
    parts = [_HEAD.format(w=right + _MARGIN, h=height)]
    parts += _title(graph, shown, colours, right)
    parts += _blocks(shown, frames)
    parts += _edges(shown, placed, frames, tops, bottoms)
    parts += _labels(shown, frames)
    for box, frame in zip(shown.boxes, frames, strict=True):
        parts += _box(box, frame, colours[_key(box, devices)])
    return "\n".join([*parts, "</svg>", ""])


def _key(box: Box, devices: bool) -> str:
    return (box.device or "any device") if devices else box.family


def _device_colours(names: Iterable[str]) -> dict[str, str]:
    ordered = sorted(names)
    return {n: DEVICE_COLOURS[i % len(DEVICE_COLOURS)] for i, n in enumerate(ordered)}


def _width(box: Box) -> float:
    words = [*box.lines, *(f"output {short(o)}" for o in box.outputs)]
    return max(78.0, max(len(w) for w in words) * _CHARACTER + 18)


def _height(box: Box) -> float:
    return (len(box.lines) + len(box.outputs)) * _LINE + 10


def _frames(
    shown: Picture, placed: Layout, widths: list[float]
) -> tuple[list[Frame], list[float], list[float]]:
    """Every box's rectangle, and the top and bottom of each layer."""
    tallest = [0.0] * placed.depth
    for box, row in zip(shown.boxes, placed.layer, strict=True):
        tallest[row] = max(tallest[row], _height(box))
    tops, at = [], _TOP
    for height in tallest:
        tops.append(at)
        at += height + _LEVEL
    frames = []
    for box, x, row, width in zip(shown.boxes, placed.x, placed.layer, widths, strict=True):
        frames.append(Frame(x + _MARGIN - width / 2, tops[row], width, _height(box)))
    return frames, tops, [t + h for t, h in zip(tops, tallest, strict=True)]


def _title(graph: Graph, shown: Picture, colours: dict[str, str], right: float) -> list[str]:
    count = sum(len(b.nodes) for b in shown.boxes if b.family != "input")
    head = f"{short(graph.name, 60)}: {count} ops"
    parts = [f'<text x="{_MARGIN}" y="30" font-size="17" font-weight="bold">{escape(head)}</text>']
    x = _MARGIN
    for name, colour in colours.items():
        parts.append(
            f'<rect x="{x:.1f}" y="42" width="12" height="12" rx="3" fill="{colour}" '
            f'stroke="#5b6570" stroke-width="0.6"/>'
            f'<text x="{x + 17:.1f}" y="52">{escape(name)}</text>'
        )
        x += 34 + len(name) * _CHARACTER
    return parts


def _blocks(shown: Picture, frames: list[Frame]) -> list[str]:
    """A panel behind each named block that stands alone."""
    members: dict[str, list[int]] = {}
    for i, box in enumerate(shown.boxes):
        if box.block:
            members.setdefault(box.block, []).append(i)
    parts = []
    for name, inside in members.items():
        left = min(frames[i].x for i in inside) - 12
        top = min(frames[i].y for i in inside) - 12
        right = max(frames[i].x + frames[i].width for i in inside) + 12
        bottom = max(frames[i].y + frames[i].height for i in inside) + 22
        strangers = (
            f for i, f in enumerate(frames) if shown.boxes[i].block != name and f.y < bottom
        )
        if any(f.x < right and f.x + f.width > left and f.y + f.height > top for f in strangers):
            continue
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{bottom - top:.1f}" rx="10" fill="#f4f6f8" stroke="#d3d9df"/>'
            f'<text x="{left + 8:.1f}" y="{bottom - 6:.1f}" fill="#5b6570" '
            f'font-style="italic">{escape(name)}</text>'
        )
    return parts


def _edges(
    shown: Picture, placed: Layout, frames: list[Frame], tops: list[float], bottoms: list[float]
) -> list[str]:
    parts = []
    ports = _ports(shown, placed)
    for i, (edge, route) in enumerate(zip(shown.edges, placed.routes, strict=True)):
        source, target = frames[edge.source], frames[edge.target]
        start = (source.x + source.width / 2, source.y + source.height)
        spread = target.width - 30
        end = (target.x + target.width / 2 + max(-spread / 2, min(spread / 2, ports[i])), target.y)
        points = [start]
        for x, row in route:
            points += [(x + _MARGIN, tops[row]), (x + _MARGIN, bottoms[row])]
        parts.append(_curve([*points, end], edge.crosses))
    return parts


def _ports(shown: Picture, placed: Layout) -> list[float]:
    """How far from the middle each edge enters its box: in the order they come from."""
    entering: dict[int, list[tuple[float, int]]] = {}
    for i, (edge, route) in enumerate(zip(shown.edges, placed.routes, strict=True)):
        comes_from = route[-1][0] if route else placed.x[edge.source]
        entering.setdefault(edge.target, []).append((comes_from, i))
    ports = [0.0] * len(shown.edges)
    for rivals in entering.values():
        for rank, (_, i) in enumerate(sorted(rivals)):
            ports[i] = 26.0 * (rank - (len(rivals) - 1) / 2)
    return ports


def _curve(points: list[tuple[float, float]], crosses: bool) -> str:
    """Straight within layers, an S between them; dashes from device to device."""
    (x, y), *rest = points
    path = [f"M{x:.1f} {y:.1f}"]
    for px, py in rest:
        half = (py - y) / 2
        bent = abs(px - x) > 0.5
        curve = f"C{x:.1f} {y + half:.1f} {px:.1f} {py - half:.1f} {px:.1f} {py:.1f}"
        path.append(curve if bent else f"L{px:.1f} {py:.1f}")
        x, y = px, py
    line = 'stroke="#b4430a" stroke-width="2" stroke-dasharray="6 3"'
    line = line if crosses else 'stroke="#5b6570" stroke-width="1.2"'
    return f'<path d="{" ".join(path)}" fill="none" {line} marker-end="url(#tip)"/>'


def _labels(shown: Picture, frames: list[Frame]) -> list[str]:
    """The shape of what leaves each box, once."""
    parts = []
    seen: set[tuple[int, str]] = set()
    for edge in shown.edges:
        if (edge.source, edge.label) in seen:
            continue
        rank = sum(source == edge.source for source, _ in seen)
        seen.add((edge.source, edge.label))
        f = frames[edge.source]
        x, y = f.x + f.width / 2 + 6, f.y + f.height + 13 + 11 * rank
        parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="10" fill="#44505c" stroke="#ffffff" '
            f'stroke-width="3" paint-order="stroke">{escape(edge.label)}</text>'
        )
    return parts


def _box(box: Box, frame: Frame, colour: str) -> list[str]:
    stroke, thick = ("#1f2933", 2.2) if box.outputs or box.family == "input" else ("#5b6570", 1)
    names = ", ".join(f"%{n.name} {n.types[0]}" for n in box.nodes)
    parts = [
        f"<g><title>{escape(short(names, 400))}</title>"
        f'<rect x="{frame.x:.1f}" y="{frame.y:.1f}" width="{frame.width:.1f}" '
        f'height="{frame.height:.1f}" rx="6" fill={quoteattr(colour)} stroke="{stroke}" '
        f'stroke-width="{thick}"/>'
    ]
    middle = frame.x + frame.width / 2
    words = [(line, "#26323d", "") for line in box.lines]
    words[0] = (box.lines[0], "#000000", ' font-weight="bold"')
    words[1] = (box.lines[1], "#5b6570", ' font-size="10"')
    words += [(f"output {short(o)}", "#9b1c1c", ' font-weight="bold"') for o in box.outputs]
    for i, (line, ink, style) in enumerate(words):
        y = frame.y + 16 + i * _LINE
        parts.append(
            f'<text x="{middle:.1f}" y="{y:.1f}" text-anchor="middle" fill="{ink}"{style}>'
            f"{escape(line)}</text>"
        )
    return [*parts, "</g>"]
