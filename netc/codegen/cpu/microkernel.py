"""The inner loops of every convolution and inner product: panels of 16 channels by t pixels.

`mk_{nv}_{t}` multiplies nv panels of packed weights with t input pixels, each given by its own
offset, so a tile may cross image rows. One turn of the main loop reads one tap offset from a
table and does the eight channels that lie there; a second loop does single lanes (planar input,
and what is left of K beyond a multiple of eight). The main loop also asks for the eight
lines `ahead` bytes beyond its own first panel: weights of a later chunk, shared out over tiles.
Every pixel sums over K in the same order whatever tile it is in, so results do not depend on how
pixels are cut into tiles.

Operands are float32, or pairs of bfloat16: neighbouring channels of a pixel, whose two weights for
an output channel lie in one lane; or four such of eight bits. All are four bytes, so it is the same
loop, half or a quarter as long. Sums of the last are integers, in the bits of floats.
"""

from __future__ import annotations

from dataclasses import dataclass

from netc.codegen.cpu.emit import Function, Module, Val, vec
from netc.codegen.cpu.target import Target
from netc.ir.gemm_plan import BLOCK, PANEL

PANEL_ROW = 4 * PANEL  # bytes of one panel for one k

# in, pixel offsets, taps, n8, n1, weights, panel stride in bytes, scratch, accumulate, ahead
PARAMS = ("ptr", "ptr", "ptr", "i64", "i64", "ptr", "i64", "ptr", "i64", "i64")


@dataclass(frozen=True)
class Form:
    """What a family of matrix kernels multiplies."""

    driver: str  # its name
    together: int  # channels in a lane of the weights

    @property
    def item(self) -> int:
        """Bytes of an input element."""
        return 4 // self.together

    @property
    def rows(self) -> int:
        """Rows of a panel's weights for eight channels."""
        return BLOCK // self.together

    @property
    def eight(self) -> int:
        """Bytes of them."""
        return self.rows * PANEL_ROW

    def product(self, f: Function, v: Val, x: Val, acc: Val) -> Val:
        """acc + v · x, in each lane."""
        if self.together == 1:
            return f.fma(v, x, acc)
        return f.add_pairs(x, v, acc) if self.together == 2 else f.add_quads(x, v, acc)

    def sum(self, f: Function, a: Val, b: Val) -> Val:
        """The sum of two of its sums."""
        if self.together < 4:
            return f.fadd(a, b)
        whole = (f.cast("bitcast", v, vec(v.lanes, "i32")) for v in (a, b))
        return f.cast("bitcast", f.add(*whole), a.type)


SINGLES, PAIRS, QUADS = Form("gemm", 1), Form("gemm_bf16", 2), Form("gemm_int8", 4)
FORMS = (SINGLES, PAIRS, QUADS)
_LOCALITY = 2  # weights asked for ahead of time go to the second-level cache


def tile_pixels(target: Target) -> dict[int, int]:
    """The most pixels a tile has, by panels: bounded by vector and by address registers."""
    if target.lanes == 16:
        return {4: 6, 3: 8, 2: 9, 1: 10}
    if target.lanes == 8:
        return {1: 6}
    return {1: 5 if target.registers == 32 else 2}


def microkernels(module: Module, form: Form) -> Val:
    """Emit the family; the table of its entries, relative to the table, as i32.

    Entry (nv, t) is at 16·nv + t.
    """
    sizes = tile_pixels(module.target)
    table = "@microkernels"
    entries = ["i32 0"] * (16 * (max(sizes) + 1))
    for nv, most in sizes.items():
        for t in range(1, most + 1):
            name = _microkernel(module, form, nv, t).pointer.name
            distance = f"i64 sub (i64 ptrtoint (ptr {name} to i64)"
            entries[16 * nv + t] = (
                f"i32 trunc ({distance}, i64 ptrtoint (ptr {table} to i64)) to i32)"
            )
    body = f"private constant [{len(entries)} x i32] [{', '.join(entries)}], align 64"
    module.define(table, body)
    return Val("ptr", table)


def _microkernel(module: Module, form: Form, nv: int, t: int) -> Function:
    f = module.function(f"mk_{nv}_{t}", PARAMS, internal=True)
    source, offsets, taps, n8, n1, weights, stride, scratch, accumulate, ahead = f.args
    parts = PANEL // module.target.lanes
    tile = _Tile(f, form, nv, parts, stride)
    pixels = [
        f.gep(source, f.sext(f.load("i32", f.gep(offsets, 4 * j))), form.item) for j in range(t)
    ]
    sums = [f.f32(0.0, tile.lanes)] * (t * nv * parts)
    at_once = 2 if module.target.fma else form.rows  # loads stay on their side: found by spills
    eight_end = f.gep(taps, n8, 4)
    with f.loop(f.sub(0, n8), 0, carry=[weights, *sums]) as turn:
        w, *acc = turn.values
        offset = f.sext(f.load("i32", f.gep(eight_end, turn.index, 4)))
        bases = [f.gep(p, offset, form.item) for p in pixels]
        later = f.gep(w, ahead)
        for c in range(form.rows):
            if c % at_once == 0:
                for line in range(c, c + at_once):
                    f.prefetch(f.gep(later, line * PANEL_ROW), _LOCALITY)
            acc = _step(tile, acc, bases, w, c)
        turn.next([f.gep(w, form.eight), *acc])
    one_end = f.gep(eight_end, n1, 4)
    with f.loop(f.sub(0, n1), 0, carry=turn.results) as turn:
        w, *acc = turn.values
        offset = f.sext(f.load("i32", f.gep(one_end, turn.index, 4)))
        acc = _step(tile, acc, [f.gep(p, offset, form.item) for p in pixels], w, 0)
        turn.next([f.gep(w, PANEL_ROW), *acc])
    with f.if_(f.icmp("ne", accumulate, 0)) as side:
        _store(tile, scratch, turn.results[1:], add=True)
        side.otherwise()
        _store(tile, scratch, turn.results[1:], add=False)
    f.ret()
    return f


class _Tile:
    """What one microkernel's parts share. Sums are ordered pixel, panel, part."""

    def __init__(self, f: Function, form: Form, nv: int, parts: int, stride: Val) -> None:
        self.f, self.form, self.parts = f, form, parts
        self.lanes = f.target.lanes
        self.type = vec(self.lanes)
        self.panel_offsets: list[Val | int] = [0]
        for v in range(1, nv):
            self.panel_offsets.append(f.mul(stride, v))


def _step(tile: _Tile, acc: list[Val], bases: list[Val], w: Val, c: int) -> list[Val]:
    """acc + weights[c] · input[c]: one row of weights for every pixel and panel."""
    f, size = tile.f, 4 * tile.lanes
    rows = [f.gep(f.gep(w, o), c * PANEL_ROW) for o in tile.panel_offsets]
    vectors = [
        f.load(tile.type, f.gep(row, part * size), size)
        for row in rows
        for part in range(tile.parts)
    ]
    sums = []
    for j, base in enumerate(bases):
        x = f.splat(f.load("float", f.gep(base, 4 * c)), tile.lanes)
        first = j * len(vectors)
        sums += [tile.form.product(f, v, x, acc[first + i]) for i, v in enumerate(vectors)]
    return sums


def _store(tile: _Tile, scratch: Val, sums: list[Val], add: bool) -> None:
    """Leave the sums in the scratch, added to those of earlier chunks of K.

    A chunk is summed by itself first: errors grow with a chunk and the number of chunks, not K.
    """
    f, size = tile.f, 4 * tile.lanes
    for i, value in enumerate(sums):
        at = f.gep(scratch, i * size)
        total = tile.form.sum(f, f.load(tile.type, at, size), value) if add else value
        f.store(total, at, size)
