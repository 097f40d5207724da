"""Derivatives of element-wise formulas, as formulas; and sums that undo broadcasting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from netc.ir.dims import Dim
from netc.ir.formula import Apply, Number, Operand, Tree, show
from netc.ir.scalar import Elementwise, S
from netc.ir.types import TensorType

if TYPE_CHECKING:
    from netc.ir.graph import Builder, Value
    from netc.ir.op import Grads

_ZERO, _ONE = Number(0.0), Number(1.0)


class Trees:
    """Reads a formula into its tree."""

    def const(self, c: float) -> Any:
        """A literal."""
        return Number(c) if math.copysign(1, c) > 0 else Apply("neg", (Number(-c),))

    def unary(self, fn: str, a: Any) -> Any:
        """One of UNARY."""
        return Apply(fn, (a,))

    def binary(self, fn: str, a: Any, b: Any) -> Any:
        """One of BINARY."""
        return Apply(fn, (a, b))

    def compare(self, fn: str, a: Any, b: Any) -> Any:
        """One of COMPARE."""
        return Apply(fn, (a, b))

    def select(self, mask: Any, a: Any, b: Any) -> Any:
        """`a` where the mask holds, else `b`."""
        return Apply("select", (mask, a, b))


def tree_of(op: Elementwise, operands: int) -> Tree:
    """The formula of an op as a tree."""
    b = Trees()
    return cast(Tree, op.scalar(*(S(b, Operand(i)) for i in range(operands))).h)


def _plus(a: Tree, b: Tree) -> Tree:
    if a == _ZERO or b == _ZERO:
        return b if a == _ZERO else a
    return Apply("+", (a, b))


def _minus(a: Tree) -> Tree:
    return a if a == _ZERO else Apply("neg", (a,))


def _times(a: Tree, b: Tree) -> Tree:
    if _ZERO in (a, b):
        return _ZERO
    if _ONE in (a, b):
        return b if a == _ONE else a
    return Apply("*", (a, b))


def _over(a: Tree, b: Tree) -> Tree:
    return a if a == _ZERO else Apply("/", (a, b))


def _either(fn: str, left: Tree, right: Tree, a: Tree, b: Tree) -> Tree:
    return a if a == b else Apply("select", (Apply(fn, (left, right)), a, b))


def derivative(tree: Tree, i: int) -> Tree:
    """∂tree/∂x_i. At a kink, the side of the second operand: 0 for ReLU and |x| at 0 (Caffe)."""
    match tree:
        case Number():
            return _ZERO
        case Operand(j):
            return _ONE if i == j else _ZERO
        case Apply(fn, (x,)):
            return _times(_slope(fn, x, tree), derivative(x, i))
        case Apply("select", (Apply(fn, (left, right)), a, b)):
            return _either(fn, left, right, derivative(a, i), derivative(b, i))
        case Apply(fn, (a, b)):
            return _of_two(fn, a, b, derivative(a, i), derivative(b, i))
    raise NotImplementedError(tree)


def _of_two(fn: str, a: Tree, b: Tree, da: Tree, db: Tree) -> Tree:
    whole = Apply(fn, (a, b))
    match fn:
        case "+":
            return _plus(da, db)
        case "-":
            return _plus(da, _minus(db))
        case "*":
            return _plus(_times(da, b), _times(a, db))
        case "/":  # (a / b)' = (a' − (a / b) · b') / b
            return _over(_plus(da, _minus(_times(whole, db))), b)
        case "max":
            return _either(">", a, b, da, db)
        case "min":
            return _either("<", a, b, da, db)
        case "pow":  # b · a^(b − 1) · a' + a^b · log a · b'
            less = Apply("pow", (a, Apply("-", (b, _ONE))))
            by_b = _times(_times(whole, Apply("log", (a,))), db)
            return _plus(_times(_times(b, less), da), by_b)
    raise NotImplementedError(fn)


def _slope(fn: str, x: Tree, whole: Tree) -> Tree:
    """fn'(x)."""
    match fn:
        case "neg":
            return Apply("neg", (_ONE,))
        case "exp":
            return whole
        case "expm1":
            return Apply("exp", (x,))
        case "log":
            return Apply("/", (_ONE, x))
        case "log1p":
            return Apply("/", (_ONE, Apply("+", (_ONE, x))))
        case "sqrt":
            return Apply("/", (Number(0.5), whole))
        case "tanh":
            return Apply("-", (_ONE, Apply("*", (whole, whole))))
        case "erf":  # 2/√π · e^(−x²)
            square = Apply("neg", (Apply("*", (x, x)),))
            return Apply("*", (Number(2 / math.sqrt(math.pi)), Apply("exp", (square,))))
        case "sin":
            return Apply("cos", (x,))
        case "cos":
            return Apply("neg", (Apply("sin", (x,)),))
        case "sigmoid":
            return Apply("*", (whole, Apply("-", (_ONE, whole))))
        case "relu":
            return _either(">", x, _ZERO, _ONE, _ZERO)
        case "abs":
            below = _either("<", x, _ZERO, Apply("neg", (_ONE,)), _ZERO)
            return _either(">", x, _ZERO, _ONE, below)
        case "floor":
            return _ZERO
    raise NotImplementedError(fn)


def gradients(tree: Tree, b: Builder, xs: tuple[Value, ...], dy: Value) -> Grads:
    """dy · ∂tree/∂x_i for each operand, summed to its shape; None where that is 0."""
    out: list[Value | None] = []
    for i, x in enumerate(xs):
        slope = derivative(tree, i)
        if slope == _ZERO:
            out.append(None)
            continue
        body = show(_times(slope, Operand(len(xs))))
        out.append(summed(b, b.formula(*xs, dy, body=body), x.type))
    return tuple(out)


def summed(b: Builder, v: Value, type: TensorType) -> Value:
    """v summed over the axes along which a tensor of `type` was stretched to v's shape."""
    extra = v.type.rank - type.rank
    stretched = [
        extra + i for i, d in enumerate(type.shape) if d == 1 and v.type.shape[extra + i] != 1
    ]
    axes = (*range(extra), *stretched)
    if not axes:
        return v
    total = b.reduce_sum(v, axes=axes)
    return total if total.type.shape == type.shape else reshaped(b, total, type.shape)


def reshaped(b: Builder, v: Value, shape: tuple[Dim, ...]) -> Value:
    """v in another shape; without elements, a constant: a 0 in `reshape` copies a size."""
    if 0 in shape:
        return b.const(type=v.type.with_shape(shape), value=0.0)
    return b.reshape(v, shape=shape)


def spread(b: Builder, v: Value, type: TensorType, axes: tuple[int, ...]) -> Value:
    """The reverse of a sum over `axes` (dropped or kept): v repeated to the shape of `type`."""
    kept = tuple(1 if i in axes else d for i, d in enumerate(type.shape))
    return b.mul(reshaped(b, v, kept), b.const(type=type, value=1.0))
