"""The sizes of a plan as rows, of which later ones use earlier ones: each part is computed once.

A row is a number, a symbol, a call (`floordiv`, `min` or `max` of two earlier rows), or terms: a
sum of products, each a coefficient and earlier rows. Rows are what files hold, and what binding
computes with; sizes as expressions are made when someone asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from netc.errors import GraphError, ResourceError, clean
from netc.ir.dims import Call, Dim, Expr, Sym, least, most, product, sym
from netc.runtime.checked import below, listed, whole, wrong

Called: TypeAlias = tuple[str, int, int]
Terms: TypeAlias = tuple[tuple[int, ...], ...]
Row: TypeAlias = int | str | Called | Terms

_CALLS = ("floordiv", "min", "max")
_MAX_NAME = 64  # characters of a symbol
_MAX_TERMS, _MAX_FACTORS = 512, 32  # of one row
_MAX_DEPTH, _MAX_PARTS = 128, 10_000  # of an expression, without what its parts have in common
_END = 1 << 63


class Sizes:
    """Sizes by their places."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._made: dict[int, tuple[Dim, int, int]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def is_number(self, place: int) -> bool:
        """Whether a size is the same in every run."""
        return isinstance(self.rows[place], int)

    def numbers(self, known: Mapping[str, int]) -> list[int]:
        """What all sizes stand for. Raises GraphError and, beyond 64 bits, ResourceError."""
        values: list[int] = []
        for row in self.rows:
            if isinstance(row, int):
                values.append(row)
                continue
            if isinstance(row, str):
                value = _known(row, known)
            elif isinstance(row[0], str):
                value = _called(row, values)
            else:
                value = 0
                for part, *factors in row:
                    for place in factors:
                        part *= values[place]
                    value += part
            if not -_END <= value < _END:
                raise ResourceError("a size of this run exceeds 64 bits")
            values.append(value)
        return values

    def __getitem__(self, place: int) -> Dim:
        """A size as an expression. Raises ArtifactError and GraphError."""
        row = self.rows[place]
        return row if isinstance(row, int) else self._expression(place)[0]

    def _expression(self, place: int) -> tuple[Dim, int, int]:
        """A size, the parts it has when written out, and how deep it nests."""
        made = self._made.get(place)
        if made is None:
            row = self.rows[place]
            used = [self._expression(p) for p in _used(row)]
            parts = 1 + sum(parts for _, parts, _ in used)
            depth = 1 + max([depth for _, _, depth in used], default=0)
            if parts > _MAX_PARTS or depth > _MAX_DEPTH:
                raise wrong(row, "a size of moderate length")
            made = self._made[place] = self._size(row), parts, depth
        return made

    def _size(self, row: Row) -> Dim:
        if isinstance(row, int):
            return row
        if isinstance(row, str):
            return sym(row)
        if isinstance(row[0], str):
            kind, a, b = row
            return _call(kind, self[a], self[b])
        total: Dim = 0
        for part, *factors in row:
            total = total + product([self[place] for place in factors]) * part
        return total


def _used(row: Row) -> Iterable[int]:
    if isinstance(row, int | str):
        return ()
    if isinstance(row[0], str):
        return row[1:]
    return [place for _, *factors in row for place in factors]


def _known(name: str, known: Mapping[str, int]) -> int:
    if name not in known:
        raise GraphError(f"no input says what {clean(name)} is")
    return known[name]


def _called(row: Called, values: Sequence[int]) -> int:
    kind, a, b = row[0], values[row[1]], values[row[2]]
    if kind == "floordiv":
        if b == 0:
            raise GraphError("a size is divided by 0")
        return a // b
    return min(a, b) if kind == "min" else max(a, b)


def _call(kind: str, a: Dim, b: Dim) -> Dim:
    if kind == "floordiv":
        if isinstance(b, int) and b <= 0:
            raise wrong(b, "a divisor")
        return a // b
    return least(a, b) if kind == "min" else most(a, b)


class SizeList:
    """Rows for sizes, each once, behind those there are."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows = {row: place for place, row in enumerate(rows)}
        self._places: dict[Dim, int] = {}

    @property
    def sizes(self) -> Sizes:
        """All of them."""
        return Sizes(tuple(self._rows))

    def of(self, size: Dim) -> int:
        """The place of a size."""
        if size not in self._places:
            self._places[size] = self._place(size)
        return self._places[size]

    def _place(self, size: Dim) -> int:
        if not isinstance(size, Expr):
            return self._add(int(size))
        terms = tuple((c, *(self._factor(a) for a in atoms)) for atoms, c in size.terms)
        alone = len(terms) == 1 and len(terms[0]) == 2 and terms[0][0] == 1
        return terms[0][1] if alone else self._add(terms)

    def _factor(self, atom: Sym | Call) -> int:
        if isinstance(atom, Sym):
            return self._add(atom.name)
        return self._add((atom.kind, self.of(atom.a), self.of(atom.b)))

    def _add(self, row: Row) -> int:
        return self._rows.setdefault(row, len(self._rows))


def sizes_from_json(value: Any) -> Sizes:
    """Rows as a file has them. Raises ArtifactError."""
    return Sizes([_row(row, place) for place, row in enumerate(listed(value))])


def _row(value: Any, place: int) -> Row:
    if type(value) is int:
        return whole(value)
    if type(value) is str:
        if not value.isidentifier() or len(value) > _MAX_NAME:
            raise wrong(value, "the name of a size")
        return value
    if not listed(value) or len(value) > _MAX_TERMS:
        raise wrong(value, "a size of moderate length")
    if type(value[0]) is str:
        kind, a, b = listed(value, 3)
        if kind not in _CALLS:
            raise wrong(kind, ", ".join(_CALLS))
        return kind, below(a, place), below(b, place)
    return tuple([_term(term, place) for term in value])


def _term(value: Any, place: int) -> tuple[int, ...]:
    if not listed(value) or len(value) > 1 + _MAX_FACTORS:
        raise wrong(value, "a term of moderate length")
    for factor in value[1:]:
        below(factor, place)
    return whole(value[0]), *value[1:]
