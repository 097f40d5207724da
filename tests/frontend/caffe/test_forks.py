"""Layers of the forks of CTPN, CRNN, YOLO and MobileNetV3, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import netc
from netc.ir.interpret import interpret

from .files import INPUT, read
from .test_layers import X, one, run


@pytest.mark.parametrize(
    ("fields", "scale"),
    [("scale: 3", (3, 3)), ("scale: 1 stride: 2", (2, 2)), ("stride_h: 2 stride_w: 3", (2, 3))],
)
def test_pixels_are_repeated(fields: str, scale: tuple[int, int]) -> None:
    y = run(one("Upsample", f"upsample_param {{ {fields} }}"))
    np.testing.assert_array_equal(y, X.repeat(scale[0], 2).repeat(scale[1], 3))


def test_every_layer_of_these_is_compiled() -> None:
    layers = [
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
