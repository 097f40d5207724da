"""Truth values: what comparisons of constants give, and `and or not` take."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from netc.errors import GraphError
from netc.frontend.net.arithmetic import is_number
from netc.frontend.net.words import show
from netc.ir.dims import Expr
from netc.ir.graph import Value
from netc.ir.types import TensorType

_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
LOGIC = ("and", "or")
_BY_ELEMENT = "`select(x > 0, a, b)` within an `op` chooses by element"


def truth(word: str, x: Any) -> bool:
    """The truth value that `word` takes."""
    if isinstance(x, bool):
        return x
    if isinstance(x, Value):
        help = f"`x != none` asks whether a tensor is given; {_BY_ELEMENT}"
    elif _is_size(x):
        help = "`n != 0` asks whether a number is other than zero"
    else:
        help = "a comparison gives one, such as `x != none`"
    raise GraphError(f"`{word}` takes a truth value, not {show(x)}", help=help)


def compared(sign: str, a: Any, b: Any) -> bool:
    """`a sign b`: `==` and `!=` of any constants, the order of numbers and sizes."""
    if sign in ("==", "!="):
        return _same(sign, a, b) == (sign == "==")
    for x in (a, b):
        _refuse_tensor(sign, x)
        if not _is_size(x):
            raise GraphError(f"`{sign}` compares numbers, not {show(x)}")
    return _ordered(sign, a, b, _ORDER[sign])


def _same(sign: str, a: Any, b: Any) -> bool:
    """Whether two constants are the same one. A tensor is other than none, and no constant."""
    if a is None or b is None:
        return a is b
    _refuse_tensor(sign, a)
    _refuse_tensor(sign, b)
    if isinstance(a, tuple) and isinstance(b, tuple):
        pairs = zip(a, b, strict=False)
        return len(a) == len(b) and all(_same(sign, x, y) for x, y in pairs)
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        return a.dtype is b.dtype and _same(sign, a.shape, b.shape)
    if _is_size(a) and _is_size(b):
        return _ordered(sign, a, b, operator.eq)
    return type(a) is type(b) and bool(a == b)


def _ordered(sign: str, a: Any, b: Any, holds: Callable[[Any, Any], bool]) -> bool:
    """Sizes with symbols compare where they differ by a number."""
    if not isinstance(a, Expr) and not isinstance(b, Expr):
        return holds(a, b)
    if isinstance(a, float) or isinstance(b, float):
        raise GraphError(f"the size {a if isinstance(a, Expr) else b} meets a fraction")
    gap = a - b
    if isinstance(gap, Expr):
        help = "sizes are known where the input's type has numbers, or `--shape` gives them"
        raise GraphError(f"{a} {sign} {b} is not known when compiling", help=help)
    return holds(gap, 0)


def _is_size(x: Any) -> bool:
    return is_number(x) or isinstance(x, Expr)


def _refuse_tensor(sign: str, x: Any) -> None:
    if isinstance(x, Value):
        raise GraphError(f"`{sign}` does not join tensors", help=_BY_ELEMENT)
