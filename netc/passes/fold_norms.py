"""Scales and shifts into the weights of a neighbouring convolution or inner product.

After:  (conv(x, w) + b)·s + t = conv(x, w·s) + (b·s + t), s and t per output channel.
Before: conv(x·s + t, w) + b = conv(x, w·s) + (b + Σ w·t), s and t per input channel; the shift
only without padding, since the padding of x·s + t is 0, not t.

New weights are new values, so a parameter that others share is left to them; the value between
must have no other reader. FoldParams then computes the new weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.ir.dims import Dim
from netc.ir.graph import Graph, Node, Stage, Value
from netc.ir.ops.convolution import PRODUCTS, Conv, ConvTranspose, Fc
from netc.ir.ops.elementwise import Add, Affine, BatchNorm, Div, Mul, Sub
from netc.ir.ops.sources import Const
from netc.ir.types import TensorType
from netc.passes.base import BEFORE_KERNELS, Context
from netc.passes.facts import aligned
from netc.passes.linear import LINEAR, Linear, data_input, linear, per_channel, why_not_finite
from netc.passes.rewrite import Rewriter, Rule, rewrite, rule


@rule(Affine, Mul, Add, Sub, Div, BatchNorm)
def norm_after(rw: Rewriter, node: Node) -> Value | None:
    """(conv(x, w) + b)·s + t = conv(x, w·s) + (b·s + t), s and t per output channel."""
    y = data_input(rw, node)
    if y is None or not isinstance(y.op, PRODUCTS) or not _weights_fixed(rw, y.node):
        return None
    if (form := linear(rw, node)) is None or not rw.only_reader(y, node, "it is"):
        return None
    axis = y.type.rank - 1 if isinstance(y.op, Fc) else 1
    vectors = _vectors(rw, node, y.node, form, axis)
    return None if vectors is None else _outputs_scaled(rw, y.node, *vectors)


def _weights_fixed(rw: Rewriter, node: Node) -> bool:
    if 0 in node.inputs[1].type.shape:
        return False
    return all(rw.fixed(v) for v in node.inputs[1:]) and not rw.fixed(node.inputs[0])


def _vectors(
    rw: Rewriter, norm: Node, anchor: Node, form: Linear, axis: int
) -> tuple[Value | None, Value | None] | None:
    """Scale and shift as vectors along an axis, or None with the reason noted."""
    rank = form.x.type.rank
    found: list[Value | None] = []
    for what, operand in (("scale", form.scale), ("shift", form.shift)):
        vector = None if operand is None else per_channel(rw, operand, rank, axis)
        why = why_not_finite(rw, what, operand)
        if operand is not None and vector is None:
            why = f"its {what} varies within a channel"
        if why:
            rw.refuse(norm, f"%{norm.name} is not folded into %{anchor.name}: {why}")
            return None
        found.append(vector)
    return found[0], found[1]


def _outputs_scaled(rw: Rewriter, anchor: Node, scale: Value | None, shift: Value | None) -> Value:
    """The anchor with its output channels scaled and shifted."""
    x, w, *bias = anchor.inputs
    channels = anchor.types[0].shape[-1 if isinstance(anchor.op, Fc) else 1]
    b = bias[0] if bias else None
    if scale is not None:
        w = _scaled_outputs(rw, anchor, w, scale)
        b = None if b is None else rw.mul(b, scale, name=f"{anchor.name}.b")
    if shift is not None and b is None:
        b = Value(rw(Const(TensorType(w.type.dtype, (channels,)), 0.0)))
    if shift is not None and b is not None:
        b = rw.add(b, shift, name=f"{anchor.name}.b")
    return rw(anchor.op, x, w, *(() if b is None else (b,))).out


def _scaled_outputs(rw: Rewriter, anchor: Node, w: Value, scale: Value) -> Value:
    """w·s, s along the output channels: axis 0, or axis 1 within each group when transposed."""
    match anchor.op:
        case ConvTranspose(groups=g):
            c, o, *k = w.type.shape
            ones = tuple(1 for _ in k)
            along = (1, 1, 1, *ones) if scale.type.shape == (1,) else (g, 1, o, *ones)
            return scaled(rw, anchor, w, (g, c // g, o, *k), scale, along)
    ones = tuple(1 for _ in w.type.shape[1:])
    return scaled(rw, anchor, w, w.type.shape, scale, (scale.type.shape[0], *ones))


def scaled(
    rw: Rewriter,
    anchor: Node,
    w: Value,
    view: tuple[Dim, ...],
    vector: Value,
    along: tuple[Dim, ...],
) -> Value:
    """w·s, w seen in the shape `view` and s in the shape `along`. (w·s)·t = w·(s·t)."""
    s = rw.reshape(vector, shape=along)
    name, shape = f"{anchor.name}.w", w.type.shape
    if shape != view:
        seen = rw.reshape(w, shape=view)
        return rw.reshape(rw.mul(seen, s), shape=shape, name=name)
    match w:
        case Value(node=Node(op=Mul(), inputs=(inner, before))) if rw.fixed(before):
            if before.type.shape == s.type.shape and inner.type == w.type:
                return rw.mul(inner, rw.mul(before, s), name=name)
    return rw.mul(w, s, name=name)


@rule(*PRODUCTS)
def norm_before(rw: Rewriter, node: Node) -> Value | None:
    """conv(x·s + t, w) + b = conv(x, w·s) + (b + Σ w·t), the shift without padding only."""
    y = node.inputs[0]
    if not isinstance(y.op, LINEAR) or not _weights_fixed(rw, node):
        return None
    if data_input(rw, y.node) is None or (form := linear(rw, y.node)) is None:
        return None
    if not rw.only_reader(y, node, "it is"):
        return None
    why = _why_no_shift(node) if form.shift is not None else None
    why = why or why_not_finite(rw, "weight", node.inputs[1])
    if why:
        rw.refuse(y.node, f"%{y.node.name} is not folded into %{node.name}: {why}")
        return None
    if isinstance(node.op, Fc):
        return _fc_inputs(rw, node, node.op.axis, form)
    vectors = _vectors(rw, y.node, node, form, 1)
    return None if vectors is None else _conv_inputs(rw, node, form.x, *vectors)


def _why_no_shift(node: Node) -> str | None:
    match node.op:
        case Conv(pad=pad) if any(pad):
            return f"the padding {'x'.join(map(str, pad))} would have to be shifted too"
        case ConvTranspose():
            return "a transposed convolution sees fewer inputs at its borders"
    return None


def _conv_inputs(
    rw: Rewriter, node: Node, x: Value, scale: Value | None, shift: Value | None
) -> Value:
    """The convolution of x itself, its input channels scaled and shifted in the weights."""
    _, w, *bias = node.inputs
    b = bias[0] if bias else None
    if shift is not None:
        total = _summed(rw, _scaled_inputs(rw, node, w, shift))
        b = total if b is None else rw.add(b, total, name=f"{node.name}.b")
    if scale is not None:
        w = _scaled_inputs(rw, node, w, scale)
    return rw(node.op, x, w, *(() if b is None else (b,))).out


def _scaled_inputs(rw: Rewriter, node: Node, w: Value, scale: Value) -> Value:
    """w·s, s along the input channels: within each group axis 1, or axis 0 when transposed."""
    ones = tuple(1 for _ in w.type.shape[2:])
    channels = scale.type.shape[0]
    match node.op:
        case Conv(groups=g) if g > 1 and channels != 1:
            o, c, *k = w.type.shape
            return scaled(rw, node, w, (g, o // g, c, *k), scale, (g, 1, c, *ones))
        case Conv():
            return scaled(rw, node, w, w.type.shape, scale, (1, channels, *ones))
    return scaled(rw, node, w, w.type.shape, scale, (channels, 1, *ones))


def _summed(rw: Rewriter, products: Value) -> Value:
    """Σ over everything but the output channel."""
    return rw.reduce_sum(products, axes=tuple(range(1, products.type.rank)))


def _fc_inputs(rw: Rewriter, node: Node, axis: int, form: Linear) -> Value | None:
    """fc(x·s + t, w) = fc(x, w·s) + Σ w·t; s and t may vary along every axis that is summed."""
    _, w, *bias = node.inputs
    rank, inner = form.x.type.rank, form.x.type.shape[axis:]
    y = node.inputs[0].node
    for what, operand in (("scale", form.scale), ("shift", form.shift)):
        why = why_not_finite(rw, what, operand)
        if operand is not None and any(d != 1 for d in aligned(operand.type, rank)[:axis]):
            why = f"its {what} varies between the rows of %{node.name}"
        if why or not all(isinstance(d, int) for d in inner):
            why = why or "the size of its input is known at run time only"
            rw.refuse(y, f"%{y.name} is not folded into %{node.name}: {why}")
            return None
    view = (w.type.shape[0], *inner)
    b = bias[0] if bias else None
    if form.shift is not None:
        along = (1, *aligned(form.shift.type, rank)[axis:])
        total = _summed(rw, scaled(rw, node, w, view, form.shift, along))
        b = total if b is None else rw.add(b, total, name=f"{node.name}.b")
    if form.scale is not None:
        along = (1, *aligned(form.scale.type, rank)[axis:])
        w = scaled(rw, node, w, view, form.scale, along)
    return rw(node.op, form.x, w, *(() if b is None else (b,))).out


@rule(BatchNorm)
def norm_alone(rw: Rewriter, node: Node) -> Value | None:
    """(x − m)/√(v + e) = (x − m)·s with fixed s = 1/√(v + e): no root and no division at run time.

    Not x·s − m·s, which loses digits where x and m are close and both large.
    """
    match node:
        case Node(op=BatchNorm(eps=eps), inputs=(x, mean, variance)) if (
            rw.fixed(mean) and rw.fixed(variance) and not rw.fixed(x)
        ):
            s = rw.pow(rw.affine(variance, shift=eps), exponent=-0.5, name=f"{node.name}.scale")
            if why_not_finite(rw, "scale", s) is None and x.type == node.out.type:
                shift = rw.affine(mean, scale=-1.0, name=f"{node.name}.shift")
                return rw.mul(rw.add(x, shift), s)
    return None


RULES: tuple[Rule, ...] = (norm_after, norm_before, norm_alone)


@dataclass(frozen=True)
class FoldNorms:
    """Norms, scales, biases and mean-subtractions into the next or previous weights."""

    name: ClassVar[str] = "fold_norms"
    needs: ClassVar[tuple[Stage, ...]] = BEFORE_KERNELS
    gives: ClassVar[Stage | None] = None
    rules: tuple[Rule, ...] = RULES

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph with every legal fold done."""
        return rewrite(graph, self.rules, ctx, self.name)
