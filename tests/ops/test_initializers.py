"""Parameters without weights are drawn as Caffe's fillers draw them (include/caffe/filler.hpp)."""

from __future__ import annotations

import numpy as np
import pytest

from netc.ir.ops.sources import Initializer

SHAPE = (60, 80, 3, 3)  # more numbers than are drawn at a time
IN, OUT = 80 * 9, 60 * 9


def drawn(init: Initializer, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    out = init.draw(shape, np.random.default_rng(5))
    assert out.dtype == np.float32
    assert out.shape == shape
    return out


@pytest.mark.parametrize(
    ("init", "low", "high"),
    [
        (Initializer("uniform", -0.25, 0.5), -0.25, 0.5),
        (Initializer("xavier"), -np.sqrt(3 / IN), np.sqrt(3 / IN)),
        (Initializer("xavier", fan="fan_out"), -np.sqrt(3 / OUT), np.sqrt(3 / OUT)),
        (Initializer("xavier", fan="average"), -np.sqrt(6 / (IN + OUT)), np.sqrt(6 / (IN + OUT))),
    ],
)
def test_uniform(init: Initializer, low: float, high: float) -> None:
    whole = np.random.default_rng(5).uniform(low, high, SHAPE)
    np.testing.assert_array_equal(drawn(init), whole.astype(np.float32))


@pytest.mark.parametrize(
    ("init", "mean", "deviation"),
    [
        (Initializer("gaussian", 0.5, 0.01), 0.5, 0.01),
        (Initializer("msra"), 0.0, np.sqrt(2 / IN)),
        (Initializer("msra", fan="fan_out"), 0.0, np.sqrt(2 / OUT)),
    ],
)
def test_normal(init: Initializer, mean: float, deviation: float) -> None:
    whole = np.random.default_rng(5).normal(mean, deviation, SHAPE)
    np.testing.assert_array_equal(drawn(init), whole.astype(np.float32))


def test_sparse_keeps_a_few_inputs_of_each_output() -> None:
    dense, sparse = (drawn(Initializer("gaussian", sparse=s)) for s in (-1, 6))
    kept = sparse != 0
    np.testing.assert_array_equal(sparse[kept], dense[kept])
    assert kept.mean() == pytest.approx(6 / 60, rel=0.05)


def test_positive_unitball() -> None:
    out = drawn(Initializer("positive_unitball"))
    assert (out >= 0).all()
    np.testing.assert_allclose(out.sum((1, 2, 3)), 1, rtol=1e-5)


def test_bilinear() -> None:
    line = np.array([1, 3, 3, 1]) / 4
    np.testing.assert_allclose(
        drawn(Initializer("bilinear"), (2, 1, 4, 4))[1, 0], np.outer(line, line)
    )


@pytest.mark.parametrize("shape", [(), (0, 3), (1,)])
@pytest.mark.parametrize("kind", ["uniform", "gaussian", "xavier", "msra", "constant"])
def test_shapes_of_few_numbers(kind: str, shape: tuple[int, ...]) -> None:
    assert np.isfinite(drawn(Initializer(kind), shape)).all()
