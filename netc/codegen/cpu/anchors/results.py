"""What an anchor's kernel writes: its results, through the element-wise tail, into any layout.

The iteration space is the shape of the anchor's result: (N, channel block, H, W) with eight lanes
where it is blocked, else its axes with one lane. A rule appends `Results.arguments` to its
argument block; in the code, `Writer.row` gives a row along the last axis to put vectors into.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from netc.codegen.cpu.anchors.access import (
    Access,
    Args,
    Shape,
    blocked_access,
    plain_access,
)
from netc.codegen.cpu.anchors.elementwise import lane_mask, put
from netc.codegen.cpu.anchors.formula import Tail
from netc.codegen.cpu.anchors.streams import Port, Ports, Stream, blocked_port, plain_port
from netc.codegen.cpu.emit import Function, Int, Val
from netc.codegen.cpu.lowering import Lowering
from netc.codegen.operand import BLOCK, Kernel, Operand
from netc.errors import UnsupportedError
from netc.ir.dims import ceil_div
from netc.ir.types import Layout


@dataclass(frozen=True)
class Lane:
    """One vector of a pixel's lanes: its first element, and how many."""

    first: int
    count: int


class Results:
    """The outputs of a kernel with an anchor, as far as its code and its arguments go."""

    def __init__(
        self, ctx: Lowering, k: Kernel, blocked: bool | None = None, shape: Shape | None = None
    ) -> None:
        assert k.anchor is not None
        self.tail = Tail(k)
        type = k.anchor.types[0]
        self.shape: Shape = type.shape if shape is None else shape
        self.blocked = type.layout is Layout.C8 if blocked is None else blocked
        operands = (*self.tail.operands, *k.outs)
        for o in k.outs:
            if o.type.shape != self.shape:
                message = f"{o.type} does not end a kernel of {type}"
                raise UnsupportedError(message, k.node.loc)
        self.accesses = [result_access(ctx, o, self.shape, self.blocked) for o in operands]
        make = blocked_port if self.blocked else plain_port
        self.ports: tuple[Port, ...] = tuple(make(a) for a in self.accesses)
        channels = self.shape[1] if self.blocked else 0
        self.padded = not isinstance(channels, int) or channels % BLOCK != 0
        self.key = (self.tail.key, self.ports, self.blocked, self.padded)

    @property
    def even(self) -> bool:
        """Whether vectors wider than a pixel may be put."""
        return all(p.mode in "c08pb" for p in self.ports)

    @property
    def axes(self) -> int:
        """Axes of the space: four where it is blocked, at least one."""
        return len(self.accesses[-1].strides)

    def arguments(self, args: Args) -> int:
        """Append sizes, channels and operands; the first slot."""
        sizes = list(self.shape) or [1]
        if self.blocked:
            sizes[1] = ceil_div(self.shape[1], BLOCK)
        first = args.size(self.shape[1] if self.blocked else 0)
        for d in sizes:
            args.size(d)
        for a in self.accesses:
            args.access(a)
        return first


def result_access(ctx: Lowering, o: Operand, shape: Shape, blocked: bool) -> Access:
    """An operand over the space of a result."""
    if blocked:
        return blocked_access(ctx, o, shape)
    if o.is_c8:
        raise UnsupportedError(f"{o.type} cannot be walked as {shape}")
    made = plain_access(ctx, o, shape)
    return made if shape else replace(made, strides=(1,))


def lanes_of(f: Function, blocked: bool) -> list[Lane]:
    """The vectors that one pixel takes."""
    if not blocked:
        return [Lane(0, 1)]
    count = min(BLOCK, f.target.lanes)
    return [Lane(i, count) for i in range(0, BLOCK, count)]


class Writer:
    """The results in the code: sizes of the space, and its rows."""

    def __init__(self, f: Function, results: Results, first: int) -> None:
        self.f, self.results = f, results
        self.channels = f.slot(f.args[0], first)
        self.sizes = [f.slot(f.args[0], first + 1 + i) for i in range(results.axes)]
        self.ports = Ports(f, results.ports, first + 1 + results.axes)

    @property
    def end(self) -> int:
        """The slot behind the last."""
        return self.ports.end

    def left(self, block: Val) -> Val | None:
        """How many channels there are from this block on, where the last block is not full."""
        if not self.results.padded:
            return None
        return self.f.sub(self.channels, self.f.shl(block, 3))

    def row(self, indices: Sequence[Int], start: Int = 0) -> Row:
        """The row at these indices of the outer axes, from step `start` of the inner on."""
        left = None
        if self.results.blocked and isinstance(indices[1], Val):
            left = self.left(indices[1])
        streams = self.ports.streams(indices, start, left)
        return Row(self.f, self.results, streams, left)


class Row:
    """One row of results."""

    def __init__(
        self, f: Function, results: Results, streams: list[Stream], left: Val | None
    ) -> None:
        self.f, self.tail, self.left = f, results.tail, left
        cut = len(results.tail.operands)
        self.operands, self.outs = streams[:cut], streams[cut:]
        widths = {Lane(0, f.target.lanes), *lanes_of(f, results.blocked)}
        self._masks = {w: lane_mask(f, left, w.count, w.first) for w in widths}

    def put(self, acc: Val | Sequence[Val], at: Val, extra: int = 0) -> None:
        """The anchor's result at element `at + extra`, through the tail, to the outputs."""
        one = acc if isinstance(acc, Val) else acc[0]
        lanes = one.lanes
        loads = [s.load(at, lanes, extra) for s in self.operands]
        values = self.tail.apply(self.f, lanes, acc, loads)
        for stream, value in zip(self.outs, values, strict=True):
            put(self.f, stream, value, at, extra, self._masks.get(Lane(extra % BLOCK, lanes)))
