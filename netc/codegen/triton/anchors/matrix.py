"""Convolution, its transpose, and the inner product."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from netc.codegen.operand import WEIGHTS, Kernel, Operand
from netc.codegen.triton.accept import before
from netc.codegen.triton.anchors.depthwise import depthwise, is_thin
from netc.codegen.triton.home import FEW
from netc.codegen.triton.lowering import Launch, Lowering, check_reach, rule
from netc.codegen.triton.packing import Layout, packed_array, packed_count, rounded
from netc.codegen.triton.product import Axis, Inner, Product
from netc.codegen.triton.product_text import lower_product
from netc.errors import UnsupportedError
from netc.ir.dims import MAX_DIM, Dim, evaluate, product, symbols
from netc.ir.graph import Value
from netc.ir.ops.convolution import Conv, ConvTranspose, Fc, Windowed
from netc.ir.ops.sources import Input, Param
from netc.ir.ops.windows import axis_of
from netc.ir.plan import BufferArg, WeightArg


@rule(Conv, ConvTranspose)
def convolution(ctx: Lowering, k: Kernel) -> Launch:
    """A convolution of any window, or its transpose."""
    assert k.anchor is not None
    op, (xv, wv, *bias) = k.anchor.op, k.anchor.inputs
    assert isinstance(op, Windowed)
    main = _main(k, xv)
    x, w = k.operand(main), k.operand(wv)
    if x is None or w is None:
        raise _unfit(k, "reads what is not in memory")
    if is_thin(op, x, w):
        return depthwise(ctx, k, op, x, w)
    ones = dict.fromkeys(main.type.symbols, 1)
    channels = main.type.sizes(ones)[1] // op.groups
    columns = k.anchor.out.type.sizes(ones)[1] // op.groups
    taps = w.type.sizes({})[2:]
    transposed, packed = isinstance(op, ConvTranspose), w.buffer == WEIGHTS
    patches = transposed and packed and _side_by_side(op, taps)
    lanes = x.type.sizes(ones)[1] // op.groups  # at least as many as channels
    flat = lanes if channels < FEW and max(taps, default=1) > 1 and not transposed and packed else 0
    layout = Layout(op.groups, columns, taps, channels, flat, transposed, patches=patches)
    weights, strides, element = _weights(ctx, k, wv, w, layout)
    made = Product(
        x=x,
        axes=_plain_axes(x) if patches else _window_axes(x, k.anchor.out.type.shape, op, taps),
        inner=(),
        channels=channels,
        spread=x.strides[1] if lanes * op.groups > 1 else 1,
        columns=columns * (layout.count if patches else 1),
        groups=op.groups,
        weights=weights,
        element=element,
        row=strides[0],
        tap=strides[1],
        lane=strides[2],
        channel_axis=1,
        flat=flat,
        bias=bias[0] if bias else None,
        given=k.anchor.out,
        fed=xv if main is not xv else None,
        main=main,
        patches=taps if patches else (),
    )
    return lower_product(ctx, k, made)


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


def _weights(
    ctx: Lowering, k: Kernel, value: Value, w: Operand, layout: Layout
) -> tuple[BufferArg | WeightArg, tuple[Dim, Dim, Dim], str]:
    """The address of the weights, their strides from column, tap and channel, and how stored."""
    assert k.anchor is not None
    if w.buffer == WEIGHTS and w.array is not None:
        element = ctx.precision_of(k.anchor).element
        count = packed_count(layout.words, w.array.shape)
        check_reach(k.node, "the packed form of its weights", count)
        if element:
            packed = packed_array(np.asarray(w.array, np.float32), layout)
            return ctx.weight(rounded(packed, element)), layout.strides, element
        return ctx.store.packed(w.array, layout.words), layout.strides, element
    if layout.transposed and layout.groups > 1:
        raise UnsupportedError(
            f"%{k.anchor.name}: weights in groups that a net computes", k.node.loc
        )
    pointer = w.pointer()
    assert isinstance(pointer, BufferArg)
    taps = w.type.sizes({})[2:]
    order = [axis for axis, size in enumerate(taps) if size != 1]
    runs = _runs(taps, w.strides[2:], order)
    if len(runs) > 1:
        raise _unfit(k, "reads weights whose windows have gaps")
    tap = runs[0][1] if runs else 1
    column, lane = w.strides[1::-1] if layout.transposed else w.strides[:2]
    return pointer, (column, tap, lane), w.element


@rule(Fc)
def inner_product(ctx: Lowering, k: Kernel) -> Launch:
    """Rows of x times the weights; the weights take the order in which x lies."""
    assert k.anchor is not None
    op, (xv, wv, *bias) = k.anchor.op, k.anchor.inputs
    assert isinstance(op, Fc)
    x, w = k.operand(xv), k.operand(wv)
    if x is None or w is None:
        raise _unfit(k, "reads what is not in memory")
    axis = axis_of(op.axis, x.type.rank)
    rows = tuple(
        Axis(size, step) for size, step in zip(x.type.shape[:axis], x.strides[:axis], strict=True)
    )
    sizes = tuple(int(d) for d in _numbers(x.type.shape[axis:], k))
    order = _memory_order(sizes, x.strides[axis:])
    groups = _runs(sizes, x.strides[axis:], order)
    *outer, (channels, spread) = groups or [(1, 1)]
    inner = tuple(Inner(size, step) for size, step in outer)
    taps = tuple(size for size, _ in outer)
    columns = int(w.type.sizes({})[0])
    layout = Layout(1, columns, taps, channels, 0, False, sizes, tuple(order))
    if w.buffer != WEIGHTS and (len(groups) > 1 or list(order) != sorted(order)):
        raise UnsupportedError(
            f"%{k.anchor.name}: x and computed weights differ in order", k.node.loc
        )
    weights, strides, element = _weights(ctx, k, wv, w, layout)
    return lower_product(
        ctx,
        k,
        Product(
            x=x,
            axes=rows,
            inner=inner,
            channels=channels,
            spread=spread,
            columns=columns,
            groups=1,
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


def _unfit(k: Kernel, why: str) -> UnsupportedError:
    return UnsupportedError(f"%{k.node.name} {why}, which has no GPU kernel", k.node.loc)


def _numbers(dims: Sequence[Dim], k: Kernel) -> Sequence[int]:
    found = [d for d in dims if isinstance(d, int)]
    if len(found) < len(dims):
        raise UnsupportedError(
            f"%{k.node.name}: the depth {product(tuple(dims))} is not known", k.node.loc
        )
    return found


def _memory_order(sizes: Sequence[int], strides: Sequence[Dim]) -> list[int]:
    """The axes as they lie in memory, the slowest first; those of 1 where they stand.

    A stride is a product of sizes: it is larger than another whatever its symbols are.
    """
    real = [a for a, size in enumerate(sizes) if size != 1]
    steps = [evaluate(s, dict.fromkeys(symbols(s), MAX_DIM)) for s in strides]
    return sorted(real, key=lambda a: (-steps[a], a))


def _runs(
    sizes: Sequence[int], strides: Sequence[Dim], order: Sequence[int]
) -> list[tuple[int, Dim]]:
    """Sizes and strides of the axes in memory's order; neighbours that run on evenly are one."""
    out: list[tuple[int, Dim]] = []
    for a in order:
        if out and out[-1][1] == strides[a] * sizes[a]:
            out[-1] = (out[-1][0] * sizes[a], strides[a])
        else:
            out.append((sizes[a], strides[a]))
    return out
