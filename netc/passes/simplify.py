"""Algebra: fewer ops for the same numbers.

A rule keeps NaN and infinities where the net has them: x · 0 is not 0, and constants are joined
only while neither they nor their products leave the range in which float32 is exact to scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from netc.ir.dims import Dim, product
from netc.ir.graph import Graph, Node, Stage, Value
from netc.ir.ops.convolution import Conv
from netc.ir.ops.elementwise import (
    Abs,
    Add,
    Affine,
    Clip,
    Elu,
    Exp,
    Maximum,
    Minimum,
    Mul,
    Prelu,
    Relu,
    Sigmoid,
    Softplus,
    Sqrt,
    Sub,
)
from netc.ir.ops.matmul import MatMul
from netc.ir.ops.shape import Concat, Reshape, Slice, Transpose
from netc.ir.ops.sources import Const, Param
from netc.ir.scalar import broadcast
from netc.ir.types import DType
from netc.passes.base import BEFORE_KERNELS, Context
from netc.passes.canonicalize import reshaped
from netc.passes.rewrite import Rewriter, Rule, rewrite, rule

MODERATE = 1e9  # |c| and 1/|c| of constants that may be joined; products stay far from overflow
SMALL = 1 << 16  # elements of a parameter that is worth a look at its values


def moderate(*numbers: float) -> bool:
    """Whether every number is 0 or of a size whose products neither overflow nor vanish."""
    return all(c == 0 or 1 / MODERATE <= abs(c) <= MODERATE for c in numbers)


@rule(Affine)
def join_affines(rw: Rewriter, node: Node) -> Value | None:
    """(x·a + b)·c + d = x·(a·c) + (b·c + d)."""
    match node:
        case Node(
            op=Affine(scale=c, shift=d),
            inputs=(Value(node=Node(op=Affine(scale=a, shift=b), inputs=(x,))) as v,),
        ) if rw.readers(v) == 1 and moderate(a, b, c, d) and a * c != 0:
            return rw.affine(x, scale=a * c, shift=b * c + d)
    return None


@rule(Add, Sub, Mul)
def constant_operand(rw: Rewriter, node: Node) -> Value | None:
    """x + c = 1·x + c, x − c = 1·x − c, c − x = −1·x + c, x · c = c·x + 0, c one number."""
    a, b = node.inputs
    if node.out.type.dtype is not DType.F32:
        return None
    for x, other, first in ((a, b, True), (b, a, False)):
        if x.type != node.out.type or (c := uniform(rw, other)) is None:
            continue
        match node.op:
            case Mul():
                return rw.affine(x, scale=c)
            case Add():
                return rw.affine(x, shift=c)
            case Sub():
                return rw.affine(x, shift=-c) if first else rw.affine(x, scale=-1.0, shift=c)
    return None


def uniform(rw: Rewriter, value: Value) -> float | None:
    """The number a constant or fixed parameter has in every element, None where they differ."""
    if isinstance(value.op, Const):
        return float(np.float32(value.op.value))
    if not isinstance(value.op, Param) or not rw.fixed(value):
        return None
    count = value.type.count
    if not isinstance(count, int) or not 0 < count <= SMALL:
        return None
    array = rw.evaluator.raw(value.node)
    first = float(array.flat[0])
    if float(array.flat[-1]) != first:
        return None
    return first if math.isfinite(first) and bool((array == first).all()) else None


@rule(Add, Mul)
def join_fixed(rw: Rewriter, node: Node) -> Value | None:
    """(x · p) · q = x · (p · q) and (x + p) + q = x + (p + q), for fixed p and q."""
    for v, q in (node.inputs, node.inputs[::-1]):
        if not rw.fixed(q) or rw.fixed(v) or type(v.op) is not type(node.op):
            continue
        if rw.readers(v) != 1:
            continue
        for x, p in (v.node.inputs, v.node.inputs[::-1]):
            if rw.fixed(p) and not rw.fixed(x) and x.type == node.out.type and _joins(rw, p, q):
                joined = rw(node.op, p, q, name=f"{node.name}.joined")
                return rw(node.op, x, joined.out).out
    return None


def _joins(rw: Rewriter, p: Value, q: Value) -> bool:
    """Whether p with q is no larger than the larger of them, and safe from overflow."""
    shape = broadcast(p.type.shape, q.type.shape)
    counts = [v.type.count for v in (p, q)]
    if product(shape) not in counts or any(not isinstance(n, int) or n > SMALL for n in counts):
        return False
    return all(bool(np.all(np.abs(rw.array(v)) <= MODERATE)) for v in (p, q))


@rule(Mul, Affine)
def scale_of_scale(rw: Rewriter, node: Node) -> Value | None:
    """(x·c + 0) · p = x · (c·p) = (x · p)·c + 0, for fixed p."""
    match node:
        case Node(op=Mul(), inputs=inputs):
            for v, p in (inputs, inputs[::-1]):
                match v:
                    case Value(node=Node(op=Affine(scale=c, shift=0.0), inputs=(x,))) if (
                        rw.fixed(p)
                        and not rw.fixed(x)
                        and x.type == node.out.type
                        and rw.readers(v) == 1
                        and moderate(c)
                        and c != 0
                    ):
                        return rw.mul(x, rw.affine(p, scale=c, name=f"{node.name}.joined"))
        case Node(
            op=Affine(scale=c, shift=0.0), inputs=(Value(node=Node(op=Mul(), inputs=xs)) as v,)
        ) if rw.readers(v) == 1 and moderate(c) and c != 0:
            for x, p in (xs, xs[::-1]):
                if rw.fixed(p) and not rw.fixed(x):
                    return rw.mul(x, rw.affine(p, scale=c, name=f"{node.name}.joined"))
    return None


@rule(Relu)
def relu_of(rw: Rewriter, node: Node) -> Value | None:
    """relu(relu(x)) = relu(x); of sigmoid, exp, sqrt, softplus, abs it is that; of clip a clip."""
    match node:
        case Node(op=Relu(slope=0.0), inputs=(Value(op=Sigmoid() | Exp() | Softplus()) as v,)):
            return v
        case Node(op=Relu(slope=0.0), inputs=(Value(op=Abs() | Sqrt()) as v,)):
            return v
        case Node(op=Relu(), inputs=(Value(op=Relu(slope=0.0)) as v,)):
            return v  # v ≥ 0
        case Node(
            op=Relu(slope=0.0),
            inputs=(Value(node=Node(op=Relu(slope=s) | Elu(alpha=s), inputs=(x,))),),
        ) if s >= 0:
            return rw.relu(x)
        case Node(
            op=Relu(slope=0.0), inputs=(Value(node=Node(op=Clip(low=a, high=b), inputs=(x,))),)
        ):
            return rw.clip(x, low=max(a, 0.0), high=max(b, 0.0))
    return None


@rule(Clip)
def clip_of(rw: Rewriter, node: Node) -> Value | None:
    """clip(relu(x), a, b) = clip(x, max(a, 0), b) for b ≥ 0; clip(clip(x)) is one clip."""
    match node:
        case Node(
            op=Clip(low=a, high=b),
            inputs=(Value(node=Node(op=Relu(slope=0.0), inputs=(x,))),),
        ) if b >= 0:
            return rw.clip(x, low=max(a, 0.0), high=b)
        case Node(
            op=Clip(low=a, high=b),
            inputs=(Value(node=Node(op=Clip(low=c, high=d), inputs=(x,))),),
        ):
            return rw.clip(x, low=min(max(a, c), b), high=min(max(d, a), b))
    return None


@rule(Maximum, Minimum)
def same_twice(rw: Rewriter, node: Node) -> Value | None:
    """max(x, x) = min(x, x) = x."""
    x, y = node.inputs
    return x if x == y else None


@rule(Abs)
def abs_of(rw: Rewriter, node: Node) -> Value | None:
    """|relu(x)| = relu(x), ||x|| = |x|."""
    match node.inputs[0]:
        case Value(op=Relu(slope=0.0) | Abs() | Exp() | Sigmoid()) as v:
            return v
    return None


@rule(Prelu)
def constant_slope(rw: Rewriter, node: Node) -> Value | None:
    """prelu(x, a) = relu(x; slope=a) where every slope is the same number, not 0 (−∞ · 0)."""
    x, slope = node.inputs
    a = uniform(rw, slope)
    return rw.relu(x, slope=a) if a and x.type == node.out.type else None


@rule(Reshape)
def reshape_of_reshape(rw: Rewriter, node: Node) -> Value | None:
    """reshape(reshape(x)) = reshape(x)."""
    match node.inputs[0]:
        case Value(node=Node(op=Reshape(), inputs=(x,))):
            if x.type == node.out.type:
                return x
            return reshaped(rw, x, node.out.type.shape)
    return None


@rule(Transpose)
def transpose_of_transpose(rw: Rewriter, node: Node) -> Value | None:
    """transpose(transpose(x, q), p) = transpose(x, q∘p)."""
    match node:
        case Node(
            op=Transpose(perm=p), inputs=(Value(node=Node(op=Transpose(perm=q), inputs=(x,))),)
        ):
            return rw.transpose(x, perm=tuple(q[i] for i in p))
    return None


@rule(MatMul)
def turned_factor(rw: Rewriter, node: Node) -> Value | None:
    """matmul(x, yᵀ) = matmul(x, y; transpose_y), and of xᵀ likewise."""
    op, (x, y) = node.op, node.inputs
    assert isinstance(op, MatMul)
    if (turned := _matrices_turned(x)) is not None:
        return rw(replace(op, transpose_x=not op.transpose_x), turned, y).out
    if (turned := _matrices_turned(y)) is not None:
        return rw(replace(op, transpose_y=not op.transpose_y), x, turned).out
    return None


def _matrices_turned(v: Value) -> Value | None:
    """What a value is the transpose of, matrix by matrix."""
    if not isinstance(v.op, Transpose):
        return None
    *outer, rows, columns = v.op.order(v.type.rank)
    swapped = (rows, columns) == (v.type.rank - 1, v.type.rank - 2)
    return v.node.inputs[0] if swapped and outer == list(range(len(outer))) else None


@rule(MatMul)
def fixed_factor(rw: Rewriter, node: Node) -> Value | None:
    """x · p = fc(x, pᵀ) along the last axis, for a fixed matrix p: it is packed when compiling."""
    match node:
        case Node(op=MatMul(transpose_x=False, transpose_y=turned), inputs=(x, p)) if (
            rw.fixed(p) and not rw.fixed(x) and p.type.rank == 2
        ):
            weights = p if turned else rw.transpose(p, perm=(1, 0), name=f"{node.name}.turned")
            return rw.fc(x, weights, axis=x.type.rank - 1)
    return None


@rule(Slice)
def slice_of(rw: Rewriter, node: Node) -> Value | None:
    """A slice of a slice is one slice; of a concat, within one part, it is of that part."""
    match node:
        case Node(
            op=Slice(axis=axis, start=start, stop=stop),
            inputs=(Value(node=Node(op=Slice(axis=same, start=base), inputs=(x,))),),
        ) if axis == same and stop is not None:
            return rw.slice(x, axis=axis, start=base + start, stop=base + stop)
        case Node(
            op=Slice(axis=axis, start=int(start), stop=int(stop)),
            inputs=(Value(node=Node(op=Concat(axis=same), inputs=parts)),),
        ) if axis == same:
            return _within_part(rw, parts, axis, start, stop)
    return None


def _within_part(
    rw: Rewriter, parts: tuple[Value, ...], axis: int, start: int, stop: int
) -> Value | None:
    begin = 0
    for part in parts:
        size = part.type.shape[axis]
        if not isinstance(size, int) or start < begin:
            return None
        if start >= begin and stop <= begin + size and start < begin + size:
            if size == stop - start:
                return part
            return rw.slice(part, axis=axis, start=start - begin, stop=stop - begin)
        begin += size
    return None


@rule(Concat)
def concat_of(rw: Rewriter, node: Node) -> Value | None:
    """Slices of x that follow one another are one slice; a concat read once is part of the next."""
    match node:
        case Node(op=Concat(axis=axis), inputs=inputs):
            parts: list[Value] = []
            for v in inputs:
                inner = v.op
                if isinstance(inner, Concat) and inner.axis == axis and rw.readers(v) == 1:
                    parts += v.node.inputs
                elif parts and (whole := _adjacent(rw, parts[-1], v, axis)) is not None:
                    parts[-1] = whole
                else:
                    parts.append(v)
            if len(parts) == 1 and parts[0].type == node.out.type:
                return parts[0]
            if len(parts) != len(inputs):
                return rw(node.op, *parts).out
    return None


def _adjacent(rw: Rewriter, first: Value, second: Value, axis: int) -> Value | None:
    match first, second:
        case (
            Value(node=Node(op=Slice(axis=a, start=start, stop=stop), inputs=(x,))),
            Value(node=Node(op=Slice(axis=b, start=begin, stop=end), inputs=(y,))),
        ) if x == y and a == b == axis and stop == begin and end is not None:
            whole = start == 0 and end == x.type.shape[axis]
            return x if whole else rw.slice(x, axis=axis, start=start, stop=end)
    return None


@rule(Conv)
def taps_on_padding(rw: Rewriter, node: Node) -> Value | None:
    """conv(x, w) = conv(x, the taps of w that meet x somewhere), of x no larger than its padding.

    A tap that meets only padding gives zeros, whatever its weights.
    """
    x, w, *bias = node.inputs
    op = node.op
    assert isinstance(op, Conv)
    if rw.readers(w) > 1 or not rw.fixed(w):
        return None
    kernel = w.type.sizes({})[2:]
    sizes = zip(x.type.shape[2:], node.out.type.shape[2:], kernel, strict=True)
    windows = zip(*op.window(len(kernel)), strict=True)
    cuts = [_taps(*size, *window) for size, window in zip(sizes, windows, strict=True)]
    for axis, (start, stop, _) in enumerate(cuts, 2):
        if stop - start < w.type.shape[axis]:
            w = rw.slice(w, axis=axis, start=start, stop=stop)
    if w == node.inputs[1]:
        return None
    return rw(replace(op, pad=tuple(pad for _, _, pad in cuts)), x, w, *bias).out


def _taps(
    size: Dim, made: Dim, kernel: int, stride: int, pad: int, dilation: int
) -> tuple[int, int, int]:
    """The first tap that meets some of this many elements, the end of such taps, and their pad."""
    if not isinstance(size, int) or not isinstance(made, int) or not pad:
        return 0, kernel, pad
    # The first window, if any, whose tap t is not before the first element, and the tap's place.
    first = [(t, max(0, -((t * dilation - pad) // stride))) for t in range(kernel)]
    met = [t for t, i in first if i < made and i * stride - pad + t * dilation < size]
    if not met:
        return 0, kernel, pad
    start, stop = met[0], met[-1] + 1
    left = pad - start * dilation
    extent = (stop - start - 1) * dilation + 1
    same = left >= 0 and (size + 2 * left - extent) // stride + 1 == made
    return (start, stop, left) if same else (0, kernel, pad)


RULES: tuple[Rule, ...] = (
    join_affines, constant_operand, join_fixed, scale_of_scale, relu_of, clip_of, same_twice,
    abs_of, constant_slope, reshape_of_reshape, transpose_of_transpose, turned_factor,
    fixed_factor, slice_of, concat_of, taps_on_padding,
)  # fmt: skip


@dataclass(frozen=True)
class Simplify:
    """Join neighbours that one op can do, by algebra that keeps NaN and infinities."""

    name: ClassVar[str] = "simplify"
    needs: ClassVar[tuple[Stage, ...]] = BEFORE_KERNELS
    gives: ClassVar[Stage | None] = None
    rules: tuple[Rule, ...] = RULES

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph in which no rule fires."""
        return rewrite(graph, self.rules, ctx, self.name)
