"""Scalar arithmetic, written once per op and read by every back end.

An `Elementwise` op has one formula, `scalar`. NumPy reads it for the reference, the CPU and GPU
back ends for code, `Count` for the cost model. A back end is a `Scalars` implementation.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import numpy as np

from netc.ir.dims import Dim, product
from netc.ir.op import Array, Grads, Op, require
from netc.ir.types import DType, TensorType

if TYPE_CHECKING:
    from netc.ir.graph import Builder, Value

UNARY = (
    "neg", "abs", "sqrt", "exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos", "floor",
)  # fmt: skip
BINARY = ("+", "-", "*", "/", "max", "min", "pow")
COMPARE = ("<", "<=", ">", ">=", "==", "!=")


class Scalars(Protocol):
    """What a reading of a formula must know. Handles are opaque to formulas.

    `max` and `min` propagate NaN; comparisons with NaN are false except `!=`.
    """

    def const(self, c: float) -> Any:
        """A literal."""

    def unary(self, fn: str, a: Any) -> Any:
        """One of UNARY."""

    def binary(self, fn: str, a: Any, b: Any) -> Any:
        """One of BINARY."""

    def compare(self, fn: str, a: Any, b: Any) -> Any:
        """One of COMPARE: a mask."""

    def select(self, mask: Any, a: Any, b: Any) -> Any:
        """`a` where the mask holds, else `b`."""


@dataclass(frozen=True)
class S:
    """A scalar being built; its operators make formulas read as formulas."""

    b: Scalars
    h: Any

    def lift(self, x: SLike) -> Any:
        """The handle of another scalar or of a literal."""
        return x.h if isinstance(x, S) else self.b.const(float(x))

    def bin(self, fn: str, x: SLike) -> S:
        """fn(self, x)."""
        return S(self.b, self.b.binary(fn, self.h, self.lift(x)))

    def rbin(self, fn: str, x: SLike) -> S:
        """fn(x, self)."""
        return S(self.b, self.b.binary(fn, self.lift(x), self.h))

    def cmp(self, fn: str, x: SLike) -> S:
        """The mask of a comparison."""
        return S(self.b, self.b.compare(fn, self.h, self.lift(x)))

    def __add__(self, x: SLike) -> S:
        return self.bin("+", x)

    def __sub__(self, x: SLike) -> S:
        return self.bin("-", x)

    def __mul__(self, x: SLike) -> S:
        return self.bin("*", x)

    def __truediv__(self, x: SLike) -> S:
        return self.bin("/", x)

    def __radd__(self, x: float) -> S:
        return self.rbin("+", x)

    def __rsub__(self, x: float) -> S:
        return self.rbin("-", x)

    def __rmul__(self, x: float) -> S:
        return self.rbin("*", x)

    def __rtruediv__(self, x: float) -> S:
        return self.rbin("/", x)

    def __neg__(self) -> S:
        return unary("neg", self)

    def __lt__(self, x: SLike) -> S:
        return self.cmp("<", x)

    def __le__(self, x: SLike) -> S:
        return self.cmp("<=", x)

    def __gt__(self, x: SLike) -> S:
        return self.cmp(">", x)

    def __ge__(self, x: SLike) -> S:
        return self.cmp(">=", x)

    def eq(self, x: SLike) -> S:
        """The mask self = x (a method, so that S stays comparable by identity)."""
        return self.cmp("==", x)


SLike: TypeAlias = S | float


def unary(fn: str, x: S) -> S:
    """fn(x), fn one of UNARY."""
    return S(x.b, x.b.unary(fn, x.h))


def exp(x: S) -> S:
    """eˣ."""
    return unary("exp", x)


def tanh(x: S) -> S:
    """The hyperbolic tangent."""
    return unary("tanh", x)


def erf(x: S) -> S:
    """2/√π · ∫₀ˣ e^(−t²) dt, Gauss' error function."""
    return unary("erf", x)


def sin(x: S) -> S:
    """The sine of an angle in radians."""
    return unary("sin", x)


def cos(x: S) -> S:
    """The cosine of an angle in radians."""
    return unary("cos", x)


def log(x: S) -> S:
    """The natural logarithm."""
    return unary("log", x)


def maximum(x: S, y: SLike) -> S:
    """The larger; NaN when either is."""
    return x.bin("max", y)


def minimum(x: S, y: SLike) -> S:
    """The smaller; NaN when either is."""
    return x.bin("min", y)


def power(x: S, y: SLike) -> S:
    """x to the y, as C's pow."""
    return x.bin("pow", y)


def select(mask: S, a: SLike, b: SLike) -> S:
    """`a` where the mask holds, else `b`."""
    return S(mask.b, mask.b.select(mask.h, mask.lift(a), mask.lift(b)))


class NumPy:
    """Reads a formula over arrays, in one float type."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)

    def const(self, c: float) -> Any:
        """The literal, rounded once to float32 as the compiled code has it."""
        return self.dtype.type(np.float32(c))

    def unary(self, fn: str, a: Any) -> Any:
        """One of UNARY."""
        return _erf(a) if fn == "erf" else getattr(np, {"neg": "negative"}.get(fn, fn))(a)

    def binary(self, fn: str, a: Any, b: Any) -> Any:
        """One of BINARY."""
        return _NUMPY[fn](a, b)

    def compare(self, fn: str, a: Any, b: Any) -> Any:
        """One of COMPARE."""
        return _NUMPY[fn](a, b)

    def select(self, mask: Any, a: Any, b: Any) -> Any:
        """np.where."""
        return np.where(mask, a, b)


def _erf(a: Any) -> Any:
    """C's erf, element by element: NumPy has none."""
    return np.asarray(_ERF(a), np.asarray(a).dtype)


def _power(a: Any, b: Any) -> Any:
    """C's pow; for an exponent of 1/2 NumPy takes the root, which differs at -0 and -infinity."""
    odd = np.equal(b, 0.5) & (np.equal(a, 0) | np.isneginf(a))
    return np.where(odd, np.abs(a), np.power(a, b))


_ERF = np.frompyfunc(math.erf, 1, 1)
_NUMPY: dict[str, Any] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "max": np.maximum,
    "min": np.minimum, "pow": _power, "<": np.less, "<=": np.less_equal, ">": np.greater,
    ">=": np.greater_equal, "==": np.equal, "!=": np.not_equal,
}  # fmt: skip


class Count:
    """Counts a formula's operations; a function call counts as eight."""

    def __init__(self) -> None:
        self.total = 0

    def const(self, c: float) -> Any:
        """Free."""
        return None

    def unary(self, fn: str, a: Any) -> Any:
        """One, or eight for a function."""
        self.total += 1 if fn in ("neg", "abs", "floor") else 8

    def binary(self, fn: str, a: Any, b: Any) -> Any:
        """One, or sixteen for pow."""
        self.total += 16 if fn == "pow" else 1

    def compare(self, fn: str, a: Any, b: Any) -> Any:
        """One."""
        self.total += 1

    def select(self, mask: Any, a: Any, b: Any) -> Any:
        """One."""
        self.total += 1


def broadcast(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """NumPy's rule: shapes are aligned at the end, and a size of 1 stretches."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = []
    for axis in range(-rank, 0):
        sizes = {s[axis] for s in shapes if len(s) >= -axis} - {1}
        require(len(sizes) <= 1, f"shapes {' and '.join(map(_show, shapes))} do not fit together")
        out.append(sizes.pop() if sizes else 1)
    return tuple(out)


def _show(shape: tuple[Dim, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


@cache
def _arity(op: Any) -> int | None:
    """How many operands a formula takes; None for any number."""
    parameters = list(inspect.signature(op.scalar).parameters.values())
    fixed = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    return len(parameters) - 1 if fixed else None


class Elementwise(Op):
    """An op whose meaning is one scalar formula; operands broadcast as in NumPy."""

    blocked = (-1,)  # any of them

    def scalar(self, *xs: Any, **_: Any) -> S:
        """The formula."""
        raise NotImplementedError

    def infer(self, *xs: TensorType) -> TensorType:
        takes = _arity(cast(Any, type(self)))
        require(takes in (None, len(xs)), f"{takes} operands are needed, not {len(xs)}")
        for i, x in enumerate(xs):
            require(x.dtype is DType.F32, f"input {i} is {x}; f32 is needed here (see cast)")
        return TensorType(DType.F32, broadcast(*(x.shape for x in xs)))

    def reference(self, *xs: Array) -> Array:
        dtype = np.result_type(*xs) if xs else np.dtype(np.float32)
        b = NumPy(dtype)
        with np.errstate(all="ignore"):
            out = self.scalar(*(S(b, x) for x in xs)).h
        shape = np.broadcast_shapes(*(x.shape for x in xs))
        return np.broadcast_to(np.asarray(out, dtype), shape).copy()

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        from netc.ir.derivative import gradients, tree_of

        return gradients(tree_of(self, len(xs)), b, xs, dy)

    def flops(self, *xs: TensorType) -> Dim:
        count = Count()
        self.scalar(*(S(count, None) for _ in xs))
        return product(broadcast(*(x.shape for x in xs))) * count.total
