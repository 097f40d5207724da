"""A transposed convolution as ordinary ones: the phases of its outputs.

Outputs that lie a stride apart meet the same positions of the window: output first + y · stride
reads input start + y − t · back at position t, as a convolution of stride 1 does. So the results
of stride × stride convolutions interleave; a phase that no position reaches is bias alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from netc.ir.dims import Dim, ceil_div
from netc.ir.graph import Node
from netc.ir.ops.convolution import ConvTranspose
from netc.ir.ops.windows import known

MOST = 1024  # phases of one node, each a step of its own; FCN-32s has so many


@dataclass(frozen=True)
class Phase:
    """Some outputs of one axis, and the window's positions `residue` + t · `every` they meet."""

    first: int
    step: int  # from one of its outputs to the next
    count: Dim
    residue: int
    every: int
    taps: int
    start: int  # the input at which output 0 meets tap 0
    back: int  # inputs from a tap back to the next


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a transposed convolution."""

    size: Dim
    result: Dim
    kernel: int
    stride: int
    pad: int
    dilation: int

    @property
    def reach(self) -> int:
        """The window's extent."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def step(self) -> int:
        """The stride, which no one sees where there is one input: then outputs share nothing."""
        return max(self.stride, self.reach) if self.size == 1 else self.stride

    @property
    def every(self) -> int:
        """Positions of the window that lie so far apart meet the same outputs."""
        return self.step // math.gcd(self.step, self.dilation)

    @property
    def halo(self) -> int:
        """How many inputs beyond either end the phases read."""
        return max(0, self.reach - 1 - self.pad) // self.step

    @property
    def count(self) -> int:
        """How many phases there are."""
        result = self.result
        return min(result, self.step) if isinstance(result, int) else self.step

    def phases(self) -> Iterator[Phase]:
        """All phases, which together make every output once."""
        for first in range(self.count):
            at = first + self.pad
            meets = (k for k in range(self.every) if (at - k * self.dilation) % self.step == 0)
            residue = next(meets, self.kernel)
            taps = len(range(residue, self.kernel, self.every))
            yield Phase(
                first,
                self.step,
                ceil_div(self.result - first, self.step),
                residue,
                self.every,
                taps,
                (at - residue * self.dilation) // self.step if taps else 0,
                self.every * self.dilation // self.step,
            )


def axes_of(node: Node) -> tuple[Axis, ...]:
    """The spatial axes of a transposed convolution."""
    assert isinstance(node.op, ConvTranspose)
    x, w = (v.type.shape for v in node.inputs[:2])
    kernel = known(w[2:], "the kernel's sizes")
    numbers = zip(kernel, *node.op.window(len(kernel)), strict=True)
    sizes = zip(x[2:], node.types[0].shape[2:], strict=True)
    return tuple(Axis(*s, *n) for s, n in zip(sizes, numbers, strict=True))


def why_whole(node: Node) -> str | None:
    """Why a transposed convolution is not cut into phases; None when it is."""
    assert isinstance(node.op, ConvTranspose)
    if node.types[0].rank != 4:
        return "it has not two spatial axes"
    count = math.prod(a.count for a in axes_of(node))
    if count > MOST:
        return f"it would be {count} convolutions, and {MOST} at most are made of one"
    if node.op.groups == 1:
        return None
    ins, outs = known(node.inputs[1].type.shape[:2], "channels")
    why = uneven(ins // node.op.groups, outs)
    return why and f"it has {why}"


def uneven(ins: Dim, outs: Dim) -> str | None:
    """Why groups of channels are no whole blocks of 8; None where they are, or one channel each."""
    if (ins, outs) == (1, 1) or all(isinstance(n, int) and n % 8 == 0 for n in (ins, outs)):
        return None
    return f"{ins} to {outs} channels a group, no multiples of 8"
