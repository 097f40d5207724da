"""Constant tensors: `tensor(…)` of the language, arrays of NumPy in a net built in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netc
from netc.errors import GraphError, NetcError, WeightsError
from netc.ir.graph import Graph
from tests.drawn import RNG

SHIFTED = """
net shifted(x: f32[N, 4, 3]) -> y, z, ids {
  let rows = [0, 2, 1, 3]
  y = gather(x, tensor(rows, i32), axis=1) * tensor([[0.5], [1], [2], [4]])
  z = matmul(x, tensor([[1, 2], [3, 4], [5, 6]], name="m"))
  ids = tensor([16777217, -1], i64)
}
"""


def test_numbers_in_a_net() -> None:
    graph = netc.parse(SHIFTED, strict=True)
    x = RNG.standard_normal((2, 4, 3)).astype(np.float32)
    for optimize in (True, False):
        got = netc.compile(graph, optimize=optimize)(x=x)
        want = x[:, [0, 2, 1, 3]] * np.array([[0.5], [1], [2], [4]])
        np.testing.assert_allclose(got["y"], want, atol=1e-6)
        np.testing.assert_allclose(got["z"], x @ np.array([[1, 2], [3, 4], [5, 6]]), atol=1e-5)
        assert got["ids"].tolist() == [16777217, -1]
    assert {n.name: str(n.types[0]) for n in graph.params} == {
        "tensor": "i32[4]",
        "tensor_1": "f32[4,1]",
        "m": "f32[3,2]",
        "ids": "i64[2]",
    }


def test_weights_of_a_file_come_before_numbers_of_the_net() -> None:
    graph = netc.parse(SHIFTED, weights={"m": np.zeros((3, 2))})
    assert not netc.interpret(graph, {"x": np.ones((1, 4, 3))})["z"].any()


def test_arrays_in_python() -> None:
    table = RNG.standard_normal((4, 6)).astype(np.float32)
    rows = np.array([3, 0, 2])

    @netc.net
    def n(x: netc.f32[2, 3, 4]):  # type: ignore[no-untyped-def,valid-type]
        return {
            "sum": x + np.arange(12).reshape(3, 4),
            "per_channel": x * np.array([1, 2, 3]),
            "product": x @ table.astype(np.float64),
            "left": table.T @ netc.transpose(x, (0, 2, 1)),
            "rows": netc.gather(table, netc.cast(x, netc.i32)),
            "taken": netc.gather(x, rows % 3, axis=1),
            "named": netc.matmul(x, y=table),
            "made": netc.tensor([[1, 2], [3, 4]], netc.i64),
            "kept": netc.tensor(np.array([[200]], np.uint8)),
            "fc": netc.fc(netc.tensor(table), 2, w=np.ones((2, 6)), bias=False),
            "shape": netc.reshape(x, np.array([2, 12])),
        }

    x = RNG.integers(0, 4, (2, 3, 4)).astype(np.float32)
    want = {
        "sum": x + np.arange(12).reshape(3, 4),
        "per_channel": x * np.array([1, 2, 3])[:, None],
        "product": x @ table,
        "left": table.T @ x.transpose(0, 2, 1),
        "rows": table[x.astype(int)],
        "taken": x[:, rows % 3],
        "named": x @ table,
        "made": np.array([[1, 2], [3, 4]]),
        "kept": np.array([[200]]),
        "fc": table @ np.ones((6, 2)),
        "shape": x.reshape(2, 12),
    }
    for got in (netc.interpret(n, {"x": x}), netc.compile(n)(x=x)):
        for name, array in want.items():
            np.testing.assert_allclose(got[name], array, atol=1e-5, err_msg=name)
    assert [str(n.outputs[k].type.dtype) for k in ("made", "kept")] == ["i64", "u8"]


def built(make: Any) -> Graph:
    @netc.net
    def n(x: netc.f32[2, 3]):  # type: ignore[no-untyped-def,valid-type]
        return {"y": make(x)}

    return n


def endless() -> list[Any]:
    """A list within itself."""
    items: list[Any] = []
    items.append(items)
    return items


def test_arrays_without_axes_and_within_lists() -> None:
    @netc.net
    def n(x: netc.f32[2, 3]):  # type: ignore[no-untyped-def,valid-type]
        return {
            "taken": netc.gather(x, np.array(1), axis=1),
            "product": x * np.array(2.0),
            "rows": netc.tensor([np.ones(2), np.zeros(2)]),
            "shape": netc.reshape(x, [np.array(3), -1]),
        }

    x = RNG.standard_normal((2, 3)).astype(np.float32)
    got = netc.compile(n)(x=x)
    assert n.outputs["product"].op.name == "affine"
    for name, want in {
        "taken": x[:, 1],
        "product": x * 2,
        "rows": np.array([[1, 1], [0, 0]]),
        "shape": x.reshape(3, 2),
    }.items():
        np.testing.assert_array_equal(got[name], want)


def test_integers_without_axes() -> None:
    text = "net n(x: f32[1]) -> a, b, c { a = tensor(3, i64)  b = param(u8[])  c = relu(x) }"
    got = netc.compile(netc.parse(text, weights={"b": 7}))(x=np.ones(1, np.float32))
    assert [got["a"].tolist(), got["b"].tolist()] == [3, 7]


def test_the_integers_of_a_list_keep_every_digit() -> None:
    text = "net n(x: f32[1]) -> a, b { a = tensor({0}, i64)  b = relu(x) }"
    ends = "[9223372036854775807, -9223372036854775807 - 1, 9007199254740993, 1.0]"
    graph = netc.parse(text.replace("{0}", ends))
    want = [2**63 - 1, -(2**63), 2**53 + 1, 1]
    assert netc.compile(graph)(x=np.ones(1, np.float32))["a"].tolist() == want

    @netc.net
    def n(x: netc.f32[1]):  # type: ignore[no-untyped-def,valid-type]
        return {"a": netc.tensor([2**53 + 1, 1.0], netc.i64), "b": netc.tensor([2**70])}

    got = netc.compile(n)(x=np.ones(1, np.float32))
    assert got["a"].tolist() == [2**53 + 1, 1]
    assert got["b"].tolist() == [2.0**70]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x + np.ones((5, 3)), "do not fit together"),
        (lambda x: x + np.ones((2, 3), complex), "not real numbers"),
        (lambda x: x + np.ma.masked_array(np.ones((2, 3)), True), "masked array"),
        (lambda x: x + np.array([["a", "b", "c"]]), "not real numbers"),
        (lambda x: netc.gather(x, np.array([[2**63]], np.uint64)), "none of u8, i32, i64 and f32"),
        (lambda x: netc.tensor([[1, 2], [3]]), "different lengths"),
        (lambda x: netc.tensor([[1, x]]), "several tensors|made of numbers"),
        (lambda x: netc.tensor(np.array([0.5]), netc.i32), "0.5 is no i32"),
        (lambda x: netc.tensor([2**40], netc.i32), "is no i32"),
        (lambda x: netc.tensor(np.array([np.nan]), netc.u8), "nan is no u8"),
        (lambda x: netc.conv(x, np.ones((2, 2)), 3), "takes an int"),
        (
            lambda x: netc.tensor(np.array([2**63], np.uint64), netc.i64),
            "9223372036854775808 is no",
        ),
        (lambda x: netc.tensor([2**70], netc.i64), "1180591620717411303424 is no i64"),
        (lambda x: netc.tensor([10**400]), "too large for a float"),
        (lambda x: netc.tensor(endless()), "lists are nested more than 32 deep"),
        (lambda x: x + endless(), "lists are nested more than 32 deep"),
        (lambda x: netc.relu(x, slope=10**400), "too large for a float"),
    ],
)
def test_what_is_no_tensor(make: Any, message: str) -> None:
    with pytest.raises(NetcError, match=message) as e:
        built(make)
    assert e.value.diagnostics[0].span.line


@pytest.mark.parametrize("dtype", ["i32", "i64"])
def test_integers_among_the_weights_keep_every_digit(dtype: str, tmp_path: Path) -> None:
    text = f'net n(x: f32[1]) -> y, z {{ y = param({dtype}[3], name="ids")  z = relu(x) }}'
    ids = np.array([2**24 + 1, -(2**31), 2**31 - 1])
    np.savez(tmp_path / "ids.npz", ids=ids)
    for weights in ({"ids": ids}, tmp_path / "ids.npz"):
        graph = netc.parse(text, weights=weights, strict=True)
        netc.compile(graph).save(tmp_path / "n.bin")
        for trust in (True, False):
            got = netc.load(tmp_path / "n.bin", trust=trust)(x=np.ones(1, np.float32))["y"]
            assert got.tolist() == ids.tolist()
        assert netc.interpret(graph, {"x": np.ones(1)})["y"].tolist() == ids.tolist()


@pytest.mark.parametrize(
    ("value", "why"),
    [(0.5, "0.5 is no i32"), (2.0**31, "2147483648 is no i32"), (np.nan, "nan is no i32")],
)
def test_weights_that_are_no_integers(value: float, why: str) -> None:
    with pytest.raises(WeightsError, match=f"ids: {why}"):
        netc.parse("net n(x: f32[1]) -> ids { ids = param(i32[1]) }", weights={"ids": [value]})


def test_nested_lists_are_constants() -> None:
    graph = netc.parse(
        "net n(x: f32[N, 2]) -> y { let m = [[1, 2], [3, 4]]  y = x * m[1] + m[0][1] }"
    )
    assert netc.interpret(graph, {"x": np.ones((1, 2))})["y"].tolist() == [[5, 6]]
    with pytest.raises(GraphError, match="one number per channel"):
        netc.parse("net n(x: f32[N, 2]) -> y { y = x * [[1, 2]] }")
