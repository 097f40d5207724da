"""Small nets at the edges of the GPU back end, in Triton's interpreter, as the reference."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import netc

pytest.importorskip("triton")

DRAWN = "init=gaussian(0, 0.3)"


def interpreted(text: str, feed: dict[str, np.ndarray], **options: object) -> dict[str, np.ndarray]:
    chosen: dict[str, Any] = {"target": "cuda", "gpu": "interpret", **options}
    return netc.compile(netc.parse(text), **chosen)(feed)


@pytest.mark.parametrize("precision", ["exact", "low"])
@pytest.mark.parametrize(
    ("type_", "body"),
    [
        ("f32[1,4,6,6]", "global_avg_pool(x) |> conv(8, 1, groups=2, {})"),
        ("f32[1,6,1,1]", "conv(x, 6, 3, pad=1, groups=6, {})"),
        ("f32[2,6,1,7]", "conv(x, 12, (3, 5), pad=(1, 2), groups=6, {})"),
        ("f32[1,5,7]", "conv(x, 12, 3, stride=3, dilation=2, {})"),
        ("f32[1,33,4,4]", "conv(x, 12, 3, stride=2, {})"),
        ("f32[1,3,2,2]", "conv(x, 12, 1, stride=2, {})"),
        ("f32[1,4,5,5]", "conv(x, 8, 3, dilation=2, groups=2, {})"),
        ("f32[1,4,1,1]", "conv_transpose(x, 8, 1, stride=3, groups=2, {})"),
        ("f32[1,4]", "fc(x, 8, {})"),
    ],
)
def test_one_row(type_: str, body: str, precision: str) -> None:
    """A product whose result is one place of one image."""
    text = f"net n(x: {type_}) -> y {{ y = {body.format(DRAWN)} }}"
    shape = [int(d) for d in re.findall(r"\d+", type_.split("[")[1])]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    want = netc.interpret(netc.parse(text), {"x": x})["y"]
    got = interpreted(text, {"x": x}, precision=precision)["y"]
    bound = 1e-5 if precision == "exact" else 0.02
    np.testing.assert_allclose(got, want, atol=bound * np.abs(want).max())


@pytest.mark.parametrize(
    ("type_", "body"),
    [("f32[2,0]", "fc(x, 4, bias=false)"), ("f32[2,0,5,5]", "conv(x, 4, 3, bias=false)")],
)
def test_weights_without_elements(type_: str, body: str) -> None:
    shape = [int(d) for d in re.findall(r"\d+", type_.split("[")[1])]
    feed = {"x": np.zeros(shape, np.float32)}
    got = interpreted(f"net n(x: {type_}) -> y {{ y = {body} }}", feed)["y"]
    assert got.size
    assert not got.any()


def test_a_number_beyond_float32_is_infinite() -> None:
    x = np.array([[1, -2, 0.5]], np.float32)
    got = interpreted("net n(x: f32[N,3]) -> y { y = x * 1e39 }", {"x": x})["y"]
    assert got.tolist() == [[np.inf, -np.inf, np.inf]]


@pytest.mark.parametrize(
    ("inputs", "body", "what"),
    [
        ("a: f32[1,65535,1], b: f32[1,1,32768]", "reduce_sum(a + b, axes=(1,2))", "%add, .*32768"),
        ("a: f32[1,65536]", "fc(a, 40000)", r"%y.w, f32\[40000,65536\], has 2,621,440,000"),
        (
            "a: f32[1,1,1,1]",
            "conv_transpose(a, 15000000, 3)",
            "the packed form of its weights has 2,160,",
        ),
    ],
)
def test_what_an_index_of_a_kernel_does_not_reach(inputs: str, body: str, what: str) -> None:
    graph = netc.parse(f"net n({inputs}) -> y {{ y = {body} }}")
    shapes = {n.name: n.types[0].sizes({}) for n in graph.params}
    weights = {name: np.broadcast_to(np.float32(0), s) for name, s in shapes.items()}
    with pytest.raises(netc.NetcError, match=f"(?s)%y: .*{what}.*put its node on a CPU"):
        netc.compile(replace(graph, weights=weights), target="cuda", arch=["sm_90"])


def maps(many: int) -> dict[str, np.ndarray]:
    """Maps of whole numbers up to 60, which every precision has, without ties in a window."""
    rng = np.random.default_rng(3)
    return {name: rng.permuted(np.arange(3600.0) % 61).reshape(1, 1, 60, 60).astype(np.float32)
            for name in "ab"[:many]}  # fmt: skip


PLACES = {
    "looked up": (
        "net n(l: f32[4], m: f32[4], e: f32[1000,3]) -> y { y = gather(e, concat(l, m, axis=0)) }",
        {
            "l": np.array([257, 513, 999, 3], np.float32),
            "m": np.array([0, 1, 2, 301], np.float32),
            "e": (np.arange(3000.0) % 7).reshape(1000, 3).astype(np.float32),
        },
    ),
    "moved and added to": (
        "net n(d: f32[1,2000,2]) -> y { a = argmax(d, axis=1) + 1  y = concat(a, a, axis=1) }",
        {"d": np.eye(2000, dtype=np.float32)[[1999, 1027]].T[None]},
    ),
    "of pooling": (
        """net n(a: f32[1,1,60,60], b: f32[1,1,60,60]) -> y {
          i = concat(max_pool_index(a, 2, stride=2), max_pool_index(b, 2, stride=2))
          m = concat(max_pool(a, 2, stride=2), max_pool(b, 2, stride=2))
          y = unpool(m, crop(i, m, offset=(0, 0), axis=2), size=(60, 60))
        }""",
        maps(2),
    ),
}


@pytest.mark.parametrize("precision", ["medium", "low", "fp16"])
@pytest.mark.parametrize("case", PLACES)
def test_places_keep_their_digits(case: str, precision: str) -> None:
    text, feed = PLACES[case]
    want = netc.interpret(netc.parse(text), feed)["y"]
    np.testing.assert_array_equal(interpreted(text, feed, precision=precision)["y"], want)


def test_processors_beside_a_gpu_have_memory_of_their_own() -> None:
    """What one processor's step frees, another's may not take while it runs in its own order."""
    layers = {
        "v1": ("cuda:0", "data"), "v2": ("cpu:1", "v1"), "v3": ("cpu:1", "(data + v2)"),
        "v4": ("cpu:0", "(v1 + data)"), "v5": ("cpu:1", "(v4 + v2)"), "v6": ("cpu:0", "(v2 + v5)"),
        "v7": ("cpu:1", "(v3 + data)"), "v8": ("cuda:0", "(v5 + data)"),
    }  # fmt: skip
    lines = [f"on {d} {{ {v} = {x} |> fc(8, {DRAWN}) }}" for v, (d, x) in layers.items()]
    text = f"net n(data: f32[2,8]) -> v6, v7, v8 {{ {' '.join(lines)} }}"
    feed = {"data": np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)}
    options = {"target": "cpu", "devices": ["cpu:0", "cpu:1", "cuda:0"], "precision": "exact"}
    got = interpreted(text, feed, **options)
    for name, want in netc.interpret(netc.parse(text), feed).items():
        np.testing.assert_allclose(got[name], want, atol=1e-5)


AGAIN = (
    "max_pool(x + conv(x, 16, 1, {init}), 2, stride=2)",
    "relu(x + conv(x, 16, 1, {init})) |> conv(4, 1, {init})",
    "sigmoid(conv(x, 16, 1, {init})) * x |> conv(4, 1, {init})",
    "conv(relu(x), 16, 3, pad=1, groups=4, {init}) + relu(x) |> max_pool(2, stride=2)",
    "argmax(x + conv(x, 16, 3, pad=1, {init}), axis=1)",
    "conv_transpose(x, 16, 3, pad=1, {init}) * x |> max_pool(2, stride=2)",
)
CUT = """a = relu(x)  b = slice(a, axis=3, stop=5)
    y = relu(b + conv(b, 16, 1, {init})) |> conv(4, 1, {init})"""


@pytest.mark.parametrize("body", [*(f"y = {b}" for b in AGAIN), CUT])
def test_what_a_product_reads_is_read_behind_it_too(body: str) -> None:
    init = "init=gaussian(0, 0.3)"
    text = f"net n(x: f32[N,16,9,7]) -> y {{ {body.replace('{init}', init)} }}"
    x = np.random.default_rng(0).integers(-9, 9, (2, 16, 9, 7)).astype(np.float32)
    want = netc.interpret(netc.parse(text), {"x": x})["y"]
    got = interpreted(text, {"x": x}, precision="exact")["y"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


ATTENTION = """block heads(x) {
  return x |> fc(24, axis=2, init=gaussian(0, 0.3)) |> reshape((0, 0, 4, 6))
    |> transpose((0, 2, 1, 3))
}
net n(x: f32[N,TOKENS,24], m: f32[N,1,1,TOKENS]) -> y {
  scores = matmul(heads(x), heads(x), transpose_y=true) * 0.4 + m
  y = scores |> softmax(axis=3) |> matmul(heads(x)) |> transpose((0, 2, 1, 3))
    |> reshape((0, 0, 24)) |> fc(24, axis=2, init=gaussian(0, 0.3))
}"""
# Of the largest: float32 sums, operands rounded to 10 bits, to 7 bits.
SHARES = {"exact": 1e-6, "high": 2e-6, "medium": 3e-3, "low": 2e-2, "fp16": 3e-3}


def tokens(images: int) -> dict[str, np.ndarray]:
    """Nine tokens an image, of which some are not to be looked at."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((images, 9, 24)).astype(np.float32)
    return {"x": x, "m": rng.choice([0, -30], (images, 1, 1, 9)).astype(np.float32)}


@pytest.mark.parametrize("precision", SHARES)
@pytest.mark.parametrize("known", [False, True])
def test_attention(known: bool, precision: str) -> None:
    text = ATTENTION.replace("TOKENS", "9" if known else "T")
    for images in (1, 3):
        feed = tokens(images)
        want = netc.interpret(netc.parse(text), feed)["y"]
        got = interpreted(text, feed, precision=precision)["y"]
        np.testing.assert_allclose(got, want, atol=SHARES[precision] * np.abs(want).max())


def test_attention_on_a_gpu_between_processors() -> None:
    """What crosses is row-major; the products are on the GPU."""
    text = """net n(x: f32[N,4,T,6], m: f32[N,1,1,T]) -> y {
      on cpu:0 { a = relu(x) }
      on cuda:0 {
        scores = matmul(a, x, transpose_y=true) + m
        b = scores |> softmax(axis=3) |> matmul(a)
      }
      on cpu:0 { y = b * 2 }
    }"""
    rng = np.random.default_rng(2)
    feed = {"x": rng.standard_normal((2, 4, 7, 6)).astype(np.float32), "m": tokens(2)["m"][..., :7]}
    want = netc.interpret(netc.parse(text), feed)["y"]
    options = {"target": "cpu", "devices": ["cpu:0", "cuda:0"], "precision": "high"}
    got = interpreted(text, feed, **options)["y"]
    np.testing.assert_allclose(got, want, atol=2e-6 * np.abs(want).max())
