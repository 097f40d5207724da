"""`llama.net` against the same computations in NumPy, for any length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netc
from tests.drawn import RNG

PATH = Path(__file__).parents[2] / "examples" / "llama.net"
HEADS, GROUPS, DEPTH = 8, 4, 16
Array = np.ndarray[Any, np.dtype[np.float64]]


def norm(x: Array, w: Array) -> Array:
    return w * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def heads(x: Array, count: int) -> Array:
    return x.reshape(*x.shape[:2], count, DEPTH).transpose(0, 2, 1, 3)


def rotated(x: Array) -> Array:
    half = DEPTH // 2
    angle = np.arange(x.shape[2])[:, None] * 10000.0 ** (-2 * np.arange(half) / DEPTH)
    turn = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turn.real, turn.imag], -1)


def layer(x: Array, w: Mapping[str, Array], at: str) -> Array:
    n = norm(x, w[f"{at}attention_norm.w"])
    q = rotated(heads(n @ w[f"{at}q.w"].T, HEADS))
    k = rotated(heads(n @ w[f"{at}k.w"].T, GROUPS)).repeat(HEADS // GROUPS, 1)
    v = heads(n @ w[f"{at}v.w"].T, GROUPS).repeat(HEADS // GROUPS, 1)
    scores = q @ k.swapaxes(2, 3) / np.sqrt(DEPTH)
    scores = np.where(np.tri(x.shape[1], dtype=bool), scores, -np.inf)
    likely = np.exp(scores - scores.max(-1, keepdims=True))
    y = (likely / likely.sum(-1, keepdims=True)) @ v
    x = x + y.transpose(0, 2, 1, 3).reshape(x.shape) @ w[f"{at}out.w"].T
    n = norm(x, w[f"{at}ffn_norm.w"])
    gate = n @ w[f"{at}gate.w"].T
    return x + (gate / (1 + np.exp(-gate)) * (n @ w[f"{at}up.w"].T)) @ w[f"{at}down.w"].T


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    graph = netc.read(PATH, warn=lambda _: None)
    rng = np.random.default_rng(0)
    return {
        n.name: (rng.standard_normal(n.types[0].sizes({})) / 6).astype(np.float32)
        for n in graph.params
    }


@pytest.mark.parametrize("precision", ["high", "low"])
def test_any_length_as_numpy_has_it(weights: dict[str, Any], precision: str) -> None:
    exe = netc.compile(netc.read(PATH, weights=weights, strict=True), precision=precision)
    for shape in ((1, 1), (2, 7), (1, 33)):
        ids = RNG.integers(0, 512, shape).astype(np.int32)
        w = {name: array.astype(np.float64) for name, array in weights.items()}
        x = w["tokens.w"][ids]
        for i in range(2):
            x = layer(x, w, f"layers.{i}/")
        want = norm(x, w["norm.w"]) @ w["head.w"].T
        bound = (1e-5 if precision == "high" else 0.05) * np.abs(want).max()
        np.testing.assert_allclose(exe(ids=ids)["logits"], want, atol=bound)


def test_a_token_does_not_see_those_behind_it(weights: dict[str, Any]) -> None:
    exe = netc.compile(netc.read(PATH, weights=weights))
    ids = RNG.integers(0, 512, (1, 12)).astype(np.int32)
    changed = np.where(np.arange(12) < 8, ids, 511 - ids).astype(np.int32)
    a, b = (exe(ids=x)["logits"][0] for x in (ids, changed))
    np.testing.assert_allclose(a[:8], b[:8], atol=1e-5)
    assert np.abs(a[8:] - b[8:]).max() > 0.01
