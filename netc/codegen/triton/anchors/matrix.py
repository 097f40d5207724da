"""Convolution, its transpose, and the inner product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from netc.codegen.operand import WEIGHTS, Kernel, Operand
from netc.codegen.rounding import rounded
from netc.codegen.triton.accept import before
from netc.codegen.triton.anchors.depthwise import depthwise, is_thin
from netc.codegen.triton.home import FEW
from netc.codegen.triton.lowering import Launch, Lowering, check_reach, rule
from netc.codegen.triton.packing import Layout, packed_array, packed_count
from netc.codegen.triton.product import Axis, Group, Inner, Product
from netc.codegen.triton.product_text import lower_product
from netc.errors import UnsupportedError
from netc.ir.dims import MAX_DIM, Dim, evaluate, symbols
from netc.ir.graph import Value
from netc.ir.ops.convolution import Conv, ConvTranspose, Fc, Windowed
from netc.ir.ops.sources import Input, Param
from netc.ir.ops.windows import axis_of, known
from netc.ir.plan import BufferArg, WeightArg

# Their address, their strides from column, tap and channel, and how they are stored.
Weights: TypeAlias = tuple[BufferArg | WeightArg, tuple[Dim, Dim, Dim], str]


@rule(Conv, ConvTranspose)
def convolution(ctx: Lowering, k: Kernel) -> Launch:
    """A convolution of any window, or its transpose."""
    assert k.anchor is not None
    op, (xv, wv, *bias) = k.anchor.op, k.anchor.inputs
    assert isinstance(op, Windowed)
    main = _main(k, xv)
    x, w = k.operand(main), k.operand(wv)
    if x is None or w is None:
        raise unfit(k, "reads what is not in memory")
    if is_thin(op, x, w):
        return depthwise(ctx, k, op, x, w)
    channels, columns = (v.type.shape[1] // op.groups for v in (main, k.anchor.out))
    lanes = x.type.shape[1] // op.groups  # at least as many as channels
    layout = _layout(op, w, lanes) if w.buffer == WEIGHTS else None
    weights, strides, element = packed(ctx, k, w, layout) if layout else _computed(k, op, w)
    taps, patches = known(w.type.shape[2:], "taps"), layout is not None and layout.patches
    spread = 1 if lanes * op.groups == 1 else x.strides[1]
    group = Group(op.groups, spread * channels, strides[0] * columns, axis=1)
    made = Product(
        x=x,
        axes=_plain_axes(x) if patches else _window_axes(x, k.anchor.out.type.shape, op, taps),
        inner=(),
        channels=channels,
        spread=spread,
        columns=columns * (math.prod(taps) if patches else 1),
        groups=(group,) if op.groups > 1 else (),
        weights=weights,
        element=element,
        row=strides[0],
        tap=strides[1],
        lane=strides[2],
        channel_axis=1,
        flat=layout.flat if layout else 0,
        bias=bias[0] if bias else None,
        given=k.anchor.out,
        fed=xv if main is not xv else None,
        main=main,
        patches=taps if patches else (),
    )
    return lower_product(ctx, k, made)


def _layout(op: Windowed, w: Operand, lanes: Dim) -> Layout:
    """How constant weights of a convolution are packed, where x has so many channels a group."""
    first, second, *taps = w.type.sizes({})
    transposed = isinstance(op, ConvTranspose)
    columns, channels = (second, first // op.groups) if transposed else (first // op.groups, second)
    few = channels < FEW and max(taps, default=1) > 1 and not transposed
    flat, patches = int(lanes) if few else 0, transposed and _side_by_side(op, taps)
    return Layout(op.groups, columns, tuple(taps), channels, flat, transposed, patches=patches)


def _side_by_side(op: Windowed, taps: Sequence[int]) -> bool:
    """Whether the windows of a transposed convolution cover its result without overlapping."""
    stride, pad, dilation = op.window(len(taps))
    even = tuple(stride) == tuple(taps) and not any(pad) and set(dilation) <= {1}
    return even and op.groups == 1 and max(taps, default=1) > 1


def _plain_axes(x: Operand) -> tuple[Axis, ...]:
    """The rows are the places of x."""
    pairs = zip(x.type.shape, x.strides, strict=True)
    return tuple(Axis(size, step) for i, (size, step) in enumerate(pairs) if i != 1)


def _window_axes(
    x: Operand, outs: Sequence[Dim], op: Windowed, taps: Sequence[int]
) -> tuple[Axis, ...]:
    """The rows are the places of the result, each with a window in x."""
    transposed = isinstance(op, ConvTranspose)
    axes = [Axis(x.type.shape[0], x.strides[0])]
    window = zip(taps, *op.window(len(taps)), strict=True)
    for i, (count, stride, pad, dilation) in enumerate(window, start=2):
        reach = x.type.shape[i] if transposed or pad else None
        pads = pad if reach is not None else 0
        size, step = outs[i], x.strides[i]
        axes.append(Axis(size, step, stride, pads, dilation, count, reach, transposed))
    return tuple(axes)


def _main(k: Kernel, x: Value) -> Value:
    """The value in memory that a convolution's input is, or is computed from."""
    read = [v for v in before(x) if isinstance(v.op, Input | Param)]
    return next((v for v in read if v.type.shape == x.type.shape), x)


def packed(ctx: Lowering, k: Kernel, w: Operand, layout: Layout) -> Weights:
    """A parameter, packed and stored as the anchor's precision says."""
    assert k.anchor is not None
    assert w.array is not None
    element = ctx.precision_of(k.anchor).element
    check_reach(k.node, "the packed form of its weights", packed_count(layout.words, w.array.shape))
    if element:
        packed = packed_array(np.asarray(w.array, np.float32), layout)
        return ctx.weight(rounded(packed, element)), layout.strides, element
    return ctx.store.packed(w.array, layout.words), layout.strides, element


def _computed(k: Kernel, op: Windowed | Fc, w: Operand) -> Weights:
    """What a run computes, read as it lies."""
    pointer = w.pointer()
    assert isinstance(pointer, BufferArg)
    taps = w.type.shape[2:]
    order = [axis for axis, size in enumerate(taps) if size != 1]
    runs = _runs(taps, w.strides[2:], order)
    if len(runs) > 1:
        raise unfit(k, "reads weights whose windows have gaps")
    tap = runs[0][1] if runs else 1
    column, lane = w.strides[1::-1] if isinstance(op, ConvTranspose) else w.strides[:2]
    return pointer, (column, tap, lane), w.element


@rule(Fc)
def inner_product(ctx: Lowering, k: Kernel) -> Launch:
    """Rows of x times the weights; constant weights take the order in which x lies."""
    assert k.anchor is not None
    op, (xv, wv, *bias) = k.anchor.op, k.anchor.inputs
    assert isinstance(op, Fc)
    x, w = k.operand(xv), k.operand(wv)
    if x is None or w is None:
        raise unfit(k, "reads what is not in memory")
    axis = axis_of(op.axis, x.type.rank)
    rows = tuple(
        Axis(size, step) for size, step in zip(x.type.shape[:axis], x.strides[:axis], strict=True)
    )
    sizes = x.type.shape[axis:]
    order = _memory_order(sizes, x.strides[axis:])
    *outer, (channels, spread) = _runs(sizes, x.strides[axis:], order) or [(1, 1)]
    inner = tuple(Inner(int(size), step) for size, step in outer)
    if w.buffer == WEIGHTS:
        columns, depth = w.type.sizes({})[0], tuple(int(d) for d in sizes)
        taps = tuple(i.taps for i in inner)
        layout = Layout(1, columns, taps, int(channels), 0, False, depth, tuple(order))
        weights, strides, element = packed(ctx, k, w, layout)
    else:
        assert not inner, "beside computed weights x lies in their order"
        weights, strides, element = _computed(k, op, w)
    return lower_product(
        ctx,
        k,
        Product(
            x=x,
            axes=rows,
            inner=inner,
            channels=channels,
            spread=spread,
            columns=w.type.shape[0],
            groups=(),
            weights=weights,
            element=element,
            row=strides[0],
            tap=strides[1],
            lane=strides[2],
            channel_axis=axis,
            flat=0,
            bias=bias[0] if bias else None,
            given=k.anchor.out,
            main=xv,
        ),
    )


def unfit(k: Kernel, why: str) -> UnsupportedError:
    """What is raised for a product that no kernel does."""
    return UnsupportedError(f"%{k.node.name} {why}, which has no GPU kernel", k.node.loc)


def _memory_order(sizes: Sequence[Dim], strides: Sequence[Dim]) -> list[int]:
    """The axes as they lie in memory, the slowest first; those of 1 where they stand.

    A stride is a product of sizes: it is larger than another whatever its symbols are.
    """
    real = [a for a, size in enumerate(sizes) if size != 1]
    steps = [evaluate(s, dict.fromkeys(symbols(s), MAX_DIM)) for s in strides]
    return sorted(real, key=lambda a: (-steps[a], a))


def _runs(
    sizes: Sequence[Dim], strides: Sequence[Dim], order: Sequence[int]
) -> list[tuple[Dim, Dim]]:
    """Sizes and strides of the axes in memory's order; neighbours that run on evenly are one."""
    out: list[tuple[Dim, Dim]] = []
    for a in order:
        if out and out[-1][1] == strides[a] * sizes[a]:
            out[-1] = (out[-1][0] * sizes[a], strides[a])
        else:
            out.append((sizes[a], strides[a]))
    return out
