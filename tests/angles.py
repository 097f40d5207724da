"""Angles that are hard to reduce, and what is asked of a sine or cosine of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import cache

import numpy as np

from netc.ir.op import Array

HALF_PI = (
    Fraction("3.14159265358979323846264338327950288419716939937510582097494459230781640628") / 2
)


def nearest_multiples() -> Iterator[float]:
    """The float32 nearest to k · π/2, small and large k."""
    for k in (*range(1, 2000), *(3**i for i in range(7, 80)), *(2**i for i in range(11, 127))):
        yield float(k * HALF_PI)


def near_misses() -> Iterator[float]:
    """The float32 of each exponent that come nearest to multiples of π/2.

    Where m · 2ᵉ is nearly n · π/2, n / m is a convergent of 2ᵉ / (π/2).
    """
    for e in range(-23, 104):
        rest = Fraction(2) ** e / HALF_PI
        before, m = 0, 1
        while m < 1 << 24:
            yield math.ldexp(m, e)
            rest = 1 / (rest - math.floor(rest))
            before, m = m, math.floor(rest) * m + before


@cache
def angles() -> Array:
    """Of all magnitudes, and NaN and infinities; their count is a multiple of 16."""
    r = np.random.default_rng(3)
    bits = r.integers(0, 1 << 32, 100_000, dtype=np.uint32).view(np.float32)
    line = np.linspace(-1e5, 1e5, 100_000).astype(np.float32)
    hard = np.array([*nearest_multiples(), *near_misses()]).astype(np.float32)
    edge = np.float32(2.0**20) + np.arange(-8, 8, dtype=np.float32)
    quarter = np.nextafter(np.float32(math.pi / 4), np.array([0, 2], np.float32))
    one = np.nextafter(np.float32(1), np.array([0, 2], np.float32))
    special = np.array([0, 1, 1e-45, 1e-38, 3.4028235e38, np.inf, np.nan], np.float32)
    some = np.concatenate([hard, edge, quarter, one, special])
    out = np.concatenate([bits, line, some, -some])
    return np.concatenate([out, np.zeros(-len(out) % 16, np.float32)])


def exact(fn: str, x: Array, got: Array) -> None:
    """Within 1.5e-7, and near zeros within 3e-7 of the result; of no finite angle NaN."""
    with np.errstate(invalid="ignore"):
        want = getattr(np, fn)(x.astype(np.float64))
    np.testing.assert_array_equal(np.isnan(got), ~np.isfinite(x))
    finite = np.isfinite(x)
    error, size = np.abs(got - want)[finite], np.abs(want)[finite]
    assert error.max() <= 1.5e-7
    smallest = 2.0**-149  # between two denormals
    assert np.all(error <= 3e-7 * size + smallest)
