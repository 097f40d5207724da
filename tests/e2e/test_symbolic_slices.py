"""Slices whose ends are sizes known only at run time: by any batch, as the reference says."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from netc.errors import GraphError, InputError
from netc.ir.dims import sym
from netc.ir.graph import Builder, Graph
from netc.ir.text import parse, show
from netc.ir.types import f32
from netc.passes.base import Context
from netc.passes.simplify import Simplify

N = sym("N")


def halves() -> Graph:
    """conv on two halves of the batch, the second one first."""
    b = Builder()
    x = b.input("x", f32["N", 8, 6, 6])
    w = b.param("w", f32[8, 8, 3, 3], value=np.ones((8, 8, 3, 3), np.float32) / 72)
    first = b.slice(x, axis=0, start=0, stop=N // 2, name="first")
    second = b.slice(x, axis=0, start=N // 2, stop=N, name="second")
    parts = [b.relu(b.conv(v, w, pad=(1, 1))) for v in (second, first)]
    return b.graph(
        "halves", {"y": b.concat(*parts, axis=0), "rest": b.slice(x, axis=0, start=N // 2)}
    )


@pytest.mark.parametrize("optimize", [True, False])
def test_any_batch(optimize: bool) -> None:
    g = halves()
    exe = netc.compile(g, optimize=optimize)
    for batch in (1, 2, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 8, 6, 6)).astype(np.float32)
        got, want = exe(x=x), netc.interpret(g, {"x": x})
        for name in ("y", "rest"):
            np.testing.assert_allclose(got[name], want[name], atol=1e-5)


def test_text_and_types() -> None:
    g = halves()
    text = show(g)
    assert "start=<N//2>" in text
    assert show(parse(text, weights=g.weights)) == text
    assert str(g.outputs["y"].type) == "f32[N,8,6,6]"


def test_neighbours_become_one() -> None:
    b = Builder()
    x = b.input("x", f32["N", 3])
    parts = [b.slice(x, axis=0, start=s, stop=e) for s, e in ((0, N // 3), (N // 3, N))]
    y = b.relu(b.concat(*parts, axis=0))
    made = Simplify().run(b.graph("g", {"y": y}), Context())
    assert [n.op.name for n in made.nodes] == ["input", "relu"]


def test_an_end_beyond_the_axis_is_refused_when_it_is_known() -> None:
    b = Builder()
    x = b.input("x", f32["N", 3])
    with pytest.raises(GraphError, match="ends beyond the axis"):
        b.slice(x, axis=0, stop=N + 1)
    exe = netc.compile(b.graph("g", {"y": b.relu(b.slice(x, axis=0, stop=2 * N - 3))}))
    assert exe(x=np.ones((3, 3), np.float32))["y"].shape == (3, 3)
    with pytest.raises(InputError, match="what is left behind its end"):
        exe(x=np.ones((4, 3), np.float32))


def test_a_start_before_the_axis_is_refused_when_it_is_known() -> None:
    b = Builder()
    x = b.input("x", f32["N", 3])
    y = b.relu(b.slice(x, axis=0, start=N - 3))
    z = b.relu(b.slice(x, axis=0, start=N // 2, stop=3))
    graph = b.graph("g", {"y": y, "z": z})
    exe = netc.compile(graph)
    assert exe(x=np.ones((5, 3), np.float32))["y"].shape == (3, 3)
    with pytest.raises(InputError, match="where it starts"):
        exe(x=np.ones((2, 3), np.float32))
    with pytest.raises(GraphError, match="-1 to 2 of 2"):
        netc.interpret(graph, {"x": np.ones((2, 3))})
    with pytest.raises(InputError, match=r"where it ends|its length"):
        exe(x=np.ones((8, 3), np.float32))
