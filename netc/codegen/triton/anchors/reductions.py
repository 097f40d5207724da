"""Sums, means and maxima over axes, and over all spatial axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netc.codegen.operand import Kernel, Operand
from netc.codegen.triton.anchors.pools import LARGER, LOWEST
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.codegen.triton.rows import TURNS, Rows
from netc.codegen.triton.source import number
from netc.ir.graph import Value
from netc.ir.ops.pooling import GlobalAvgPool, GlobalMaxPool
from netc.ir.ops.reduction import Reduce, ReduceMax, ReduceMean, ReduceSum


@rule(ReduceSum, ReduceMean, ReduceMax)
def reduce(ctx: Lowering, k: Kernel) -> Launch:
    """Any axes, kept or dropped."""
    assert k.anchor is not None
    op = k.anchor.op
    assert isinstance(op, Reduce)
    return _Reduction(ctx, k, op.over(k.anchor.inputs[0].type.rank), op.keep).launch()


@rule(GlobalAvgPool, GlobalMaxPool)
def global_pool(ctx: Lowering, k: Kernel) -> Launch:
    """All axes behind the channels, kept."""
    assert k.anchor is not None
    return _Reduction(ctx, k, range(2, k.anchor.inputs[0].type.rank), True).launch()


def leaves(k: Kernel, value: Value) -> Iterator[Operand]:
    """The operands that a value is computed from."""
    found = k.operand(value)
    if found is not None:
        yield found
        return
    for v in value.node.inputs:
        yield from leaves(k, v)


class _Reduction:
    def __init__(self, ctx: Lowering, k: Kernel, axes: Sequence[int], keep: bool) -> None:
        assert k.anchor is not None
        self.k, self.anchor, self.axes, self.keep = k, k.anchor, axes, keep
        self.x = k.anchor.inputs[0]
        reads = [o for o in leaves(k, self.x) if o.type.rank]
        self.rows = Rows(ctx, k, self.x.type.shape, axes, reads, shared=True)
        self.src = self.rows.src
        self.largest = isinstance(k.anchor.op, ReduceMax | GlobalMaxPool)

    def launch(self) -> Launch:
        """The whole kernel."""
        self._maximum() if self.largest else self._sum()
        self.rows.join("out", LARGER if self.largest else "{} + {}")
        if isinstance(self.anchor.op, ReduceMean | GlobalAvgPool):
            depth = self.rows.depth
            count = number(depth) if isinstance(depth, int) else self.src.size(depth)
            count = f"tl.zeros_like(out) + {count}"
            self.src.line(f"out = tl.div_rn(out, {count})")
        rows, axes = self.rows, set(self.axes)
        coords = [c for a, c in enumerate(rows.coords) if self.keep or a not in axes]
        rows.body.finish(coords, rows.tile, {self.anchor.out: "out"})
        return rows.launch()

    def _start(self, name: str, value: str) -> None:
        self.src.line(f"{name} = tl.full((ROWS, CHUNK), {value}, tl.float32)")

    def _maximum(self) -> None:
        rows, line = self.rows, self.src.line
        self._start("acc", LOWEST)
        with rows.chunks() as chunk:
            x = rows.value(self.x, chunk, LOWEST)
            line(f"acc = {LARGER.format('acc', x)}")
        line("lost = tl.max((acc != acc).to(tl.int32), 1, keep_dims=True)")
        line(f"out = tl.max(tl.where(acc == acc, acc, {LOWEST}), 1, keep_dims=True)")
        line('out = tl.where(lost > 0, float("nan"), out)')

    def _sum(self) -> None:
        rows, src = self.rows, self.src
        if rows.whole:
            with rows.chunks() as chunk:
                x = rows.value(self.x, chunk, "0.0")
            src.line(f"out = tl.sum({x}, 1, keep_dims=True)")
            return
        self._start("acc", "0.0")
        with src.block(f"for base in range({rows.first}, {rows.end}, CHUNK * {TURNS}):"):
            self._start("part_sum", "0.0")
            end = src.let(f"tl.minimum(base + CHUNK * {TURNS}, {rows.end})")
            with rows.chunks("base", end) as chunk:
                src.line(f"part_sum += {rows.value(self.x, chunk, '0.0')}")
            src.line("acc += part_sum")
        src.line("out = tl.sum(acc, 1, keep_dims=True)")
