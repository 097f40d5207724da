"""Conditions hold exactly where the reference has a result."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from netc.errors import GraphError
from netc.ir.conditions import conditions
from netc.ir.dims import evaluate, lowest, parse_dim
from netc.ir.interpret import interpret
from netc.ir.text import parse

NODES = [
    "conv(%x, %w, stride=(2, 2), pad=(1, 1), dilation=(2, 3)) : f32[N,3,(H-1)//2,(W-1)//2-1]",
    "max_pool(%x, kernel=(3, 5), stride=(2, 2), ceil=true) : f32[N,3,H//2,W//2-1]",
    "max_pool(%x, kernel=(4, 7), stride=(3, 2), ceil=true) : f32[N,3,(H+1)//3,(W-4)//2]",
    "avg_pool(%x, kernel=(6, 3), stride=(2, 4), pad=(1, 0), ceil=true)"
    " : f32[N,3,(H-1)//2,(W+3)//4]",
    "im2col(%x, kernel=(2, 4), stride=(3, 1)) : f32[N,24,(H+1)//3,W-3]",
    "slice(%x, axis=2, start=1, stop=4) : f32[N,3,3,W]",
    "conv_transpose(%x, %w, pad=(2, 3)) : f32[N,3,H-2,W-4]",
    "argmax(%x, axis=3, top_k=5) : f32[N,3,H,5]",
    "argmax(%x, top_k=20) : f32[N,1,20,1]",
    "crop(%x, %y, offset=(1, 0)) : f32[N,3,4,6]",
    'pad(%x, before=(0, 0, 2, 0), after=(0, 0, 1, 3), mode="reflect") : f32[N,3,H+3,W+3]',
]


@pytest.mark.parametrize("node", NODES)
def test_conditions(node: str) -> None:
    graph = parse(
        "graph @g(input %x: f32[N,3,H,W], input %y: f32[N,3,4,6], param %w: f32[3,3,3,3])"
        f" {{\n  %z = {node}\n  return %z, %y\n}}"
    )
    found = conditions(graph)
    assert found
    outcomes = set()
    for h in range(1, 9):
        for w in range(1, 9):
            sizes = {"N": 1, "H": h, "W": w}
            holds = all(evaluate(c.size, sizes) >= c.minimum for c in found)
            feed = {"x": np.zeros((1, 3, h, w)), "y": np.zeros((1, 3, 4, 6))}
            assert holds == _runs(graph, feed), sizes
            outcomes.add(holds)
    assert outcomes == {True, False}


def _runs(graph: object, feed: dict[str, np.ndarray]) -> bool:
    try:
        interpret(graph, feed)  # type: ignore[arg-type]
    except (GraphError, ValueError):
        return False
    return True


def test_known_sizes_have_no_conditions() -> None:
    graph = parse(
        "graph @g(input %x: f32[N,3,8,8]) {\n  %y = max_pool(%x, kernel=(2, 2)) : f32[N,3,7,7]\n"
        "  return %y\n}"
    )
    assert conditions(graph) == ()


@pytest.mark.parametrize(
    ("size", "least"),
    [
        ("N", 0), ("2*N+3", 3), ("(H+5)//2*((W+1)//2)+7", 7), ("max(N,3)+min(H,4)", 3),
        ("H-1", None), ("(H-1)//2", None), ("8//(N+1)", None), ("N*H-N", None),
    ],
)  # fmt: skip
def test_what_a_size_is_at_least(size: str, least: int | None) -> None:
    assert lowest(parse_dim(size)) == least


def test_conditions_that_always_hold_are_left_out() -> None:
    graph = parse(
        "graph @g(input %x: f32[N,H]) {\n  %p = pad(%x, before=(0, 0), after=(0, 5)) : f32[N,H+5]\n"
        "  %y = argmax(%p, axis=1, top_k=5) : f32[N,5]\n"
        "  %z = argmax(%p, axis=1, top_k=6) : f32[N,6]\n  return %y, %z\n}"
    )
    assert [(str(c.size), c.minimum) for c in conditions(graph)] == [("H+5", 6)]


@pytest.mark.parametrize("stop", ["6", "<N+2>"])
def test_sizes_that_no_input_has(stop: str) -> None:
    start, size = ("<N>", "6-N") if stop == "6" else ("<N>", "2")
    text = (
        f"graph @g(input %x: f32[6,4]) {{\n  %y = slice(%x, axis=0, start={start}, stop={stop})"
        f" : f32[{size},4]\n  return %y\n}}"
    )
    for run in (netc.compile, lambda g: netc.interpret(g, {"x": np.zeros((6, 4), np.float32)})):
        with pytest.raises(GraphError, match="%y: no input says what N is"):
            run(parse(text))
