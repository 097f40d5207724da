"""Elementary functions against float64, on every level this machine runs."""

import ctypes
import math

import numpy as np
import pytest

from netc.codegen.cpu import mathlib
from netc.codegen.cpu.emit import Module, vec
from netc.codegen.cpu.image import link
from netc.codegen.cpu.target import LEVELS, compile_module, runnable
from netc.runtime.code import load_image
from tests.angles import angles, exact

NAMES = list(LEVELS)
LEVELS_HERE = [t.name for t in runnable() if not t.quads]
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 1e-45, -1e-45, 1e-38, 3.4e38, -3.4e38]


def sweep(low: float, high: float) -> np.ndarray:
    """A dense sweep, both in value and in exponent, and every special value."""
    r = np.random.default_rng(1)
    line = np.linspace(low, high, 200_000)
    logs = np.exp(r.uniform(-103, 88, 100_000)) * np.where(r.random(100_000) < 0.5, -1, 1)
    both = np.concatenate([line, logs, SPECIAL]).astype(np.float32)
    return np.concatenate([both, np.zeros(-len(both) % 16, np.float32)])


def apply(level: str, make, *xs: np.ndarray, lanes: int = 0) -> np.ndarray:
    """The function over arrays whose length is a multiple of 16, a register or `lanes` at once."""
    module = Module(LEVELS[level])
    f = module.function("k0", ("ptr", "i64", "i64"))
    lanes = lanes or module.target.lanes
    ports = [f.slot(f.args[0], i, "ptr") for i in range(len(xs) + 1)]
    with f.loop(0, f.slot(f.args[0], len(xs) + 1), lanes) as turn:
        loaded = [f.load(vec(lanes), f.gep(p, turn.index, 4)) for p in ports[:-1]]
        f.store(make(f, *loaded), f.gep(ports[-1], turn.index, 4))
    f.ret()
    image = link(compile_module(module.text(), module.target))
    code = load_image(image.code)
    out = np.full_like(xs[0], 7.0)
    block = np.array([*(x.ctypes.data for x in xs), out.ctypes.data, len(out)], np.int64)
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    entry(code.address + image.symbols["k0"])(block.ctypes.data, 0, 1)
    return out


def worst_ulp(got: np.ndarray, exact: np.ndarray) -> float:
    """The largest error in units of the last place; NaN and ∞ must agree."""
    with np.errstate(all="ignore"):
        near = exact.astype(np.float32)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(near))
        edge = np.isinf(near) | np.isinf(got)
        close = np.abs(exact) > 3.4028e38  # rounds either way
        np.testing.assert_array_equal(got[edge & ~close], near[edge & ~close])
        ok = ~(np.isnan(near) | edge)
        gap = np.spacing(np.abs(near[ok])).astype(np.float64)
        return float(np.max(np.abs(got[ok] - exact[ok]) / gap))


UNARY = [
    (mathlib.exp, np.exp, (-110, 95), 2),
    (mathlib.expm1, np.expm1, (-25, 95), 2),
    (mathlib.log, np.log, (-1, 20), 2),
    (mathlib.log1p, np.log1p, (-1.5, 8), 4),
    (mathlib.tanh, np.tanh, (-10, 10), 3),
    (mathlib.erf, np.vectorize(math.erf), (-6, 6), 3),
    (mathlib.sin, np.sin, (-100, 100), 3),
    (mathlib.cos, np.cos, (-100, 100), 3),
]


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize(("make", "exact", "span", "ulp"), UNARY)
def test_unary(level, make, exact, span, ulp):
    x = sweep(*span)
    with np.errstate(all="ignore"):
        want = exact(x.astype(np.float64))
    assert worst_ulp(apply(level, make, x), want) <= ulp


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("fn", ["sin", "cos"])
def test_angles_of_any_size(level, fn):
    x = angles()
    got = apply(level, getattr(mathlib, fn), x)
    exact(fn, x, got)
    for lanes in (1, 4):
        alone = apply(level, getattr(mathlib, fn), x, lanes=lanes)
        np.testing.assert_array_equal(alone.view(np.uint32), got.view(np.uint32))


@pytest.mark.parametrize("level", LEVELS_HERE)
def test_the_sine_of_minus_zero_is_minus_zero(level):
    x = np.array([0.0, -0.0] * 8, np.float32)
    assert np.array_equal(np.signbit(apply(level, mathlib.sin, x)), np.signbit(x))


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("exponent", [0.5, -0.5, -0.75, 2.0, 3.0, 0.75, -1.25, 2.5])
def test_constant_power(level, exponent):
    x = sweep(-3, 20)
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), np.full(x.shape, exponent))  # C's pow
    got = apply(level, lambda f, v: mathlib.power(f, v, f.f32(exponent, v.lanes), exponent), x)
    assert worst_ulp(got, want) <= 4


@pytest.mark.parametrize("level", LEVELS_HERE)
def test_power(level):
    r = np.random.default_rng(2)
    x = np.concatenate([np.abs(sweep(0, 10)), np.repeat(SPECIAL, 12), r.normal(0, 3, 4000)])
    y = np.concatenate([r.normal(0, 8, len(sweep(0, 10))), np.tile(SPECIAL, 12)])
    y = np.concatenate([y, r.integers(-9, 9, 2000), r.normal(0, 4, 2000)])
    x, y = x.astype(np.float32), y.astype(np.float32)
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), y.astype(np.float64))
    assert worst_ulp(apply(level, mathlib.power, x, y), want) <= 2


@pytest.mark.parametrize("level", LEVELS_HERE)
def test_extremes_carry_nan(level):
    a = np.repeat(np.array([*SPECIAL, 2, 3, -4, 5], np.float32), 16)
    b = np.tile(np.array([*SPECIAL, 2, 3, -4, 5], np.float32), 16)
    np.testing.assert_array_equal(apply(level, mathlib.maximum, a, b), np.maximum(a, b))
    np.testing.assert_array_equal(apply(level, mathlib.minimum, a, b), np.minimum(a, b))
