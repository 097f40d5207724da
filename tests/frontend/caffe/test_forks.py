"""Layers of the forks of CTPN, CRNN, YOLO, MobileNetV3 and Synopsys, against NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import netc
from netc.errors import NetcError
from netc.frontend.net.elaborate import parse_net
from netc.frontend.net.write import write_net
from netc.ir.interpret import interpret
from tests.drawn import RNG

from .files import INPUT, dims, packed, read, v2
from .test_layers import Array, X, inputs, one, run

SILENCE = 'layer { name: "s" type: "Silence" bottom: "data" }\n'


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("kind", ["HardSwish", "HSwish"])
def test_hard_swish(kind: str) -> None:
    x = X.astype(np.float64) * 4
    y = run(one(kind), feed={"data": x})
    np.testing.assert_allclose(y, np.where(x <= -3, 0, np.where(x >= 3, x, x * (x + 3) / 6)))


def test_a_sigmoid_of_straight_lines() -> None:
    x = X.astype(np.float64) * 4
    y = run(one("HSigmoid"), feed={"data": x})
    np.testing.assert_allclose(y, np.interp(x, [-3, 3], [0, 1]))
    y = run(one("HardSigmoid"), feed={"data": x})
    np.testing.assert_allclose(y, np.clip(np.float32(0.2) * x + 0.5, 0, 1))
    for name in ("hard_sigmoid_param", "hardsigmoid_param"):
        y = run(one("HardSigmoid", f"{name} {{ alpha: 0.25 beta: 0.75 }}"), feed={"data": x})
        np.testing.assert_allclose(y, np.interp(x, [-3, 1], [0, 1]), atol=1e-12)


def test_mish() -> None:
    x = np.linspace(-30, 30, X.size).reshape(X.shape)
    y = run(one("Mish", "mish_param { engine: CAFFE }"), feed={"data": x})
    np.testing.assert_allclose(y, x * np.tanh(np.logaddexp(0, x)), atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 3), (3, 7)])
@pytest.mark.parametrize(
    ("fields", "axis", "slope"),
    [("", 1, 0.0), ("negative_slope: 0.25", 1, 0.25), ("concat_axis: -1 negative_slope: 2", -1, 2),
     ("concat_axis: 0", 0, 0.0)],
)  # fmt: skip
def test_crelu(fields: str, axis: int, slope: float, shape: tuple[int, ...]) -> None:
    x = RNG.normal(size=shape).astype(np.float32)
    text = inputs("x", *shape) + 'layer { name: "l" type: "CReLU" bottom: "x" top: "y" '
    graph = read(text + f"crelu_param {{ {fields} }} }}")
    outer, inner = math.prod(shape[: axis % x.ndim]), math.prod(shape[axis % x.ndim :])
    top = np.zeros(2 * x.size)
    for i, j in np.ndindex(outer, inner):  # Forward_cpu
        v = x.ravel()[i * inner + j]
        top[2 * i * inner + j] = max(v, 0) + slope * min(v, 0)
        top[(2 * i + 1) * inner + j] = max(-v, 0) + slope * min(-v, 0)
    wanted = top.reshape(np.concatenate([x, x], axis).shape)
    np.testing.assert_allclose(interpret(graph, {"x": x})["y"], wanted, atol=1e-6)
    np.testing.assert_allclose(netc.compile(graph)(x=x)["y"], wanted, atol=1e-6)


def test_crelu_outside_the_axes() -> None:
    with pytest.raises(NetcError, match=r"layer l: axis 4 is outside f32\[2,4,8,8\]"):
        run(one("CReLU", "crelu_param { concat_axis: 4 }"))


def test_transpose() -> None:
    y = run(one("Transpose", "transpose_param { dim: 3 dim: 2 dim: 0 dim: 1 }"))
    np.testing.assert_array_equal(y, np.einsum("nchw->whnc", X))


@pytest.mark.parametrize(
    ("axes", "wanted"), [("0", X[::-1]), ("-1", X[..., ::-1]), ("[1, 2]", X[:, ::-1, ::-1])]
)
def test_reverse(axes: str, wanted: Array) -> None:
    np.testing.assert_array_equal(run(one("Reverse", f"reverse_param {{ axis: {axes} }}")), wanted)


@pytest.mark.parametrize("name", ["pixel_shuffle_param", "pixelshuffle_param"])
def test_pixel_shuffle(name: str) -> None:
    y = run(one("PixelShuffle", f"{name} {{ upscale_factor: 2 }}"))
    wanted = np.zeros((2, 1, 16, 16))
    for row, column in np.ndindex(2, 2):
        wanted[:, 0, row::2, column::2] = X[:, 2 * row + column]
    np.testing.assert_array_equal(y, wanted)


def darknets(x: Array, side: int) -> tuple[Array, Array]:
    """Where reorg_cpu of darknet's blas.c, one number after the other, reads and writes."""
    _, channels, height, width = x.shape
    few = channels // side**2
    here, there = np.zeros(x.size, int), np.zeros(x.size, int)
    for i, (n, k, row, column) in enumerate(np.ndindex(*x.shape)):
        part, c = divmod(k, few)
        across, down = column * side + part % side, row * side + part // side
        here[i] = i
        there[i] = across + width * side * (down + height * side * (c + few * n))
    return here, there


@pytest.mark.parametrize("side", [1, 2])
def test_reorg(side: int) -> None:
    x = RNG.normal(size=(2, 12, 4, 6))
    text = inputs("x", *x.shape) + SILENCE
    text += 'layer { name: "l" type: "Reorg" bottom: "x" top: "y" reorg_param { '
    for more, shape in (
        ("", (2, 12 * side**2, 4 // side, 6 // side)),
        ("reverse: true", (2, 12 // side**2, 4 * side, 6 * side)),
    ):
        here, there = darknets(x, side)
        wanted = np.zeros(x.size)
        if more:
            wanted[there] = x.ravel()[here]
        else:
            wanted[here] = x.ravel()[there]
        y = run(text + f"stride: {side} {more} }} }}", feed={"x": x})
        np.testing.assert_array_equal(y, wanted.reshape(shape))


def test_a_shuffle_of_pixels_leaves_their_number_open() -> None:
    graph = read(INPUT + one("PixelShuffle", "pixel_shuffle_param { upscale_factor: 2 }"))
    assert str(graph.outputs["y"].type) == "f32[N,1,2*H,2*W]"
    y = netc.compile(graph)(data=X[:, :, :3, :5])["y"]
    assert y.shape == (2, 1, 6, 10)
    np.testing.assert_array_equal(y[:, 0, 1::2, ::2], X[:, 2, :3, :5])


@pytest.mark.parametrize(
    ("fields", "scale"),
    [("scale: 3", (3, 3)), ("scale: 1 stride: 2", (2, 2)), ("stride_h: 2 stride_w: 3", (2, 3))],
)
def test_pixels_are_repeated(fields: str, scale: tuple[int, int]) -> None:
    y = run(one("Upsample", f"upsample_param {{ {fields} }}"))
    np.testing.assert_array_equal(y, X.repeat(scale[0], 2).repeat(scale[1], 3))


@pytest.mark.parametrize("steps", [1, 3])
def test_continuation_indicator(steps: int) -> None:
    text = SILENCE + 'layer { name: "l" type: "ContinuationIndicator" top: "y" '
    text += f"continuation_indicator_param {{ time_step: {steps} batch_size: 2 }} }}"
    np.testing.assert_array_equal(run(text), [[0, 0], [1, 1], [1, 1]][:steps])
    text = one("ContinuationIndicator", f"continuation_indicator_param {{ time_step: {steps} }}")
    np.testing.assert_array_equal(run(text), [[0, 0], [1, 1], [1, 1]][:steps])


def lstm(x: Array, w_i: Array, w_h: Array, b: Array) -> Array:
    """Junhyuk Oh's lstm_layer.cpp on [T, N, I]."""
    hidden = w_h.shape[1]
    h, cell, outs = np.zeros((x.shape[1], hidden)), np.zeros((x.shape[1], hidden)), []
    for now in x:
        i, f, o, g = np.split(now @ w_i.T + h @ w_h.T + b, 4, axis=1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(cell)
        outs.append(h)
    return np.stack(outs)


def blobs(inner: int, hidden: int) -> list[Array]:
    sizes = (4 * hidden, inner), (4 * hidden, hidden), (4 * hidden,)
    return [RNG.normal(size=s).astype(np.float32) / 3 for s in sizes]


def test_lstm_of_one_bottom() -> None:
    x, stored = RNG.normal(size=(5, 2, 3)), blobs(3, 4)
    text = inputs("x", 5, 2, 3) + SILENCE
    text += 'layer { name: "l" type: "Lstm" bottom: "x" top: "y" '
    text += "lstm_param { num_output: 4 clipping_threshold: 0.1 } }"
    np.testing.assert_allclose(run(text, stored, feed={"x": x}), lstm(x, *stored))
    np.testing.assert_allclose(
        run(text.replace("dim: 5", "dim: 1"), stored, feed={"x": x[:1]}), lstm(x[:1], *stored)
    )


CTPN = """
layer { name: "columns" type: "Im2col" bottom: "data" top: "columns"
  convolution_param { pad: 1 kernel_size: 3 } }
layer { name: "t" type: "Transpose" bottom: "columns" top: "t"
  transpose_param { dim: 3 dim: 2 dim: 0 dim: 1 } }
layer { name: "x" type: "Reshape" bottom: "t" top: "x"
  reshape_param { shape { dim: -1 } axis: 1 num_axes: 2 } }
layer { name: "there" type: "Lstm" bottom: "x" top: "there" lstm_param { num_output: 5 } }
layer { name: "r" type: "Reverse" bottom: "x" top: "r" reverse_param { axis: 0 } }
layer { name: "back" type: "Lstm" bottom: "r" top: "b" lstm_param { num_output: 5 } }
layer { name: "q" type: "Reverse" bottom: "b" top: "q" reverse_param { axis: 0 } }
layer { name: "both" type: "Concat" bottom: "there" bottom: "q" top: "both"
  concat_param { axis: 2 } }
layer { name: "four" type: "Reshape" bottom: "both" top: "four"
  reshape_param { shape { dim: -1 dim: 1 } axis: 1 num_axes: 1 } }
layer { name: "y" type: "Transpose" bottom: "four" top: "y"
  transpose_param { dim: 2 dim: 3 dim: 1 dim: 0 } }
"""


def test_ctpns_two_lstms_read_each_row_of_an_image() -> None:
    there, back = blobs(36, 5), blobs(36, 5)
    weights = b"".join(
        v2(name, [dims(b.shape) + packed(b) for b in stored])
        for name, stored in (("there", there), ("back", back))
    )
    graph = read(INPUT.replace("dim: 2", "dim: 1") + CTPN, weights)
    x = X[:1]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    columns = np.stack([padded[0, c, i : i + 8, j : j + 8] for c, i, j in np.ndindex(4, 3, 3)])
    rows = columns.transpose(2, 1, 0)  # [W, H, 36]
    both = np.concatenate([lstm(rows, *there), lstm(rows[::-1], *back)[::-1]], 2)
    wanted = both.transpose(2, 1, 0)[None]
    np.testing.assert_allclose(interpret(graph, {"data": x})["y"], wanted, atol=1e-6)
    np.testing.assert_allclose(netc.compile(graph)(data=x)["y"], wanted, atol=1e-5)
    again = parse_net(write_net(graph), weights=weights, strict=True)
    np.testing.assert_array_equal(again.weights["back.b"], back[2])


def test_crnns_lstm_starts_where_the_indicator_says() -> None:
    text = inputs("x", 3, 2, 4) + SILENCE
    text += """layer { name: "c" type: "ContinuationIndicator" top: "c"
      continuation_indicator_param { time_step: 3 batch_size: 2 } }
      layer { name: "l" type: "LSTM" bottom: "x" bottom: "c" top: "y"
      recurrent_param { num_output: 5 } }"""
    x, (w_i, w_h, b) = RNG.normal(size=(3, 2, 4)), blobs(4, 5)
    np.testing.assert_allclose(run(text, [w_i, b, w_h], feed={"x": x}), lstm(x, w_i, w_h, b))


def test_every_layer_of_these_is_compiled() -> None:
    layers = [
        ("HardSwish", ""), ("HardSigmoid", ""), ("Mish", ""),
        ("Reverse", "reverse_param { axis: 2 }"),
        ("Transpose", "transpose_param { dim: 0 dim: 1 dim: 3 dim: 2 }"),
        ("Upsample", "upsample_param { scale: 1 stride: 2 }"),
        ("Reorg", "reorg_param { stride: 2 }"),
        ("PixelShuffle", "pixel_shuffle_param { upscale_factor: 4 }"),
    ]  # fmt: skip
    text, bottom = INPUT, "data"
    for i, (kind, rest) in enumerate(layers):
        text += f'layer {{ name: "{i}" type: "{kind}" bottom: "{bottom}" top: "{i}" {rest} }}\n'
        bottom = f"{i}"
    graph = read(text)
    wanted: Any = interpret(graph, {"data": X})[bottom]
    assert wanted.shape == (2, 1, 32, 32)
    np.testing.assert_allclose(netc.compile(graph)(data=X)[bottom], wanted, atol=1e-6)


def test_relu6_in_a_relu() -> None:
    x = X.astype(np.float64) * 9
    y = run(one("ReLU", "relu_param { relu6: true }"), feed={"data": x})
    np.testing.assert_array_equal(y, np.clip(x, 0, 6))


SIDES = ["pad_t: 0 pad_l: 1 pad_b: 1 pad_r: 2", "pad_t: 1 pad_l: 2 pad_b: 1 pad_r: 2"]


def around(x: Array, sides: str, value: float) -> Array:
    top, left, bottom, right = (int(word) for word in sides.split()[1::2])
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


@pytest.mark.parametrize("sides", SIDES)
def test_a_convolution_is_padded_by_sides(sides: str) -> None:
    w = RNG.normal(size=(3, 4, 3, 3)).astype(np.float32)
    fields = f"num_output: 3 kernel_size: 3 stride: 2 bias_term: false {sides}"
    y = run(one("Convolution", f"convolution_param {{ {fields} }}"), [w])
    windows = np.lib.stride_tricks.sliding_window_view(around(X, sides, 0), (3, 3), (2, 3))
    wanted = np.einsum("nchwij,ocij->nohw", windows[:, :, ::2, ::2].astype(float), w)
    np.testing.assert_allclose(y, wanted, atol=1e-6)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("kind", ["MAX", "AVE", "AVE_EXC_PAD"])
def test_a_pooling_is_padded_by_sides(kind: str, sides: str) -> None:
    fields = f"pool: {kind} kernel_size: 3 stride: 2 ceil_mode: false {sides}"
    graph = read(INPUT + one("Pooling", f"pooling_param {{ {fields} }}"))
    inside = around(np.ones_like(X), sides, 0)
    wanted = np.zeros((2, 4, *((n - 3) // 2 + 1 for n in inside.shape[2:])))
    for i, j in np.ndindex(*wanted.shape[2:]):
        at = np.s_[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        largest = around(X, sides, -np.inf)[at].max((2, 3))
        total = around(X, sides, 0)[at].astype(float).sum((2, 3))
        count = 9 if kind == "AVE" else inside[at].sum((2, 3))
        wanted[:, :, i, j] = largest if kind == "MAX" else total / count
    np.testing.assert_allclose(interpret(graph, {"data": X})["y"], wanted, atol=1e-6)
    np.testing.assert_allclose(netc.compile(graph)(data=X)["y"], wanted, atol=1e-6)


@pytest.mark.parametrize("fields", ["", "ceil_mode: false", "pad: 1", "global_pooling: true"])
def test_the_mean_of_what_is_inside_an_image(fields: str) -> None:
    window = "" if "global" in fields else "kernel_size: 3 stride: 2"
    y, mean, share = (
        run(one("Pooling", f"pooling_param {{ pool: {kind} {window} {fields} }}"), feed={"data": x})
        for kind, x in (("AVE_EXC_PAD", X), ("AVE", X), ("AVE", np.ones_like(X)))
    )
    np.testing.assert_allclose(y, mean / share, atol=1e-6)
    assert (share < 1).any() == ("pad" in fields)
