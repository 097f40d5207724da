"""Element-wise ops against their formulas from papers, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import netc
from netc.errors import GraphError
from netc.ir.op import Array

FORMULAS: dict[str, Callable[[Array], Array]] = {
    "hard_sigmoid": lambda x: np.interp(x, [-3, 3], [0, 1]),
    "hard_swish": lambda x: x * np.interp(x, [-3, 3], [0, 1]),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
}
COMPARISONS = {"greater": np.greater, "less": np.less}


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("name", FORMULAS)
def test_one_operand(name: str, optimize: bool) -> None:
    net = netc.parse(f"net t(x: f32[N, W]) -> y {{ y = {name}(x) }}")
    x = np.append(np.linspace(-100, 100, 4001), [-3, 0, 3])[None].astype(np.float32)
    got = netc.compile(net, optimize=optimize)(x=x)["y"]
    want = FORMULAS[name](x.astype(np.float64))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)  # x + 3 near -3 loses digits


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_give_ones_and_zeros(name: str, optimize: bool) -> None:
    net = netc.parse(
        f"net t(x: f32[N, W], y: f32[W]) -> a, b {{ a = {name}(x, y) b = {name}(x, 1) }}"
    )
    x, y = np.array([[0, 1, 2, np.nan, 1]] * 3, np.float32), np.array([1, 1, 1, 1, np.nan], "f")
    got = netc.compile(net, optimize=optimize)(x=x, y=y)
    np.testing.assert_array_equal(got["a"], COMPARISONS[name](x, y).astype(np.float32))
    np.testing.assert_array_equal(got["b"], COMPARISONS[name](x, 1).astype(np.float32))


@pytest.mark.parametrize("name", COMPARISONS)
def test_integers_are_cast_before_a_comparison(name: str) -> None:
    with pytest.raises(GraphError, match=r"input 0 is i32\[3\]; f32 is needed here \(see cast\)"):
        netc.parse(f"net t(x: i32[3], y: i32[3]) -> z {{ z = {name}(x, y) }}")


def test_what_is_greater_in_an_op_of_ones_own() -> None:
    net = netc.parse(
        "op gated(x, y) = x * greater(x, y) + y * less(x, y)"
        " net t(x: f32[N], y: f32[N]) -> z { z = gated(x, y) }"
    )
    x, y = np.array([1, -2, 3, 4], np.float32), np.array([0, 2, 3, 5], np.float32)
    np.testing.assert_array_equal(netc.compile(net)(x=x, y=y)["z"], [1, 2, 0, 5])
