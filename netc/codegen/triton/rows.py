"""Kernels in which a program has some rows and walks along them in chunks: reductions, searches.

A row is what is left of a shape when the axes `along` are walked. Rows and the places along them
are numbered as they lie in memory, so whichever of the two has neighbours in memory is read in
runs. A row that is known to be short is one chunk, and stays in registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from netc.codegen.operand import SCRATCH, WEIGHTS, Kernel, Operand, row_major
from netc.codegen.triton.body import Body, Coord, Tile
from netc.codegen.triton.flat import even, rank
from netc.codegen.triton.lowering import Launch, Lowering
from netc.codegen.triton.source import Source
from netc.codegen.triton.tiles import SPLIT_PROGRAMS
from netc.ir.dims import Dim, product
from netc.ir.gpu_code import Variant
from netc.ir.graph import Value
from netc.ir.plan import BufferArg

WHOLE = 4096  # places of a row that is one chunk
ACROSS = 256  # the same where neighbours in memory are in different rows
PARTS, PART_ROWS = 16, 32  # programs that share rows, and the most rows of one of them
TURNS = 64  # chunks added up before they join the rest, so that long sums keep their digits


@dataclass(frozen=True)
class Chunk:
    """A part of every row of a program: coordinates along all axes, and what is inside."""

    coords: list[Coord]
    tile: Tile
    inside: str
    index: str  # the place along the row


class Rows:
    """The rows of a shape; `reads` are the operands that its coordinates are used for."""

    def __init__(
        self,
        ctx: Lowering,
        k: Kernel,
        shape: Sequence[Dim],
        along: Sequence[int],
        reads: Sequence[Operand],
        merge: bool = True,
        shared: bool = False,
    ) -> None:
        """With `merge`, axes that are walked and over which all reads run on evenly are one.

        With `shared`, long rows may be walked by several programs, each a part of them; what they
        find is to be joined by `join`.
        """
        self.ctx, self.k, self.shape = ctx, k, tuple(shape)
        self.src = Source()
        self.body = Body(ctx, self.src, k)
        self.depth = product(tuple(shape[a] for a in along))
        whole = [o for o in reads if o.type.shape == self.shape and o.buffer != WEIGHTS]
        strides = whole[0].strides if whole else row_major(shape)
        order = [a for a, d in enumerate(shape) if d != 1]
        order.sort(key=lambda a: (-rank(strides[a]), a))
        self.kept = [a for a in order if a not in along]
        self.walked: list[list[int]] = []
        for a in order:
            if a not in along:
                continue
            if merge and self.walked and even(self.walked[-1][-1], a, len(shape), reads):
                self.walked[-1].append(a)
            else:
                self.walked.append([a])
        self.across = bool(order) and order[-1] in self.kept
        limit = ACROSS if self.across else WHOLE
        self.whole = isinstance(self.depth, int) and self.depth <= limit
        self.shared = shared and not self.whole
        self.extent = product(tuple(shape[a] for a in self.kept))
        self._rows()
        self._chunk: Chunk | None = None

    def _rows(self) -> None:
        """Where each row is along the axes it has."""
        src = self.src
        src.constant("ROWS")
        src.constant("CHUNK")
        self.first, self.end = "0", src.size(self.depth)
        tile = "tl.program_id(0)"
        if self.shared:
            src.line(f"parts = tl.num_programs(0) // tl.cdiv({src.size(self.extent)}, ROWS)")
            src.line("part = tl.program_id(0) % parts")
            tile = src.let("tl.program_id(0) // parts")
            each = src.let(f"tl.cdiv({self.end}, parts * CHUNK) * CHUNK")
            self.first = src.let(f"part * {each}")
            self.end = src.let(f"tl.minimum({self.first} + {each}, {self.end})")
        self.number = tile
        self.row = src.let(f"({tile} * ROWS + tl.arange(0, ROWS))[:, None]")
        self.legal = src.let(f"{self.row} < {src.size(self.extent)}")
        self.tile = Tile({"row": self.legal}, self.row)
        self.coords = [Coord("0")] * len(self.shape)
        self._decode(self.row, [[a] for a in self.kept], "row", self.coords)

    def _decode(
        self, index: str, groups: Sequence[Sequence[int]], part: str, coords: list[Coord]
    ) -> None:
        sizes = (
            self.src.size(product(tuple(self.shape[a] for a in group)))
            for group in reversed(groups[1:])
        )
        for group, place in zip(reversed(groups), self.src.digits(index, sizes), strict=False):
            coords[group[-1]] = Coord(place, part)

    def chunk(self, start: str) -> Chunk:
        """The places from `start` on."""
        src = self.src
        lane = "tl.arange(0, CHUNK)[None, :]"
        index = src.let(lane if start == "0" else f"{start} + {lane}")
        legal = src.let(f"{index} < {src.size(self.depth)}")
        coords = list(self.coords)
        self._decode(index, self.walked, "col", coords)
        inside = src.let(f"{self.legal} & {legal}")
        tile = Tile({"row": self.legal, "col": legal}, inside)
        return Chunk(coords, tile, inside, index)

    @contextmanager
    def chunks(self, first: str = "", end: str = "") -> Iterator[Chunk]:
        """The lines for every chunk, or for the only one."""
        if self.whole:
            self._chunk = self._chunk or self.chunk("0")
            yield self._chunk
            return
        start = self.src.name()
        bounds = f"{first or self.first}, {end or self.end}"
        with self.src.block(f"for {start} in range({bounds}, CHUNK):"):
            yield self.chunk(start)

    def value(self, value: Value, chunk: Chunk, neutral: str) -> str:
        """What the anchor reads, computed on the way; `neutral` outside."""
        x = self.body.at(value, chunk.coords, chunk.tile, {})
        return self.src.let(f"tl.where({chunk.inside}, {x}, {neutral})")

    def join(self, name: str, joined: str) -> None:
        """What all parts of a row found: the program that comes last joins them, in order."""
        if not self.shared:
            return
        src, tile = self.src, self.number
        scratch = src.pointer(BufferArg(SCRATCH), "fp32")
        counter = src.pointer(self.ctx.zeros(4 * SPLIT_PROGRAMS), "i32")
        src.line("last = 1")
        with src.block("if parts > 1:"):
            src.line(f"home = {scratch} + {tile} * (parts * ROWS) + tl.arange(0, ROWS)[:, None]")
            src.line(f"tl.store(home + part * ROWS, {name})")
            src.line("tl.debug_barrier()")
            src.line(f'arrived = tl.atomic_add({counter} + {tile}, 1, sem="acq_rel")')
            src.line("last = (arrived == parts - 1).to(tl.int32)")
            with src.block("if last == 1:"):
                src.line("tl.debug_barrier()")
                src.line(f'{name} = tl.load(home, cache_modifier=".cg")')
                with src.block("for s in range(1, parts):"):
                    src.line('more = tl.load(home + s * ROWS, cache_modifier=".cg")')
                    src.line(f"{name} = {joined.format(name, 'more')}")
                src.line(f"tl.store({counter} + {tile}, 0)")
        src.line(f"{self.legal} = {self.legal} & ({self.row} * 0 + last == 1)")

    def launch(self) -> Launch:
        """The launch, once everything is stored."""
        scratch = 4 * SPLIT_PROGRAMS * PART_ROWS if self.shared else 0
        return self.ctx.launch(self.src, (self.extent,), self._variants(), scratch)

    def _variants(self) -> list[Variant]:
        if self.whole:
            assert isinstance(self.depth, int)
            size = power_of_two(self.depth)
            sizes = [(max(1, min(count // size, count // 4)), size) for count in (4096, 1024)]
        else:
            sizes = [(64, 32), (PART_ROWS, 128)] if self.across else [(4, 1024), (1, 2048)]
        if self.across:
            sizes = [(max(16, rows), chunk) for rows, chunk in sizes]
        if isinstance(self.extent, int):
            top = power_of_two(self.extent)
            sizes = [(min(rows, top), chunk) for rows, chunk in sizes]
        variants = [
            Variant((rows,), (("ROWS", rows), ("CHUNK", chunk)), warps=8 if chunk > 2048 else 4)
            for rows, chunk in dict.fromkeys(sizes)
        ]
        if self.shared:
            variants[-1] = replace(variants[-1], repeat=PARTS, limit=SPLIT_PROGRAMS)
        return variants


def power_of_two(size: int) -> int:
    """The least power of two that is not below it."""
    return 1 << max(0, size - 1).bit_length()
