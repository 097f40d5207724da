"""The contract between compiler and runtime: buffers and steps, no ops.

A plan is generic in its symbols (batch, height, width): buffer sizes, argument integers and
offset tables are `Dim`s. Binding a plan to sizes evaluates them; nothing is compiled then. The
runtime knows this module and nothing else of the compiler.

A step calls one kernel, `void k(i64 *args, i64 tid, i64 nthreads)`, on every thread, and a barrier
follows it. `args` is the step's block of 8-byte slots: addresses and integers, one per `Arg`.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from netc.ir.dims import Dim, evaluate
from netc.ir.types import TensorType

ALIGN = 64  # bytes; a cache line, and the widest vector
PART = "part."  # the kernel of a step that calls a part of a net on several hosts, by its number


class Space(Enum):
    """Where a buffer lives."""

    ARENA = "arena"  # planned memory of the run
    INPUT = "input"  # the caller's array, read only
    OUTPUT = "output"  # a fresh array that the caller gets


@dataclass(frozen=True)
class Buffer:
    """`size` bytes in a space, live from step `first` to step `last`, both included.

    In the arena `ALIGN` bytes before and after it are addressable: kernels may load whole vectors
    across the edge, but what lies there has no meaning.
    """

    space: Space
    size: Dim
    first: int = 0
    last: int = 0
    device: str = "cpu:0"
    parts: int = 0  # on several devices, how many steps write it or a part of it


@dataclass(frozen=True)
class BufferArg:
    """The address `offset` bytes into a buffer."""

    buffer: int
    offset: Dim = 0


@dataclass(frozen=True)
class WeightArg:
    """The address `offset` bytes into the weights section."""

    offset: int


@dataclass(frozen=True)
class MadeArg:
    """The address `offset` bytes into what the plan's `setup` makes."""

    offset: int


@dataclass(frozen=True)
class IntArg:
    """An integer."""

    value: Dim


@dataclass(frozen=True)
class Affine:
    """The numbers base + Σ index[i] · strides[i], row-major over `dims`."""

    dims: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    base: Dim = 0


@dataclass(frozen=True)
class TableArg:
    """The address of an int32 table: its parts, one after the other."""

    parts: tuple[Affine, ...]


@dataclass(frozen=True)
class CodeArg:
    """The address of a function of the image, such as an epilogue."""

    symbol: str


Arg: TypeAlias = BufferArg | WeightArg | MadeArg | IntArg | TableArg | CodeArg


@dataclass(frozen=True)
class Step:
    """One kernel call. `name` and `op` are for people; `reads` and `writes` are buffer indices.

    Without `barrier` the threads go on to the next step at once: the two are independent.
    Steps of one device and stream run in their order; before it begins a step waits until the
    steps in `waits`, which are earlier and have barriers, are done.

    A step `by_image` does for each element of the batch what does not depend on the others, and
    finds them one behind the other in each buffer that has them: its arguments for fewer of them,
    with addresses of later ones, do some of them.
    """

    kernel: str
    args: tuple[Arg, ...]
    name: str
    op: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    flops: Dim = 0
    bytes: Dim = 0
    device: str = "cpu:0"
    barrier: bool = True
    stream: str = "compute"  # or "copy"
    waits: tuple[int, ...] = ()
    by_image: bool = False


@dataclass(frozen=True)
class Port:
    """An input or output: its name, its type as the user sees it, its buffer.

    `count` names a buffer with one int64, the number of valid rows of an output whose first size
    depends on the data.
    """

    name: str
    type: TensorType
    buffer: int
    count: int | None = None


@dataclass(frozen=True)
class Condition:
    """`size` must be at least `minimum` for the net to mean anything; `why` says what it is."""

    size: Dim
    minimum: int
    why: str


@dataclass(frozen=True)
class Plan:
    """Everything the runtime needs besides code and weights.

    `setup` runs once, when a net is loaded: a plan without inputs, whose one output, of float32,
    is what steps find at a `MadeArg`. It makes weights that need more room than those of the file.
    `batch` is the symbol of the batch, where steps are `by_image`.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    conditions: tuple[Condition, ...] = ()
    setup: Plan | None = None
    batch: str = ""

    @property
    def made_size(self) -> int:
        """The bytes that `setup` makes."""
        if self.setup is None:
            return 0
        (port,) = self.setup.outputs
        return evaluate(port.type.count, {}) * port.type.dtype.size


def allocate(
    sizes: Sequence[int], lifetimes: Sequence[tuple[int, int]], pad: int = ALIGN
) -> tuple[list[int], int]:
    """Offsets of buffers in one arena, so that buffers alive together do not overlap; its size.

    Greedy by size, each at the lowest gap that fits (Pisarchyk & Lee, 2020, "greedy by size").
    `pad` bytes stay free before and after each buffer. The result depends on the arguments only.
    """
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], lifetimes[i], i))
    offsets = [0] * len(sizes)
    placed: list[tuple[int, int, int]] = []  # offset, end, index; sorted by offset
    total = pad
    for i in order:
        first, last = lifetimes[i]
        need = -(-sizes[i] // ALIGN) * ALIGN + pad
        at = pad
        for start, end, j in placed:
            if lifetimes[j][0] > last or lifetimes[j][1] < first:
                continue
            if start - at >= need:
                break
            at = max(at, end)
        offsets[i] = at
        bisect.insort(placed, (at, at + need, i))
        total = max(total, at + need)
    return offsets, total


def check_arena(
    offsets: Sequence[int], sizes: Sequence[int], lifetimes: Sequence[tuple[int, int]]
) -> str:
    """Why an allocation is wrong, or an empty string: no two live buffers overlap."""
    spans = sorted(range(len(sizes)), key=lambda i: offsets[i])
    for n, i in enumerate(spans):
        if offsets[i] % ALIGN:
            return f"buffer {i} is not aligned to {ALIGN} bytes"
        for j in spans[n + 1 :]:
            if offsets[j] >= offsets[i] + sizes[i]:
                break
            apart = lifetimes[i][1] < lifetimes[j][0] or lifetimes[j][1] < lifetimes[i][0]
            if not apart and sizes[i] and sizes[j]:
                return f"buffers {i} and {j} are live together and overlap"
    return ""
