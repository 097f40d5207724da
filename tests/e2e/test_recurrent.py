"""lstm and rnn: either way through time, from a given state, with their last state as results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import netc
from netc.errors import NetcError
from netc.ir.graph import Graph
from netc.ir.op import Array

STEPS, BATCH, WIDTH, OUT = 5, 3, 4, 6
RNG = np.random.default_rng(9)
FEED = {
    "x": RNG.normal(size=(STEPS, BATCH, WIDTH)).astype(np.float32),
    "cont": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 0]], np.float32),
    "h": RNG.normal(size=(BATCH, OUT)).astype(np.float32),
    "c": RNG.normal(size=(BATCH, OUT)).astype(np.float32),
}
PORTS = "x: f32[5,N,4], cont: f32[5,N], h: f32[N,6], c: f32[N,6]"
CALLS = ["", "h=h", "cont=cont", "reverse=true", "h=h, cont=cont", "h=h, cont=cont, reverse=true"]


def weighted(text: str) -> tuple[Graph, dict[str, Array]]:
    graph = netc.parse(text, warn=lambda *_: None)
    drawn = {n.name: RNG.normal(0, 0.5, n.types[0].sizes({})).astype("f") for n in graph.params}
    return replace(graph, weights=drawn), {k: v.astype(np.float64) for k, v in drawn.items()}


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def lstm(x: Array, h: Array, c: Array, cont: Array, own: dict[str, Array]) -> list[Array]:
    """Every h, the last h and the last c; cont[t] is whether the state reaches step t."""
    outs = []
    for step, goes_on in zip(x, cont, strict=True):
        h, c = h * goes_on[:, None], c * goes_on[:, None]
        gates = step @ own["y.w_x"].T + own["y.b"] + h @ own["y.w_h"].T
        i, f, o, g = np.split(gates, 4, 1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outs.append(h)
    return [np.stack(outs), h, c]


def rnn(x: Array, h: Array, c: Array, cont: Array, own: dict[str, Array]) -> list[Array]:
    outs = []
    for step, goes_on in zip(x, cont, strict=True):
        h = h * goes_on[:, None] @ own["y.w_hh"].T
        h = np.tanh(step @ own["y.w_x"].T + own["y.b"] + h)
        outs.append(np.tanh(h @ own["y.w_ho"].T + own["y.b_o"]))
    return [np.stack(outs), h]


def expected(word: str, call: str, own: dict[str, Array]) -> list[Array]:
    """What the word gives for FEED."""
    x, none = FEED["x"].astype(np.float64), np.zeros((BATCH, OUT))
    h = FEED["h"] if "h=h" in call else none
    c = FEED["c"] if "c=c" in call else none
    cont = FEED["cont"] if "cont" in call else np.ones((STEPS, BATCH))
    run = {"lstm": lstm, "rnn": rnn}[word]
    if "reverse" not in call:
        return run(x, h, c, cont, own)
    # A sequence that begins at a step ends, this way, behind it.
    outs, *last = run(x[::-1], h, c, np.vstack([np.ones(BATCH), cont[:0:-1]]), own)
    return [outs[::-1], *last]


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize(
    ("word", "call"),
    [*(("rnn", c) for c in CALLS), *(("lstm", c.replace("h=h", "h=h, c=c")) for c in CALLS),
     ("lstm", "c=c"), ("lstm", "h=h, reverse=true")],
)  # fmt: skip
def test_either_way_from_any_state(word: str, call: str, optimize: bool) -> None:
    names = ["y", "last", "cell"][: 3 if word == "lstm" else 2]
    targets, more = ", ".join(names), f", {call}" * bool(call)
    text = f'{targets} = {word}(x, 6, states=true{more}, name="y")'
    graph, own = weighted(f"net t({PORTS}) -> {targets} {{ {text} }}")
    got = netc.compile(graph, optimize=optimize)(**FEED)
    for name, want in zip(names, expected(word, call, own), strict=True):
        np.testing.assert_allclose(got[name], want, rtol=0, atol=2e-6)


def test_a_run_goes_on_where_another_ended() -> None:
    graph, own = weighted(
        "net t(x: f32[1,N,4], h: f32[N,6], c: f32[N,6]) -> y, hs, cs {"
        " y, hs, cs = lstm(x, 6, h=h, c=c, states=true) }"
    )
    exe = netc.compile(graph)
    state = {"h": FEED["h"], "c": FEED["c"]}
    outs = []
    for step in FEED["x"]:
        got = exe(x=step[None], **state)
        outs.append(got["y"][0])
        state = {"h": got["hs"], "c": got["cs"]}
    own = {key.replace("lstm.", "y."): value for key, value in own.items()}
    want = lstm(FEED["x"], FEED["h"], FEED["c"], np.ones((STEPS, BATCH)), own)
    np.testing.assert_allclose(np.stack(outs), want[0], rtol=0, atol=2e-6)


def test_both_ways_are_torch_s_bidirectional() -> None:
    torch = pytest.importorskip("torch")
    graph, own = weighted(
        'net t(x: f32[5,N,4]) -> y { y = concat(lstm(x, 6, name="a"),'
        ' lstm(x, 6, reverse=true, name="b"), axis=2) }'
    )
    other = torch.nn.LSTM(WIDTH, OUT, bidirectional=True)
    order = np.r_[0:OUT, OUT : 2 * OUT, 3 * OUT : 4 * OUT, 2 * OUT : 3 * OUT]  # i, f, g, o there
    names = {"w_x": "weight_ih_l0", "w_h": "weight_hh_l0", "b": "bias_ih_l0"}
    with torch.no_grad():
        for layer, way in (("a", ""), ("b", "_reverse")):
            getattr(other, f"bias_hh_l0{way}").zero_()
            for here, there in names.items():
                rows = torch.from_numpy(own[f"{layer}.{here}"][order])
                getattr(other, there + way).copy_(rows)
        want = other(torch.from_numpy(FEED["x"]))[0].numpy()
    np.testing.assert_allclose(netc.compile(graph)(x=FEED["x"])["y"], want, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("lstm(x, 6, h=c)", r"`h` is f32\[N,7\]; the state is \[N, 6\], batch and `out`"),
        ("lstm(x, 6, c=c)", r"`c` is f32\[N,7\]; the state is \[N, 6\]"),
        ("rnn(x, 6, h=x)", r"`h` is f32\[5,N,4\]; the state is \[N, 6\]"),
    ],
)
def test_mistakes(call: str, said: str) -> None:
    with pytest.raises(NetcError, match=said):
        netc.parse(f"net t(x: f32[5,N,4], c: f32[N,7]) -> y {{ y = {call} }}")
