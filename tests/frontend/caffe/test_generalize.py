"""Sizes of a Caffe file as sizes the net can take: free, as multiples, or as they stand."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from netc.ir.graph import Graph

_UP = """
layer {{ name: "u{n}" type: "Deconvolution" bottom: "p{n}" top: "u{n}"
        convolution_param {{ num_output: 4 kernel_size: 2 stride: 2 }} }}
layer {{ name: "s{n}" type: "Eltwise" bottom: "{skip}" bottom: "u{n}" top: "s{n}" }}"""
_DOWN = """
layer {{ name: "p{n}" type: "Pooling" bottom: "{x}" top: "p{n}"
        pooling_param {{ kernel_size: 2 stride: 2 }} }}"""


def hourglass(height: int, width: int, more: str = "") -> Graph:
    """Two levels down and up again, joined at each."""
    return netc.from_caffe(
        f"""
        input: "data" input_shape {{ dim: 2 dim: 3 dim: {height} dim: {width} }}
        layer {{ name: "c" type: "Convolution" bottom: "data" top: "c"
                convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 }} }}"""
        + _DOWN.format(n=1, x="c")
        + _DOWN.format(n=2, x="p1")
        + _UP.format(n=2, skip="p1")
        + _UP.format(n=1, skip="c").replace('bottom: "p1"', 'bottom: "s2"')
        + more
    )


@pytest.mark.parametrize(
    ("height", "width", "shape", "usual"),
    [
        (64, 96, "f32[N,3,4*H,4*W]", {"H": 16, "W": 24}),  # the least that fits, not 32
        (20, 12, "f32[N,3,4*H,4*W]", {"H": 5, "W": 3}),
    ],
)
def test_what_is_halved_and_enlarged(
    height: int, width: int, shape: str, usual: dict[str, int]
) -> None:
    graph = hourglass(height, width)
    assert str(graph.inputs[0].types[0]) == shape
    assert dict(graph.usual) == usual
    (note,) = (n for n in graph.notes if "height and width" in n)
    assert note.startswith("height and width are multiples, not free: layer s")
    exe = netc.compile(graph)
    for size in ((1, 3, 4, 12), (3, 3, 8, 4)):
        x = np.random.default_rng(0).standard_normal(size).astype(np.float32)
        (got,), (want,) = exe(data=x).values(), netc.interpret(graph, {"data": x}).values()
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_layer_that_fixes_sizes_says_so() -> None:
    graph = hourglass(
        64,
        64,
        'layer { name: "ip" type: "InnerProduct" bottom: "s1" top: "ip" '
        "inner_product_param { num_output: 2 } }",
    )
    assert str(graph.inputs[0].types[0]) == "f32[N,3,64,64]"
    assert [n for n in graph.notes if n.startswith("height and width are fixed: layer")]
    assert not any("the batch" in n for n in graph.notes)


def test_symbols_that_are_given_are_not_multiplied() -> None:
    text = 'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }'
    layer = 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" }'
    graph = netc.from_caffe(text + layer, shapes={"data": ("N", 3, "2*K", 8)})
    assert str(graph.inputs[0].types[0]) == "f32[N,3,2*K,W]"
