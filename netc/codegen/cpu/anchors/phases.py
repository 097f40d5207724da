"""Transposed convolutions: a kernel for each phase, into channel blocks or row-major."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from netc.codegen.cpu.anchors.depthwise import depthwise_call
from netc.codegen.cpu.anchors.direct import direct_call, lower_direct_transpose, window_of
from netc.codegen.cpu.anchors.formula import Tail
from netc.codegen.cpu.anchors.lines import Window
from netc.codegen.cpu.anchors.matrices import (
    Matrix,
    group_step,
    matrix_call,
    neighbours,
    pixels_together,
    taps_of,
)
from netc.codegen.cpu.anchors.pairs import are_pairs, of_rounded, rounded, weights_for
from netc.codegen.cpu.anchors.results import Results
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.cpu.packing import phase_places
from netc.codegen.operand import Call, Kernel, Operand
from netc.codegen.phases import MOST, Phase, axes_of
from netc.ir.dims import Dim
from netc.ir.ops.convolution import ConvTranspose
from netc.ir.plan import WeightArg

Pair = tuple[Phase, ...]  # one for each spatial axis


@rule(ConvTranspose, short=True)
def lower_conv_transpose(ctx: Lowering, k: Kernel) -> Call | tuple[Call, ...]:
    """A call for each phase or run of them, or the direct kernel."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, ConvTranspose)
    if not k.outs[0].is_c8:
        return _row_major(ctx, k)
    x = k.anchor_operands()[0]
    axes = axes_of(k.anchor)
    assert all(a.halo <= h for a, h in zip(axes, x.halo, strict=True)), "phases need a halo"
    alone = k.anchor.op.groups > 1 and k.anchor.inputs[1].type.shape[:2] == (k.anchor.op.groups, 1)
    rows, columns = (list(a.phases()) for a in axes)
    if alone:
        return _parts(_each_channel(ctx, k, rows, columns))
    shape, groups = k.anchor_operands()[1].type.sizes({}), k.anchor.op.groups
    channels = shape[0] // groups
    taps = math.prod(max(p.taps for p in phases) for phases in (rows, columns))
    if x.element or not are_pairs(ctx, k.node, channels * taps):
        return _parts(_matrices(ctx, k, x, rows, columns))
    made = rounded(ctx, x, channels, tuple(a.halo for a in axes))
    return of_rounded(k, made, _parts(_matrices(ctx, k, made.operand, rows, columns)))


def _parts(calls: Iterator[Call]) -> tuple[Call, ...]:
    return tuple(replace(call, part=f"phase {i}") for i, call in enumerate(calls))


def _row_major(ctx: Lowering, k: Kernel) -> Call | tuple[Call, ...]:
    """Direct convolutions, or, where they would be too many, the direct kernel of the transpose."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, ConvTranspose)
    axes = axes_of(k.anchor)
    few = math.prod(a.count for a in axes) <= MOST
    if not few or not all(_is_cut(o, k.outs[0]) for o in Tail(k).operands):
        return lower_direct_transpose(ctx, k)
    x, w, *bias = k.anchor_operands()
    whole = window_of(k.anchor.op, w)
    calls = []
    for phases in itertools.product(*(a.phases() for a in axes)):
        calls.append(direct_call(ctx, _part(k, phases), x, _seen_by(whole, phases), bias))
    return _parts(iter(calls))


def _seen_by(whole: Window, phases: Pair) -> Window:
    """The window of the convolution that gives a phase."""
    taken = whole.weights[:, :, *(slice(p.residue, None, p.every) for p in phases)]
    return Window(
        weights=np.flip(taken, tuple(range(2, taken.ndim))),
        groups=whole.groups,
        stride=(1,) * len(phases),
        pad=tuple((p.taps - 1) * p.back - p.start for p in phases),
        dilation=tuple(p.back for p in phases),
    )


def _is_cut(o: Operand, out: Operand) -> bool:
    """Whether strides can say what a phase sees of an operand of the tail."""
    if o.array is None and o.type.rank == out.type.rank:
        return True
    spatial = o.type.shape[max(0, o.type.rank - out.type.rank + 2) :]
    return all(d == 1 for d in spatial)


def _each_channel(
    ctx: Lowering, k: Kernel, rows: list[Phase], columns: list[Phase]
) -> Iterator[Call]:
    """Depthwise kernels."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, ConvTranspose)
    whole = window_of(k.anchor.op, k.anchor_operands()[1])
    for pair in itertools.product(rows, columns):
        part = _part(k, pair)
        results = Results(ctx, part, blocked=True, shape=part.outs[0].type.shape)
        yield depthwise_call(ctx, k, _seen_by(whole, pair), results)


def _matrices(
    ctx: Lowering, k: Kernel, x: Operand, rows: list[Phase], columns: list[Phase]
) -> Iterator[Call]:
    """Matrix kernels, whose weights lie one after the other; x may be rounded."""
    assert k.anchor is not None
    assert isinstance(k.anchor.op, ConvTranspose)
    w = k.anchor_operands()[1]
    groups, every = k.anchor.op.groups, (rows[0].every, columns[0].every)
    packed = weights_for(ctx, x, w, ("phases", groups, *every))
    places = phase_places(w.type.sizes({}), groups, every, neighbours(x))
    images = pixels_together(x.type.shape[0], (rows[0].count, columns[0].count))
    runs = _runs(columns) if groups == 1 else [[q] for q in columns]
    for row, run in itertools.product(rows, runs):
        place = places.get((row.residue, run[0].residue), slice(0, 0))
        weights = WeightArg(packed.offset + 4 * place.start)
        m = _phase(x, (row, run[0]), weights, groups, w.type.sizes({}))
        m = _run(replace(m, together=images), run, x.strides[3])
        yield matrix_call(ctx, _part(k, (row, run[0])), m)


def _runs(phases: list[Phase]) -> list[list[Phase]]:
    """Phases that can be groups of one call: their weights, inputs and outputs are evenly apart."""
    runs: list[list[Phase]] = []
    for p in sorted(phases, key=lambda p: p.residue):
        if runs and _goes_on(runs[-1], p):
            runs[-1].append(p)
        else:
            runs.append([p])
    return runs


def _goes_on(run: list[Phase], p: Phase) -> bool:
    last = run[-1]
    alike = (last.residue + 1, last.taps, last.count) == (p.residue, p.taps, p.count)
    apart = (p.first - last.first, p.start - last.start)
    before = run[-2] if len(run) > 1 else None
    return alike and (
        before is None or apart == (last.first - before.first, last.start - before.start)
    )


def _run(m: Matrix, run: list[Phase], column: Dim) -> Matrix:
    """The matrix kernel of a whole run, of which `m` is the first; whole rows fill cache lines."""
    if len(run) == 1:
        return m
    first, second = run[:2]
    inputs, outputs = second.start - first.start, second.first - first.first
    return replace(m, groups=len(run), in_group=inputs * column, beside=(outputs, first.step))


def _phase(
    x: Operand, pair: Pair, weights: WeightArg, groups: int, shape: tuple[int, ...]
) -> Matrix:
    """One phase: a convolution of stride 1 whose window runs backwards."""
    channels = shape[0] // groups
    rows, columns = x.strides[2:]
    window = tuple(p.taps for p in pair)
    steps = tuple(-p.back * s for p, s in zip(pair, (rows, columns), strict=True))
    taps, n8, n1 = taps_of(x, channels, window, steps)
    return Matrix(
        source=x,
        shift=-(pair[0].start * rows + pair[1].start * columns),
        images=x.type.shape[0],
        together=1,
        outputs=tuple(p.count for p in pair),
        in_steps=(rows, columns),
        in_image=x.strides[0],
        in_group=group_step(x, channels),
        taps=taps,
        n8=n8,
        n1=n1,
        groups=groups,
        channels=shape[1],
        weights=weights,
    )


def _part(k: Kernel, pair: Pair) -> Kernel:
    """The kernel with what one phase sees of its results and of the tail's operands."""
    out = k.outs[0]
    alike = [
        o.array is None and (o.is_c8, o.type.rank) == (out.is_c8, out.type.rank) for o in k.ins
    ]
    ins = tuple(_seen(o, pair) if a else o for o, a in zip(k.ins, alike, strict=True))
    return replace(k, ins=ins, outs=tuple(_seen(o, pair) for o in k.outs))


def _seen(o: Operand, pair: Pair) -> Operand:
    """Every step-th pixel of an operand; axes of one pixel stay."""
    sizes, strides, offset = list(o.type.shape), list(o.strides), o.offset
    for axis, p in enumerate(pair, start=2):
        if sizes[axis] == 1:
            strides[axis] = 0
            continue
        offset = offset + strides[axis] * (p.first * o.item)
        sizes[axis], strides[axis] = p.count, strides[axis] * p.step
    type = o.type.with_shape(tuple(sizes))
    return replace(o, type=type, offset=offset, strides=tuple(strides), halo=(0, 0))
