"""Layers of FlowNet 2, against what its C++ and CUDA compute, written out in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import netc
from netc.errors import GraphError, UnsupportedError
from netc.ir.graph import Graph
from netc.ir.interpret import interpret
from tests.drawn import RNG

from .files import read, refused
from .test_layers import Array, inputs


def layer(kind: str, rest: str = "", bottoms: str = "a", tops: str = "y") -> str:
    """A layer named l of the bottoms and tops named."""
    ends = [f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()]
    return f'layer {{ name: "l" type: "{kind}" {" ".join(ends)} {rest} }}\n'


def images(*shape: int, rng: np.random.Generator = RNG) -> Array:
    return rng.normal(size=shape).astype(np.float32)


def both(text: str, feed: dict[str, Array], near: float = 1e-5, **options: Any) -> dict[str, Array]:
    """What the reference makes of a net with these inputs; compiled code has to agree."""
    head = "".join(inputs(name, *x.shape) for name, x in feed.items())
    graph = read(head + text, **options)
    wanted = interpret(graph, {n: x.astype(np.float64) for n, x in feed.items()})
    found = netc.compile(graph)(feed)
    for name, x in wanted.items():
        np.testing.assert_allclose(found[name], x, rtol=near, atol=near)
    return wanted


def types(graph: Graph) -> dict[str, str]:
    return {name: str(v.type) for name, v in graph.outputs.items()}


CORRELATION = {"pad": 0, "kernel_size": 1, "max_displacement": 1, "stride_1": 1, "stride_2": 1}


def correlation(subtract: bool = False, **fields: int) -> str:
    said = " ".join(f"{name}: {value}" for name, value in fields.items())
    kind = "correlation_type: SUBTRACT" if subtract else ""
    return f"correlation_param {{ {said} {kind} }}"


def correlated(a: Array, b: Array, subtract: bool, p: dict[str, int]) -> Array:
    """correlation_layer.cpp and .cu: one sum after the other."""
    size, far, s1, s2 = (p[n] for n in ("kernel_size", "max_displacement", "stride_1", "stride_2"))
    pad, (items, channels, height, width) = p["pad"], a.shape
    edges = [(0, 0), (0, 0), (pad, pad), (pad, pad)]
    a, b = np.pad(a.astype(float), edges), np.pad(b.astype(float), edges)
    border, radius = far + (size - 1) // 2, far // s2
    grid = 2 * radius + 1
    tall, wide = (int(np.ceil((d + 2 * pad - 2 * border) / s1)) for d in (height, width))
    y = np.zeros((items, grid * grid, tall, wide))
    for n, k, i, j in np.ndindex(*y.shape):
        y1, x1 = i * s1 + far, j * s1 + far
        y2, x2 = y1 + (k // grid - radius) * s2, x1 + (k % grid - radius) * s2
        one = a[n, :, y1 : y1 + size, x1 : x1 + size]
        other = b[n, :, y2 : y2 + size, x2 : x2 + size]
        each = np.abs(one - other) if subtract else one * other
        y[n, k, i, j] = each.sum() / (size * size * channels)
    return y


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pad": 2, "max_displacement": 2},
        {"pad": 3, "max_displacement": 2, "kernel_size": 3},
        {"pad": 1, "max_displacement": 3, "stride_1": 2, "stride_2": 2},
        {"pad": 4, "max_displacement": 3, "kernel_size": 3, "stride_1": 3, "stride_2": 2},
        {"pad": 0, "max_displacement": 0},
        {"pad": 3, "max_displacement": 2, "stride_2": 5},
    ],
)
def test_correlation(fields: dict[str, int], subtract: bool) -> None:
    p = CORRELATION | fields
    a, b = images(2, 3, 7, 9), images(2, 3, 7, 9)
    text = layer("Correlation", correlation(subtract, **p), "a b")
    y = both(text, {"a": a, "b": b})["y"]
    np.testing.assert_allclose(y, correlated(a, b, subtract, p), atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"pad": 8, "max_displacement": 8},
        {"pad": 20, "max_displacement": 18, "stride_2": 2, "kernel_size": 3},
        {"pad": 26, "max_displacement": 26, "stride_1": 2, "stride_2": 3},
    ],
)
def test_a_correlation_of_many_displacements(fields: dict[str, int]) -> None:
    p = CORRELATION | fields
    a, b = images(1, 2, 3, 5), images(1, 2, 3, 5)
    y = both(layer("Correlation", correlation(**p), "a b"), {"a": a, "b": b})["y"]
    np.testing.assert_allclose(y, correlated(a, b, False, p), atol=1e-6)


@pytest.mark.parametrize("far", [2, 9])
def test_a_correlation_leaves_batch_and_image_open(far: int) -> None:
    p = CORRELATION | {"pad": far, "max_displacement": far}
    head = inputs("a", 1, 3, 6, 8) + inputs("b", 1, 3, 6, 8)
    graph = read(head + layer("Correlation", correlation(**p), "a b"))
    assert types(graph) == {"y": f"f32[N,{(2 * far + 1) ** 2},H,W]"}
    a, b = images(2, 3, 5, 4), images(2, 3, 5, 4)
    y = netc.compile(graph)(a=a, b=b)["y"]
    np.testing.assert_allclose(y, correlated(a, b, False, p), atol=1e-6)


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {"pad": 2, "max_displacement": 2},
        {"pad": 20, "max_displacement": 20},
        {"pad": 3, "max_displacement": 3, "stride_2": 2, "single_direction": 1},
        {"pad": 1, "max_displacement": 2, "kernel_size": 3, "stride_1": 2},
    ],
)
def test_correlation_1d(fields: dict[str, int], subtract: bool) -> None:
    """Of one dimension: the rows of correlation's results that look neither up nor down."""
    p = CORRELATION | fields
    a, b = images(2, 3, 7, 9), images(2, 3, 7, 9)
    y = both(layer("Correlation1D", correlation(subtract, **p), "a b"), {"a": a, "b": b})["y"]
    grid = 2 * (p["max_displacement"] // p["stride_2"]) + 1
    more = p["max_displacement"] - p["pad"]
    taller = [np.pad(x, ((0, 0), (0, 0), (more, more), (0, 0))) if more > 0 else x for x in (a, b)]
    every = correlated(*taller, subtract, {n: v for n, v in p.items() if n in CORRELATION})
    level = every[:, grid * (grid // 2) : grid * (grid // 2 + 1)]
    np.testing.assert_allclose(y, level[:, grid // 2 :] if "single_direction" in p else level)


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        (correlation(max_displacement=1), "kernel_size is missing"),
        (correlation(kernel_size=1), "max_displacement is missing"),
        (correlation(kernel_size=2, max_displacement=1), "kernel_size must be odd"),
        (correlation(kernel_size=1, max_displacement=1, stride_1=0), "stride_1 must be at least"),
        (correlation(kernel_size=1, max_displacement=1, stride_2=0), "stride_2 must be at least"),
        (correlation(kernel_size=1, max_displacement=4), "4 and the kernel do not fit f32"),
    ],
)
def test_what_is_wrong_with_a_correlation(rest: str, says: str) -> None:
    head = inputs("a", 1, 3, 8, 8) + inputs("b", 1, 3, 8, 8)
    assert says in str(refused(read, head + layer("Correlation", rest, "a b")))


def test_correlations_that_are_refused() -> None:
    head, rest = inputs("a", 1, 3, 8, 8), correlation(kernel_size=1, max_displacement=1)
    said = refused(read, head + inputs("b", 1, 3, 8, 9) + layer("Correlation", rest, "a b"))
    assert isinstance(said, GraphError)
    assert "must be alike" in str(said)
    head += inputs("b", 1, 3, 8, 8)
    many = correlation(kernel_size=1, max_displacement=40, pad=40)
    said = refused(read, head + layer("Correlation", many, "a b"))
    assert isinstance(said, UnsupportedError)
    assert "it has 6,561 displacements, at most 4,096 are" in str(said)
    left = correlation(kernel_size=1, max_displacement=1, single_direction=-1)
    assert "single_direction -1" in str(refused(read, head + layer("Correlation1D", left, "a b")))


def warped(image: Array, flow: Array, fill: float) -> Array:
    """flow_warp_layer.cpp, pixel by pixel."""
    items, _, height, width = image.shape
    y = np.full(image.shape, fill)
    for n, i, j in np.ndindex(items, height, width):
        x2, y2 = j + flow[n, 0, i, j], i + flow[n, 1, i, j]
        if x2 >= 0 and y2 >= 0 and x2 < width and y2 < height:
            left, top = int(x2), int(y2)
            right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
            alpha, beta = x2 - left, y2 - top
            y[n, :, i, j] = (
                (1 - alpha) * (1 - beta) * image[n, :, top, left]
                + alpha * (1 - beta) * image[n, :, top, right]
                + (1 - alpha) * beta * image[n, :, bottom, left]
                + alpha * beta * image[n, :, bottom, right]
            )
    return y


@pytest.mark.parametrize("fill", ["", "fill_value: ZERO", "fill_value: NOT_A_NUMBER"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 1, 4), (3, 2, 6, 1)])
def test_flow_warp(shape: tuple[int, ...], fill: str) -> None:
    image, flow = images(*shape), 2 * images(shape[0], 2, *shape[2:])
    flow[..., 0] = np.round(flow[..., 0])
    flow[0, 0, 0, 0] = np.nan
    text = layer("FlowWarp", f"flow_warp_param {{ {fill} }}", "image flow")
    y = both(text, {"image": image, "flow": flow})["y"]
    wanted = warped(image, flow, np.nan if "NUMBER" in fill else 0.0)
    np.testing.assert_allclose(y, wanted, atol=1e-6)


def test_a_flow_warp_leaves_batch_and_image_open() -> None:
    graph = read(inputs("a", 1, 3, 6, 8) + inputs("b", 1, 2, 6, 8) + layer("FlowWarp", "", "a b"))
    assert types(graph) == {"y": "f32[N,3,H,W]"}
    image, flow = images(2, 3, 5, 4), images(2, 2, 5, 4)
    y = netc.compile(graph)(a=image, b=flow)["y"]
    np.testing.assert_allclose(y, warped(image, flow, 0.0), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 6, 8), (1, 2, 6, 7), (2, 2, 6, 8)])
def test_a_flow_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    text = inputs("a", 1, 3, 6, 8) + inputs("b", *shape) + layer("FlowWarp", "", "a b")
    assert "two numbers for each pixel are needed" in str(refused(read, text))


def test_a_flow_warp_of_too_many_pixels_is_refused() -> None:
    text = inputs("a", 1, 3, 8192, 4096) + inputs("b", 1, 2, 8192, 4096)
    fixed = {"a": (1, 3, 8192, 4096), "b": (1, 2, 8192, 4096)}
    said = refused(read, text + layer("FlowWarp", "", "a b"), shapes=fixed)
    assert "an image of 33,554,432 pixels, at most 16,777,216 are" in str(said)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 2, 2)])
def test_channel_norm(shape: tuple[int, ...]) -> None:
    x = images(*shape)
    wanted = np.zeros((shape[0], 1, *shape[2:]))
    for n, i, j in np.ndindex(shape[0], *shape[2:]):
        wanted[n, 0, i, j] = np.sqrt(sum(float(v) ** 2 for v in x[n, :, i, j]))
    np.testing.assert_allclose(both(layer("ChannelNorm"), {"a": x})["y"], wanted)
    assert "needs 4 axes" in str(refused(read, inputs("a", 2, 3) + layer("ChannelNorm")))
