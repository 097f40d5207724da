"""Which ops work on parts of their operands: f(x)[part] = f(x[part]).

A rule is asked about a node whose operand `first` comes in parts along `axis`, and says what each
part of the result reads and along which axis the result lies in parts; None where a part of the
result needs more than a part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeAlias, cast

from netc.ir.dims import Dim, product
from netc.ir.graph import Node
from netc.ir.op import Op
from netc.ir.ops.boxes import NonMaxSuppression
from netc.ir.ops.convolution import Conv, ConvTranspose, Fc, Windowed
from netc.ir.ops.devices import AllGather, AllReduce
from netc.ir.ops.elementwise import Cast
from netc.ir.ops.image import ResizeBilinear, ResizeNearest, Unpool
from netc.ir.ops.indexing import Gather, Im2col, Pick
from netc.ir.ops.layout import ToBlocked, ToPlain
from netc.ir.ops.matmul import MatMul
from netc.ir.ops.normalization import Lrn, Softmax
from netc.ir.ops.pooling import Global, Pool
from netc.ir.ops.random import StochasticPool
from netc.ir.ops.reduction import ArgMax, Reduce
from netc.ir.ops.regions import Regions, RoiPool
from netc.ir.ops.shape import Concat, Crop, Flatten, Pad, Reshape, Slice, Tile, Transpose
from netc.ir.ops.windows import axis_of
from netc.ir.scalar import Elementwise

Sizes: TypeAlias = tuple[Dim, ...]  # of a batch they may have symbols


@dataclass(frozen=True)
class Cut:
    """An operand taken in parts of these sizes along an axis."""

    axis: int
    sizes: Sizes


@dataclass(frozen=True)
class Follow:
    """What part i of a node's result reads, operand by operand (None: the whole), and its op."""

    operands: tuple[Cut | None, ...]
    axis: int  # of the result
    ops: tuple[Op, ...]


def follow(node: Node, first: int, cut: Cut) -> Follow | None:
    """How a node works on parts, its operand `first` being cut; None where it does not."""
    if len(node.types) != 1 or isinstance(node.op, StochasticPool):
        return None
    for ops, rule in _RULES:
        if isinstance(node.op, ops):
            return rule(node, first, cut)
    return None


def _alone(node: Node, cut: Cut, axis: int | None = None) -> Follow:
    """Part of the first operand, whole others, the op as it is."""
    rest: tuple[Cut | None, ...] = (None,) * (len(node.inputs) - 1)
    ops = (node.op,) * len(cut.sizes)
    return Follow((cut, *rest), cut.axis if axis is None else axis, ops)


def _elementwise(node: Node, first: int, cut: Cut) -> Follow:
    """Operands aligned at the end; those of one element along the axis are read whole."""
    rank = node.types[0].rank
    at = cut.axis + rank - node.inputs[first].type.rank
    operands: list[Cut | None] = []
    for v in node.inputs:
        axis = at - (rank - v.type.rank)
        whole = axis < 0 or v.type.shape[axis] == 1
        operands.append(None if whole else Cut(axis, cut.sizes))
    return Follow(tuple(operands), at, (node.op,) * len(cut.sizes))


def _planes(node: Node, first: int, cut: Cut) -> Follow | None:
    """Batch and channels are independent."""
    return _alone(node, cut) if cut.axis < 2 and first == 0 else None


def _rows(node: Node, first: int, cut: Cut) -> Follow | None:
    """The batch is independent."""
    return _alone(node, cut) if cut.axis == 0 and first == 0 else None


def _unpool(node: Node, first: int, cut: Cut) -> Follow | None:
    """Value and index are cut alike."""
    return Follow((cut, cut), cut.axis, (node.op,) * len(cut.sizes)) if cut.axis < 2 else None


def _lrn(node: Node, first: int, cut: Cut) -> Follow | None:
    """Sums run over channels."""
    return None if cut.axis == 1 else _alone(node, cut)


def _softmax(node: Node, first: int, cut: Cut) -> Follow | None:
    """Sums run over one axis."""
    axis = axis_of(cast(Softmax, node.op).axis, node.types[0].rank)
    return None if cut.axis == axis else _alone(node, cut)


def _reduce(node: Node, first: int, cut: Cut) -> Follow | None:
    """An axis that is summed must be whole; without `keep` those before it are gone."""
    op = cast(Reduce, node.op)
    over = op.over(node.inputs[0].type.rank)
    if cut.axis in over:
        return None
    before = 0 if op.keep else sum(a < cut.axis for a in over)
    return _alone(node, cut, cut.axis - before)


def _windowed(node: Node, first: int, cut: Cut) -> Follow | None:
    """conv(x, w)[batch] = conv(x[batch], w); groups of channels are convolutions of their own."""
    if first != 0 or cut.axis > 1:
        return None
    return _alone(node, cut) if cut.axis == 0 else by_groups(node, cut.sizes)


def by_groups(node: Node, sizes: Sizes) -> Follow | None:
    """conv(x, w; g groups) = concat(conv(x[group], w[group])), input channels cut at groups."""
    op, (x, _, *bias) = cast(Windowed, node.op), node.inputs
    channels, out = x.type.shape[1], node.types[0].shape[1]
    if not (isinstance(channels, int) and isinstance(out, int)) or op.groups == 1:
        return None
    depth, counts = channels // op.groups, [s for s in sizes if isinstance(s, int) and s]
    if not depth or len(counts) < len(sizes) or any(count % depth for count in counts):
        return None
    groups = tuple(count // depth for count in counts)
    given = tuple(g * (out // op.groups) for g in groups)
    rows = given if isinstance(op, Conv) else sizes
    cuts = (Cut(1, sizes), Cut(0, rows), *(Cut(0, given) for _ in bias))
    return Follow(cuts, 1, tuple(replace(op, groups=g) for g in groups))


def _fc(node: Node, first: int, cut: Cut) -> Follow | None:
    """Axes before the inner ones are independent."""
    axis = axis_of(cast(Fc, node.op).axis, node.inputs[0].type.rank)
    return _alone(node, cut) if first == 0 and cut.axis < axis else None


def _matmul(node: Node, first: int, cut: Cut) -> Follow | None:
    """Products are independent of each other; so are rows of x, and columns of y."""
    op, given = cast(MatMul, node.op), node.inputs[first].type.rank
    if cut.axis < given - 2:
        return _elementwise(node, first, cut)
    turned = op.transpose_y if first else op.transpose_x
    inner = given - 2 if (first == 0) == turned else given - 1
    if cut.axis == inner:
        return None
    operands = (None, cut) if first else (cut, None)
    axis = node.types[0].rank - (1 if first else 2)
    return Follow(operands, axis, (op,) * len(cut.sizes))


def _concat(node: Node, first: int, cut: Cut) -> Follow | None:
    """Along another axis, every operand is cut."""
    if cut.axis == axis_of(cast(Concat | AllGather, node.op).axis, node.types[0].rank):
        return None
    return Follow((cut,) * len(node.inputs), cut.axis, (node.op,) * len(cut.sizes))


def _along(node: Node, first: int, cut: Cut) -> Follow | None:
    """Slices and repeats along another axis."""
    axis = axis_of(cast(Slice | Tile, node.op).axis, node.types[0].rank)
    return None if cut.axis == axis else _alone(node, cut)


def _pad(node: Node, first: int, cut: Cut) -> Follow | None:
    """Nothing is added along the axis."""
    op = cast(Pad, node.op)
    added = [side[cut.axis] for side in (op.before, op.after) if side]
    return None if any(added) else _alone(node, cut)


def _transpose(node: Node, first: int, cut: Cut) -> Follow:
    """The axis moves."""
    order = cast(Transpose, node.op).order(node.types[0].rank)
    return _alone(node, cut, order.index(cut.axis))


def _reshaped(node: Node, first: int, cut: Cut) -> Follow | None:
    """Where the sizes before the axis make the same product, parts stay together.

    The axis stays what it is, or all that follows it is one axis with it.
    """
    given, made = node.inputs[0].type.shape, node.types[0].shape
    if any(isinstance(d, int) and d == 0 for d in (*given, *made)):
        return None
    for axis, size in enumerate(made):
        if product(made[:axis]) != product(given[: cut.axis]):
            continue
        inner: Dim | None = None
        if size == given[cut.axis]:
            inner = 1
        elif axis == len(made) - 1:
            inner = product(given[cut.axis + 1 :])
        if inner is not None:
            shapes = [(*made[:axis], inner * s, *made[axis + 1 :]) for s in cut.sizes]
            return replace(_alone(node, cut, axis), ops=tuple(map(Reshape, shapes)))
    return None


def _crop(node: Node, first: int, cut: Cut) -> Follow | None:
    """The axis is not cropped; of `like` only later sizes are read."""
    axis = axis_of(cast(Crop, node.op).axis, node.types[0].rank)
    return _alone(node, cut) if first == 0 and cut.axis < axis else None


def _argmax(node: Node, first: int, cut: Cut) -> Follow | None:
    """The axis is not searched."""
    axis = cast(ArgMax, node.op).axis
    if axis is None:
        return _alone(node, cut) if cut.axis == 0 else None
    return None if cut.axis == axis_of(axis, node.types[0].rank) else _alone(node, cut)


def _groups(node: Node, first: int, cut: Cut) -> Follow | None:
    """Groups of boxes are independent."""
    return _alone(node, cut) if cut.axis < node.types[0].rank - 1 else None


def _pick(node: Node, first: int, cut: Cut) -> Follow | None:
    """A row of x has its own labels, where these have an axis for the rows."""
    x, label = (v.type for v in node.inputs)
    axis = axis_of(cast(Pick, node.op).axis, x.rank)
    rows = label.rank > 0 and label.shape[0] == x.shape[0]
    if cut.axis != 0 or axis == 0 or not rows:
        return None
    return Follow((cut, cut), 0, (node.op,) * len(cut.sizes))


def _gather(node: Node, first: int, cut: Cut) -> Follow | None:
    """Another axis than the one picked from; the index is cut where the axis is its own too."""
    x, index = (v.type for v in node.inputs)
    op = cast(Gather, node.op)
    axis = axis_of(op.axis, x.rank)
    if first != 0 or cut.axis == axis:
        return None
    if cut.axis < op.batch:
        return Follow((cut, cut), cut.axis, (op,) * len(cut.sizes))
    later = index.rank - op.batch - 1
    return _alone(node, cut, cut.axis if cut.axis < axis else cut.axis + later)


def _regions(node: Node, first: int, cut: Cut) -> Follow | None:
    """Regions are independent of each other; any image may be read. Channels are, but for R-FCN."""
    if first == 1 and cut.axis == 0:
        return Follow((None, cut), 0, (node.op,) * len(cut.sizes))
    channels = isinstance(node.op, RoiPool) and first == 0 and cut.axis == 1
    return _alone(node, cut) if channels else None


Rule = Callable[[Node, int, Cut], "Follow | None"]
_RULES: tuple[tuple[type[Op] | tuple[type[Op], ...], Rule], ...] = (
    ((Elementwise, Cast, AllReduce), _elementwise),
    ((Pool, Global, ResizeBilinear, ResizeNearest), _planes),
    ((Im2col, ToBlocked, ToPlain), _rows),
    (Unpool, _unpool),
    (Lrn, _lrn),
    (Softmax, _softmax),
    (Reduce, _reduce),
    ((Conv, ConvTranspose), _windowed),
    (Fc, _fc),
    (MatMul, _matmul),
    ((Concat, AllGather), _concat),
    ((Slice, Tile), _along),
    (Pad, _pad),
    (Transpose, _transpose),
    ((Reshape, Flatten), _reshaped),
    (Crop, _crop),
    (ArgMax, _argmax),
    (NonMaxSuppression, _groups),
    (Pick, _pick),
    (Gather, _gather),
    (Regions, _regions),
)


def bounds(sizes: Sizes) -> tuple[tuple[Dim, Dim], ...]:
    """Start and stop of each part."""
    ends: list[Dim] = list(accumulate(sizes))
    return tuple(zip([0, *ends[:-1]], ends, strict=True))
