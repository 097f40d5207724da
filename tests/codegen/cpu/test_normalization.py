"""LRN and softmax against their references."""

import numpy as np
import pytest

from netc.ir.graph import Builder
from netc.ir.op import REGISTRY, Case
from netc.ir.types import f32
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, body_of, close, drawn, expected

LRN = [
    *REGISTRY["lrn"].samples,
    Case((f32[2, 64, 5, 7],), {"size": 5, "alpha": 1e-4}),
    Case((f32[1, 24, 3, 6],), {"size": 17, "alpha": 1.0, "beta": 0.6}),
    Case((f32[1, 40, 2, 3],), {"size": 21, "alpha": 2.0}),
]
SOFT = [
    *REGISTRY["softmax"].samples,
    Case((f32[2, 1000],), {}),
    Case((f32[3, 21, 17, 19],), {}),
    Case((f32[2, 40, 3],), {"axis": 0}),
]


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("case", [c for c in LRN if not c.error])
def test_lrn(level, case):
    op = REGISTRY["lrn"](**case.attributes)
    (x,) = drawn(case)
    types = [case.inputs[0], case.inputs[0].blocked()][: 2 if x.ndim == 4 else 1]
    for type in types:
        body = body_of(op, [type])
        for halo in ((0, 0), (2, 1)) if type.layout.value == "c8" else ((0, 0),):
            (got,) = Bench(body, {"x0": x}, {"x0": Where(halo, 1)}).run(level)
            (want,) = expected(body, {"x0": x})
            close(got, want, 4, 8 * 2.0**-24 * np.abs(want))


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("case", [c for c in SOFT if not c.error])
def test_softmax(level, name, case):
    body = body_of(REGISTRY[name](**case.attributes), case.inputs)
    (x,) = drawn(case)
    for scale in (1, 50):
        feed = {"x0": x * np.float32(scale)}
        (got,) = Bench(body, feed, {}).run(level)
        (want,) = expected(body, feed)
        close(got, want, 8, 1e-6 * np.abs(want) + 1e-7 * scale)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("axis", [1, 2])
def test_softmax_between_formulas(level, axis):
    b = Builder()
    x, s = b.input("x", f32[3, 20, 37]), b.input("s", f32[20, 1])
    y = b.softmax(b.mul(x, s), axis=axis)
    body = b.graph("g", {"y": b.mul(y, s), "p": y})
    rng = np.random.default_rng(0)
    feed = {"x": rng.normal(size=(3, 20, 37)), "s": rng.normal(size=(20, 1))}
    feed = {k: v.astype(np.float32) for k, v in feed.items()}
    for got, want in zip(Bench(body, feed, {}).run(level), expected(body, feed), strict=True):
        close(got, want, 8, 1e-6 * np.abs(want))


@pytest.mark.parametrize("level", LEVELS_HERE)
def test_softmax_extremes(level):
    """Large values do not overflow; infinities and NaN as in the reference."""
    x = np.array([[1e4, 1e4 - 1, -1e4, 0]] * 3, np.float32)
    x[1, 2], x[2, 3] = -np.inf, np.nan
    body = body_of(REGISTRY["softmax"](), [f32[3, 4]])
    (got,) = Bench(body, {"x0": x}, {}).run(level)
    close(got, expected(body, {"x0": x})[0], 4, 1e-7)
