"""Values of a kernel's body at coordinates: operands are read, element-wise nodes computed.

A coordinate is an index along one axis, as text over a tile, with the part of the tile it varies
along. A flat tile has one part; a matrix tile has rows and columns, and what varies along one of
them only is read once for it. Reading computes on the way, so that what feeds an anchor and what
follows it is the same thing: a formula over values at coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netc.codegen.operand import Kernel, Operand
from netc.codegen.triton.formula import apply
from netc.codegen.triton.lowering import Lowering
from netc.codegen.triton.source import ELEMENTS, Source
from netc.ir.dims import Dim
from netc.ir.graph import Value
from netc.ir.ops.sources import Input, Param
from netc.ir.types import DType


@dataclass(frozen=True)
class Coord:
    """An index along one axis: text, and the parts of the tile along which it varies ("" none)."""

    text: str
    part: str = ""  # one, or several with a blank between them

    def along(self, part: str) -> bool:
        """Whether it varies along a part of the tile."""
        return part in self.part.split()


@dataclass
class Tile:
    """The part of a result that a program computes: masks by part, and a name of its shape."""

    masks: Mapping[str, str]
    like: str  # a name whose shape is the whole tile's

    def mask(self, coords: Sequence[Coord], also: str = "") -> str:
        """What is inside, for something that varies along these coordinates."""
        parts = [p for p in self.masks if any(c.along(p) for c in coords)]
        texts = [self.masks[p] for p in parts if self.masks[p]] + ([also] if also else [])
        return " & ".join(f"({t})" for t in texts)


class Body:
    """Reads and writes the values of one kernel."""

    def __init__(self, ctx: Lowering, src: Source, k: Kernel, literal: bool = True) -> None:
        """Without `literal`, strides are parameters."""
        self.ctx, self.src, self.k, self.literal = ctx, src, k, literal
        self._operands: list[Operand] = []
        self.values = {n.out: o for n, o in zip(k.body.inputs, k.ins, strict=True)}

    def at(
        self,
        value: Value,
        coords: Sequence[Coord],
        tile: Tile,
        known: dict[Value, str],
        also: str = "",
        other: str = "0.0",
    ) -> str:
        """The name of a value's tile, at one coordinate per axis of the kernel's result.

        `also` is a further mask of reads, beyond which they give `other`.
        """
        if value in known:
            return known[value]
        if isinstance(value.op, Input | Param):
            made = self.read(self.values[value], coords, tile, also, other)
        else:
            xs = [self.at(v, coords, tile, known, also, other) for v in value.node.inputs]
            made = apply(self.src, value.node, xs, tile.like)
        known[value] = made
        return made

    def read(
        self,
        o: Operand,
        coords: Sequence[Coord],
        tile: Tile,
        also: str = "",
        other: str = "0.0",
    ) -> str:
        """An operand at coordinates; its axes are the last of them, and those of size 1 stretch."""
        own = coords[len(coords) - o.type.rank :]
        used = [(c, s) for c, s, d in zip(own, o.strides, o.type.shape, strict=True) if d != 1]
        pointer = self.pointer(o)
        mask = tile.mask([c for c, _ in used], also)
        spot = self.offset(o, used)
        if also and all(not c.part for c, _ in used):
            spot += f" + tl.zeros_like({tile.like}).to(tl.int32)"
        if other != "0.0" and o.type.dtype is not DType.F32:
            other = "0"
        tail = f", mask={mask}, other={other}" if mask else ""
        made = f"tl.load({pointer}{spot}{tail})"
        if o.is_narrow:
            made += ".to(tl.float32)"
        return self.src.let(made)

    def pointer(self, o: Operand) -> str:
        """The name of an operand's address; a parameter lies among the weights."""
        if o.array is None:
            return self.src.operand(o)
        return self.src.pointer(self.ctx.weight(o.array), ELEMENTS[o.type.dtype])

    def offset(self, o: Operand, used: Sequence[tuple[Coord, Dim]]) -> str:
        """The distance in elements from an operand's first."""
        if not any(o is known for known in self._operands):
            self._operands.append(o)
        number = next(i for i, known in enumerate(self._operands) if known is o)
        terms = []
        for axis, (c, stride) in enumerate(used):
            if c.text == "0":
                continue
            step = self.src.size(stride, "" if self.literal else f"{number}.{axis}")
            terms.append(f"({c.text})" if step == "1" else f"({c.text}) * {step}")
        return f" + ({' + '.join(terms)})" if terms else ""

    def write(self, o: Operand, coords: Sequence[Coord], tile: Tile, value: str) -> None:
        """Store a tile of a result, which varies along every part of it."""
        pairs = list(zip(coords, o.strides, strict=True))
        distance = self.offset(o, pairs)
        pointer = f"{self.src.operand(o)}{distance}"
        missing = [p for p in tile.masks if not any(c.along(p) and c.text != "0" for c in coords)]
        if missing or not distance:
            pointer += f" + tl.zeros_like({tile.like}).to(tl.int32)"
        mask = " & ".join(f"({m})" for m in tile.masks.values() if m)
        value = self.src.let(f"tl.zeros_like({tile.like}).to({value}.dtype) + {value}")
        value = self.src.let(f"tf32({value})") if o.element == "tf32" else value
        self.src.line(f"tl.store({pointer}, {value}{f', mask={mask}' if mask else ''})")

    def finish(
        self, coords: Sequence[Coord], tile: Tile, known: dict[Value, str], only: Sequence[int] = ()
    ) -> None:
        """Compute and store the kernel's results (or those numbered), given the anchor's."""
        for i, (value, o) in enumerate(zip(self.k.body.outputs.values(), self.k.outs, strict=True)):
            if not only or i in only:
                self.write(o, coords, tile, self.at(value, coords, tile, known))
