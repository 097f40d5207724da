"""Resizing: bit for bit what the reference gives, for every factor, width and layout."""

import numpy as np
import pytest

from netc.ir.graph import Builder
from netc.ir.op import REGISTRY
from netc.ir.types import DType, TensorType, f32
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, body_of, expected, normal, odd

NEAREST, BILINEAR = REGISTRY["resize_nearest"], REGISTRY["resize_bilinear"]
LYING = [{}, {"x0": Where(halo=(1, 2), spread=1), "out0": Where(halo=(1, 1), spread=2)}]
FACTORS = [
    (1, 1),
    (2, 2),
    (1, 3),
    (3, 4),
    (2, 5),
    (1, 7),
    (2, 8),
    (1, 9),
    (2, 12),
    (1, 16),
    (1, 17),
]
SIZES = [  # height and width, and those of the result
    (5, 7, 9, 13),
    (8, 9, 3, 4),
    (6, 20, 12, 40),
    (3, 33, 12, 132),
    (2, 300, 4, 600),  # several strips
    (2, 40, 3, 1000),
    (4, 1000, 3, 3),  # inputs that no result reads
    (3, 700, 2, 333),
    (4, 31, 4, 31),
    (1, 1, 3, 40),
    (5, 16, 1, 1),
    (2, 17, 3, 18),
]


def check(level, body, where, arrays=None, sizes=None):
    feed = normal(body, sizes) if arrays is None else arrays
    (got,) = Bench(body, feed, where, sizes).run(level)
    (want,) = expected(body, feed, np.float32)
    np.testing.assert_array_equal(got, want)


def layouts(shape):
    return f32[shape], f32[shape].blocked()


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("scale", FACTORS)
def test_nearest(level, scale):
    for width in (1, 3, 4, 21, 40):
        for type in layouts((2, 13, 2, width)):
            for where in LYING:
                check(level, body_of(NEAREST(scale=scale), [type]), where)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("dtype", [DType.U8, DType.I32, DType.I64])
def test_nearest_of_integers(level, dtype):
    for scale in ((2, 2), (1, 3), (1, 16)):
        type = TensorType(dtype, (2, 3, 2, 37))
        arrays = {"x0": np.arange(2 * 3 * 2 * 37).reshape(type.shape).astype(dtype.numpy)}
        check(level, body_of(NEAREST(scale=scale), [type]), {}, arrays)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_bilinear(level, corners, sizes):
    op = BILINEAR(size=sizes[2:], align_corners=corners)
    for type in layouts((2, 9, *sizes[:2])):
        for where in LYING:
            check(level, body_of(op, [type]), where)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("corners", [True, False])
def test_bilinear_of_special_values(level, corners):
    """NaN and infinities reach what is mixed of them, and nothing else."""
    op = BILINEAR(size=(9, 70), align_corners=corners)
    for type in layouts((1, 9, 5, 33)):
        arrays = {"x0": odd(type.shape)}
        with np.errstate(all="ignore"):
            check(level, body_of(op, [type]), {}, arrays)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("op", [NEAREST(scale=(2, 3)), BILINEAR(size=(6, 57))])
def test_tail(level, op):
    """A sum with another value and a scale for each channel, then relu."""
    for type in layouts((2, 13, 3, 19)):
        like = type.with_shape((2, 13, 6, 57))
        types = (like, f32[13, 1, 1])
        body = body_of(op, [type], lambda b, y, z, s: b.relu(b.mul(b.add(y, z), s)), types)
        check(level, body, {"e1": Where(param=True)})


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("sizes", [(1, 2, 20), (3, 5, 300), (2, 1, 1)])
@pytest.mark.parametrize("op", [NEAREST(scale=(3, 2)), BILINEAR(scale=(2, 2)),
                                BILINEAR(size=(7, 9), align_corners=False)])  # fmt: skip
def test_symbolic(level, op, sizes):
    known = dict(zip("NHW", sizes, strict=True))
    for type in layouts(("N", 13, "H", "W")):
        b = Builder()
        body = b.graph("g", {"out0": b(op, b.input("x0", type)).out})
        check(level, body, {}, sizes=known)
