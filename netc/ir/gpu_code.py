"""The contract of GPU code: kernels as text, the forms they are compiled in, and how one starts.

A kernel is a Triton function named `kernel`. Its run-time parameters come first, then constants
that a variant gives values for. A step of a plan that runs on `cuda:N` names a kernel; the step's
arguments are first the kernel's extents, then its parameters, pointers before integers in any mix:

    args = (IntArg(M), IntArg(N), BufferArg(…), WeightArg(…), IntArg(…), …)

A launch has one axis of Π ⌈extent / tile⌉ · repeat programs; the text itself finds its place from
`tl.program_id(0)`. Every variant of a kernel computes the same values for the same arguments
within the tolerances of the op, and the same bits from run to run; which one is fastest is
measured when a plan is bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ENTRY = "kernel"  # the function's name in every text
PORTABLE = "ptx"  # stands among the architectures for PTX that the driver compiles
MOST_ELEMENTS = (1 << 31) - (1 << 18)  # that an int32 index reaches, and a loop's step beyond
ALIGNED = 16  # what "aligned" parameters are multiples of: bytes, or counts


@dataclass(frozen=True)
class Variant:
    """One choice of constants: tile sizes, how many programs share a tile, warps and stages."""

    tile: tuple[int, ...]  # of each extent, how much one program covers
    constants: tuple[tuple[str, int], ...] = ()
    repeat: int = 1
    warps: int = 4
    stages: int = 3
    limit: int = 0  # the most programs it may be launched with; 0 for any number

    def fits(self, extents: Sequence[int], most: int) -> bool:
        """Whether it can be launched over these extents where `most` programs are allowed."""
        return self.programs(extents) <= min(most, self.limit or most)

    def programs(self, extents: Sequence[int]) -> int:
        """How many programs a launch over these extents has."""
        count = self.repeat
        for extent, tile in zip(extents, self.tile, strict=True):
            count *= -(-extent // tile)
        return count


@dataclass(frozen=True)
class KernelText:
    """A kernel before it is compiled: all that its machine code depends on."""

    text: str
    params: tuple[str, ...]  # Triton's types: "*fp32", "*bf16", "*i64", "i32", "fp32"
    aligned: tuple[int, ...]  # places in `params` of what is a multiple of ALIGNED
    extents: int
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Code:
    """A variant compiled for one architecture: where it is in the image, and how it is launched."""

    offset: int  # bytes, in the architecture's section
    size: int
    entry: str  # the symbol in the cubin or PTX
    warps: int  # as the compiler left it
    shared: int  # bytes of dynamic shared memory
    registers: int = 0  # of a thread
    local: int = 0  # bytes of a thread's spills and stack


@dataclass(frozen=True)
class GpuKernel:
    """A kernel with its compiled forms: `codes` has, for each variant, a code per architecture."""

    text: KernelText
    codes: tuple[Mapping[str, Code], ...]


@dataclass(frozen=True)
class GpuImage:
    """All GPU kernels of a file, and the bytes of each architecture ("sm_90", "ptx")."""

    kernels: Mapping[str, GpuKernel]
    sections: Mapping[str, bytes | memoryview] = field(default_factory=dict)
    compiler: str = ""  # "triton 3.6.0"
