"""Element-wise ops written by users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netc.ir.derivative import gradients
from netc.ir.formula import evaluate, operands, parse
from netc.ir.op import Grads, case, require
from netc.ir.scalar import Elementwise, S
from netc.ir.types import TensorType, f32

if TYPE_CHECKING:
    from netc.ir.graph import Builder, Value

_X = f32[2, 3, 4, 5]


class Formula(Elementwise, name="formula"):
    """An element-wise formula over x0, x1, … such as `x0 * sigmoid(1.5 * x0)`."""

    body: str

    def scalar(self, *xs: S) -> S:
        return evaluate(parse(self.body), xs)

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        return gradients(parse(self.body), b, xs, dy)

    def infer(self, *xs: TensorType) -> TensorType:
        need = operands(parse(self.body))
        require(len(xs) >= max(1, need), f"{len(xs)} operands, the formula needs {max(1, need)}")
        return super().infer(*xs)

    samples = (
        case(_X, body="x0 * sigmoid(1.5 * x0)"),
        case(_X, f32[3, 1, 1], body="max(x0, -x1) / (1 + abs(x0))"),
        case(_X, body="select(x0 < 0.5, exp(x0) - 1, x0)"),
        case(_X, _X, body="pow(abs(x0), 1.25) + sqrt(abs(x1)) * tanh(x0) - floor(x1)"),
        case(f32[()], body="2"),
        case(_X, body="log(1 + relu(x0)) - min(x0, 2)"),
        case(_X, body="x0 + x1", error="needs 2"),
        case(_X, body="x0 +", error="ends early"),
        case(_X, body="sine(x0)", error="no 'sine'"),
        case(_X, body="x0 < 1", error="fits nowhere"),
        case(_X, body="pow(x0)", error="takes 2"),
        case(_X, body="", error="ends early"),
    )
