"""Small nets at the edges of what ops take: compiled, optimized or not, as the reference."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import netc
from netc.ir.interpret import initial_weights

BODIES = {
    # a sign before a tensor
    "f32[N,3,4,4]": [
        "-x",
        "relu(-x)",
        "-(x + 1)",
        "x - -x",
        "-relu(x)",
        "-x + 1",
        "-x |> conv(3, 1)",
    ],
    # transposed convolutions of single channels, a pixel wide
    "f32[N,2,7,1]": [
        "conv_transpose(x, 2, 1, stride=3, groups=2)",
        "conv_transpose(x, 2, 3, pad=1, groups=2)",
    ],
    "f32[N,8,1,1]": ["conv_transpose(x, 8, 1, groups=8)"],
    "f32[N,2,3,2]": ["conv_transpose(x, 2, 2, pad=1, groups=2)"],
    # numbers beyond float32
    "f32[N,3]": ["x * 1e39", "x - 1e300"],
    "f32[N,4,2,2]": ["x + (1e30, 1, 2, 1e300)"],
    # images without pixels
    **{
        f"f32[N,{c},{h},{w}]": [
            "relu(x)",
            "x + x",
            "lrn(x)",
            "prelu(x)",
            "concat(x, x)",
            "softmax(x)",
        ]
        for c, h, w in ((4, 0, 3), (4, 3, 0), (11, 0, 1), (0, 3, 3))
    },
    # inner products along the last axis, also between convolutions
    "f32[0,4,6,6]": ["fc(x, 3, axis=-1)", "argmax(x)", "argmax(x, top_k=3, values=true)"],
    "f32[N,4,0,0]": ["fc(x, 3, axis=-1)"],
    "f32[N,8,6,6]": [
        "x |> conv(8, 3, pad=1) |> fc(3, axis=-1) |> conv(8, 1)",
        "x |> conv(8, 3, pad=1) |> fc(3, axis=2) |> relu",
    ],
    # boxes do not depend on the map's elements, or their type
    "i32[N,4,5,6]": ["prior_box(x, x, min_size=3)"],
}


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize(
    ("type_", "body"), [(t, b) for t, bodies in BODIES.items() for b in bodies]
)
def test_agrees(type_: str, body: str, optimize: bool) -> None:
    graph = netc.parse(f"net n(x: {type_}) -> y {{ y = {body} }}")
    graph = replace(graph, weights=initial_weights(graph))
    shape = [2 if d == "N" else int(d) for d in re.findall(r"[N\d]+", type_.split("[")[1])]
    drawn = np.random.default_rng(0).standard_normal(shape)
    feed = {"x": drawn.astype(graph.inputs[0].types[0].dtype.numpy)}
    with np.errstate(all="ignore"):
        want = netc.interpret(graph, feed)["y"]
    got = netc.compile(graph, optimize=optimize)(feed)["y"]
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_the_half_power_of_what_has_no_root() -> None:
    graph = netc.parse("net n(x: f32[N]) -> y { y = pow(x, 0.5) }")
    x = np.array([-np.inf, -0.0, 0, 1, np.inf, np.nan, -1], np.float32)
    want = np.array([np.inf, 0, 0, 1, np.inf, np.nan, np.nan], np.float32)
    for y in (netc.interpret(graph, {"x": x})["y"], netc.compile(graph)(x=x)["y"]):
        np.testing.assert_array_equal(y, want)
        assert not np.signbit(y[1])


def test_infinite_weights_keep_the_norm_before_them() -> None:
    graph = netc.parse("net n(x: f32[N,1,1,1]) -> y { y = conv(x * 2 + 1, 1, 1, bias=false) }")
    (name,) = (n.name for n in graph.params)
    graph = replace(graph, weights={name: np.full((1, 1, 1, 1), np.inf, "f")})
    x = np.array([-0.25, 1, -1], np.float32).reshape(-1, 1, 1, 1)
    assert netc.compile(graph)(x=x)["y"].ravel().tolist() == [np.inf, np.inf, -np.inf]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("net n(x: u8[N,4,5,6]) -> y { y = im2col(x, 3) }", "1:34: error: .*f32 is needed"),
        ("net n(x: f32[N,4]) -> y { y = im2col(x, 2) }", "needs? an axis behind the channels"),
        ("net n(x: f32[N,1], s: u8[N]) -> a, b { a, b = compact(x, s) }", "input 1 is u8"),
        ("net n(x: f32[N,1], s: f32[]) -> a, b { a, b = compact(x, s) }", "one number per row"),
        ("net n(x: f32[N]) -> y { y = conv(x, 3, 3) }", "1:29: error: x is f32"),
        ("net n(x: f32[]) -> y { y = conv_transpose(x, 3, 3) }", "an axis behind the channels"),
        ("net n(x: u8[N]) -> y { y = all_reduce(x, x) }", "f32 is needed"),
        ("net n(x: f32[in,3]) -> y { y = relu(x) }", "1:14: error: `in` is no name for a size"),
        ("net n(x: f32[3]) -> y, y { y = relu(x) }", "1:24: error: `y` is an output already"),
        ("net n(x: f32[None]) -> y { y = relu(x) }", "`None` is no name for a size"),
    ],
)
def test_refused(text: str, why: str) -> None:
    with pytest.raises(netc.NetcError, match=why):
        netc.parse(text)


def test_an_int_that_no_float_is_near() -> None:
    def far(x: netc.f32[2, 3]):  # type: ignore[no-untyped-def,valid-type]
        return x * 10**400

    with pytest.raises(netc.NetcError, match="too large for a float"):
        netc.net(far)


@pytest.mark.parametrize(
    "body", ["conv(x, 4, 1, pad=10000000)", "avg_pool(x, 1000000000, pad=999999999, stride=3)"]
)
def test_the_reference_says_what_needs_too_much_memory(body: str) -> None:
    graph = netc.parse(f"net n(x: f32[N,3,8,8]) -> y {{ y = {body} }}")
    with pytest.raises(netc.NetcError, match=r"1:35: error: \w+ y needs more memory"):
        netc.interpret(graph, {"x": np.zeros((1, 3, 8, 8), np.float32)})


@pytest.mark.parametrize("body", ["conv(x, 4, 57)", "max_pool(x, 2, stride=2) |> conv(4, 29)"])
def test_a_window_as_large_as_the_image_that_blocking_is_chosen_for(body: str) -> None:
    graph = netc.parse(f"net n(x: f32[N,1,H,W]) -> y {{ y = {body} }}")
    x = np.random.default_rng(0).standard_normal((2, 1, 60, 58)).astype(np.float32)
    want = netc.interpret(graph, {"x": x})["y"]
    np.testing.assert_allclose(netc.compile(graph)(x=x)["y"], want, atol=1e-4)
