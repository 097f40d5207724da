"""A convolution of any kind, an inner product, or matrix products, as rows times columns.

    y[m, g, n] = Σ_tap Σ_c x[row(m) + shift(tap), g·C + c] · w[g, n, tap, c]

Rows m run over batch and window positions, columns n over the output channels of a group. A tap is
a position in the window; the depth is walked tap by tap and within a tap over channels, which lie
side by side. With few channels the depth is walked in one go ("flat") and each place of it finds
its own tap. Groups g are products of their own: those of a grouped convolution, or of the matrices
of a batch, where w is the second of the operands. `product_text` writes the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from netc.codegen.operand import Operand
from netc.ir.dims import Dim, product
from netc.ir.graph import Value
from netc.ir.plan import BufferArg, WeightArg


@dataclass(frozen=True, eq=False)
class Axis:
    """An axis of rows: its size, and how x moves along it. A window has taps along it."""

    size: Dim
    step: Dim  # of x, in elements, for one more place in x
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    taps: int = 1
    reach: Dim | None = None  # the places x has along it, where taps may miss them
    transposed: bool = False

    @property
    def simple(self) -> bool:
        """Whether x just moves on with the row."""
        return self.reach is None and not self.transposed

    def runs_on_to(self, inner: Axis) -> bool:
        """Whether x goes from the end of the inner axis to this one's next place by one step."""
        even = self.step * self.stride == inner.step * inner.size * inner.stride
        return self.simple and inner.simple and even


@dataclass(frozen=True, eq=False)
class Inner:
    """An axis of x that is summed over besides the channels: every place of it is a tap."""

    taps: int
    step: Dim


@dataclass(frozen=True, eq=False)
class Group:
    """Products side by side: how many, and how far operands lie from one to the next."""

    size: Dim
    x: Dim  # of x, in elements; 0 where all of them read the same
    weights: Dim  # the same of the weights
    axis: int  # of the result, along which they lie; where that is the columns', behind each other


@dataclass(frozen=True)
class Product:
    """A product to be made a kernel."""

    x: Operand
    axes: tuple[Axis, ...]  # of the rows, in the order of the result's axes
    inner: tuple[Inner, ...]
    channels: Dim  # of x, per group
    spread: Dim  # of x from channel to channel, in elements
    columns: Dim  # per group
    groups: tuple[Group, ...]
    weights: BufferArg | WeightArg
    element: str  # of the weights
    row: Dim  # elements from one column's weights to the next
    tap: Dim  # elements from tap to tap
    lane: Dim  # elements from channel to channel
    channel_axis: int  # of the result
    flat: int  # channels that a tap takes where the depth is walked in one go; 0: tap by tap
    bias: Value | None
    given: Value  # what the product is in the kernel's body
    main: Value  # what x is there
    fed: Value | None = None  # what is multiplied, where that is computed from x
    patches: tuple[int, ...] = ()  # of windows side by side: each column is one of their places

    @property
    def windows(self) -> tuple[Axis | Inner, ...]:
        """The axes that have taps, slowest first."""
        return (*(a for a in self.axes if a.taps > 1), *(i for i in self.inner if i.taps > 1))

    @property
    def count(self) -> int:
        """The taps of a window."""
        total = 1
        for w in self.windows:
            total *= w.taps
        return total

    @property
    def rows(self) -> Dim:
        """All rows of a group."""
        return product(tuple(a.size for a in self.axes))

    @property
    def many(self) -> Dim:
        """How many products there are."""
        return product(tuple(g.size for g in self.groups))

    @property
    def rows_side_by_side(self) -> bool:
        """Whether neighbours in x are rows of one depth, not the depth of one row."""
        real = [a for a in self.axes if a.size != 1]
        near = len(real) == 1 and real[0].simple and (real[0].step, real[0].stride) == (1, 1)
        return near and self.spread != 1 and not self.flat

    @property
    def columns_side_by_side(self) -> bool:
        """The same of the weights' columns."""
        return self.row == 1 and self.lane != 1

    @property
    def row_axes(self) -> tuple[int, ...]:
        """The axes of the result along which the rows lie, as `axes` has them."""
        others = {self.channel_axis, *(g.axis for g in self.groups)}
        rank = len(self.axes) + len(others)
        return tuple(a for a in range(rank) if a not in others)
