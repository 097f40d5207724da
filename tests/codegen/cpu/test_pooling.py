"""Pooling against its reference, in both layouts, with tails and halos."""

import numpy as np
import pytest

from netc.ir.op import REGISTRY, Case
from netc.ir.types import f32
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, body_of, close, drawn, expected


def variants(case: Case):
    """The sample itself, and with its first operand blocked where that is possible."""
    yield case.inputs
    if case.inputs[0].rank == 4:
        yield (case.inputs[0].blocked(), *case.inputs[1:])


def magnitude(op, arrays) -> np.ndarray:
    """What an error bound of a reduction grows with: the same reduction of magnitudes."""
    if "max" in op.name:
        return np.zeros(())
    return 8 * 2.0**-24 * np.asarray(op.reference(np.abs(arrays[0]).astype(np.float64)))


CASES = [(n, c) for n in ("max_pool", "avg_pool") for c in REGISTRY[n].samples if not c.error]
MORE = [
    Case((f32[1, 16, 14, 14],), {"kernel": (3, 3), "stride": (2, 2), "ceil": True}),
    Case((f32[2, 9, 17, 19],), {"kernel": (3, 3), "pad": (1, 1)}),
    Case((f32[1, 8, 12, 12],), {"kernel": (2, 2), "stride": (2, 2)}),
    Case((f32[1, 8, 7, 7],), {"kernel": (7, 7)}),
    Case((f32[1, 20, 9, 5],), {"kernel": (2, 1), "stride": (2, 1)}),
    Case((f32[1, 8, 3, 3],), {"kernel": (3, 3), "stride": (1, 1), "pad": (2, 2)}),
]
CASES += [(n, c) for n in ("max_pool", "avg_pool") for c in MORE]


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize(("name", "case"), CASES)
def test_pool(level, name, case):
    op = REGISTRY[name](**case.attributes)
    for types in variants(case):
        body = body_of(op, types)
        arrays = drawn(case)
        feed = {f"x{i}": a for i, a in enumerate(arrays)}
        for where in ({}, {"x0": Where((1, 2)), "out0": Where((2, 1), spread=1)}):
            if where and types[0].layout.value == "plain":
                continue
            (got,) = Bench(body, feed, where).run(level)
            (want,) = expected(body, feed)
            close(got, want, 0 if "max" in name else 2, magnitude(op, arrays))


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("blocked", [False, True])
def test_tail_and_nan(level, blocked):
    """A pool with a per-channel scale and a residual; NaN and −∞ go through."""
    t = f32[2, 12, 9, 9]
    out = f32[2, 12, 4, 4]
    types = [v.blocked() if blocked else v for v in (t, out)]
    op = REGISTRY["max_pool"](kernel=(3, 3), stride=(2, 2))
    body = body_of(
        op,
        types[:1],
        lambda b, y, s, r: (b.relu(b.add(b.mul(y, s), r)), y),
        (f32[12, 1, 1], types[1]),
    )
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 12, 9, 9)).astype(np.float32)
    x[0, 1, 2, 2] = np.nan
    x[1, 3] = -np.inf
    feed = {"x0": x, "e0": rng.normal(size=(12, 1, 1)), "e1": rng.normal(size=(2, 12, 4, 4))}
    feed = {k: v.astype(np.float32) for k, v in feed.items()}
    got = Bench(body, feed, {"e0": Where(param=True)}).run(level)
    for g, want in zip(got, expected(body, feed), strict=True):
        close(g, want, 4, 1e-6)
