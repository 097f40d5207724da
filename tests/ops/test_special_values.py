"""NaN, infinities, ties and indices out of range: the stated policy (docs/OPS.md)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from netc.ir.op import REGISTRY, Array
from netc.ir.scalar import Elementwise
from netc.ir.types import DType

NAN, INF = np.nan, np.inf


def of(name: str, *xs: object, **attributes: object) -> Array:
    """An op's reference result for float64 arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = REGISTRY[name](**attributes).reference(*(np.asarray(x, np.float64) for x in xs))
    assert isinstance(out, np.ndarray)
    return out


def same(got: Array, want: object) -> None:
    np.testing.assert_array_equal(got, np.asarray(want, np.float64))


@pytest.mark.parametrize(
    "name", sorted(n for n, c in REGISTRY.items() if issubclass(c, Elementwise))
)
def test_nan_propagates_through_every_formula(name: str) -> None:
    op = REGISTRY[name]
    if name in ("equal", "greater", "less", "threshold", "where"):
        return  # comparisons: false for NaN
    sample = next(s for s in op.samples if not s.error)
    for i in range(len(sample.inputs)):
        xs = [np.ones(t.sizes({})) for t in sample.inputs]
        xs[i] = np.full_like(xs[i], NAN)
        out = of(name, *xs, **sample.attributes)
        one_sided = name == "prelu" and i == 1  # the slope of a positive x is not used
        exponent_zero = name == "pow"  # C's pow: x⁰ is 1 even for NaN
        assert np.isnan(out).all() or one_sided or exponent_zero


def test_relu_and_clip() -> None:
    x = [NAN, INF, -INF, -1.0, 0.0, 1e-40]
    same(of("relu", x), [NAN, INF, 0, 0, 0, 1e-40])
    same(of("clip", x, low=0.0, high=6.0), [NAN, 6, 0, 0, 0, 1e-40])
    same(of("relu", x, slope=0.5), [NAN, INF, -INF, -0.5, 0, 1e-40])
    same(of("threshold", x), [0, 1, 0, 0, 0, 1])


def test_saturation_without_overflow() -> None:
    x = [-1000.0, 1000.0]
    same(of("sigmoid", x), [0, 1])
    same(of("tanh", x), [-1, 1])
    same(of("softplus", x), [0, 1000])
    same(of("swish", x), [-0.0, 1000])
    same(of("elu", x), [-1, 1000])
    same(of("hard_sigmoid", x), [0, 1])
    same(of("hard_swish", x), [0, 1000])
    same(of("mish", x), [0, 1000])


def test_angles_without_end() -> None:
    same(of("sin", [0.0, INF, -INF]), [0, NAN, NAN])
    same(of("cos", [0.0, INF, -INF]), [1, NAN, NAN])


def test_max_pool_keeps_nan_and_infinities() -> None:
    x = [[[[NAN, 1, -INF, -INF], [0, 2, -INF, -INF]]]]
    same(of("max_pool", x, kernel=(2, 2), stride=(2, 2)), [[[[NAN, -INF]]]])
    same(of("max_pool_index", x, kernel=(2, 2), stride=(2, 2)), [[[[0, 2]]]])
    same(of("global_max_pool", x), [[[[NAN]]]])
    same(of("avg_pool", x, kernel=(2, 2), stride=(2, 2)), [[[[NAN, -INF]]]])


def test_windows_wholly_outside() -> None:
    x = [[[[1.0, 2.0, 3.0, 4.0, 5.0]]]]
    window = {"kernel": (1, 1), "stride": (1, 4), "ceil": True}
    same(of("max_pool", [[[[1.0, 2.0, 3.0]]]], **window), [[[[1, -INF]]]])
    same(of("max_pool_index", [[[[1.0, 2.0, 3.0]]]], **window), [[[[0, -1]]]])
    same(of("avg_pool", [[[[1.0, 2.0, 3.0]]]], **window), [[[[1, 0]]]])  # 0 / (3 − 4)
    same(of("avg_pool", [[[[1.0, 2.0, 3.0, 4.0]]]], **window), [[[[1, NAN]]]])  # 0 / (4 − 4)
    same(of("max_pool", x, **window), [[[[1, 5]]]])


def test_nothing_to_reduce() -> None:
    x = np.zeros((2, 0))
    same(of("reduce_sum", x, axes=(1,)), [0, 0])
    same(of("reduce_mean", x, axes=(1,)), [NAN, NAN])
    same(of("reduce_max", x, axes=(1,)), [-INF, -INF])
    same(of("global_avg_pool", np.zeros((1, 1, 0, 3))), [[[[NAN]]]])


def test_softmax_of_large_and_of_nan() -> None:
    same(of("softmax", [[1000.0, 1000.0], [NAN, 1.0], [-1000.0, 0.0]]),
         [[0.5, 0.5], [NAN, NAN], [0, 1]])  # fmt: skip
    same(of("log_softmax", [[1000.0, 1000.0 - 2000.0]]), [[0, -2000]])


def test_ties() -> None:
    x = [[1.0, 3.0, 3.0, 2.0, 3.0]]
    same(of("argmax", x, axis=1, top_k=4), [[4, 2, 1, 3]])
    same(of("argmax", x, top_k=2, values=True), [[[4, 2], [3, 3]]])
    same(of("argmax", x, axis=1, top_k=4, first=True), [[1, 2, 4, 3]])
    same(of("argmax", [[NAN, 5.0]], axis=1), [[0]])
    same(of("accuracy", x, [1.0]), 0)
    same(of("accuracy", x, [1.0], top_k=3), 1)
    same(of("accuracy", [[NAN, 1.0]], [0.0]), 0)
    same(of("accuracy", [[NAN, 1.0]], [1.0]), 0)


def test_labels() -> None:
    x = np.eye(3)
    same(of("accuracy", x, [0.0, 1.0, 255.0], ignore=255), 1)
    same(of("accuracy", x, [255.0] * 3, ignore=255), 0)
    same(of("accuracy", x, [0.0, 1.0, 7.0]), 2 / 3)
    same(of("accuracy_per_class", x, [0.0, 0.0, -1.0]), [0.5, 0, 0])
    same(of("pick", [[1.0, 2.0]] * 3, [1.0, 2.0, NAN]), [[2], [NAN], [NAN]])


def test_indices_out_of_range_never_read_outside() -> None:
    x = [[1.0], [2.0]]
    index = [0.0, 1.9, -0.5, 2.0, -1.0, NAN, INF, -INF, 1e30]
    want = [1, 2, 1, NAN, NAN, NAN, NAN, NAN, NAN]
    same(of("gather", x, index)[:, 0], want)
    same(of("unpool", [[[[5.0, 6.0]]]], [[[[0.0, 9.0]]]], size=(1, 2)), [[[[5, 0]]]])
    same(of("unpool", [[[[5.0, 6.0]]]], [[[[1.0, 1.0]]]], size=(1, 2)), [[[[0, 6]]]])


def test_cast_saturates() -> None:
    x = [NAN, INF, -INF, -1.5, 1.9, 256.0, 3e9]
    assert of("cast", x, to=DType.U8).tolist() == [0, 255, 0, 0, 1, 255, 255]
    assert of("cast", x, to=DType.I32).tolist() == [0, 2**31 - 1, -(2**31), -1, 1, 256, 2**31 - 1]
    assert of("cast", x, to=DType.I64).tolist()[1:3] == [2**63 - 1, -(2**63)]


def test_dropout_keeps_nan() -> None:
    assert np.isnan(of("dropout", [NAN] * 8)).all()


def test_stochastic_pool() -> None:
    x = [[[[1.0, 2.0], [3.0, 4.0]]]]
    same(of("stochastic_pool", x, kernel=(2, 2)), [[[[3.0]]]])
    assert of("stochastic_pool", x, kernel=(2, 2), train=True, seed=3)[0, 0, 0, 0] in (1, 2, 3, 4)
    same(of("stochastic_pool", [[[[0.0, 0.0]]]], kernel=(1, 2)), [[[[0.0]]]])
