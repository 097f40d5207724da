"""The largest of rows: every number of results, ties, and numbers that are none."""

import itertools

import numpy as np
import pytest

import netc
from netc.codegen.cpu.anchors import ranking
from netc.ir.ops.reduction import ArgMax
from netc.ir.types import f32
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, body_of, expected, odd

AXES = ((None, False), (None, True), (0, False), (1, True), (-1, False))


def check(level: str, op: ArgMax, x: np.ndarray) -> None:
    """Against the reference, for several numbers of threads."""
    body = body_of(op, [f32[x.shape]])
    (got,) = Bench(body, {"x0": x}, {}).run(level)
    (want,) = expected(body, {"x0": x})
    np.testing.assert_array_equal(got, want.astype(np.float32))


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize(("axis", "values"), AXES)
def test_every_count(level: str, axis: int | None, values: bool) -> None:
    x = odd((9, 11, 5))
    size = x.shape[1] * x.shape[2] if axis is None else x.shape[axis]
    for top_k, first in itertools.product((1, 2, 3, 4, size - 1, size), (False, True)):
        check(level, ArgMax(axis, top_k, values, first), x)


@pytest.mark.parametrize("heaps", [1, 3, 256])
def test_a_heap_serves_many_rows(heaps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "HEAPS", heaps)
    for top_k in (5, 8, 100):
        check(LEVELS_HERE[-1], ArgMax(1, top_k), odd((7, 131, 3)))


@pytest.mark.parametrize("x", [np.zeros((2, 1000)), np.arange(2000.0), np.arange(2000.0)[::-1]])
def test_rows_in_order(x: np.ndarray) -> None:
    for top_k, first in itertools.product((63, 64, 65, 999), (False, True)):
        check(LEVELS_HERE[-1], ArgMax(1, top_k, first=first), x.reshape(2, 1000).astype(np.float32))


@pytest.mark.parametrize("rows", [0, 1, 3, 700])
def test_any_batch(rows: int) -> None:
    net = "net t(x: f32[N,37]) -> y { y = relu(x) |> argmax(axis=1, top_k=20, first=true) |> relu }"
    graph, x = netc.parse(net), odd((rows, 37))
    (want,) = netc.interpret(graph, {"x": x}).values()
    for threads in (1, 2):
        np.testing.assert_array_equal(netc.compile(graph, threads=threads)(x=x)["y"], want)
