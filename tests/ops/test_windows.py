"""The vectorised references against loops written straight from the formulas."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from netc.errors import GraphError
from netc.ir.dims import evaluate, sym
from netc.ir.op import REGISTRY, Array
from netc.ir.ops.windows import pool_size
from tests.drawn import RNG


def conv_by_hand(x: Array, w: Array, s: Any, p: Any, d: Any, groups: int) -> Array:
    n, _, h, width = x.shape
    o, depth, kh, kw = w.shape
    oh = (h + 2 * p[0] - d[0] * (kh - 1) - 1) // s[0] + 1
    ow = (width + 2 * p[1] - d[1] * (kw - 1) - 1) // s[1] + 1
    out = np.zeros((n, o, oh, ow))
    for b, q, y, z in np.ndindex(*out.shape):
        first = q // (o // groups) * depth
        for e, i, j in np.ndindex(depth, kh, kw):
            u, v = y * s[0] + i * d[0] - p[0], z * s[1] + j * d[1] - p[1]
            if 0 <= u < h and 0 <= v < width:
                out[b, q, y, z] += x[b, first + e, u, v] * w[q, e, i, j]
    return out


def conv_transpose_by_hand(x: Array, w: Array, s: Any, p: Any, d: Any, groups: int) -> Array:
    n, c, h, width = x.shape
    _, depth, kh, kw = w.shape
    oh = s[0] * (h - 1) + d[0] * (kh - 1) + 1 - 2 * p[0]
    ow = s[1] * (width - 1) + d[1] * (kw - 1) + 1 - 2 * p[1]
    out = np.zeros((n, depth * groups, oh, ow))
    for b, e, y, z in np.ndindex(*x.shape):
        for q, i, j in np.ndindex(depth, kh, kw):
            u, v = y * s[0] + i * d[0] - p[0], z * s[1] + j * d[1] - p[1]
            if 0 <= u < oh and 0 <= v < ow:
                out[b, e // (c // groups) * depth + q, u, v] += x[b, e, y, z] * w[e, q, i, j]
    return out


SMALL = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)), kernel=SMALL, stride=SMALL,
    pad=st.tuples(st.integers(0, 4), st.integers(0, 4)), dilation=SMALL,
    groups=st.integers(1, 3), depth=st.integers(1, 2), out=st.integers(1, 2),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("name", ["conv", "conv_transpose"])
def test_convolutions(
    name: str, size: Any, kernel: Any, stride: Any, pad: Any, dilation: Any, groups: int,
    depth: int, out: int,
) -> None:  # fmt: skip
    x = RNG.normal(size=(2, groups * depth, *size))
    shape = (groups * out, depth) if name == "conv" else (groups * depth, out)
    w = RNG.normal(size=(*shape, *kernel))
    op = REGISTRY[name](stride=stride, pad=pad, dilation=dilation, groups=groups)
    by_hand = conv_by_hand if name == "conv" else conv_transpose_by_hand
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if name == "conv":
        assume(all(i + 2 * p >= e for i, p, e in zip(size, pad, extents, strict=True)))
    else:
        grown = zip(size, stride, pad, extents, strict=True)
        assume(all(s * (i - 1) + e - 2 * p >= 1 for i, s, p, e in grown))
    want = by_hand(x, w, stride, pad, dilation, groups)
    np.testing.assert_allclose(op.reference(x, w), want, rtol=0, atol=1e-12)


def pooled_by_hand(i: int, k: int, s: int, p: int, ceil: bool, any_pad: bool) -> int:
    """pooling_layer.cpp, as it stands."""
    room = (i + 2 * p - k) / s
    out = (math.ceil(room) if ceil else math.floor(room)) + 1
    if any_pad and (out - 1) * s >= i + p:
        out -= 1
    return out


def test_pooled_sizes_are_caffes_for_numbers_and_symbols() -> None:
    checked = 0
    for k, s, p, ceil, clip in itertools.product(
        range(1, 6), range(1, 6), range(5), (True, False), (True, False)
    ):
        if p >= k or (p and not clip):
            continue
        symbolic = pool_size(sym("H"), k, s, p, ceil, clip)
        for i in range(1, 20):
            want = pooled_by_hand(i, k, s, p, ceil, clip)
            if want < 1:
                with pytest.raises(GraphError, match="does not fit"):
                    pool_size(i, k, s, p, ceil, clip)
                continue
            assert pool_size(i, k, s, p, ceil, clip) == want, (i, k, s, p, ceil, clip)
            assert evaluate(symbolic, {"H": i}) == want
            checked += 1
    assert checked > 3500


def pool_by_hand(x: Array, k: Any, s: Any, p: Any, ceil: bool, mode: str) -> Array:
    n, c, h, w = x.shape
    oh = pooled_by_hand(h, k[0], s[0], p[0], ceil, any(p))
    ow = pooled_by_hand(w, k[1], s[1], p[1], ceil, any(p))
    out = np.zeros((n, c, oh, ow))
    for b, q, y, z in np.ndindex(*out.shape):
        top, left = y * s[0] - p[0], z * s[1] - p[1]
        bottom, right = min(top + k[0], h + p[0]), min(left + k[1], w + p[1])
        size = (bottom - top) * (right - left)
        top, left, bottom, right = max(top, 0), max(left, 0), min(bottom, h), min(right, w)
        part = x[b, q, top:bottom, left:right]
        if mode == "avg_pool":
            out[b, q, y, z] = part.sum() / size if size else np.nan
        elif mode == "max_pool":
            out[b, q, y, z] = part.max(initial=-np.inf)
        elif part.size:
            i, j = np.unravel_index(part.argmax(), part.shape)
            out[b, q, y, z] = (top + i) * w + left + j
        else:
            out[b, q, y, z] = -1
    return out


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)), kernel=SMALL, stride=SMALL,
    pad=st.tuples(st.integers(0, 2), st.integers(0, 2)), ceil=st.booleans(), ties=st.booleans(),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
@pytest.mark.parametrize("name", ["max_pool", "avg_pool", "max_pool_index"])
def test_pools(
    name: str, size: Any, kernel: Any, stride: Any, pad: Any, ceil: bool, ties: bool
) -> None:
    assume(all(p < k for k, p in zip(kernel, pad, strict=True)))
    window = zip(size, kernel, stride, pad, strict=True)
    assume(all(pooled_by_hand(*each, ceil, any(pad)) >= 1 for each in window))
    shape = (2, 2, *size)
    x = RNG.integers(0, 3, shape).astype(float) if ties else RNG.normal(size=shape)
    op = REGISTRY[name](kernel=kernel, stride=stride, pad=pad, ceil=ceil)
    want = pool_by_hand(x, kernel, stride, pad, ceil, name)
    # A mean of at most nine numbers of size 1, summed in another order.
    np.testing.assert_allclose(op.reference(x), want, rtol=0, atol=1e-14)


def test_lrn_by_hand() -> None:
    x = RNG.normal(size=(1, 6, 1, 2))
    op = REGISTRY["lrn"](size=5, alpha=0.5, beta=0.75, k=2.0)
    for q in range(6):
        total = (x[:, max(0, q - 2) : q + 3] ** 2).sum(1)
        want = x[:, q] * (2.0 + 0.1 * total) ** -0.75
        np.testing.assert_allclose(op.reference(x)[:, q], want, rtol=1e-6)  # 0.1 as float32


def test_unpool_inverts_max_pool() -> None:
    x = RNG.random((2, 3, 6, 8))
    pooled = REGISTRY["max_pool"](kernel=(2, 2), stride=(2, 2)).reference(x)
    index = REGISTRY["max_pool_index"](kernel=(2, 2), stride=(2, 2)).reference(x)
    back = REGISTRY["unpool"](scale=(2, 2)).reference(pooled, index)
    np.testing.assert_array_equal(back, np.where(np.isin(x, pooled), x, 0))


def test_im2col_is_the_matrix_of_a_convolution() -> None:
    x, w = RNG.normal(size=(2, 3, 6, 5)), RNG.normal(size=(4, 3, 3, 2))
    attributes = {"stride": (2, 1), "pad": (1, 0), "dilation": (1, 2)}
    columns = REGISTRY["im2col"](kernel=(3, 2), **attributes).reference(x)
    product = np.einsum("ok,nkyx->noyx", w.reshape(4, -1), columns)
    np.testing.assert_allclose(product, REGISTRY["conv"](**attributes).reference(x, w), atol=1e-12)


def test_a_symbolic_reshape_divides_exactly() -> None:
    from netc.ir.types import f32

    reshape = REGISTRY["reshape"]
    x = f32["N", 8, "H", "W"]
    assert str(reshape(shape=(0, -1)).infer(x)) == "f32[N,8*H*W]"
    assert str(reshape(shape=(-1, 8)).infer(x)) == "f32[H*N*W,8]"
    assert str(reshape(shape=(0, 4, -1, sym("H"))).infer(x)) == "f32[N,4,2*W,H]"
    with pytest.raises(GraphError, match="do not divide by 3"):
        reshape(shape=(-1, 3)).infer(x)
