"""Loops and branches while they are being built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from netc.codegen.cpu.values import Val

if TYPE_CHECKING:
    from netc.codegen.cpu.emit import Function


@dataclass
class Loop:
    """A counted loop in flight; `next` gives the carried values of the following turn.

    Where `done` is set, the turn in which it holds is the last.
    """

    index: Val
    values: list[Val]
    results: list[Val] = field(default_factory=list)
    following: list[Val] | None = None
    done: Val | None = None

    def next(self, values: Sequence[Val]) -> None:
        """The carried values as the next turn (and, after the last, the results) sees them."""
        self.following = list(values)


@dataclass
class Branch:
    """A two-way branch in flight; each side may `give` values, merged into `results`."""

    function: Function
    other: str
    join: str
    given: list[tuple[str, list[Val]]] = field(default_factory=list)
    results: list[Val] = field(default_factory=list)
    _values: list[Val] = field(default_factory=list)
    _split: bool = False

    def give(self, values: Sequence[Val]) -> None:
        """What this side contributes to `results`."""
        self._values = list(values)

    def otherwise(self) -> None:
        """End the true side, begin the false one."""
        self.close()
        self._split = True
        self.function.label(self.other)

    def close(self) -> None:
        """End the side in flight."""
        self.given.append((self.function.block, self._values))
        self._values = []
        self.function.emit(f"br label %{self.join}")
