"""Windows that slide over spatial axes: the taps of every lane's window that lie inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from netc.codegen.triton.body import Coord
from netc.codegen.triton.flat import Flat
from netc.ir.dims import Dim
from netc.ir.ops.pooling import Pool
from netc.ir.types import TensorType

UNROLLED = 49  # taps

Step = Callable[[Sequence[Coord], str], None]  # places along the axes, the mask of what is inside
Around = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Span:
    """One axis: the image's size and the result's, and where the window of each lane begins."""

    size: Dim
    out: Dim
    kernel: int
    stride: int
    pad: int
    ceil: bool
    start: str

    def over(self, tap: int) -> bool:
        """Whether tap number `tap` of some window lies beyond the image."""
        last = (self.out - 1) * self.stride - self.pad + tap - self.size
        if isinstance(last, int):
            return last >= 0
        slack = self.stride - 1 if self.ceil else 0  # the last start is at most room + slack
        return self.pad - self.kernel + tap + slack >= 0

    @property
    def full(self) -> bool:
        """Whether every window ends within the padded image."""
        last = (self.out - 1) * self.stride + self.kernel - 2 * self.pad - self.size
        return last <= 0 if isinstance(last, int) else not self.ceil or self.stride == 1


class Window:
    """The windows of a pool, one a lane."""

    def __init__(self, flat: Flat, x: TensorType, op: Pool) -> None:
        self.flat, self.src = flat, flat.src
        kernel, stride, pad = op.window()
        self.spans = []
        for i, (k, s, p) in enumerate(zip(kernel, stride, pad, strict=True), start=2):
            start = self.src.let(f"{flat.index(i)} * {s} - {p}")
            self.spans.append(Span(x.shape[i], flat.shape[i], k, s, p, op.ceil, start))
        self.unrolled = math.prod(kernel) <= UNROLLED
        self._known: dict[tuple[int, int], tuple[str, str]] = {}

    def walk(self, step: Step, around: Around = nullcontext) -> None:
        """`step` for every tap, row by row; `around` encloses each row."""
        self._walk(step, around, [], [])

    def _walk(self, step: Step, around: Around, places: list[str], masks: list[str]) -> None:
        axis = len(places)
        if axis == len(self.spans):
            step([Coord(p, "lane") for p in places], " & ".join(m for m in masks if m))
            return
        with around() if axis == len(self.spans) - 1 else nullcontext():
            if self.unrolled:
                for tap in range(self.spans[axis].kernel):
                    place, mask = self._tap(axis, tap)
                    self._walk(step, around, [*places, place], [*masks, mask])
                return
            name = self.src.name()
            with self.src.block(f"for {name} in range({self.spans[axis].kernel}):"):
                place, mask = self._place(axis, name, low=True, high=True)
                self._walk(step, around, [*places, place], [*masks, mask])

    def _tap(self, axis: int, tap: int) -> tuple[str, str]:
        span = self.spans[axis]
        if (axis, tap) not in self._known:
            here = self._place(axis, str(tap), tap < span.pad, span.over(tap))
            self._known[axis, tap] = here
        return self._known[axis, tap]

    def _place(self, axis: int, tap: str, low: bool, high: bool) -> tuple[str, str]:
        """Where a tap is, and the mask of whether it is inside."""
        span = self.spans[axis]
        place = self.src.let(span.start if tap == "0" else f"{span.start} + {tap}")
        masks = [f"({place} >= 0)"] if low else []
        masks += [f"({place} < {self.src.size(span.size)})"] if high else []
        return place, self.src.let(" & ".join(masks)) if masks else ""

    def count(self) -> str:
        """The size of each window, clipped to the padded image, as a float."""
        if all(s.full for s in self.spans):
            return self.flat.full(math.prod(s.kernel for s in self.spans))
        out = ""
        for s in self.spans:
            end = f"{self.src.size(s.size)} + {s.pad}" if s.pad else self.src.size(s.size)
            clipped = f"tl.minimum({s.start} + {s.kernel}, {end}) - {s.start}"
            here = f"({clipped}).to(tl.float32)"
            out = self.src.let(f"{out} * {here}" if out else here)
        return out
