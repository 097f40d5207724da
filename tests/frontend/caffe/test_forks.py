"""Layers of the forks of CTPN, CRNN, YOLO and MobileNetV3, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import netc
from netc.ir.interpret import interpret

from .files import INPUT, read
from .test_layers import RNG, Array, X, inputs, one, run

SILENCE = 'layer { name: "s" type: "Silence" bottom: "data" }\n'


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
    assert str(graph.outputs["y"].type) == "f32[N,1,H*2,W*2]"
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


def test_every_layer_of_these_is_compiled() -> None:
    layers = [
        ("HardSwish", ""), ("HardSigmoid", ""), ("Mish", ""),
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
