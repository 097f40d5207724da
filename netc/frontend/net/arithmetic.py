"""`+ - * / // %`: on numbers, on sizes, and on tensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from netc.errors import GraphError
from netc.frontend.net.maker import Site, real
from netc.frontend.net.words import show
from netc.ir.dims import Expr, least, most
from netc.ir.graph import Value
from netc.ir.op import REGISTRY

_LIMIT = 2**63
_MAX_TERMS = 64  # of a symbolic size

_NUMBERS: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}
_TENSORS = {"+": "add", "-": "sub", "*": "mul", "/": "div"}
# With a number c on the right, as one affine op: scale · x + shift.
_AFFINE_RIGHT = {
    "+": lambda c: {"shift": c},
    "-": lambda c: {"shift": -c},
    "*": lambda c: {"scale": c},
}
_AFFINE_LEFT = {
    "+": lambda c: {"shift": c},
    "-": lambda c: {"scale": -1.0, "shift": c},
    "*": lambda c: {"scale": c},
}


def is_number(x: Any) -> bool:
    """An int or a float, and not a truth value."""
    return isinstance(x, int | float) and not isinstance(x, bool)


def constants(sign: str, a: Any, b: Any) -> Any:
    """`a sign b` for numbers and sizes."""
    for x in (a, b):
        if not is_number(x) and not isinstance(x, Expr):
            raise GraphError(f"`{sign}` joins numbers and tensors, not {show(x)}")
    symbolic = isinstance(a, Expr) or isinstance(b, Expr)
    try:
        out = _quotient(a, b) if sign == "/" else _sized(sign, a, b, symbolic)
    except ZeroDivisionError:
        raise GraphError(f"{show(a)} {sign} {show(b)} divides by zero") from None
    except OverflowError:
        out = math.inf
    if isinstance(out, float) and math.isnan(out):
        raise GraphError(f"{show(a)} {sign} {show(b)} is not a number")
    return checked(out)


def checked(out: Any) -> Any:
    """The number, when it is one a net can use."""
    if isinstance(out, Expr) and len(out.terms) > _MAX_TERMS:
        raise GraphError("a size has become too long an expression")
    if isinstance(out, int) and not -_LIMIT <= out < _LIMIT:
        raise GraphError("a number is beyond 64 bits")
    if isinstance(out, float) and not math.isfinite(out):
        raise GraphError("a number is too large")
    return out


def _quotient(a: Any, b: Any) -> Any:
    """6 / 2 is the int 3; 1 / 2 is 0.5."""
    even = isinstance(a, int) and isinstance(b, int) and b and a % b == 0
    return a // b if even else a / b


def _sized(sign: str, a: Any, b: Any, symbolic: bool) -> Any:
    if not symbolic:
        return _NUMBERS[sign](a, b)
    if isinstance(a, float) or isinstance(b, float):
        raise GraphError(f"the size {a if isinstance(a, Expr) else b} meets a fraction")
    if sign == "%" and not (isinstance(b, int) and b > 0):
        raise GraphError(f"{a} % {b} is not known when compiling")
    return _NUMBERS[sign](a, b)


def tensors(site: Site, sign: str, a: Any, b: Any) -> Value:
    """`a sign b` where one is a tensor; the other may be a number or one number per channel."""
    if sign not in _TENSORS:
        message = f"`{sign}` does not join tensors"
        raise GraphError(message, help="`+ - * /` do; for others write an `op`")
    for x in (a, b):
        if not (isinstance(x, Value | tuple) or is_number(x)):
            raise GraphError(f"`{sign}` joins tensors and numbers, not {show(x)}")
    if is_number(b) and sign in _AFFINE_RIGHT:
        return _made(site, "affine", a, **_AFFINE_RIGHT[sign](real(b)))
    if is_number(a) and sign in _AFFINE_LEFT:
        return _made(site, "affine", b, **_AFFINE_LEFT[sign](real(a)))
    return _made(site, _TENSORS[sign], *site.operands((a, b)))


def negated(site: Site, x: Value) -> Value:
    """-x."""
    return _made(site, "affine", x, scale=-1.0)


def _made(site: Site, op: str, *xs: Value, **attributes: float) -> Value:
    value: Value = site.node(REGISTRY[op](**attributes), *xs)
    return value


def node_word(sign: str, a: Any, b: Any) -> str:
    """The op that `tensors` will make, for its name."""
    affine = (is_number(b) and sign in _AFFINE_RIGHT) or (is_number(a) and sign in _AFFINE_LEFT)
    return "affine" if affine else _TENSORS.get(sign, "op")


def _rounded(f: Callable[[float], int]) -> Callable[..., Any]:
    return lambda x: f(x)


def _extreme(pick: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def fold(first: Any, *rest: Any) -> Any:
        for x in rest:
            first = pick(first, x)
        return first

    return fold


def _smaller(a: Any, b: Any) -> Any:
    return least(a, b) if isinstance(a, Expr) or isinstance(b, Expr) else min(a, b)


def _larger(a: Any, b: Any) -> Any:
    return most(a, b) if isinstance(a, Expr) or isinstance(b, Expr) else max(a, b)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "min": _extreme(_smaller),
    "max": _extreme(_larger),
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "sqrt": math.sqrt,
    "sin": math.sin,
    "cos": math.cos,
}


def function(name: str, args: tuple[Any, ...]) -> Any:
    """A function of numbers, such as `ceil(32 * alpha)`."""
    for x in args:
        if not is_number(x) and not (isinstance(x, Expr) and name in ("min", "max")):
            raise GraphError(f"`{name}` takes numbers, not {show(x)}")
    try:
        return checked(FUNCTIONS[name](*args))
    except (TypeError, ValueError, OverflowError):
        given = ", ".join(map(show, args))
        raise GraphError(f"`{name}({given})` is not a number") from None
