"""Sizes: integers, or exact integer expressions over symbols such as N, H and W.

A `Dim` is an `int` or an `Expr`. Shape rules are written once with `+ - * //`, `ceil_div`,
`least` and `most`; given integers they give integers, given symbols they give expressions.
An expression is a polynomial with integer coefficients over atoms; an atom is a symbol, a floor
division that does not come out even, or a minimum or maximum. Equal polynomials are equal
expressions, so shapes compare with `==`.
"""

from __future__ import annotations

import ast
import keyword
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NoReturn, TypeAlias

from netc.errors import GraphError, clean

MAX_DIM = 2**31 - 1
IMAGE = 224  # what an open height or width is taken for where nothing says more
BATCH = "N"  # the usual name of a batch that may have any size
_MAX_DEPTH = 64  # nesting of a printed expression
_MAX_TERMS = 100  # of one polynomial; real nets have a handful


@dataclass(frozen=True, order=True)
class Sym:
    """A size known only at run time: batch, height, width."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Call:
    """`floordiv(a, b)`, `min(a, b)` or `max(a, b)` of sizes, where no simpler form is known."""

    kind: str
    a: Dim
    b: Dim

    def __str__(self) -> str:
        if self.kind == "floordiv":
            return f"{_factor(self.a)}//{_factor(self.b)}"
        return f"{self.kind}({self.a},{self.b})"


Atom: TypeAlias = Sym | Call
Monomial: TypeAlias = tuple[Atom, ...]


def _divides(atom: Atom) -> bool:
    return isinstance(atom, Call) and atom.kind == "floordiv"


@dataclass(frozen=True, eq=False)
class Expr:
    """A polynomial over atoms; never a plain integer (see `_make`)."""

    terms: tuple[tuple[Monomial, int], ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.terms == other.terms

    @cached_property
    def _hash(self) -> int:
        return hash(self.terms)

    def __hash__(self) -> int:
        return self._hash

    def __add__(self, other: Dim) -> Dim:
        return _make([*self.terms, *_terms(other)])

    def __mul__(self, other: Dim) -> Dim:
        pairs = [(_key(m + n), c * d) for m, c in self.terms for n, d in _terms(other)]
        return _make(pairs)

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        if not isinstance(other, int):
            return 1 if self == other else _make([((Call("floordiv", self, other),), 1)])
        if other <= 0:
            raise GraphError(f"a size is divided by {other}")
        whole = [(m, c // other) for m, c in self.terms]
        rest = [(m, c % other) for m, c in self.terms]
        left = _make(rest)
        if isinstance(left, int):
            return _make([*whole, ((), left // other)])
        if len(left.terms) == 1 and left.terms[0][1] == 1 and len(left.terms[0][0]) == 1:
            (inner,) = left.terms[0][0]  # (a // b) // c = a // (b · c)
            if isinstance(inner, Call) and inner.kind == "floordiv" and isinstance(inner.b, int):
                return _make(whole) + inner.a // (inner.b * other)
        return _make([*whole, ((Call("floordiv", left, other),), 1)])

    def __rfloordiv__(self, other: Dim) -> Dim:
        return _make([((Call("floordiv", other, self),), 1)])

    def __mod__(self, other: int) -> Dim:
        return self - (self // other) * other

    def __truediv__(self, other: Dim) -> NoReturn:
        raise GraphError(f"{self} / {other} may not come out even", help="`//` divides sizes")

    def __rtruediv__(self, other: Dim) -> NoReturn:
        raise GraphError(f"{other} / {self} may not come out even", help="`//` divides sizes")

    def _gap(self, sign: str, other: Dim) -> int:
        """self − other, where that is a number."""
        gap = self - other
        if isinstance(gap, int):
            return gap
        raise GraphError(f"{self} {sign} {other} is not known when compiling")

    def __lt__(self, other: Dim) -> bool:
        return self._gap("<", other) < 0

    def __le__(self, other: Dim) -> bool:
        return self._gap("<=", other) <= 0

    def __gt__(self, other: Dim) -> bool:
        return self._gap(">", other) > 0

    def __ge__(self, other: Dim) -> bool:
        return self._gap(">=", other) >= 0

    def __bool__(self) -> bool:
        raise GraphError(f"the size {self} is not known here")

    def __index__(self) -> int:
        raise GraphError(f"the size {self} is not known here")

    @cached_property
    def _text(self) -> str:
        parts = []
        for atoms, c in self.terms:
            factors = [str(abs(c))] if abs(c) != 1 or not atoms else []
            # A division binds to the left: behind a `*` it needs brackets.
            factors += [f"({a})" if (factors or i) and _divides(a) else str(a)
                        for i, a in enumerate(atoms)]  # fmt: skip
            parts.append(("-" if c < 0 else "+") + "*".join(factors))
        text = "".join(parts)
        return text[1:] if text[0] == "+" else "0" + text

    def __str__(self) -> str:
        return self._text

    __repr__ = __str__


Dim: TypeAlias = int | Expr


def _factor(d: Dim) -> str:
    """A size as text to divide or divide by."""
    text = str(d)
    return text if text.isidentifier() or text.isdigit() else f"({text})"


def _key(atoms: Iterable[Atom]) -> Monomial:
    return tuple(sorted(atoms, key=str))


def _terms(d: Dim) -> Iterable[tuple[Monomial, int]]:
    if isinstance(d, Expr):
        return d.terms
    try:
        return (((), operator.index(d)),) if d else ()
    except TypeError:
        raise GraphError(f"a size meets {clean(repr(d))}, which is no whole number") from None


def _make(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    total: dict[Monomial, int] = {}
    for m, c in terms:
        total[m] = total.get(m, 0) + c
    kept = [(m, c) for m, c in total.items() if c]
    if len(kept) > _MAX_TERMS or any(len(m) > _MAX_TERMS for m, _ in kept):
        raise GraphError(f"a size is a sum or product of more than {_MAX_TERMS} parts")
    if all(m == () for m, _ in kept):
        return sum(c for _, c in kept)
    # Positive terms first, so that the text never starts with a sign; then by size and name.
    order = sorted(kept, key=lambda t: (t[1] < 0, -len(t[0]), [str(a) for a in t[0]]))
    return Expr(tuple(order))


@lru_cache(maxsize=256)
def sym(name: str) -> Dim:
    """The symbol `name` as a size. Raises GraphError for what `parse_dim` would not read back."""
    spelt = name.isascii() and name.isidentifier()
    if not spelt or keyword.iskeyword(name) or name in ("min", "max"):
        raise GraphError(f"`{clean(name)}` is no name for a size", help="N, H and W are usual")
    return Expr((((Sym(name),), 1),))


def ceil_div(a: Dim, b: int) -> Dim:
    """⌈a / b⌉."""
    return -((-a) // b)


def least(a: Dim, b: Dim) -> Dim:
    """The smaller of two sizes."""
    return _extreme("min", a, b)


def most(a: Dim, b: Dim) -> Dim:
    """The larger of two sizes."""
    return _extreme("max", a, b)


def _extreme(kind: str, a: Dim, b: Dim) -> Dim:
    gap = a - b
    if isinstance(gap, int):
        return a if (gap <= 0) == (kind == "min") else b
    return _make([((Call(kind, a, b),), 1)])


def product(dims: Iterable[Dim]) -> Dim:
    """The product of sizes; 1 for none."""
    out: Dim = 1
    for d in dims:
        out = out * d
    return out


def evaluate(d: Dim, sizes: Mapping[str, int]) -> int:
    """The integer `d` stands for when each symbol has the given size."""
    if isinstance(d, int):
        return d
    return sum(c * math.prod(_evaluate_atom(a, sizes) for a in m) for m, c in d.terms)


def _evaluate_atom(atom: Atom, sizes: Mapping[str, int]) -> int:
    if isinstance(atom, Sym):
        return sizes[atom.name]
    a, b = evaluate(atom.a, sizes), evaluate(atom.b, sizes)
    if atom.kind == "floordiv":
        if b == 0:
            raise GraphError("a size is divided by 0")
        return a // b
    return min(a, b) if atom.kind == "min" else max(a, b)


def substitute(d: Dim, sizes: Mapping[str, Dim]) -> Dim:
    """`d` with some symbols replaced by sizes."""
    if isinstance(d, int):
        return d
    out: Dim = 0
    for atoms, c in d.terms:
        out = out + product(_substitute_atom(a, sizes) for a in atoms) * c
    return out


def _substitute_atom(atom: Atom, sizes: Mapping[str, Dim]) -> Dim:
    if isinstance(atom, Sym):
        return sizes.get(atom.name, sym(atom.name))
    a, b = substitute(atom.a, sizes), substitute(atom.b, sizes)
    if atom.kind == "floordiv":
        return a // b
    return least(a, b) if atom.kind == "min" else most(a, b)


def lowest(d: Dim) -> int | None:
    """What a size is at least, all symbols being 0 or more; None where it takes something off."""
    return evaluate(d, dict.fromkeys(symbols(d), 0)) if _only_adds(d) else None


def _only_adds(d: Dim) -> bool:
    if isinstance(d, int):
        return d >= 0
    calls = [a for atoms, _ in d.terms for a in atoms if isinstance(a, Call)]
    divides = (isinstance(a.b, int) and a.b > 0 for a in calls if _divides(a))
    parts = all(_only_adds(a.a) and _only_adds(a.b) for a in calls)
    return all(c > 0 for _, c in d.terms) and all(divides) and parts


def symbols(d: Dim) -> frozenset[str]:
    """The names of the symbols in `d`."""
    if isinstance(d, int):
        return frozenset()
    found: set[str] = set()
    for atoms, _ in d.terms:
        for a in atoms:
            found |= {a.name} if isinstance(a, Sym) else symbols(a.a) | symbols(a.b)
    return frozenset(found)


@lru_cache(maxsize=4096)
def parse_dim(text: str) -> Dim:
    """The size a text such as `(H-1)//2+1` stands for: the inverse of `str`."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body if len(text) < 10_000 else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if tree is None:
        raise _no_size(text)
    return _from_tree(tree, text, 0)


def _from_tree(t: ast.expr, text: str, depth: int) -> Dim:
    if depth > _MAX_DEPTH:
        raise GraphError(f"the size {clean(text)!r} is nested too deeply")
    match t:
        case ast.Constant(value=int(n)) if not isinstance(n, bool):
            return n
        case ast.Name(id=name):
            return sym(name)
        case ast.UnaryOp(op=ast.USub(), operand=x):
            return -_from_tree(x, text, depth + 1)
        case ast.BinOp(left=x, op=op, right=y):
            a, b = _from_tree(x, text, depth + 1), _from_tree(y, text, depth + 1)
            if isinstance(op, ast.FloorDiv) and b == 0:
                raise GraphError(f"the size {clean(text)!r} divides by 0")
            if isinstance(op, ast.Add | ast.Sub | ast.Mult | ast.FloorDiv):
                return _apply(op, a, b)
        case ast.Call(func=ast.Name(id="min" | "max" as kind), args=[x, y], keywords=[]):
            a, b = _from_tree(x, text, depth + 1), _from_tree(y, text, depth + 1)
            return _extreme(kind, a, b)
    raise _no_size(text)


def _no_size(text: str) -> GraphError:
    help = "a size is a number, a name such as N, or made of those with + - * // min() max()"
    return GraphError(f"{clean(text)!r} is not a size", help=help)


def _apply(op: ast.operator, a: Dim, b: Dim) -> Dim:
    match op:
        case ast.Add():
            return a + b
        case ast.Sub():
            return a - b
        case ast.Mult():
            return a * b
    return a // b
