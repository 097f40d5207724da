"""Reductions over any axes, and pooling of whole planes."""

import numpy as np
import pytest

import netc
from netc.ir.graph import Builder
from netc.ir.op import REGISTRY, Case
from netc.ir.types import f32
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, body_of, close, drawn, expected

SUMS = ("reduce_sum", "reduce_mean", "reduce_max")
MORE = [
    Case((f32[3, 700],), {"axes": (1,)}),
    Case((f32[700, 3],), {"axes": (0,)}),
    Case((f32[5, 70, 33],), {"axes": (1,)}),
    Case((f32[9, 17, 5, 6],), {"axes": (0, 2), "keep": True}),
    Case((f32[20000],), {"axes": (0,)}),
]
CASES = [(n, c) for n in SUMS for c in (*REGISTRY[n].samples, *MORE) if not c.error]
GLOBAL = ("global_avg_pool", "global_max_pool")


def bound(op, x: np.ndarray) -> np.ndarray:
    """8 · 2⁻²⁴ · Σ|x|, or 0 for a maximum."""
    if "max" in op.name:
        return np.zeros(())
    with np.errstate(all="ignore"):
        return 8 * 2.0**-24 * np.nan_to_num(op.reference(np.abs(x).astype(np.float64)))


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize(("name", "case"), CASES)
def test_reduce(level, name, case):
    op = REGISTRY[name](**case.attributes)
    body = body_of(op, case.inputs)
    (x,) = drawn(case)
    (got,) = Bench(body, {"x0": x}, {}).run(level)
    close(got, expected(body, {"x0": x})[0], 1, bound(op, x))


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("axes", [(1,), (2,), (0, 2)])
def test_head_and_tail(level, axes):
    """√(Σ (x − m)²), both ends in one kernel."""
    b = Builder()
    x, m = b.input("x", f32[3, 20, 37]), b.input("m", f32[20, 1])
    d = b.sub(x, m)
    body = b.graph("g", {"y": b.sqrt(b.reduce_sum(b.mul(d, d), axes=axes))})
    rng = np.random.default_rng(0)
    feed = {"x": rng.normal(size=(3, 20, 37)), "m": rng.normal(size=(20, 1))}
    feed = {k: v.astype(np.float32) for k, v in feed.items()}
    (got,) = Bench(body, feed, {}).run(level)
    close(got, expected(body, feed)[0], 8)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("name", GLOBAL)
def test_global(level, name):
    op = REGISTRY[name]()
    for case in (*REGISTRY[name].samples, Case((f32[2, 20, 31, 33],)), Case((f32[1, 9, 56, 3],))):
        if case.error:
            continue
        (x,) = drawn(case)
        types = [case.inputs[0], case.inputs[0].blocked()][: 2 if x.ndim == 4 else 1]
        for type in types:
            body = body_of(op, [type])
            for halo in ((0, 0), (1, 2)) if type.layout.value == "c8" else ((0, 0),):
                (got,) = Bench(body, {"x0": x}, {"x0": Where(halo)}).run(level)
                close(got, expected(body, {"x0": x})[0], 1, bound(op, x))


def test_a_halo_changes_no_sum():
    """A mean is the same bit by bit where a padded convolution reads the map as well."""
    b, rng = Builder(), np.random.default_rng(0)
    w = b.param("w", f32[8, 8, 3, 3], value=rng.normal(size=(8, 8, 3, 3)).astype(np.float32))
    x = b.relu(b.conv(b.input("x", f32[1, 8, 21, 19]), w))
    mean, y = b.global_avg_pool(x, name="mean"), b.conv(x, w, pad=(1, 1))
    graph = b.graph("g", {"mean": mean, "y": y})
    feed = {"x": rng.normal(size=(1, 8, 21, 19)).astype(np.float32)}
    alone = netc.compile(graph, outputs=["mean"], threads=1)(feed)["mean"]
    assert np.array_equal(netc.compile(graph, threads=1)(feed)["mean"], alone)
