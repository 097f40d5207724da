"""Gather of whole rows: bit for bit the reference, NaN where there is no such row."""

import numpy as np
import pytest

from netc.ir.op import REGISTRY
from netc.ir.types import DType, TensorType, f32
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, body_of, expected

CASES = [  # x, index, axis, batch
    ((9, 1), (4,), 0, 0),
    ((9, 67), (2, 3), 0, 0),
    ((3, 9, 40), (5,), 1, 0),
    ((9, 3, 33), (), 0, 0),
    ((2, 9, 4, 19), (2, 7), 1, 1),
]


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("dtype", [DType.F32, DType.I64, DType.I32])
@pytest.mark.parametrize(("x", "index", "axis", "batch"), CASES)
def test_rows(level, x, index, axis, batch, dtype):
    """Through a tail too, and out of a part of a buffer into one."""
    op = REGISTRY["gather"](axis=axis, batch=batch)
    types = f32[x], TensorType(dtype, index)
    rng = np.random.default_rng(0)
    picks = np.asarray(rng.integers(-2, 11, index), dtype.numpy)
    arrays = {"x0": rng.standard_normal(x).astype(np.float32), "x1": picks}
    for param in (False, True):
        where = {"x0": Where(spread=2, param=param), "out0": Where(spread=1)}
        body = body_of(op, types)
        (got,) = Bench(body, arrays, where).run(level)
        np.testing.assert_array_equal(got, expected(body, arrays, np.float32)[0])
    like = body.outputs["out0"].type
    body = body_of(op, types, lambda b, y, r: b.relu(b.add(y, r)), (like,))
    more = arrays | {"e0": rng.standard_normal(like.shape).astype(np.float32)}
    (got,) = Bench(body, more, {}).run(level)
    np.testing.assert_array_equal(got, expected(body, more, np.float32)[0])
