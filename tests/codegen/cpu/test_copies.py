"""Copies: bit for bit what the reference gives, in both layouts where the op allows them."""

import numpy as np
import pytest

from netc.ir.op import REGISTRY, Case
from netc.ir.types import f32
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, body_of, drawn, expected

NAMES = ("transpose", "concat", "slice", "crop", "pad", "tile", "reshape", "flatten",
         "resize_nearest", "to_blocked", "to_plain")  # fmt: skip
MORE = [
    ("concat", Case((f32[2, 8, 5, 3], f32[2, 16, 5, 3], f32[2, 5, 5, 3]), {})),
    ("slice", Case((f32[2, 24, 5, 3],), {"start": 8, "stop": 20})),
    ("to_blocked", Case((f32[1, 3, 30, 227],), {})),
    ("to_blocked", Case((f32[2, 21, 9, 40],), {})),
    ("to_plain", Case((f32[2, 21, 9, 40].blocked(),), {})),
    ("to_plain", Case((f32[3, 10, 1, 1].blocked(),), {})),
    ("transpose", Case((f32[3, 37, 41],), {"perm": (0, 2, 1)})),
    ("transpose", Case((f32[8, 5, 16],), {"perm": (2, 1, 0)})),
    ("transpose", Case((f32[2, 33, 65, 3],), {"perm": (0, 3, 1, 2)})),
]
CASES = [(n, c) for n in NAMES for c in REGISTRY[n].samples if not c.error] + MORE
BOTH = ("concat", "slice", "resize_nearest")


def layouts(name, case):
    """Row-major, and blocked where every boundary falls between blocks."""
    yield case.inputs
    if name in BOTH and case.inputs[0].rank == 4:
        counts = [t.shape[1] for t in case.inputs[:-1]]
        start = case.attributes.get("start", 0)
        channels = case.attributes.get("axis", 1) == 1
        if not channels or all(c % 8 == 0 for c in (*counts, start)):
            yield tuple(t.blocked() for t in case.inputs)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize(("name", "case"), CASES)
def test_copy(level, name, case):
    op = REGISTRY[name](**case.attributes)
    for types in layouts(name, case):
        body = body_of(op, types)
        arrays = {f"x{i}": a for i, a in enumerate(drawn(case))}
        (got,) = Bench(body, arrays, {}).run(level)
        np.testing.assert_array_equal(got, expected(body, arrays, np.float32)[0])


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("name", ["concat", "to_blocked", "to_plain", "pad"])
def test_tail(level, name):
    """A copy with a per-channel scale and relu at its end."""
    shape = (2, 16, 6, 19)
    types = [f32[shape].blocked() if name == "to_plain" else f32[shape]]
    attributes = {"pad": {"before": (0, 0, 1, 1), "after": (0, 0, 0, 2), "value": 0.5}}.get(
        name, {}
    )
    op = REGISTRY[name](**attributes)
    types = types * 2 if name == "concat" else types
    channels = 32 if name == "concat" else 16
    body = body_of(op, types, lambda b, y, s: b.relu(b.mul(y, s)), (f32[channels, 1, 1],))
    rng = np.random.default_rng(0)
    arrays = {n.name: rng.normal(size=n.types[0].shape).astype(np.float32) for n in body.inputs}
    for where in ({}, {"e0": Where(param=True)}):
        (got,) = Bench(body, arrays, where).run(level)
        np.testing.assert_array_equal(got, expected(body, arrays, np.float32)[0])
