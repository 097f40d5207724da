"""Nodes that scale and shift, x ↦ x·s + t with fixed s and t: norms, scales, biases, means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netc.ir.graph import Node, Value
from netc.ir.ops.elementwise import Add, Affine, BatchNorm, Div, Mul, Sub
from netc.ir.ops.sources import Const
from netc.ir.types import f32
from netc.passes.facts import aligned
from netc.passes.rewrite import Rewriter

LINEAR = (Affine, Mul, Add, Sub, Div, BatchNorm)
LARGEST = 1e12  # of a scale or shift that is folded: products with weights stay finite


@dataclass(frozen=True)
class Linear:
    """x·scale + shift, the operands fixed and broadcast against x; None is 1 or 0."""

    x: Value
    scale: Value | None
    shift: Value | None


def linear(rw: Rewriter, node: Node) -> Linear | None:
    """The node as x·s + t: affine, mul, add, sub, div by and batch_norm with fixed operands."""
    match node:
        case Node(op=BatchNorm(eps=eps), inputs=(x, mean, variance)):
            if not (rw.fixed(mean) and rw.fixed(variance)):
                return None
            scale = rw.pow(rw.affine(variance, shift=eps), exponent=-0.5)
            return Linear(x, scale, rw.mul(rw.affine(mean, scale=-1.0), scale))
        case Node(op=Affine(scale=a, shift=b), inputs=(x,)):
            return Linear(x, number(rw, a) if a != 1 else None, number(rw, b) if b != 0 else None)
        case Node(op=Mul() | Add() | Sub() | Div(), inputs=(x, y)):
            return _binary(rw, node, x, y)
    return None


def _binary(rw: Rewriter, node: Node, x: Value, y: Value) -> Linear | None:
    if rw.fixed(x) and not isinstance(node.op, Div):
        x, y = y, x
    if not rw.fixed(y) or rw.fixed(x):
        return None
    match node.op:
        case Mul():
            return Linear(x, y, None)
        case Div():
            return Linear(x, rw.pow(y, exponent=-1.0), None)
        case Sub() if node.inputs[0] == x:
            return Linear(x, None, rw.affine(y, scale=-1.0))
        case Sub():
            return Linear(x, number(rw, -1.0), y)
    return Linear(x, None, y)


def data_input(rw: Rewriter, node: Node) -> Value | None:
    """The one operand of a linear node that is not fixed, where it has the result's type."""
    loose = [v for v in node.inputs if not rw.fixed(v)]
    return loose[0] if len(loose) == 1 and loose[0].type == node.out.type else None


def number(rw: Rewriter, value: float) -> Value:
    """A constant scalar."""
    return rw(Const(f32[()], value)).out


def per_channel(rw: Rewriter, operand: Value, rank: int, axis: int) -> Value | None:
    """The operand as a vector along one axis, of 1 or all channels; None if it varies elsewhere."""
    shape = aligned(operand.type, rank)
    if any(d != 1 for i, d in enumerate(shape) if i != axis):
        return None
    return rw.reshape(operand, shape=(shape[axis],)) if operand.type.rank != 1 else operand


def why_not_finite(rw: Rewriter, what: str, operand: Value | None) -> str | None:
    """Why a scale or shift is not folded, None when all its numbers are of a usual size.

    x · ∞ + … is ∞ or NaN element by element, but a sum of products with ∞ is NaN everywhere.
    """
    if operand is None:
        return None
    array = rw.array(operand)
    if not bool(np.isfinite(array).all()):
        return f"its {what} is not finite"
    if array.size and float(np.abs(array).max()) > LARGEST:
        return f"its {what} is as large as {float(np.abs(array).max()):.1e}"
    return None
