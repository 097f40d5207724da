"""What N, H and W are, where an array's shape meets a type such as `f32[N,3,4*H,4*W]`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from netc.ir.dims import Call, Dim, Expr, Sym, ceil_div
from netc.ir.types import TensorType


@dataclass(frozen=True)
class Line:
    """A size that grows with one symbol: `factor`·`symbol` + `rest`, the factor 1 or more."""

    symbol: str
    factor: int
    rest: int

    def solve(self, size: Dim) -> Dim | None:
        """What the symbol stands for where the whole is `size`; None where nothing fits."""
        found = (size - self.rest) // self.factor
        fits = found * self.factor + self.rest == size
        return None if not fits or (isinstance(found, int) and found < 0) else found

    def solve_near(self, size: int) -> int:
        """What makes the whole `size`, or as little more as can be."""
        return max(0, int(ceil_div(size - self.rest, self.factor)))


@lru_cache(maxsize=1024)
def line_of(size: Dim) -> Line | None:
    """A size as a line: from such ones the symbols of a run are known."""
    if not isinstance(size, Expr):
        return None
    rest = sum(c for atoms, c in size.terms if not atoms)
    match [(atoms, c) for atoms, c in size.terms if atoms]:
        case [((Sym(name),), factor)] if factor > 0:
            return Line(name, factor, rest)
    return None


def rounding(sizes: Iterable[Dim]) -> str:
    """What to do about a size such as `H//2`, which an input's type could have made even."""
    for size in sizes:
        parts = [a for atoms, _ in size.terms for a in atoms] if isinstance(size, Expr) else []
        for part in parts:
            line = line_of(part.a) if isinstance(part, Call) and part.kind == "floordiv" else None
            if line and isinstance(part, Call) and isinstance(part.b, int) and line.factor < part.b:
                whole = f"{part.b}*{line.symbol}"
                return f"{part} rounds down; an input's size `{whole}` is a multiple of {part.b}"
    return ""


def lines_of(types: Iterable[TensorType]) -> Iterator[tuple[int, Line]]:
    """Every line in the shapes, with its axis."""
    for type in types:
        for axis, size in enumerate(type.shape):
            line = line_of(size)
            if line:
                yield axis, line


def said(types: Iterable[TensorType]) -> set[str]:
    """The symbols that a run knows by the shapes of such inputs."""
    return {line.symbol for _, line in lines_of(types)}


def solved(types: Iterable[TensorType], shapes: Iterable[Sequence[Dim]]) -> dict[str, Dim]:
    """What symbols stand for, each by the first size that says it; none for sizes that fit not."""
    known: dict[str, Dim] = {}
    for type, shape in zip(types, shapes, strict=True):
        for want, got in zip(type.shape, shape, strict=False):
            line = line_of(want)
            found = line.solve(got) if line and line.symbol not in known else None
            if line and found is not None:
                known[line.symbol] = found
    return known


def sizes_where(types: Iterable[TensorType], at: Callable[[int, str], int]) -> dict[str, int]:
    """A number for every symbol, so that the first size with it is at least `at(axis, symbol)`."""
    sizes: dict[str, int] = {}
    for axis, line in lines_of(types):
        sizes.setdefault(line.symbol, line.solve_near(at(axis, line.symbol)))
    return sizes
