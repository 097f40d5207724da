"""Words that norm x by statistics of its own: against their formulas in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

import netc
from netc.errors import NetcError
from netc.ir.graph import Graph
from netc.ir.op import Array

RNG = np.random.default_rng(7)
SIZES: dict[str, tuple[int, ...]] = {
    "N,12": (3, 12), "N,12,T": (2, 12, 7), "N,12,H,W": (2, 12, 5, 9), "N,12,D,H,W": (1, 12, 2, 3, 5)
}  # fmt: skip


def weighted(text: str) -> tuple[Graph, dict[str, Array]]:
    """The net with weights, and those in float64."""
    graph = netc.parse(text, warn=lambda *_: None)
    drawn = {n.name: RNG.normal(1, 0.5, n.types[0].sizes({})).astype("f") for n in graph.params}
    return replace(graph, weights=drawn), {k: v.astype(np.float64) for k, v in drawn.items()}


def standard(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    variance = x.var(axes, keepdims=True)
    return np.asarray((x - x.mean(axes, keepdims=True)) / np.sqrt(variance + np.float32(eps)))


def runs_as(graph: Graph, x: Array, want: Array, **options: object) -> None:
    for optimize in (True, False):
        got = netc.compile(graph, optimize=optimize, **options)(x=x)["y"]
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("axes", SIZES)
@pytest.mark.parametrize("groups", [1, 3, 12])
def test_group_norm(axes: str, groups: int) -> None:
    text = f"net t(x: f32[{axes}]) -> y {{ y = group_norm(x, {groups}, eps=0.01) }}"
    graph, own = weighted(text)
    x = RNG.normal(2, 3, SIZES[axes]).astype(np.float32)
    parts = x.astype(np.float64).reshape(len(x), groups, -1)
    want = standard(parts, (2,), 0.01).reshape(x.shape) * own["y.w"] + own["y.b"]
    runs_as(graph, x, want)


@pytest.mark.parametrize("axes", list(SIZES)[1:])
def test_instance_norm(axes: str) -> None:
    graph, own = weighted(f"net t(x: f32[{axes}]) -> y {{ y = instance_norm(x, eps=0.01) }}")
    x = RNG.normal(2, 3, SIZES[axes]).astype(np.float32)
    want = standard(x.astype(np.float64), tuple(range(2, x.ndim)), 0.01)
    runs_as(graph, x, want * own["y.w"] + own["y.b"])


@pytest.mark.parametrize("axis", [-1, 1, -2])
def test_rms_norm(axis: int) -> None:
    graph, own = weighted(f"net t(x: f32[N,5,24]) -> y {{ y = rms_norm(x, axis={axis}) }}")
    x = RNG.normal(2, 3, (4, 5, 24)).astype(np.float32)
    over = tuple(range(axis % 3, 3))
    root = np.sqrt((x.astype(np.float64) ** 2).mean(over, keepdims=True) + np.float32(1e-6))
    runs_as(graph, x, x / root * own["y.w"])


IMAGES = """net t(x: f32[N,3,H,W]) -> y {
  a = x |> conv(16, 3, pad=1) |> group_norm(4) |> relu
  b = a |> conv(16, 3, pad=1) |> instance_norm
  y = a + b |> conv(8, 1)
}"""


@pytest.mark.parametrize("size", [(1, 9, 7), (3, 32, 17)])
def test_among_convolutions(size: tuple[int, int, int]) -> None:
    graph, _ = weighted(IMAGES)
    n, height, width = size
    x = RNG.normal(0, 1, (n, 3, height, width)).astype(np.float32)
    want = np.asarray(netc.interpret(graph, {"x": x})["y"])
    for optimize in (True, False):
        got = netc.compile(graph, optimize=optimize, precision="exact")(x=x)["y"]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_what_follows_joins_the_last_pass() -> None:
    graph, _ = weighted("net t(x: f32[N,8,H,W]) -> y { y = x |> group_norm(2) |> relu }")
    kernels = [step.op for step in netc.compile(graph).plan.steps]
    assert kernels == [
        "reduce_mean", "tile", "formula+reduce_mean", "tile", "formula+mul+add+relu",
    ]  # fmt: skip


NETS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "group_norm": ("(x: f32[N,8,H,W]) -> y { y = group_norm(x, 2) |> relu }", (2, 8, 3, 5)),
    "instance_norm": ("(x: f32[N,8,T]) -> y { y = instance_norm(x) }", (2, 8, 9)),
    "rms_norm": ("(x: f32[N,T,24]) -> y { y = rms_norm(x) }", (2, 3, 24)),
}


@pytest.mark.parametrize("name", NETS)
def test_on_gpus(name: str) -> None:
    pytest.importorskip("triton")
    text, shape = NETS[name]
    graph, _ = weighted("net t" + text)
    x = RNG.normal(2, 3, shape).astype(np.float32)
    want = np.asarray(netc.interpret(graph, {"x": x})["y"])
    got = netc.compile(graph, target="cuda", gpu="interpret", cache=False)(x=x)["y"]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("group_norm(x, 4)", "4 groups do not divide 6 channels"),
        ("group_norm(x, 0)", "groups 0 must be at least 1"),
        ("group_norm(x, 2, eps=-1)", "eps -1.0 must be 0 or more"),
        ("group_norm(x, 2, w=x)", r"`w` is f32\[N,6,T\]; one number per channel is \[6, 1\]"),
        ("group_norm(x |> transpose([0,2,1]), 2)", "needs a known number of channels"),
        ("instance_norm(x |> flatten(axis=0))", "axis behind the channels"),
        ("rms_norm(x |> transpose([0,2,1]), w=x)", r"the sizes from `axis` on are \[6\]"),
        ("rms_norm(x)", "the size of a parameter must be known"),
    ],
)
def test_mistakes(call: str, said: str) -> None:
    with pytest.raises(NetcError, match=said):
        netc.parse(f"net t(x: f32[N,6,T]) -> y {{ y = {call} }}")
