"""What every back end's rules get and give: operands in memory, a kernel to lower, a step to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from netc.ir.dims import Dim, ceil_div
from netc.ir.graph import Graph, Node, Value
from netc.ir.op import Array
from netc.ir.ops.layout import ToBlocked
from netc.ir.ops.sources import Input, Param
from netc.ir.plan import Arg, BufferArg
from netc.ir.types import Layout, TensorType

BLOCK = 8  # channels in a block of the C8 layout, at every CPU level
WEIGHTS = -1  # the buffer index of an operand that is a parameter
SCRATCH = -2  # the buffer index that stands for a call's scratch memory


@dataclass(frozen=True)
class Operand:
    """A value's place in memory, as a kernel sees it.

    `strides` count elements, one per axis; for C8 the axes are (N, channel block, H, W) and the 8
    lanes of a block are contiguous. `halo` rows and columns of zeros surround each plane (H and W
    axes) and may be read, at negative offsets too. A parameter has `array`, and no strides in
    memory until a rule packs it.
    """

    type: TensorType
    buffer: int
    offset: Dim  # bytes from the buffer's start to element (0, 0, …)
    strides: tuple[Dim, ...]
    halo: tuple[int, ...] = (0, 0)
    array: Array | None = None
    element: str = ""  # "bf16", "fp16", "tf32" or "int8" where floats are rounded to that

    @property
    def item(self) -> int:
        """Bytes of one element as it is stored."""
        return 2 if self.is_narrow else 1 if self.element == "int8" else self.type.dtype.size

    @property
    def is_narrow(self) -> bool:
        """Whether floats are stored in 16 bits."""
        return self.element in ("bf16", "fp16")

    @property
    def is_c8(self) -> bool:
        """Whether it lies in channel blocks."""
        return self.type.layout is Layout.C8

    @property
    def sizes(self) -> tuple[Dim, ...]:
        """The size of each axis of `strides`: for C8 (N, ⌈C/8⌉, H, W)."""
        if not self.is_c8:
            return self.type.shape
        n, c, h, w = self.type.shape
        return (n, ceil_div(c, BLOCK), h, w)

    @property
    def dense(self) -> bool:
        """Whether the elements are contiguous, in row-major order."""
        return not self.is_c8 and self.strides == row_major(self.type.shape)

    @property
    def is_row_major(self) -> bool:
        """Whether the bytes are those of a dense row-major array; axes of 1 may have any stride."""
        wanted = zip(self.type.shape, self.strides, row_major(self.type.shape), strict=True)
        return not self.is_c8 and all(d == 1 or have == want for d, have, want in wanted)

    def pointer(self, extra: Dim = 0) -> Arg:
        """The address of element (0, 0, …), `extra` bytes on."""
        return BufferArg(self.buffer, self.offset + extra)


def row_major(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """The strides, in elements, of a dense row-major array."""
    out: list[Dim] = []
    step: Dim = 1
    for d in reversed(shape):
        out.append(step)
        step = step * d
    return tuple(reversed(out))


@dataclass(frozen=True)
class Kernel:
    """One kernel to lower: a fused node's body and where its operands lie.

    `anchor` is the body's one structured node, or None for an element-wise chain; `ins` and
    `outs` stand in the order of the body's inputs and outputs.
    """

    node: Node
    body: Graph
    anchor: Node | None
    ins: tuple[Operand, ...]
    outs: tuple[Operand, ...]

    @property
    def results(self) -> tuple[Value, ...]:
        """What the element-wise tail begins with: the anchor's results, blocked where they are."""
        assert self.anchor is not None
        readers = [n for n in self.body.nodes if self.anchor.results[0] in n.inputs]
        if len(readers) == 1 and isinstance(readers[0].op, ToBlocked):
            return readers[0].results
        return self.anchor.results

    def tail_reads(self) -> set[Value]:
        """What the tail is made of beside the anchor's results; its operands may be among it."""
        found: set[Value] = set()
        stack = [*self.body.outputs.values()]
        while stack:
            value = stack.pop()
            if value.node is not self.anchor and value not in found:
                found.add(value)
                stack += value.node.inputs
        return found

    @property
    def title(self) -> str:
        """Its ops as a person reads them: conv+add+relu."""
        inner = [n.op.name for n in self.body.nodes if not isinstance(n.op, Input | Param)]
        return "+".join(inner) or "copy"

    def operand(self, value: Value) -> Operand | None:
        """Where a value of the body lies, None when it exists in registers only."""
        for node, operand in zip(self.body.inputs, self.ins, strict=True):
            if value.node is node:
                return operand
        return None

    def anchor_operands(self) -> tuple[Operand, ...]:
        """The operands of the anchor, in its own order."""
        assert self.anchor is not None
        found = [self.operand(v) for v in self.anchor.inputs]
        return tuple(o for o in found if o is not None)


@dataclass(frozen=True)
class Cost:
    """What a step does, in words for people, its operations, and the bytes that must pass."""

    op: str
    flops: Dim = 0
    bytes: Dim = 0


@dataclass(frozen=True)
class Call:
    """A step to be: which function of the image, with which arguments.

    `part` names the elements that it writes where other calls of its kernel write others. It may
    need so many bytes of `scratch` memory, whose address is the argument that names buffer SCRATCH;
    with `goes_on` the next call of its kernel has the same memory, and what is left there. A call
    that `gives` nothing writes no results. Without a `cost` of its own it does all of its kernel's
    work, if it is the first.
    """

    symbol: str
    args: tuple[Arg, ...]
    part: str = ""
    scratch: Dim = 0
    goes_on: bool = False
    gives: bool = True
    cost: Cost | None = None


def in_one_memory(calls: Sequence[Call], size: Dim) -> tuple[Call, ...]:
    """Calls that follow one another in so many bytes of scratch memory."""
    last = len(calls) - 1
    return tuple(replace(call, scratch=size, goes_on=i < last) for i, call in enumerate(calls))


Packing: TypeAlias = "tuple[str | int, ...]"
