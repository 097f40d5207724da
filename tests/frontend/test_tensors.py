"""Tensors while a net is built: what they join, and what is said of all that they have not."""

# ruff: noqa: F821, UP037 (the "N" of a shape is no annotation)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import netc
from netc.errors import NetcError, UsageError
from netc.frontend.python import Tensor


def test_numpy_meets_tensors() -> None:
    @netc.net
    def n(x: netc.f32["N", 3]):
        y = np.ones(3) * x - np.float32(2)
        return {"y": np.float32(1) / np.add(y, x)}

    assert netc.interpret(n, {"x": np.full((1, 3), 3.0)})["y"].tolist() == [[0.25] * 3]


def test_tensors_are_keys() -> None:
    @netc.net
    def n(x: netc.f32[2], y: netc.f32[2]):
        return {x: y, y: x}[x]

    assert list(n.outputs) == ["y"]


def returned(build: Callable[[Tensor], Any]) -> pytest.ExceptionInfo[NetcError]:
    """What a net that returns `build(x)` is refused with, at a line of this file."""

    def n(x: netc.f32["N", 3]):
        return build(x)

    with pytest.raises(NetcError) as e:
        netc.net(n)
    assert e.value.span.file == "test_tensors.py"
    return e


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda n: n > 3, "N > 3 is not known when compiling"),
        (lambda n: 2 * n <= n, "2*N <= N is not known when compiling"),
        (lambda n: n / 2, "N / 2 may not come out even"),
        (lambda n: n * 0.5, "a size meets 0.5, which is no whole number"),
        (lambda n: range(n), "the size N is not known here"),
        (lambda n: int(n), "the size N is not known here"),
    ],
)
def test_what_an_open_size_has_not(build: Callable[[Any], Any], message: str) -> None:
    e = returned(lambda x: netc.reshape(x, (build(x.shape[0]), -1)))
    assert e.value.diagnostics[0].message == message


def test_sizes_that_compare() -> None:
    @netc.net
    def n(x: netc.f32["N", 3]):
        assert x.shape[0] + 1 > x.shape[0] >= x.shape[0]
        return x

    assert list(n.outputs) == ["x"]


@pytest.mark.parametrize(
    "build",
    [
        lambda x: x if x == 0 else -x,
        lambda x: x != 0,
        lambda x: x in [-x],
        lambda x: ~x,
        lambda x: x & 1,
        lambda x: 1 | x,
        lambda x: x ^ x,
        lambda x: 1 << x,
        lambda x: x >> 1,
        lambda x: 1 in x,
        lambda x: x(1),
        lambda x: math.ceil(x),
        lambda x: math.trunc(x),
        lambda x: f"{x:.2f}",
        lambda x: round(x),
        lambda x: divmod(x, 2),
        lambda x: len(x),
        lambda x: [float(x), int(x)],
        lambda x: range(x),
        lambda x: x.__setitem__(0, 1),
        lambda x: np.maximum(x, 0),
        lambda x: np.exp(x),
        lambda x: np.sum(x),
        lambda x: np.array(x),
        lambda x: np.clip(x, 0, 1),
        lambda x: np.ones(3) > x,
    ],
)
def test_what_a_tensor_has_not(build: Callable[[Tensor], Any]) -> None:
    e = returned(build)
    assert e.type is UsageError
    assert e.value.diagnostics[0].message.startswith("a tensor has no ")


@pytest.mark.parametrize(
    ("build", "help"),
    [
        (lambda x: x**2, "such as netc.pow(x, 2)"),
        (lambda x: 2**x, "such as netc.pow(x, 2)"),
        (lambda x: x > 0, "such as netc.greater(x, y), or netc.less(x, y)"),
        (lambda x: x[:, 0], "such as netc.slice(x, axis=1, start=0, stop=1), or netc.split(x, 2)"),
        (lambda x: list(x), "such as netc.slice(x, axis=1, start=0, stop=1), or netc.split(x, 2)"),
        (lambda x: abs(x), "such as netc.abs(x)"),
        (lambda x: x == 0, "such as netc.equal(x, y)"),
        (lambda x: x << 1, "such as x * 2 or x / 2"),
        (lambda x: f"{x:.2f}", "such as {x}, {x.type} or {x.name}"),
        (lambda x: np.maximum(x, 0), "such as netc.maximum(x, y)"),
        (lambda x: netc.concat([x, x]), "concat(…, axis=1)"),
    ],
)
def test_what_is_a_call_and_no_sign(build: Callable[[Tensor], Any], help: str) -> None:
    assert returned(build).value.diagnostics[0].help == help


@pytest.mark.parametrize(
    "build", [lambda x: netc.matmul(x, [1, 2]), lambda x: netc.matmul(x, y=[1, 2])]
)
def test_a_list_is_no_tensor(build: Callable[[Tensor], Any]) -> None:
    d = returned(build).value.diagnostics[0]
    assert "takes a tensor, not (" in d.message
    assert "tensor([[1, 2], [3, 4]])" in d.help


def test_numpy_multiplies_matrices_as_at_does() -> None:
    @netc.net
    def n(x: netc.f32[2, 3], y: netc.f32[3, 2]):
        return {"a": x @ y, "b": np.matmul(x, y)}

    a, b = netc.interpret(n, {"x": np.ones((2, 3)), "y": np.ones((3, 2))}).values()
    assert a.tolist() == b.tolist() == [[3.0, 3.0], [3.0, 3.0]]
