"""Layers of the forks of CTPN, CRNN, YOLO and MobileNetV3, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import netc
from netc.ir.interpret import interpret

from .files import INPUT, read
from .test_layers import X, one, run

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
    ]  # fmt: skip
    text, bottom = INPUT, "data"
    for i, (kind, rest) in enumerate(layers):
        text += f'layer {{ name: "{i}" type: "{kind}" bottom: "{bottom}" top: "{i}" {rest} }}\n'
        bottom = f"{i}"
    graph = read(text)
    wanted: Any = interpret(graph, {"data": X})[bottom]
    assert wanted.shape == (2, 4, 16, 16)
    np.testing.assert_allclose(netc.compile(graph)(data=X)[bottom], wanted, atol=1e-6)
