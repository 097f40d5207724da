"""Matrix products of two values, batches of them side by side."""

from __future__ import annotations

from collections.abc import Iterator

from netc.codegen.operand import Kernel, Operand
from netc.codegen.triton.anchors.matrix import Weights, packed, unfit
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.codegen.triton.packing import Layout
from netc.codegen.triton.product import Axis, Group, Product
from netc.codegen.triton.product_text import lower_product
from netc.ir.dims import Dim
from netc.ir.ops.matmul import MatMul
from netc.ir.plan import BufferArg, WeightArg


@rule(MatMul)
def matmul(ctx: Lowering, k: Kernel) -> Launch:
    """Rows of x times columns of y; where y is the same for a whole axis, its rows are one run."""
    assert k.anchor is not None
    op, (xv, yv) = k.anchor.op, k.anchor.inputs
    assert isinstance(op, MatMul)
    x, y = k.operand(xv), k.operand(yv)
    if x is None or y is None:
        raise unfit(k, "reads what is not in memory")
    (rows, depth), (_, columns) = op.matrices(x.type, y.type)
    across, spread = x.strides[-2:][:: -1 if op.transpose_x else 1]
    weights, strides, element = _second(ctx, k, y, op.transpose_y)
    groups, axes = [], []
    for axis, (size, x_step, y_step) in enumerate(_batch(k.anchor.out.type.rank, x, y)):
        if y_step == 0:
            axes.append(Axis(size, x_step))
        else:
            groups.append(Group(size, x_step, y_step, axis))
    made = Product(
        x=x,
        axes=(*axes, Axis(rows, across)),
        inner=(),
        channels=depth,
        spread=spread,
        columns=columns,
        groups=tuple(groups),
        weights=weights,
        element=element,
        row=strides[0],
        tap=strides[1],
        lane=strides[2],
        channel_axis=k.anchor.out.type.rank - 1,
        flat=0,
        bias=None,
        given=k.anchor.out,
        main=xv,
    )
    return lower_product(ctx, k, made)


def _batch(rank: int, x: Operand, y: Operand) -> Iterator[tuple[Dim, Dim, Dim]]:
    """The axes before the matrices of a result: their sizes, and the steps of x and of y."""
    for axis in range(-rank, -2):
        found = [(1, 0) if -axis > o.type.rank else (o.type.shape[axis], o.strides[axis])
                 for o in (x, y)]  # fmt: skip
        (x_size, x_step), (y_size, y_step) = ((n, 0 if n == 1 else step) for n, step in found)
        yield (y_size if x_size == 1 else x_size), x_step, y_step


def _second(ctx: Lowering, k: Kernel, y: Operand, turned: bool) -> Weights:
    """The second operand, whose columns are rows where it is `turned`.

    One constant matrix is packed as the weights of an inner product are; others are read as they
    lie.
    """
    if y.array is not None and y.type.rank == 2:
        columns, depth = y.type.sizes({})[:: 1 if turned else -1]
        return packed(ctx, k, y, Layout(1, columns, (), depth, 0, transposed=not turned))
    lane, column = y.strides[-2:][:: -1 if turned else 1]
    pointer = y.pointer() if y.array is None else ctx.weight(y.array)
    assert isinstance(pointer, BufferArg | WeightArg)
    return pointer, (column, 0, lane), y.element
