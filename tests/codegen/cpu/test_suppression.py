"""Non-maximum suppression on the processor: what loops by hand keep, for any threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import netc
from netc.ir.graph import Builder, Graph, Value
from netc.ir.op import REGISTRY
from netc.ir.types import f32
from tests.boxes import CORNERS, kept_by_hand
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, body_of
from tests.strategies import clustered


def body(attributes: dict[str, float], *shape: Any, tail: Any = None) -> Graph:
    return body_of(REGISTRY["non_max_suppression"](**attributes), [f32[shape]], tail)


@pytest.mark.parametrize("level", LEVELS_HERE)
def test_corners(level: str) -> None:
    for boxes, attributes, kept in CORNERS:
        x = np.array(boxes, np.float32)
        (got,) = Bench(body(attributes, *x.shape), {"x0": x}, {}).run(level)
        assert got.tolist() == kept, (boxes, attributes)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("eta", [1.0, 0.95])
def test_more_boxes_than_a_block_has(level: str, eta: float) -> None:
    """Groups of 333 boxes, of which 40 to 150 are kept; sizes are known at run time only."""
    x = clustered((3, 2, 333, 4), np.random.default_rng(0))
    x[1, 0, 17::40, 2] = np.nan
    attributes = {"overlap": 0.6, "eta": eta}
    want = [[kept_by_hand(group, **attributes) for group in row] for row in x]
    assert 2 * 16 < np.sum(want[0][0]) < 200
    bench = Bench(body(attributes, "N", 2, "T", 4), {"x0": x}, {}, {"N": 3, "T": 333})
    (got,) = bench.run(level)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("param", [False, True])
def test_operands_anywhere_and_a_tail(param: bool) -> None:
    """Boxes with gaps between them, or a parameter; results with gaps, and what follows them."""
    x = clustered((3, 40, 4), np.random.default_rng(1))
    attributes = {"overlap": 0.3, "border": 1.0}
    want = np.array([kept_by_hand(group, **attributes) for group in x], np.float32)

    def tail(b: Builder, y: Value) -> tuple[Value, Value]:
        return b.affine(y, scale=2.0, shift=1.0), y

    where = {"x0": Where(param=True) if param else Where(spread=3), "out1": Where(spread=5)}
    more, kept = Bench(body(attributes, *x.shape, tail=tail), {"x0": x}, where).run(LEVELS_HERE[-1])
    np.testing.assert_array_equal(kept, want)
    np.testing.assert_array_equal(more, want * 2 + 1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("where", ["{}", "replicate over cpu:0, cpu:1 {{ {} }}"])
def test_groups_are_shared_among_threads_and_devices(where: str, threads: int) -> None:
    body = "y = x * 2 |> non_max_suppression(overlap=0.3) |> relu"
    graph = netc.parse(f"net n(x: f32[N,3,40,4]) -> y {{ {where.format(body)} }}")
    x = clustered((7, 3, 40, 4), np.random.default_rng(2))
    want = [[kept_by_hand(2 * group, overlap=0.3) for group in image] for image in x]
    np.testing.assert_array_equal(netc.compile(graph, threads=threads)(x=x)["y"], want)
