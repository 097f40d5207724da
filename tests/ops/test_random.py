"""Random numbers: the stated generator, and the distributions it should give."""

from __future__ import annotations

import math

import numpy as np

from netc.ir.op import REGISTRY, Array
from netc.ir.ops.random import uniform

MASK = 2**64 - 1


def mixed(z: int) -> int:
    """SplitMix64's finalizer in plain integers."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def by_hand(seed: int, i: int) -> float:
    start = mixed((seed * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03) & MASK)
    return (mixed((start + (i + 1) * 0x9E3779B97F4A7C15) & MASK) >> 40) * 2.0**-24


def test_the_stated_generator() -> None:
    for seed in (0, 1, 12345, 2**63 - 1):
        want = [by_hand(seed, i) for i in range(6)]
        np.testing.assert_array_equal(uniform(seed, (2, 3)).ravel(), want)


def drawn(name: str, **attributes: object) -> Array:
    return np.asarray(REGISTRY[name](**attributes).reference(np.ones(100_000)))


def test_uniform() -> None:
    u = drawn("random_uniform", low=-1.0, high=3.0, seed=5)
    assert u.min() >= -1.0
    assert u.max() < 3.0
    assert abs(u.mean() - 1.0) < 0.02  # four standard errors: 4 · 1.15 / √100000
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.013


def test_normal() -> None:
    z = np.sort(drawn("random_normal", mean=2.0, std=0.5, seed=6) - 2.0) / 0.5
    normal = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in z])
    steps = (np.arange(len(z)) + 0.5) / len(z)
    assert np.abs(normal - steps).max() < 1.95 / math.sqrt(len(z))  # Kolmogorov–Smirnov, p = 0.001
    assert 4.0 < z.max() < 6.0


def test_dropout_keeps_the_mean() -> None:
    x = drawn("dropout", ratio=0.3, seed=7)
    assert set(np.unique(x)) == {0.0, np.float64(np.float32(1 / 0.7))}
    assert abs(x.mean() - 1.0) < 0.01


def test_seeds_differ() -> None:
    one, two = drawn("random_uniform", seed=1), drawn("random_uniform", seed=2)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.013
    np.testing.assert_array_equal(one, drawn("random_uniform", seed=1))
