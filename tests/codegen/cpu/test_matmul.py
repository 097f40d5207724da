"""Products of two values on the matrix kernels: sizes, batches, tails, and what lies in memory."""

from __future__ import annotations

import numpy as np
import pytest

from netc.ir.graph import Builder, Value
from netc.ir.ops.matmul import MatMul
from netc.ir.types import TensorType, f32
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, body_of, close, expected

TURNS = [(a, b) for a in (False, True) for b in (False, True)]


def types(m: object, k: object, n: object, op: MatMul, *batch: object) -> list[TensorType]:
    x = (k, m) if op.transpose_x else (m, k)
    y = (n, k) if op.transpose_y else (k, n)
    return [f32[(*batch, *x)], f32[(*batch, *y)]]


def feed_of(body: object, sizes: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {n.name: n.types[0].sizes(sizes) for n in body.inputs}  # type: ignore[attr-defined]
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def check(body: object, level: str, sizes: dict[str, int] | None = None, **where: Where) -> None:
    feed = feed_of(body, sizes or {})
    found = Bench(body, feed, where, sizes).run(level)  # type: ignore[arg-type]
    for got, want in zip(found, expected(body, feed), strict=True):  # type: ignore[arg-type]
        close(got, want, 4, 8e-6 * np.abs(want).max(initial=1.0))


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize(("left", "right"), TURNS)
@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1, 1),
        (5, 8, 16),
        (7, 9, 15),
        (17, 64, 33),
        (3, 40, 100),
        (2, 1200, 18),
        (1, 30, 1050),
        (4, 37, 70),
        (9, 20, 1),
        (6, 5, 150),
    ],  # few rows and one column have kernels of their own
)
def test_sizes_known_and_symbolic(
    sizes: tuple[int, int, int], left: bool, right: bool, level: str
) -> None:
    op = MatMul(left, right)
    check(body_of(op, types(*sizes, op, 2, 3)), level)
    symbols = types("M", "K", "L", op, "N", 3)
    check(body_of(op, symbols), level, dict(zip("MKLN", (*sizes, 2), strict=True)))


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("which", ["x0", "x1"])
@pytest.mark.parametrize(("left", "right"), TURNS)
def test_parameters(which: str, left: bool, right: bool, level: str) -> None:
    op = MatMul(left, right)
    check(body_of(op, types(6, 12, 20, op, 3)), level, **{which: Where(param=True)})


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize(
    ("x", "y"),
    [
        (f32[2, 3, 4, 5, 9], f32[9, 17]),  # one matrix for all
        (f32[5, 9], f32[2, 3, 9, 17]),
        (f32[2, 1, 5, 9], f32[1, 4, 9, 17]),  # each has an axis of its own
        (f32[2, 1, 3, 5, 9], f32[2, 4, 3, 9, 17]),  # x does not lie evenly
        (f32[2, 4, 3, 5, 9], f32[2, 1, 3, 9, 17]),
        (f32[2, 3, 4, 5, 9], f32[2, 3, 1, 9, 17]),  # one matrix for the last axis
        (f32[2, 3, 4, 1, 9], f32[2, 1, 1, 9, 17]),
        (f32[2, 1, 2, 1, 9], f32[2, 3, 1, 9, 17]),
    ],
)
def test_batches_stretch(x: TensorType, y: TensorType, level: str) -> None:
    check(body_of(MatMul(), [x, y]), level)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("columns", [16, 21, 5])
@pytest.mark.parametrize("rows", ["T", 2])
def test_tails(rows: object, columns: int, level: str) -> None:
    def tail(b: Builder, y: Value, other: Value) -> Value:
        return b.relu(b.add(b.affine(y, scale=0.125, shift=1.0), other))

    op = MatMul(transpose_y=True)
    result = f32["N", 4, rows, columns]
    body = body_of(op, types(rows, 24, columns, op, "N", 4), tail, [result])
    check(body, level, {"N": 2, "T": 9})


def test_nan_and_infinity_stay_in_their_row_and_column() -> None:
    body = body_of(MatMul(), [f32[2, 6, 20], f32[2, 20, 19]])
    feed = feed_of(body, {})
    feed["x0"][0, 2, 3], feed["x1"][1, 5, 18] = np.nan, np.inf
    (got,) = Bench(body, feed, {}).run(LEVELS_HERE[-1])
    assert np.isnan(got[0, 2]).all()
    assert np.isinf(got[1, :, 18]).all()
    assert np.isfinite(np.delete(got[0], 2, axis=0)).all()
    assert np.isfinite(got[1, :, :18]).all()


@pytest.mark.parametrize("rows", [1, 3, 6])
@pytest.mark.parametrize("turned", [False, True])
def test_long_sums_stay_exact(turned: bool, rows: int) -> None:
    op = MatMul(transpose_y=turned)
    body = body_of(op, types(rows, 20_000, 40, op))
    feed = {name: abs(x) for name, x in feed_of(body, {}).items()}
    (got,), (want,) = Bench(body, feed, {}).run(LEVELS_HERE[-1], (1, 2)), expected(body, feed)
    assert np.max(np.abs(got - want) / want) <= 8 * 2.0**-24
