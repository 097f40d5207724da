"""The verifier finds each broken invariant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import graphs

from netc.errors import NOWHERE, Span, VerifyError
from netc.ir.device import Device
from netc.ir.graph import Builder, Graph, Node, Stage
from netc.ir.op import REGISTRY
from netc.ir.text import parse, show
from netc.ir.types import f32
from netc.ir.verify import problems, verify

TEXT = """graph @net(input %x: f32[N,3,8,8], param %w: f32[5,3,3,3]) {
  %conv = conv(%x, %w) : f32[N,5,6,6]
  %relu = relu(%conv) : f32[N,5,6,6]
  return %relu
}
"""

KERNEL = """graph @net(input %x: f32[N,3,8,8], param %w: f32[5,3,3,3]) stage kernels {
  %k = fused(%x, %w, body=graph @k0(input %a: f32[N,3,8,8], input %b: f32[5,3,3,3]) {
    %c = conv(%a, %b) : f32[N,5,6,6]
    %d = relu(%c) : f32[N,5,6,6]
    return %d
  }) : f32[N,5,6,6]
  return %k
}
"""


def changed(graph: Graph, name: str, /, **fields: object) -> Graph:
    """The graph with fields of one node overwritten, as only a bug could."""
    node = graph.by_name[name].node
    for k, v in fields.items():
        object.__setattr__(node, k, v)
    return graph


def broken(graph: Graph) -> str:
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    return str(caught.value)


@pytest.mark.parametrize("text", [TEXT, KERNEL])
def test_a_right_graph_passes(text: str) -> None:
    graph = parse(text)
    assert verify(graph) is graph


@given(graphs())
@settings(max_examples=50, deadline=None)
def test_random_graphs_pass(graph: Graph) -> None:
    verify(graph)
    verify(parse(show(graph)))


def test_cycle() -> None:
    g = parse(TEXT)
    changed(g, "conv", inputs=(g.by_name["relu"], g.by_name["w"]))
    fresh = Graph(g.name, g.inputs, g.outputs)
    assert "cycle" in broken(fresh)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("relu", {"types": (f32[1],)}, "is typed f32[1], not f32[N,5,6,6]"),
        ("relu", {"name": "conv"}, "used twice"),
        ("relu", {"loc": NOWHERE}, "no location"),
        ("relu", {"op": REGISTRY["relu"](slope="2")}, "slope is '2', not float"),
        ("relu", {"op": REGISTRY["concat"](axis=7)}, "axis 7 is outside"),
        ("relu", {"op": REGISTRY["add"]()}, "2 operands are needed"),
        ("relu", {"op": REGISTRY["input"](f32[1]), "inputs": ()}, "no input of the graph"),
    ],
)
def test_a_broken_node(name: str, fields: dict[str, object], message: str) -> None:
    graph = changed(parse(TEXT), name, **fields)
    assert message in broken(Graph(graph.name, graph.inputs, graph.outputs))


def test_a_usual_size_is_a_size() -> None:
    g = parse(TEXT)
    assert not problems(replace(g, usual={"H": 227}))
    assert "usual size -1 of H" in broken(replace(g, usual={"H": -1}))


def test_weights_fit_parameters() -> None:
    g = parse(TEXT)
    assert "its weights are float64" in broken(replace(g, weights={"w": np.zeros((5, 3, 3, 3))}))
    assert "no parameter" in broken(replace(g, weights={"v": np.zeros(1, np.float32)}))
    right = replace(g, weights={"w": np.zeros((5, 3, 3, 3), np.float32)})
    assert not problems(right)


def test_placed_graphs_have_one_device_everywhere() -> None:
    g = parse(TEXT.replace("f32[5,3,3,3])", "f32[5,3,3,3]) stage placed"))
    assert not problems(g)
    changed(g, "relu", device=Device("cpu", 1))
    assert "on cpu:1, %conv on None" not in broken(g)
    changed(g, "conv", device=Device("cpu", 0))
    assert "%relu is on cpu:1, %conv on cpu:0" in broken(g)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (" stage kernels", "", "stage net does not allow"),
        (
            "%d = relu(%c) : f32[N,5,6,6]",
            "%d = softmax(%c) : f32[N,5,6,6]",
            "has 2 anchors: conv, softmax",
        ),
        ("relu(%c) : f32[N,5,6,6]", "relu(%c) : f32[N,5,6,6] @ cuda:0", "body on another device"),
    ],
)
def test_kernels(before: str, after: str, message: str) -> None:
    assert before in KERNEL
    assert message in broken(parse(KERNEL.replace(before, after)))


def test_kernel_operands_have_the_layout_of_the_body() -> None:
    b = Builder()
    x = b.to_blocked(b.input("x", f32[1, 8, 4, 4]))
    inner = Builder()
    body = inner.graph("k0", {"y": inner.relu(inner.input("a", f32[1, 8, 4, 4]))})
    g = b.graph("net", {"y": b.fused(x, body=body)}, stage=Stage.KERNELS)
    assert "where its body takes f32[1,8,4,4]" in broken(g)


def test_a_long_list_is_cut() -> None:
    b = Builder()
    x = b.input("x", f32[1])
    ys = {f"y{i}": b.relu(x, slope="0.5").node for i in range(30)}
    error = broken(b.graph("net", {k: n.out for k, n in ys.items()}))
    assert "and 10 more" in error


def test_location_is_shown() -> None:
    g = parse(TEXT, "my.ir")
    changed(g, "relu", types=(f32[1],))
    assert broken(g).startswith("my.ir:3:3: error: %relu is typed f32[1]")
    assert g.by_name["relu"].node.loc == Span("my.ir", 3, 3)
    assert isinstance(g.by_name["relu"].node, Node)
