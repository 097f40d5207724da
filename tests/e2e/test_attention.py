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


def scaled_dot_product(q: Array, k: Array, v: Array, scale: float, mask: Array) -> Array:
    """softmax(q · kᵀ · scale + mask) · v in float64, each head of k and v for as many of q."""
    heads = q.shape[-3] // k.shape[-3]
    q, k, v = q.astype(float), k.repeat(heads, -3).astype(float), v.repeat(heads, -3).astype(float)
    scores = q @ k.swapaxes(-1, -2) * scale + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True) @ v)


# What the word is given beside q, k and v, how many heads k and v have, and what it does then.
WORDS: dict[str, tuple[str, int, float]] = {
    "plain": ("", 6, 16**-0.5),
    "scaled": (", scale=0.5", 6, 0.5),
    "causal": (", causal=true", 6, 16**-0.5),
    "masked": (", mask=m", 6, 16**-0.5),
    "causal and masked": (", mask=m, causal=true", 2, 16**-0.5),
    "heads in groups": ("", 2, 16**-0.5),
    "one head for all": (", causal=true", 1, 16**-0.5),
}


def word_net(name: str) -> Graph:
    more, heads, _ = WORDS[name]
    ports = f"q: f32[N,6,T,16], k: f32[N,{heads},S,16], v: f32[N,{heads},S,9], m: f32[N,1,T,S]"
    return netc.parse(f"net t({ports}) -> y {{ y = attention(q, k, v{more}) }}")


def word_feed(name: str, n: int, t: int, s: int) -> tuple[dict[str, Array], Array]:
    """Operands, and what the word gives for them."""
    more, heads, scale = WORDS[name]
    rng = np.random.default_rng(4)
    feed = {
        "q": rng.standard_normal((n, 6, t, 16)), "k": rng.standard_normal((n, heads, s, 16)),
        "v": rng.standard_normal((n, heads, s, 9)), "m": rng.standard_normal((n, 1, t, s)),
    }  # fmt: skip
    feed = {key: x.astype(np.float32) for key, x in feed.items()}
    mask = feed["m"] if "mask" in more else np.zeros((t, s))
    if "causal" in more:
        mask = np.where(np.tri(t, s), mask, -np.inf)
    return feed, scaled_dot_product(feed["q"], feed["k"], feed["v"], scale, mask)


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("name", WORDS)
def test_the_word_for_any_lengths(name: str, optimize: bool) -> None:
    exe = netc.compile(word_net(name), optimize=optimize)
    for sizes in ((1, 7, 7), (2, 33, 20), (2, 5, 9), (3, 1, 1), (1, 1, 12)):
        feed, want = word_feed(name, *sizes)
        np.testing.assert_allclose(exe(**feed)["y"], want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "causal and masked"])
def test_the_word_on_gpus(name: str) -> None:
    pytest.importorskip("triton")
    exe = netc.compile(
        word_net(name), target="cuda", gpu="interpret", precision="exact", cache=False
    )
    feed, want = word_feed(name, 1, 6, 9)
    np.testing.assert_allclose(exe(**feed)["y"], want, rtol=0, atol=1e-5)


def test_the_word_is_as_torch_has_it() -> None:
    torch = pytest.importorskip("torch")
    feed, _ = word_feed("causal", 2, 8, 5)
    q, k, v = (torch.from_numpy(feed[name]) for name in "qkv")
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).numpy()
    got = netc.compile(word_net("causal"))(**feed)["y"]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_what_is_masked_by_infinity_is_not_seen() -> None:
    net = netc.parse(
        "net t(q: f32[2,4], k: f32[3,4], m: f32[3]) -> y { y = attention(q, k, k, mask=m) }"
    )
    rng = np.random.default_rng(5)
    q, k = (rng.standard_normal(s).astype(np.float32) for s in ((2, 4), (3, 4)))
    got = netc.compile(net)(q=q, k=k, m=np.array([-np.inf, 0, -np.inf], np.float32))["y"]
    np.testing.assert_allclose(got, np.stack([k[1]] * 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("ports", "call", "said"),
    [
        ("q: f32[N,6,T,8], k: f32[N,4,T,8]", "q, k, k",
         r"the 4 heads of k, f32\[N,4,T,8\], do not divide the 6 of q, f32\[N,6,T,8\]"),
        ("q: f32[T,8], k: f32[T,9]", "q, k, k", "the last sizes of q and k differ"),
        ("q: f32[T,8], k: f32[S,8]", "q, k, q", "k and v differ in how many keys there are"),
        ("q: f32[T,D], k: f32[T,D]", "q, k, k", "`scale` must be given"),
        ("q: f32[8], k: f32[8]", "q, k, k", "two axes at least"),
        ("q: f32[T,8], k: u8[T,T]", "q, q, q, mask=k", r"u8\[T,T\]; f32 is needed"),
    ],
)  # fmt: skip
def test_mistakes_of_the_word(ports: str, call: str, said: str) -> None:
    with pytest.raises(netc.NetcError, match=said):
        netc.parse(f"net t({ports}) -> y {{ y = attention({call}) }}")


def test_a_fixed_matrix_is_packed_when_compiling() -> None:
    net = "net t(x: f32[N,T,24]) -> y { y = matmul(x, param(f32[24,9], init=gaussian)) }"
    exe = netc.compile(net_of(net))
    assert [step.op for step in exe.plan.steps] == ["fc"]
