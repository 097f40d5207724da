"""One way to write each thing: defaults filled in, axes from the front, no-ops gone."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, cast

from netc.errors import GraphError
from netc.ir.dims import Dim
from netc.ir.graph import Builder, Graph, Node, Stage, Value
from netc.ir.op import Op
from netc.ir.ops.convolution import Conv, ConvTranspose, Fc, Windowed
from netc.ir.ops.elementwise import Affine, Pow
from netc.ir.ops.indexing import Gather, Pick
from netc.ir.ops.normalization import Softmax
from netc.ir.ops.pooling import AvgPool, MaxPool, Pool
from netc.ir.ops.reduction import Accuracy, ArgMax, Reduce, ReduceMean, ReduceSum
from netc.ir.ops.shape import Concat, Crop, Flatten, Pad, Reshape, Slice, Tile, Transpose
from netc.ir.ops.sources import Const, Param
from netc.ir.scalar import Elementwise, broadcast
from netc.ir.types import TensorType
from netc.passes.base import BEFORE_KERNELS, Context
from netc.passes.rewrite import Rewriter, Rule, rewrite, rule


@rule(Conv, ConvTranspose)
def fill_window(rw: Rewriter, node: Node) -> Value | None:
    """conv(stride=()) = conv(stride=(1, 1)): () is 1, 0, 1 for stride, pad, dilation."""
    match node:
        case Node(op=Windowed() as op, inputs=(x, *_)):
            stride, pad, dilation = op.window(x.type.rank - 2)
            full = replace(op, stride=stride, pad=pad, dilation=dilation)
            return rw(full, *node.inputs).out if full != op else None
    return None


@rule(Pool)
def fill_pool(rw: Rewriter, node: Node) -> Value | None:
    """pool(stride=(), pad=()) = pool(stride=(1, 1), pad=(0, 0))."""
    match node:
        case Node(op=Pool() as op):
            _, stride, pad = op.window()
            full = replace(op, stride=stride, pad=pad)
            return rw(full, *node.inputs).out if full != op else None
    return None


@rule(Fc, Softmax, Concat, Slice, Tile, Crop, Reduce, Gather, Pick, ArgMax, Accuracy)
def axes_from_front(rw: Rewriter, node: Node) -> Value | None:
    """axis −k of a tensor of r axes = axis r − k."""
    rank = node.inputs[0].type.rank
    axis = getattr(node.op, "axis", None)
    if isinstance(axis, int) and axis < 0:
        return rw(with_attributes(node.op, axis=axis % rank), *node.inputs).out
    axes = getattr(node.op, "axes", ())
    if any(a < 0 for a in axes):
        front = tuple(a % rank for a in axes)
        return rw(with_attributes(node.op, axes=front), *node.inputs).out
    return None


@rule(Flatten)
def flatten_is_reshape(rw: Rewriter, node: Node) -> Value | None:
    """flatten(x) = reshape(x) to the same shape."""
    (x,) = node.inputs
    if node.out.type.shape == x.type.shape:
        return x
    return reshaped(rw, x, node.out.type.shape)


@rule(Reshape)
def explicit_reshape(rw: Rewriter, node: Node) -> Value | None:
    """reshape(x, (0, −1)) = reshape(x) to the sizes meant; to x's own shape it is x."""
    (x,) = node.inputs
    if node.out.type.shape == x.type.shape:
        return x
    return reshaped(rw, x, node.out.type.shape, unless=node.op)


def reshaped(
    rw: Builder, x: Value, shape: tuple[Dim, ...], unless: Op | None = None
) -> Value | None:
    """x in another shape, its one symbolic or unequal size inferred; None for equal to `unless`.

    Sizes equal at the same position are copied (0) and a symbolic rest is inferred (−1), so that
    one graph serves every size.
    """
    sizes: list[Dim] = []
    for i, d in enumerate(shape):
        copied = not isinstance(d, int) and i < x.type.rank and x.type.shape[i] == d
        sizes.append(0 if copied else d)
    loose = [i for i, d in enumerate(sizes) if not isinstance(d, int)]
    if 0 in shape or len(loose) > 1:
        return None
    for i in loose:
        sizes[i] = -1
    op = Reshape(tuple(sizes))
    return rw(op, x).out if op != unless and _gives(op, x, shape) else None


def _gives(op: Reshape, x: Value, shape: tuple[Dim, ...]) -> bool:
    try:
        return op.infer(x.type).shape == shape
    except GraphError:
        return False


@rule(Transpose)
def plain_transpose(rw: Rewriter, node: Node) -> Value | None:
    """transpose(x, identity) = x; when only axes of size 1 move it is a reshape."""
    match node:
        case Node(op=Transpose() as op, inputs=(x,)):
            order = op.order(x.type.rank)
            if order == tuple(range(x.type.rank)):
                return x
            moved = [p for p in order if x.type.shape[p] != 1]
            if moved == sorted(moved):
                return reshaped(rw, x, node.out.type.shape)
            return rw.transpose(x, perm=order) if order != op.perm else None
    return None


@rule(Concat)
def concat_of_one(rw: Rewriter, node: Node) -> Value | None:
    """concat(x) = x, and parts of size 0 add nothing."""
    match node:
        case Node(op=Concat(axis=axis), inputs=(x,)):
            return x
        case Node(op=Concat(axis=axis), inputs=xs):
            kept = tuple(x for x in xs if x.type.shape[axis] != 0)
            if kept and len(kept) < len(xs):
                return rw(node.op, *kept).out
    return None


@rule(Slice)
def whole_slice(rw: Rewriter, node: Node) -> Value | None:
    """slice(x, 0, the whole axis) = x; an open end of a known size is that size."""
    match node:
        case Node(op=Slice(axis=axis, start=start, stop=stop), inputs=(x,)):
            size = x.type.shape[axis]
            if start == 0 and (stop is None or stop == size):
                return x
            if stop is None and isinstance(size, int):
                return rw.slice(x, axis=axis, start=start, stop=size)
    return None


@rule(Tile, Pad, Crop, Affine, Pow, MaxPool, AvgPool)
def no_op(rw: Rewriter, node: Node) -> Value | None:
    """tile 1 = pad 0 = crop to itself = 1·x + 0 = x¹ = pool of 1 by 1 = x."""
    x = node.inputs[0]
    match node.op:
        case Tile(times=1) | Affine(scale=1.0, shift=0.0) | Pow(exponent=1.0):
            return x
        case Pad(before=before, after=after) if not any(before) and not any(after):
            return x
        case Crop() if node.out.type == x.type:
            return x
        case MaxPool(kernel=k, stride=s) | AvgPool(kernel=k, stride=s) if {*k, *s} == {1}:
            return x
    return None


@rule(Fc)
def fc_reads_through(rw: Rewriter, node: Node) -> Value | None:
    """fc(reshape(x)) = fc(x): both read x row-major from some axis on."""
    match node:
        case Node(
            op=Fc(axis=axis), inputs=(Value(node=Node(op=Reshape(), inputs=(x,))) as v, *rest)
        ):
            outer = v.type.shape[:axis]
            if x.type.rank > axis and x.type.shape[:axis] == outer:
                return rw(Fc(axis=axis), x, *rest).out
    return None


@rule(Fc)
def computed_weights(rw: Rewriter, node: Node) -> Value | None:
    """fc(x, w, b) = x · wᵀ + b where a run computes w."""
    match node:
        case Node(op=Fc(axis=axis), inputs=(x, w, *bias)) if not (
            isinstance(w.op, Param) or rw.fixed(w)
        ):
            outer, (count, depth) = x.type.shape[:axis], w.type.shape
            shape = (*(outer or (1,)), depth)
            if 0 in shape:  # sums of nothing, or none
                y = rw.const(type=x.type.with_shape((*shape[:-1], count)), value=0.0)
            else:
                rows = x if x.type.shape == shape else reshaped(rw, x, shape)
                if rows is None:
                    return None
                y = rw.matmul(rows, w, transpose_y=True)
            y = rw.add(y, *bias) if bias else y
            return y if outer else reshaped(rw, y, (count,))
    return None


@rule(AvgPool)
def whole_avg_pool(rw: Rewriter, node: Node) -> Value | None:
    """avg_pool over the whole image without padding = global_avg_pool."""
    match node:
        case Node(op=AvgPool(kernel=kernel, pad=pad), inputs=(x,)):
            if kernel == x.type.shape[2:] and not any(pad):
                return rw.global_avg_pool(x)
    return None


@rule(ReduceMean, ReduceSum)
def spatial_mean(rw: Rewriter, node: Node) -> Value | None:
    """reduce_mean over height and width, kept = global_avg_pool; over no axis at all it is x."""
    match node:
        case Node(op=ReduceMean(axes=axes, keep=True), inputs=(x,)) if x.type.rank == 4:
            if sorted(axes) == [2, 3]:
                return rw.global_avg_pool(x)
        case Node(op=Reduce(axes=()), inputs=(x,)):
            return x
    return None


@rule(Elementwise)
def scalar_constant(rw: Rewriter, node: Node) -> Value | None:
    """f(x, c spread over a shape) = f(x, c) where x has the result's shape without it."""
    inputs = list(node.inputs)
    for i, v in enumerate(inputs):
        others = [u.type.shape for j, u in enumerate(inputs) if j != i]
        if isinstance(v.op, Const) and v.type.rank and broadcast(*others) == node.out.type.shape:
            inputs[i] = rw(Const(TensorType(v.type.dtype, ()), v.op.value)).out
    return rw(node.op, *inputs).out if tuple(inputs) != node.inputs else None


RULES: tuple[Rule, ...] = (
    fill_window, fill_pool, axes_from_front, flatten_is_reshape, explicit_reshape,
    plain_transpose, concat_of_one, whole_slice, no_op, fc_reads_through, computed_weights,
    whole_avg_pool, spatial_mean, scalar_constant,
)  # fmt: skip


@dataclass(frozen=True)
class Canonicalize:
    """Fill in defaults, count axes from the front, drop what does nothing."""

    name: ClassVar[str] = "canonicalize"
    needs: ClassVar[tuple[Stage, ...]] = BEFORE_KERNELS
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The canonical graph."""
        return rewrite(graph, RULES, ctx, self.name)


def with_attributes(op: Op, **changed: Any) -> Op:
    """The op with some attributes changed."""
    known = {f.name for f in fields(cast(Any, op))}
    assert known >= set(changed)
    return cast(Op, replace(cast(Any, op), **changed))
