"""The word `attention`: what each query finds by its likeness to keys."""

from __future__ import annotations

import math

from netc.errors import GraphError
from netc.frontend.net.maker import Site
from netc.ir.graph import Value


def attention(
    site: Site,
    q: Value,
    k: Value,
    v: Value,
    scale: float | None = None,
    causal: bool = False,
    mask: Value | None = None,
) -> Value:
    """softmax(q · kᵀ · scale + mask) · v over the last two axes (Vaswani et al., 2017).

    q is […, T, d], k […, S, d], v […, S, e], and the scale 1/√d unless it is given. `causal`: query
    i meets keys 0 to i. Where q has more heads (axis -3) than k and v, each of theirs serves as
    many neighbouring ones of q.
    """
    _check(q, k, v)
    k, v = (_for_heads(site, x, q, name) for x, name in ((k, "k"), (v, "v")))
    scores = site.make("matmul", q, k, transpose_y=True, inner="scores")
    scores = site.make("affine", scores, scale=_scale(q, scale), inner="scaled")
    if mask is not None:
        scores = site.make("add", scores, mask, inner="masked")
    if causal:
        scores = _of_the_past(site, scores, q, k)
    weights = site.make("softmax", scores, axis=-1, inner="weights")
    return site.make("matmul", weights, v)


def _check(q: Value, k: Value, v: Value) -> None:
    said = f"q is {q.type}, k is {k.type}, v is {v.type}"
    if min(x.type.rank for x in (q, k, v)) < 2:
        raise GraphError(f"{said}; attention needs two axes at least")
    if q.type.shape[-1] != k.type.shape[-1]:
        raise GraphError(f"{said}: the last sizes of q and k differ")
    if k.type.shape[-2] != v.type.shape[-2]:
        raise GraphError(f"{said}: k and v differ in how many keys there are, axis -2")


def _scale(q: Value, scale: float | None) -> float:
    if scale is not None:
        return scale
    depth = q.type.shape[-1]
    if not isinstance(depth, int) or depth < 1:
        raise GraphError(f"q is {q.type}; `scale` must be given where its last size is not known")
    return 1 / math.sqrt(depth)


def _for_heads(site: Site, x: Value, q: Value, name: str) -> Value:
    """x with each head repeated for those of q that it serves."""
    shape = x.type.shape
    if len(shape) < 3 or q.type.rank < 3:
        return x
    heads, wanted = shape[-3], q.type.shape[-3]
    if heads in (wanted, 1) or wanted == 1:
        return x
    if not (isinstance(heads, int) and isinstance(wanted, int) and heads and wanted % heads == 0):
        message = (
            f"the {heads} heads of {name}, {x.type}, do not divide the {wanted} of q, {q.type}"
        )
        raise GraphError(message)
    apart = site.make("reshape", x, shape=(*shape[:-2], 1, *shape[-2:]), inner="apart")
    every = site.make("tile", apart, axis=-3, times=wanted // heads, inner="repeated")
    return site.make("reshape", every, shape=(*shape[:-3], wanted, *shape[-2:]), inner="heads")


def _of_the_past(site: Site, scores: Value, q: Value, k: Value) -> Value:
    """−∞ for keys behind the query's own place."""
    rows, keys = (_places(site, x) for x in (q, k))
    axes = tuple(range(k.type.rank))
    columns = site.make("transpose", keys, perm=(*axes[:-2], axes[-1], axes[-2]), inner="columns")
    later = site.make("greater", columns, rows, inner="later")
    _, never = site.operands((scores, -math.inf))
    return site.make("where", later, never, scores, inner="causal")


def _places(site: Site, x: Value) -> Value:
    """0, 1, 2, … along the last axis but one, as […, T, 1]."""
    one = site.make("slice", x, axis=-1, stop=1, inner="one")
    return site.make("iota", one, axis=-2, inner="places")
