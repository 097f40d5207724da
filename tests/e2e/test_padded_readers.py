"""What any op gives may be read by a convolution with padding: zeros lie around it, not within."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from strategies import domain_of, draw_array

import netc
from netc.errors import GraphError
from netc.ir.graph import Builder, Graph
from netc.ir.op import REGISTRY, Case, case
from netc.ir.ops.convolution import PRODUCTS
from netc.ir.types import DType, f32

CHANCE = {"stochastic_pool", "input", "param", "fused"}
# Results of four axes for those whose samples have none of the kind.
X = f32[1, 4, 8, 10]
MORE = {
    "argmax": case(X, axis=1),
    "fc": case(X, f32[7, 10], axis=3),
    "compact": case(f32[2, 4, 8, 10], f32[2], draw=("normal", "index:2")),
    "gather": case(X, f32[5], axis=3, draw=("normal", "index:10")),
}


def samples() -> Iterator[object]:
    for name, op in sorted(REGISTRY.items()):
        more = [MORE[name]] if name in MORE else []
        for i, sample in enumerate([*more, *(s for s in op.samples if not s.error)]):
            if name not in CHANCE and padded(name, sample):
                yield pytest.param(name, sample, id=f"{name}-{i}")


def padded(name: str, sample: Case) -> Graph | None:
    """Every result of four axes through a small convolution with padding; None without one."""
    b, op, rng = Builder(), REGISTRY[name], np.random.default_rng(1)
    xs = []
    for i, t in enumerate(sample.inputs):
        fixed = i > 0 and op in PRODUCTS
        value = draw_array(t, domain_of(sample, i), rng) if fixed else None
        xs.append(b.param(f"w{i}", t, value=value) if fixed else b.input(f"x{i}", t.plain()))
    try:
        node = b(op(**sample.attributes), *xs, name="y")
    except GraphError:
        return None
    outs = {}
    for i, v in enumerate(node.results):
        if v.type.rank == 4 and v.type.dtype is DType.F32 and 0 not in v.type.shape:
            shape = (2, v.type.sizes({})[1], 3, 3)
            w = b.param(f"v{i}", f32[shape], value=rng.standard_normal(shape).astype(np.float32))
            outs |= {f"r{i}": b.conv(v, w, pad=(1, 2)), f"y{i}": v}
    return b.graph("padded", outs) if outs else None


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize(("name", "sample"), list(samples()))
def test_padded(name: str, sample: Case, optimize: bool) -> None:
    graph = padded(name, sample)
    assert graph is not None
    rng = np.random.default_rng(2)
    feed = {n.name: draw_array(n.types[0], domain_of(sample, i), rng)
            for i, n in enumerate(graph.inputs)}  # fmt: skip
    with np.errstate(all="ignore"):
        want = netc.interpret(graph, feed)
    exe = netc.compile(graph, optimize=optimize)
    exe.poison()
    got = exe(feed)
    for key, y in want.items():
        most = np.abs(y[np.isfinite(y)]).max(initial=1)
        np.testing.assert_allclose(got[key], y, rtol=1e-4, atol=1e-4 * most)
