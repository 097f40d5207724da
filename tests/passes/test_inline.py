"""Kernels back to a net: the same values, nothing of the machine they were made for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import netc
from netc.compiler import Lowered, Options, lower
from netc.ir.device import Device
from netc.ir.graph import Graph, Node, Stage, Value
from netc.ir.interpret import interpret
from netc.ir.op import Array
from netc.ir.text import parse, show
from netc.ir.verify import verify
from netc.passes.inline import MOVES, net_of
from netc.passes.rewrite import rebuilt
from tests.strategies import feeds, graphs

DEVICES = (Device("cpu"), Device("cuda"), Device("cuda", 1))


def spread(graph: Graph, seed: int) -> Graph:
    """The graph with its nodes on devices by chance."""
    rng = np.random.default_rng(seed)
    new: dict[Value, Value] = {}
    for node in graph.nodes:
        device = DEVICES[rng.integers(len(DEVICES))]
        made = replace(node, inputs=tuple(new[v] for v in node.inputs), device=device)
        new.update(zip(node.results, made.results, strict=True))
    inputs = tuple(new[n.out].node for n in graph.inputs)
    return replace(rebuilt(graph, new), inputs=inputs)


def same_bits(got: dict[str, Array], want: dict[str, Array]) -> bool:
    return got.keys() == want.keys() and all(
        np.array_equal(got[k], want[k], equal_nan=True) for k in want
    )


def check(lowered: Lowered) -> Graph:
    """The net of kernels, which means what they mean."""
    net = verify(net_of(lowered.graph))
    assert net.stage is Stage.NET
    assert all(n.device is None and not isinstance(n.op, MOVES) for n in net.nodes)
    assert all(v.type == v.type.plain() for n in net.nodes for v in n.results)
    feed = feeds(net)
    assert same_bits(interpret(net, feed), interpret(lowered.graph, feed))
    read = parse(show(lowered.graph), weights=lowered.graph.weights)
    assert show(net_of(read)) == show(net)
    return net


@given(graphs(), st.integers(0, 2**16), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_random_graphs(graph: Graph, seed: int, many: bool) -> None:
    targets = ("cpu",) if seed % 2 else ("cuda",)
    placed = spread(graph, seed) if many else graph
    net = check(lower(placed, Options(targets=targets, check=0)))
    again = lower(net, Options(check=1)).graph
    wanted = interpret(graph, feeds(graph))
    for name, y in interpret(again, feeds(again)).items():
        assert np.allclose(y, wanted[name], 1e-4, 1e-4 * float(np.abs(wanted[name]).max()))


TEXT = """
net n(x: f32[N, 8, 6, 6]) -> y, z {
  a = x |> conv(16, 3, pad=1, name="c") |> relu(name="r")
  on cuda:1 { y = a |> max_pool(2, name="p") }
  z = a + 1.0
}
"""


def test_bodies_devices_and_layouts_are_gone() -> None:
    graph = netc.parse(TEXT, warn=lambda _: None)
    lowered = lower(graph, Options(devices=DEVICES))
    net = check(lowered)
    names: dict[str, Node] = {n.name: n for n in net.nodes}
    assert {"x", "c", "r", "c.w", "c.b"} <= set(names)
    assert [n.op.name for n in net.nodes if n.inputs] == ["conv", "relu", "max_pool", "affine"]
    assert list(net.outputs) == ["y", "z"]


def test_names_within_bodies_may_be_taken() -> None:
    text = """
graph @g(input %a: f32[2], input %b: f32[2]) stage kernels {
  %k = fused(%a, body=graph @relu(input %b: f32[2]) {
    %a = relu(%b) : f32[2]
    return %a
  }) : f32[2]
  %l = fused(%k, %b, body=graph @add(input %k: f32[2], input %b: f32[2]) {
    %a = add(%k, %b) : f32[2]
    return %a
  }) : f32[2]
  return %l
}
"""
    net = verify(net_of(parse(text)))
    assert [n.name for n in net.nodes] == ["a", "b", "a_1", "a_2"]
    x = {"a": np.array([-1.0, 2.0]), "b": np.array([1.0, 1.0])}
    assert interpret(net, x)["l"].tolist() == [1.0, 3.0]
