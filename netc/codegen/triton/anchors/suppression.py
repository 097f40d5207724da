"""Non-maximum suppression: a program for each group, which goes through its boxes in order.

Scratch memory holds for every box the most by which it overlaps with one that is kept. A box within
the threshold is kept, and raises that number of the boxes behind it; all threads wait for that
before the next. So a box that is not kept costs one read. Products are `fma(a, b, 0)`, which no
compiler joins with a sum: they are rounded as the processor's are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from netc.codegen.operand import SCRATCH, Kernel
from netc.codegen.triton.body import Body, Coord, Tile
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.codegen.triton.rows import power_of_two
from netc.codegen.triton.source import Source, number
from netc.ir.dims import most, product
from netc.ir.gpu_code import Variant
from netc.ir.ops.boxes import NonMaxSuppression
from netc.ir.plan import BufferArg

WHOLE = 1024  # boxes of a group that stay in registers; of larger ones, those looked at together


@rule(NonMaxSuppression)
def suppression(ctx: Lowering, k: Kernel) -> Launch:
    """The whole kernel."""
    return _Groups(ctx, k).launch()


class _Groups:
    def __init__(self, ctx: Lowering, k: Kernel) -> None:
        assert k.anchor is not None
        op, (self.boxes,) = k.anchor.op, k.anchor_operands()
        assert isinstance(op, NonMaxSuppression)
        self.ctx, self.op, self.out = ctx, op, k.anchor.out
        self.src = Source()
        self.body = Body(ctx, self.src, k)
        *self.groups, self.count = self.out.type.shape
        self.coords: list[Coord] = []
        self.others: list[str] = []
        self.whole = isinstance(self.count, int) and self.count <= WHOLE
        self.border = "" if op.border == 0 else f" + {number(op.border)}"

    def launch(self) -> Launch:
        """The kernel: zeros, the turns of all boxes, the results."""
        src = self.src
        src.constant("CHUNK")
        count, groups = src.size(self.count), src.size(product(self.groups))
        scratch = src.pointer(BufferArg(SCRATCH), "fp32")
        src.line("group = tl.program_id(0)")
        sizes = (src.size(d) for d in reversed(self.groups[1:]))
        places = reversed(src.digits("group", sizes))
        self.coords = [Coord(p) for p, _ in zip(places, self.groups, strict=False)]
        src.line(f"most = {scratch} + group * {count}")
        src.line(f"flags = {scratch} + ({groups} + group) * {count}")
        with self._chunk() as (j, tile):
            src.line(f"tl.store(most + {j}, tl.zeros_like({j}).to(tl.float32), mask={tile.like})")
            if self.whole:
                self.others = self._boxes(Coord(j, "lane"), tile)
        src.line("tl.debug_barrier()")
        src.line(f"threshold = tl.full((), {number(self.op.overlap)}, tl.float32)")
        with src.block(f"for i in range({count}):"):
            self._turn()
        src.line("tl.debug_barrier()")
        with self._chunk() as (j, tile):
            flag = src.let(f"tl.load(flags + {j}, mask={tile.like}, other=0.0)")
            self.body.finish([*self.coords, Coord(j, "lane")], tile, {self.out: flag})
        extent = product(self.groups)
        return self.ctx.launch(src, (extent,), self._variants(), most(1, extent * self.count * 8))

    def _variants(self) -> list[Variant]:
        sizes = [(WHOLE, 4), (4 * WHOLE, 16)]
        if self.whole:
            assert isinstance(self.count, int)
            chunk = power_of_two(self.count)
            sizes = [(chunk, 4), (chunk, 8 if chunk > 256 else 1)]
        return [Variant((1,), (("CHUNK", c),), warps=warps, stages=1) for c, warps in sizes]

    @contextmanager
    def _chunk(self, after: str = "") -> Iterator[tuple[str, Tile]]:
        """The lines for a chunk of boxes, of all or of those after one: numbers, what is inside."""
        src, count = self.src, self.src.size(self.count)
        lane = "tl.arange(0, CHUNK)"
        if self.whole:
            yield self._inside(src.let(lane), after)
            return
        start = src.name()
        first = f"{after} // CHUNK * CHUNK" if after else "0"
        with src.block(f"for {start} in range({first}, {count}, CHUNK):"):
            yield self._inside(src.let(f"{start} + {lane}"), after)

    def _inside(self, j: str, after: str) -> tuple[str, Tile]:
        also = f" & ({j} > {after})" if after else ""
        inside = self.src.let(f"({j} < {self.src.size(self.count)}){also}")
        return j, Tile({"lane": inside}, inside)

    def _turn(self) -> None:
        """Box i: whether it is kept, and if so by how much the boxes behind it overlap with it."""
        src, eta = self.src, self.op.eta
        src.line("kept = tl.load(most + i) <= threshold")
        src.line("tl.store(flags + i, kept.to(tl.float32))")
        with src.block("if kept:"):
            box = self._boxes(Coord("i"), Tile({}, "i"))
            with self._chunk("i") as (j, tile):
                others = self.others if self.whole else self._boxes(Coord(j, "lane"), tile)
                ratio = self._overlap(others, box)
                known = src.let(f"tl.load(most + {j}, mask={tile.like}, other=0.0)")
                more = f"{tile.like} & ({ratio} > {known})"
                src.line(f"tl.store(most + {j}, {ratio}, mask={more})")
            src.line("tl.debug_barrier()")
        if eta != 1:
            lower = "kept & (threshold > 0.5)"
            src.line(f"threshold = tl.where({lower}, threshold * {number(eta)}, threshold)")

    def _boxes(self, place: Coord, tile: Tile) -> list[str]:
        """The corners of boxes, and their sizes; one with a NaN lies where it meets none."""
        src = self.src
        x0, y0, x1, y1 = (
            self.body.read(self.boxes, [*self.coords, place, Coord(str(c))], tile) for c in range(4)
        )
        bad = src.let(f"({x0} != {x0}) | ({y0} != {y0}) | ({x1} != {x1}) | ({y1} != {y1})")
        x0 = src.let(f'tl.where({bad}, float("inf"), {x0})')
        x1 = src.let(f'tl.where({bad}, float("-inf"), {x1})')
        whole = f"tl.fma({x1} - {x0}{self.border}, {y1} - {y0}{self.border}, 0.0)"
        size = src.let(f"tl.where(({x1} < {x0}) | ({y1} < {y0}), 0.0, {whole})")
        return [x0, y0, x1, y1, size]

    def _overlap(self, a: list[str], b: list[str]) -> str:
        """By how much each of `a` overlaps with `b`."""
        src, sides = self.src, []
        for low, high in ((0, 2), (1, 3)):
            right = f"tl.where({a[high]} < {b[high]}, {a[high]}, {b[high]})"
            left = f"tl.where({a[low]} > {b[low]}, {a[low]}, {b[low]})"
            side = src.let(f"{right} - {left}{self.border}")
            sides.append(src.let(f"tl.where({side} > 0.0, {side}, 0.0)"))
        inter = src.let(f"tl.fma({sides[0]}, {sides[1]}, 0.0)")
        return src.let(f"tl.div_rn({inter}, {a[4]} + {b[4]} - {inter})")
