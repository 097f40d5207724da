"""How operands are walked: strides over an iteration space, merged axes, argument slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from netc.codegen.cpu.lowering import Lowering
from netc.codegen.cpu.stored import size_of
from netc.codegen.operand import BLOCK, Operand, row_major
from netc.ir.dims import Dim, ceil_div
from netc.ir.op import Array
from netc.ir.plan import Arg, BufferArg, IntArg, WeightArg
from netc.ir.types import DType

Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Access:
    """One operand over an iteration space: where it begins and its strides, in elements.

    In a blocked space the axes are (N, channel block, H, W) and `lane` is the stride from channel
    to channel. `whole` says that the eight lanes of a block may always be touched.
    `element` says how floats are stored (`stored.py`).
    """

    arg: Arg
    dtype: DType
    strides: Shape
    lane: Dim = 0
    whole: bool = True
    element: str = ""

    @property
    def item(self) -> int:
        """Bytes of one element."""
        return size_of(self.dtype, self.element)

    def extended(self, stride: Dim) -> Access:
        """With one more axis at the end."""
        return replace(self, strides=(*self.strides, stride))


@dataclass
class Args:
    """The argument block of a call in the making."""

    items: list[Arg] = field(default_factory=list)

    def add(self, arg: Arg) -> int:
        """Append; the slot it has."""
        self.items.append(arg)
        return len(self.items) - 1

    def size(self, d: Dim) -> int:
        """Append an integer."""
        return self.add(IntArg(d))

    def access(self, a: Access) -> int:
        """Append an address, then byte strides of the axes, then that of the lane."""
        first = self.add(a.arg)
        for s in (*a.strides, a.lane):
            self.size(s * a.item)
        return first


def shifted(a: Access, starts: Shape) -> Access:
    """The operand from element `starts` on, one index per axis."""
    extra: Dim = 0
    for start, stride in zip(starts, a.strides, strict=True):
        extra = extra + start * stride * a.item
    if isinstance(extra, int) and extra == 0:
        return a
    if isinstance(a.arg, BufferArg):
        return replace(a, arg=BufferArg(a.arg.buffer, a.arg.offset + extra))
    assert isinstance(a.arg, WeightArg)
    assert isinstance(extra, int)
    return replace(a, arg=WeightArg(a.arg.offset + extra))


def _stretched(sizes: Shape, strides: Shape, shape: Shape) -> Shape:
    """Strides over `shape`, aligned at the end: an axis that broadcasts has stride 0."""
    lead = len(shape) - len(sizes)
    own = [s if d == full else 0 for d, s, full in zip(sizes, strides, shape[lead:], strict=True)]
    return (0,) * lead + tuple(own)


def plain_access(ctx: Lowering, o: Operand, shape: Shape) -> Access:
    """An operand that is not blocked over the axes of a result."""
    strides = _stretched(o.type.shape, o.strides, shape)
    return Access(ctx.address(o), o.type.dtype, strides, element=o.element)


def blocked_access(ctx: Lowering, o: Operand, shape: Shape) -> Access:
    """An operand of either layout over (N, channel block, H, W) of a rank-4 result."""
    if o.array is not None:
        return _packed_access(ctx, o, shape)
    if o.is_c8:
        blocks = (shape[0], ceil_div(shape[1], BLOCK), *shape[2:])
        alone = o.type.shape[1] != shape[1]  # one channel for all: lane 0 of each block
        strides = _stretched(o.sizes, o.strides, blocks)
        if alone:
            strides = (strides[0], 0, *strides[2:])
        lane = 0 if alone else 1
        return Access(o.pointer(), o.type.dtype, strides, lane, element=o.element)
    n, c, h, w = _stretched(o.type.shape, o.strides, shape)
    whole = isinstance(shape[1], int) and shape[1] % BLOCK == 0
    return Access(o.pointer(), o.type.dtype, (n, c * BLOCK, h, w), c, whole)


def _packed_access(ctx: Lowering, o: Operand, shape: Shape) -> Access:
    """A parameter, put into channel blocks at compile time."""
    sizes = (1,) * (4 - o.type.rank) + o.type.sizes({})
    array = np.asarray(o.array, o.type.dtype.numpy).reshape(sizes)
    n, c, h, w = sizes
    if c == 1 and shape[1] != 1:
        strides = _stretched(sizes, row_major(sizes), shape)
        return Access(ctx.weight(array), o.type.dtype, strides)
    blocks = -(-c // BLOCK)
    packed = pack_blocks(array)
    strides = row_major((n, blocks, h, w, BLOCK))[:4]
    over = (shape[0], blocks, *shape[2:])
    return Access(ctx.weight(packed), o.type.dtype, _stretched((n, blocks, h, w), strides, over), 1)


def pack_blocks(array: Array) -> Array:
    """[N,C,H,W] as [N][⌈C/8⌉][H][W][8], the lanes beyond C zero."""
    n, c, h, w = array.shape
    blocks = -(-c // BLOCK)
    padded = np.zeros((n, blocks * BLOCK, h, w), array.dtype)
    padded[:, :c] = array
    return np.ascontiguousarray(padded.reshape(n, blocks, BLOCK, h, w).transpose(0, 1, 3, 4, 2))


def collapse(
    sizes: Shape, accesses: Sequence[Access], inner: bool = False, unit: int = 1
) -> tuple[Shape, list[Access]]:
    """Without axes of size 1, and with neighbours merged where every operand runs on evenly.

    At least one axis is left, of stride `unit`; with `inner`, the last one stays even where its
    size is 1.
    """
    kept = [i for i, d in enumerate(sizes) if d != 1 or (inner and i == len(sizes) - 1)]
    out: list[Dim] = []
    columns: list[list[Dim]] = []
    for i in kept:
        own = [a.strides[i] for a in accesses]
        if out and all(p == s * sizes[i] for p, s in zip(columns[-1], own, strict=True)):
            out[-1], columns[-1] = out[-1] * sizes[i], own
        else:
            out.append(sizes[i])
            columns.append(own)
    if not out:
        out, columns = [1], [[unit] * len(accesses)]
    rows = [tuple(c[j] for c in columns) for j in range(len(accesses))]
    return tuple(out), [replace(a, strides=r) for a, r in zip(accesses, rows, strict=True)]
