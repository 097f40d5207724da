"""Windows that slide over spatial axes: their clipped ranges, and loops over their elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netc.codegen.cpu.anchors.access import Args
from netc.codegen.cpu.emit import Function, Val
from netc.ir.dims import Dim

Step = Callable[[Val, list[Val], list[Val]], list[Val]]  # address, indices, carried -> carried


@dataclass(frozen=True)
class Axis:
    """One spatial axis at run time: input size, byte stride, and the window's numbers."""

    size: Val
    stride: Val
    kernel: Val
    step: Val
    pad: Val
    dilation: Val


@dataclass(frozen=True)
class Span:
    """The part of a window inside the image along one axis, in window positions from `start`."""

    axis: Axis
    start: Val  # of the window, may be negative
    low: Val  # first and last-but-one window positions inside
    high: Val


AXIS_SLOTS = 5


def add_axes(
    args: Args, sizes: Sequence[Dim], *numbers: Sequence[int], dilation: Sequence[int] = ()
) -> int:
    """Append sizes and window numbers (kernel, stride, pad) of every axis; the first slot."""
    first = len(args.items)
    kernel, stride, pad = numbers
    for i, size in enumerate(sizes):
        spread = dilation[i] if dilation else 1
        for n in (size, kernel[i], stride[i], pad[i], spread):
            args.size(n)
    return first


def read_axes(f: Function, first: int, strides: Sequence[Val]) -> list[Axis]:
    """The axes at run time, given the byte strides of the input along them."""
    out = []
    for i, stride in enumerate(strides):
        at = first + AXIS_SLOTS * i
        size, kernel, step, pad, spread = (f.slot(f.args[0], at + j) for j in range(AXIS_SLOTS))
        out.append(Axis(size, stride, kernel, step, pad, spread))
    return out


def span(f: Function, axis: Axis, index: Val, dilated: bool = False) -> Span:
    """The window of output `index`, clipped to the image."""
    start = f.sub(f.mul(index, axis.step), axis.pad)
    if not dilated:
        low = f.smax(f.sub(0, start), 0)
        return Span(axis, start, low, f.smin(axis.kernel, f.sub(axis.size, start)))
    spread = axis.dilation
    low = f.smax(f.sdiv(f.sub(f.sub(spread, start), 1), spread), 0)
    room = f.sub(axis.size, start)
    high = f.smax(f.sdiv(f.sub(f.add(room, spread), 1), spread), 0)
    return Span(axis, start, low, f.smin(axis.kernel, high))


def extent(f: Function, s: Span) -> Val:
    """The window's size clipped to the padded image, as Caffe's average divides by."""
    return f.smin(s.axis.kernel, f.sub(f.add(s.axis.size, s.axis.pad), s.start))


def walk(
    f: Function, spans: Sequence[Span], base: Val, carry: Sequence[Val], step: Step
) -> list[Val]:
    """`step` for every element of the window that is inside, row by row."""
    return _walk(f, spans, base, list(carry), step, [])


def _walk(
    f: Function,
    spans: Sequence[Span],
    base: Val,
    carry: list[Val],
    step: Step,
    indices: list[Val],
) -> list[Val]:
    if not spans:
        return step(base, indices, carry)
    s, *rest = spans
    with f.loop(s.low, s.high, carry=carry) as turn:
        place = f.add(s.start, f.mul(turn.index, s.axis.dilation))
        here = f.gep(base, f.mul(place, s.axis.stride))
        turn.next(_walk(f, rest, here, turn.values, step, [*indices, turn.index]))
    return turn.results
