"""Kernels in which every lane makes one element: copies, formulas, windows, whatever is indexed.

Lanes follow the result in memory, so that neighbours write neighbours. A rule says what its anchor
gives at coordinates; what follows the anchor and what feeds it are formulas at coordinates too.
"""

from __future__ import annotations

from collections.abc import Sequence

from netc.codegen.operand import Kernel, Operand
from netc.codegen.triton.body import Body, Coord, Tile
from netc.codegen.triton.formula import TYPES
from netc.codegen.triton.lowering import Launch, Lowering
from netc.codegen.triton.source import Source, number
from netc.ir.dims import Dim, evaluate, product, symbols
from netc.ir.gpu_code import Variant
from netc.ir.graph import Value
from netc.ir.types import DType

LANES = (  # elements of a program, 16 bytes a thread where they are neighbours
    Variant((1024,), (("BLOCK", 1024),), warps=4),
    Variant((256,), (("BLOCK", 256),), warps=2),
)


def rank(value: Dim) -> int:
    """A size as a number to sort by."""
    return evaluate(value, dict.fromkeys(symbols(value), 96))


def even(outer: int, inner: int, axes: int, operands: Sequence[Operand]) -> bool:
    """Whether every operand goes from row to row of two of so many axes as if they were one."""
    for o in operands:
        a, b = outer - axes + o.type.rank, inner - axes + o.type.rank
        sizes = [o.type.shape[i] if i >= 0 else 1 for i in (a, b)]
        if sizes == [1, 1]:
            continue
        if 1 in sizes or o.strides[a] != o.strides[b] * sizes[1]:
            return False
    return True


class Flat:
    """A kernel over the elements of a shape, in the order in which the first of `outs` lies."""

    def __init__(
        self,
        ctx: Lowering,
        k: Kernel,
        outs: Sequence[Operand] = (),
        merge: Sequence[Operand] = (),
    ) -> None:
        """With `merge`, axes over which these operands run on evenly count as one."""
        self.ctx, self.k = ctx, k
        self.src = Source()
        self.body = Body(ctx, self.src, k)
        self.outs = tuple(outs or k.outs)
        self.shape = self.outs[0].type.shape
        self.extent = product(self.shape)
        block = self.src.constant("BLOCK")
        self.lane = self.src.let(f"tl.program_id(0) * {block} + tl.arange(0, {block})")
        self.inside = self.src.let(f"{self.lane} < {self.src.size(self.extent)}")
        self.tile = Tile({"lane": self.inside}, self.lane)
        self.coords = self._decode(merge)

    def _decode(self, merge: Sequence[Operand]) -> list[Coord]:
        """One coordinate per axis; axes of 1, and merged ones, are at 0."""
        out = self.outs[0]
        axes = [a for a, d in enumerate(self.shape) if d != 1]
        axes.sort(key=lambda a: (-rank(out.strides[a]), a))
        groups: list[list[int]] = []
        for a in axes:
            if merge and groups and even(groups[-1][-1], a, len(self.shape), merge):
                groups[-1].append(a)
            else:
                groups.append([a])
        coords = [Coord("0")] * len(self.shape)
        sizes = (
            self.src.size(product(tuple(self.shape[a] for a in group)))
            for group in reversed(groups[1:])
        )
        for group, place in zip(reversed(groups), self.src.digits(self.lane, sizes), strict=False):
            coords[group[-1]] = Coord(place, "lane")
        return coords

    def index(self, axis: int) -> str:
        """The place along an axis as a tile, also where the axis has one place only."""
        text = self.coords[axis].text
        return self.src.let(f"{self.lane} * 0" if text == "0" else text)

    def full(self, value: float, dtype: DType = DType.F32) -> str:
        """A number as a tile."""
        text = number(value) if dtype is DType.F32 else str(int(value))
        return self.src.let(f"tl.full({self.lane}.shape, {text}, {TYPES[dtype]})")

    def finish(self, known: dict[Value, str], only: Sequence[int] = ()) -> Launch:
        """What follows the anchor, the stores, and the launch."""
        self.body.finish(self.coords, self.tile, known, only)
        return self.launch()

    def launch(self) -> Launch:
        """The launch, once everything is stored."""
        return self.ctx.launch(self.src, (self.extent,), LANES)
