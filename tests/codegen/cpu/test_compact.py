"""compact on any number of threads: rows that are kept in front, zeros behind them."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from netc.ir.graph import Builder
from netc.ir.types import f32, i64, u8

KINDS = {"float": f32["N", 3], "byte": u8["N", 5], "long": i64["N"], "empty": f32["N", 0]}


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_moved(kind: str, threads: int) -> None:
    b = Builder()
    x, selector = b.input("x", KINDS[kind]), b.input("s", f32["N"])
    node = b(netc.ir.op.REGISTRY["compact"](), x, selector)
    graph = b.graph("g", {"y": node.results[0], "count": node.results[1]})
    exe = netc.compile(graph, threads=threads)
    rng = np.random.default_rng(threads)
    for rows, share in ((0, 1.0), (1, 1.0), (1, 0.0), (7, 0.5), (1000, 0.1), (1001, 0.99)):
        shape = x.type.sizes({"N": rows})
        given = rng.integers(1, 200, shape).astype(x.type.dtype.numpy)
        kept = (rng.random(rows) < share).astype(np.float32) * -0.5
        wanted = np.zeros_like(given)
        wanted[: np.count_nonzero(kept)] = given[kept != 0]
        got = exe(x=given, s=kept)
        np.testing.assert_array_equal(got["y"], wanted)
        assert got["count"] == np.count_nonzero(kept)
