"""Nets whose products are of two values: attention in all its forms, on one device and several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

import netc
from netc.ir.graph import Graph
from netc.ir.interpret import initial_weights
from netc.ir.op import Array

ATTENTION = """
block heads(x, count) {
  return x |> reshape([0, size(x, 1), count, -1]) |> transpose([0, 2, 1, 3])
}

block attention(x, y, width, count) {
  q = x |> fc(width, axis=2, name="q") |> heads(count)
  k = y |> fc(width, axis=2, name="k") |> heads(count)
  v = y |> fc(width, axis=2, name="v") |> heads(count)
  w = matmul(q, k |> transpose([0, 1, 3, 2])) * (1 / sqrt(width / count)) |> softmax(axis=3)
  return matmul(w, v) |> transpose([0, 2, 1, 3]) |> reshape([0, size(x, 1), width])
}
"""
NETS = {
    "to itself": "net t(x: f32[N,T,24]) -> y { y = x + attention(x, x, 24, 3) }",
    "to others": "net t(x: f32[N,T,24], z: f32[N,S,16]) -> y { y = attention(x, z, 32, 4) }",
    "layers": """net t(x: f32[N,T,24]) -> y {
      repeat 2 as i {
        z = x |> layer_norm(name="a{i}")
        x = x + attention(z, z, 24, 2, name="l{i}")
        x = x + (x |> layer_norm(name="b{i}") |> fc(48, axis=2) |> gelu |> fc(24, axis=2))
      }
      y = x
    }""",
    "made weights": """net t(x: f32[N,T,24], w: f32[10,24], b: f32[10]) -> y, z {
      y = fc(x, w=w, b=b, axis=2) |> relu
      z = fc(x |> reduce_sum(axes=1), w=w, bias=false)
    }""",
    "masked": """net t(x: f32[N,T,24], mask: f32[N,1,T]) -> y {
      w = matmul(x, x, transpose_y=true) + mask |> softmax(axis=2)
      y = matmul(w, x)
    }""",
    "placed": """net t(x: f32[3,9,8]) -> y {
      y = matmul(x, x, transpose_y=true) + param(f32[3,9,9], init=gaussian) |> softmax(axis=2)
    }""",
    "of nothing": """net t(x: f32[2,0,3], w: f32[5,0], z: f32[2,0]) -> y, v {
      y = fc(x, w=w, bias=false) + 1
      v = matmul(z, w, transpose_y=true)
    }""",
    "outer products": "net t(x: f32[N,T,24]) -> y { y = matmul(x, x, transpose_x=true) |> relu }",
}


def net_of(text: str) -> Graph:
    graph = netc.parse(ATTENTION + text, warn=lambda *_: None)
    return replace(graph, weights=initial_weights(graph))


def feed_of(graph: Graph, sizes: Mapping[str, int]) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    return {
        n.name: rng.standard_normal(n.types[0].sizes(sizes)).astype(np.float32)
        for n in graph.inputs
    }


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_any_size(name: str, optimize: bool) -> None:
    graph = net_of(NETS[name])
    exe = netc.compile(graph, optimize=optimize, threads=2)
    for sizes in ({"N": 1, "T": 7, "S": 3}, {"N": 3, "T": 33, "S": 20}, {"N": 8, "T": 1, "S": 1}):
        feed = feed_of(graph, sizes)
        want = netc.interpret(graph, feed)
        for output, got in exe(**feed).items():
            limit = 1e-5 * np.abs(want[output]).max()
            np.testing.assert_allclose(got, want[output], rtol=0, atol=limit)


@pytest.mark.parametrize("name", NETS)
def test_a_saved_net_gives_the_same_bits_for_any_threads(name: str, tmp_path: object) -> None:
    graph = net_of(NETS[name])
    path = f"{tmp_path}/net.bin"
    netc.compile(graph).save(path)
    feed = feed_of(graph, {"N": 9, "T": 12, "S": 5})
    want = netc.load(path, threads=1)(**feed)
    for threads in (2, 3):
        got = netc.load(path, threads=threads)(**feed)
        assert all(np.array_equal(got[k], want[k]) for k in want)


@pytest.mark.parametrize(
    "how", [{"replicate": "cpu:0,cpu:1"}, {"strategy": "greedy"}, {"pipeline": "cpu:0,cpu:1"}]
)
@pytest.mark.parametrize("name", ["to others", "layers", "masked", "made weights"])
def test_several_devices(name: str, how: dict[str, object]) -> None:
    graph = net_of(NETS[name])
    feed = feed_of(graph, {"N": 4, "T": 11, "S": 6})
    want = netc.compile(graph)(**feed)["y"]
    more = {"devices": ["cpu:0", "cpu:1"]} if "strategy" in how else {}
    got = netc.compile(graph, **more, **how)(**feed)["y"]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_a_fixed_matrix_is_packed_when_compiling() -> None:
    net = "net t(x: f32[N,T,24]) -> y { y = matmul(x, param(f32[24,9], init=gaussian)) }"
    exe = netc.compile(net_of(net))
    assert [step.op for step in exe.plan.steps] == ["fc"]
