"""Element-wise ops: each is one class with one formula, and nothing anywhere else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from netc.ir.op import Array, Grads, Op, case, require
from netc.ir.ops.windows import not_negative
from netc.ir.scalar import (
    Elementwise,
    S,
    cos,
    erf,
    exp,
    log,
    maximum,
    minimum,
    power,
    select,
    sin,
    tanh,
    unary,
)
from netc.ir.types import DType, TensorType, f32, i64, u8

if TYPE_CHECKING:
    from netc.ir.graph import Builder, Value

_X = f32[2, 3, 4, 5]


class Relu(Elementwise, name="relu"):
    """max(x, 0), or slope · x below zero (Caffe relu_layer.cpp; −∞ with slope 0 gives 0 here)."""

    slope: float = 0.0

    def scalar(self, x: S) -> S:
        return select(x > 0, x, x * self.slope) if self.slope else maximum(x, 0.0)

    samples = (
        case(_X),
        case(_X, slope=0.1),
        case(f32[1, 17, 1, 3]),
        case(f32[0, 3]),
        case(f32[()]),
        case(_X, _X, error="1 operands are needed, not 2"),
        case(u8[3], error="f32 is needed"),
    )


class Elu(Elementwise, name="elu"):
    """x above zero, alpha · (eˣ − 1) below (Clevert et al., 2015)."""

    alpha: float = 1.0

    def scalar(self, x: S) -> S:
        return select(x > 0, x, unary("expm1", x) * self.alpha)

    samples = (case(_X), case(_X, alpha=0.3))


class Gelu(Elementwise, name="gelu"):
    """x · Φ(x) = x/2 · (1 + erf(x/√2)), Φ the normal distribution (Hendrycks and Gimpel, 2016)."""

    def scalar(self, x: S) -> S:
        return x * 0.5 * (1.0 + erf(x * math.sqrt(0.5)))

    samples = (case(_X), case(f32[1, 17, 1, 3]))


class Sigmoid(Elementwise, name="sigmoid"):
    """1 / (1 + e⁻ˣ); 0 below −88.7, where e⁻ˣ is beyond the largest f32."""

    def scalar(self, x: S) -> S:
        return 1.0 / (1.0 + exp(-x))

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        return (b.formula(y, dy, body="x1 * x0 * (1 - x0)"),)

    samples = (case(_X),)


class Tanh(Elementwise, name="tanh"):
    """The hyperbolic tangent."""

    def scalar(self, x: S) -> S:
        return tanh(x)

    samples = (case(_X),)


class Abs(Elementwise, name="abs"):
    """|x|."""

    def scalar(self, x: S) -> S:
        return unary("abs", x)

    samples = (case(_X),)


class Affine(Elementwise, name="affine"):
    """scale · x + shift."""

    scale: float = 1.0
    shift: float = 0.0

    def scalar(self, x: S) -> S:
        return x * self.scale + self.shift

    samples = (case(_X, scale=2.0, shift=-1.0), case(f32[()]))


class Pow(Elementwise, name="pow"):
    """x to a constant exponent, as C's pow."""

    exponent: float = 1.0

    def scalar(self, x: S) -> S:
        match self.exponent:
            case 0.0:
                return select(x.eq(x), 1.0, 1.0)
            case 1.0:
                return x * 1.0
            case 2.0:
                return x * x
            case 0.5:
                return power(x, 0.5)
            case -1.0:
                return 1.0 / x
        return power(x, self.exponent)

    samples = (
        *(case(_X, draw=("positive",), exponent=e) for e in (0.0, 0.5, -0.75, 2.5)),
        case(_X, exponent=2.0),
        case(_X, exponent=3.0),
    )


class Exp(Elementwise, name="exp"):
    """eˣ."""

    def scalar(self, x: S) -> S:
        return exp(x)

    samples = (case(_X),)


class Log(Elementwise, name="log"):
    """The natural logarithm."""

    def scalar(self, x: S) -> S:
        return log(x)

    samples = (case(_X, draw=("positive",)),)


class Sqrt(Elementwise, name="sqrt"):
    """√x."""

    def scalar(self, x: S) -> S:
        return unary("sqrt", x)

    samples = (case(_X, draw=("positive",)),)


class Sin(Elementwise, name="sin"):
    """The sine of x radians; NaN for infinities."""

    def scalar(self, x: S) -> S:
        return sin(x)

    samples = (case(_X), case(f32[1, 17, 1, 3]))


class Cos(Elementwise, name="cos"):
    """The cosine of x radians; NaN for infinities."""

    def scalar(self, x: S) -> S:
        return cos(x)

    samples = (case(_X), case(f32[1, 17, 1, 3]))


class Floor(Elementwise, name="floor"):
    """⌊x⌋."""

    def scalar(self, x: S) -> S:
        return unary("floor", x)

    samples = (case(_X),)


def _softplus(x: S) -> S:
    return maximum(x, 0.0) + unary("log1p", exp(-unary("abs", x)))


class Softplus(Elementwise, name="softplus"):
    """log(1 + eˣ), without overflow (Caffe bnll_layer.cpp)."""

    def scalar(self, x: S) -> S:
        return _softplus(x)

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        return (b.formula(xs[0], dy, body="x1 * sigmoid(x0)"),)

    samples = (case(_X),)


class Threshold(Elementwise, name="threshold"):
    """1 where x > level, else 0."""

    level: float = 0.0

    def scalar(self, x: S) -> S:
        return select(x > self.level, 1.0, 0.0)

    samples = (case(_X, level=0.2),)


class Clip(Elementwise, name="clip"):
    """x held between low and high; NaN stays NaN."""

    low: float = 0.0
    high: float = 6.0

    def infer(self, *xs: TensorType) -> TensorType:
        require(self.low <= self.high, f"low {self.low} is above high {self.high}")
        return super().infer(*xs)

    def scalar(self, x: S) -> S:
        return minimum(maximum(x, self.low), self.high)

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        """dy within the limits and at them (Caffe clip_layer.cpp)."""
        body = f"select(x0 >= {self.low!r}, select(x0 <= {self.high!r}, x1, 0), 0)"
        return (b.formula(xs[0], dy, body=body),)

    samples = (case(_X), case(_X, low=-0.5, high=0.5), case(_X, low=1.0, high=0.0, error="above"))


class Swish(Elementwise, name="swish"):
    """x · sigmoid(beta · x); 0 where beta · x is below −88.7, as sigmoid."""

    beta: float = 1.0

    def scalar(self, x: S) -> S:
        return x / (1.0 + exp(x * -self.beta))

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        s = b.sigmoid(b.affine(xs[0], scale=self.beta))
        body = f"x2 * x1 * (1 + {self.beta!r} * x0 * (1 - x1))"
        return (b.formula(xs[0], s, dy, body=body),)

    samples = (case(_X), case(_X, beta=0.5))


def _hard_sigmoid(x: S) -> S:
    return minimum(maximum(x + 3.0, 0.0), 6.0) / 6.0


class HardSigmoid(Elementwise, name="hard_sigmoid"):
    """min(max(x + 3, 0), 6) / 6 (Howard et al., 2019)."""

    def scalar(self, x: S) -> S:
        return _hard_sigmoid(x)

    samples = (case(_X), case(f32[1, 17, 1, 3]))


class HardSwish(Elementwise, name="hard_swish"):
    """x · hard_sigmoid(x) (Howard et al., 2019)."""

    def scalar(self, x: S) -> S:
        return x * _hard_sigmoid(x)

    samples = (case(_X), case(f32[1, 17, 1, 3]))


class Mish(Elementwise, name="mish"):
    """x · tanh(log(1 + eˣ)) (Misra, 2019)."""

    def scalar(self, x: S) -> S:
        return x * tanh(_softplus(x))

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        t = b.tanh(b.softplus(xs[0]))
        body = "x2 * (x1 + x0 * sigmoid(x0) * (1 - x1 * x1))"
        return (b.formula(xs[0], t, dy, body=body),)

    samples = (case(_X), case(f32[1, 17, 1, 3]))


class Add(Elementwise, name="add"):
    """x + y."""

    def scalar(self, x: S, y: S) -> S:
        return x + y

    samples = (
        case(_X, _X),
        case(_X, f32[3, 1, 1]),
        case(_X, f32[()]),
        case(f32[2, 1, 1, 5], f32[17, 1, 1]),
        case(f32[0, 3, 1], f32[3, 7]),
        case(f32[1], f32[1]),
        case(_X, f32[2, 3, 4, 4], error="fit"),
        case(_X, error="2 operands are needed, not 1"),
    )


class Sub(Elementwise, name="sub"):
    """x − y."""

    def scalar(self, x: S, y: S) -> S:
        return x - y

    samples = (case(_X, _X), case(f32[3, 1, 1], _X))


class Mul(Elementwise, name="mul"):
    """x · y."""

    def scalar(self, x: S, y: S) -> S:
        return x * y

    samples = (case(_X, _X), case(_X, f32[2, 3, 1, 1]), case(_X, f32[1, 3, 1, 1]))


class Div(Elementwise, name="div"):
    """x / y."""

    def scalar(self, x: S, y: S) -> S:
        return x / y

    samples = (case(_X, _X, draw=("normal", "positive")),)


class Maximum(Elementwise, name="maximum"):
    """The larger of x and y; NaN when either is."""

    def scalar(self, x: S, y: S) -> S:
        return maximum(x, y)

    samples = (case(_X, _X),)


class Minimum(Elementwise, name="minimum"):
    """The smaller of x and y; NaN when either is."""

    def scalar(self, x: S, y: S) -> S:
        return minimum(x, y)

    samples = (case(_X, _X),)


class Prelu(Elementwise, name="prelu"):
    """x above zero, slope · x below, the slope learned (He et al., 2015)."""

    def scalar(self, x: S, slope: S) -> S:
        return select(x > 0, x, x * slope)

    samples = (case(_X, f32[3, 1, 1]), case(_X, f32[()]))


class BatchNorm(Elementwise, name="batch_norm"):
    """(x − mean) / √(variance + eps), statistics given (Ioffe & Szegedy, 2015; no affine part)."""

    eps: float = 1e-5

    def infer(self, *xs: TensorType) -> TensorType:
        not_negative(self.eps, "eps")
        return super().infer(*xs)

    def scalar(self, x: S, mean: S, variance: S) -> S:
        return (x - mean) / unary("sqrt", variance + self.eps)

    samples = (
        case(_X, f32[3, 1, 1], f32[3, 1, 1], draw=("normal", "normal", "positive")),
        case(_X, f32[3, 1, 1], f32[3, 1, 1], eps=-1e-5, error="must be 0 or more"),
        case(_X, f32[3, 1, 1], f32[3, 1, 1], eps=math.nan, error="must be 0 or more"),
    )


class Equal(Elementwise, name="equal"):
    """1 where x = y, else 0."""

    def scalar(self, x: S, y: S) -> S:
        return select(x.eq(y), 1.0, 0.0)

    samples = (case(f32[4, 6], f32[4, 6], draw=("index:3", "index:3")),)


class Greater(Elementwise, name="greater"):
    """1 where x > y, else 0."""

    def scalar(self, x: S, y: S) -> S:
        return select(x > y, 1.0, 0.0)

    samples = (case(f32[4, 6], f32[4, 6], draw=("index:3", "index:3")), case(_X, f32[3, 1, 1]))


class Less(Elementwise, name="less"):
    """1 where x < y, else 0."""

    def scalar(self, x: S, y: S) -> S:
        return select(x < y, 1.0, 0.0)

    samples = (case(f32[4, 6], f32[4, 6], draw=("index:3", "index:3")), case(_X, f32[3, 1, 1]))


class Where(Elementwise, name="where"):
    """x where the condition is not 0, else y."""

    def scalar(self, condition: S, x: S, y: S) -> S:
        return select(condition.eq(0.0), y, x)

    samples = (case(_X, _X, _X, draw=("index:2", "normal", "normal")),)


class Cast(Op, name="cast"):
    """x in another element type.

    To an integer type: cut towards 0 and held in range, NaN to 0 (LLVM's fptosi.sat).
    """

    to: DType

    def infer(self, x: TensorType) -> TensorType:
        return TensorType(self.to, x.shape)

    def reference(self, x: Array) -> Array:
        if self.to is DType.F32:
            return x.copy() if x.dtype.kind == "f" else x.astype(np.float64)
        limits = np.iinfo(self.to.numpy)
        if x.dtype.kind != "f":
            return np.clip(x, limits.min, limits.max).astype(self.to.numpy)
        whole = np.trunc(np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=2e19, neginf=-2e19))
        out = np.where(whole >= limits.max, 0, np.maximum(whole, limits.min))
        return np.where(whole >= limits.max, limits.max, out.astype(self.to.numpy))

    samples = (
        case(u8[2, 3, 4, 5], to=DType.F32),
        case(f32[2, 17], to=DType.I32),
        case(f32[7], to=DType.U8),
        case(f32[3, 1], to=DType.I64),
        case(i64[5], to=DType.U8),
        case(f32[0, 3], to=DType.F32),
    )
