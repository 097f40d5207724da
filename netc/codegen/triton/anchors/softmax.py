"""Softmax and its logarithm along an axis."""

from __future__ import annotations

from netc.codegen.operand import Kernel
from netc.codegen.triton.anchors.pools import LOWEST
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.codegen.triton.rows import Chunk, Rows
from netc.ir.ops.normalization import LogSoftmax, Softmax
from netc.ir.ops.windows import axis_of


@rule(Softmax, LogSoftmax)
def softmax(ctx: Lowering, k: Kernel) -> Launch:
    """Maximum, sum and result in turn; a short row is read once."""
    assert k.anchor is not None
    op, x = k.anchor.op, k.anchor.inputs[0]
    assert isinstance(op, Softmax)
    axis = axis_of(op.axis, x.type.rank)
    operands = [o for o in (*k.ins, *k.outs) if o.type.rank]
    rows = Rows(ctx, k, x.type.shape, [axis], operands)
    line = rows.src.line
    line(f"top = tl.full((ROWS, CHUNK), {LOWEST}, tl.float32)")
    with rows.chunks() as chunk:
        here = rows.value(x, chunk, LOWEST)
        line(f"top = tl.maximum(top, {here})")
    line("top = tl.max(top, 1, keep_dims=True)")
    line("total = tl.zeros((ROWS, CHUNK), tl.float32)")

    def value(chunk: Chunk) -> str:
        return here if rows.whole else rows.value(x, chunk, LOWEST)

    with rows.chunks() as chunk:
        grown = rows.src.let(f"exp({value(chunk)} - top)")
        line(f"total += tl.where({chunk.inside}, {grown}, 0.0)")
    line("total = tl.sum(total, 1, keep_dims=True)")
    log = isinstance(op, LogSoftmax)
    if log:
        line("total = log(total)")
    with rows.chunks() as chunk:
        if log:
            out = rows.src.let(f"({value(chunk)} - top) - total")
        else:
            grown = grown if rows.whole else rows.src.let(f"exp({value(chunk)} - top)")
            out = rows.src.let(f"tl.div_rn({grown}, total)")
        rows.body.finish(chunk.coords, chunk.tile, {k.anchor.out: out})
    return rows.launch()
