"""Nets cut to what the asked outputs need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import netc
from netc.errors import GraphError, UnsupportedError, UsageError
from netc.ir.interpret import interpret

from .files import INPUT, dims, packed, read, refused, v2
from .test_mistakes import layer

DETECTOR = (
    INPUT
    + layer("Convolution", "convolution_param { num_output: 2 kernel_size: 3 }", name="c", top="c")
    + layer("ReLU", bottom="c", name="r", top="c")
    + layer("Permute", "permute_param { order: [0, 2, 3, 1] }", bottom="c", name="loc", top="loc")
    + layer("RegionProposal", bottom="loc", name="rois", top="rois")
    + layer("Flatten", bottom="rois", name="f", top="f")
    + layer("InnerProduct", "inner_product_param { num_output: 3 }", "f", name="fc", top="fc")
    + layer("MultiBoxLoss", "include { phase: TRAIN }", bottom="fc", name="loss", top="loss")
    + 'layer { name: "l1" type: "EuclideanLoss" bottom: "c" bottom: "t" }'
)


def test_what_the_outputs_do_not_need_is_not_built() -> None:
    assert isinstance(refused(read, DETECTOR), UnsupportedError)
    graph = read(DETECTOR, outputs=["loc", "c"])
    assert list(graph.outputs) == ["loc", "c"]
    assert [n.name for n in graph.inputs] == ["data"]
    assert [n.name for n in graph.params] == ["c.w", "c.b"]
    out = interpret(graph, {"data": np.ones((1, 4, 8, 8))})
    assert out["c"].min() >= 0  # the last value of the blob
    assert list(read(DETECTOR, outputs=["c/c"]).outputs) == ["c/c"]  # the one before


def test_inputs_may_stand_for_a_layer_that_netc_does_not_do() -> None:
    graph = read(DETECTOR, outputs=["fc"], shapes={"rois": (300, 5)})
    assert [n.name for n in graph.inputs] == ["rois"]
    both = read(DETECTOR, shapes={"rois": (300, 5), "t": (2, 2, 6, 6)})
    assert list(both.outputs) == ["fc", "l1", "loc"]


def test_a_loss_without_a_top_is_called_as_its_layer() -> None:
    graph = read(DETECTOR, outputs=["l1"], shapes={"t": (2, 2, 6, 6), "rois": (300, 5)})
    assert [n.name for n in graph.inputs] == ["data", "t"]


def test_a_loss_without_a_top_whose_name_is_a_blobs() -> None:
    text = INPUT + layer("ReLU", name="r", top="x")
    for name, blob in (("x", "x"), ("", "x"), ("y", "data"), ("late", "x")):
        both = f'bottom: "{blob}" bottom: "data"'
        text += f'layer {{ name: "{name}" type: "EuclideanLoss" {both} }}\n'
    text += layer("Sigmoid", name="s", top="late")
    names = ["(automatic)", "(automatic)_1", "(automatic)_2", "late", "y"]
    assert list(read(text).outputs) == names
    for name in (*names, "x"):
        assert list(read(text, outputs=[name]).outputs) == [name]


@pytest.mark.parametrize(
    ("name", "help"),
    [
        ("lok", "did you mean loc?"),
        ("loss", "the layer on line 14 makes it, but only in: TRAIN"),
        ("nothing/like/it", "it ends in fc, l1; any blob may be asked for"),
    ],
)
def test_an_output_that_is_not_there(name: str, help: str) -> None:
    (found,) = refused(read, DETECTOR, outputs=[name]).diagnostics
    assert (found.message, found.help) == (f"the net gives no {name!r}", help)
    assert str(found.span) == "<prototxt>"


def test_weights_of_layers_that_are_left_out_are_no_mismatch() -> None:
    arrays = {"c.w": np.ones((2, 4, 3, 3)), "c.b": np.ones(2), "fc.w": np.ones((3, 5))}
    assert set(read(DETECTOR, arrays, strict=True, outputs=["loc"]).weights) == {"c.w", "c.b"}
    blobs = {"c": ["c.w", "c.b"], "fc": ["fc.w"]}
    data = b"".join(
        v2(name, [dims(arrays[n].shape) + packed(arrays[n]) for n in own])
        for name, own in blobs.items()
    )
    assert set(read(DETECTOR, data, strict=True, outputs=["loc"]).weights) == {"c.w", "c.b"}
    other = data + v2("x", [dims((1,)) + packed(np.ones(1))])
    assert "no layer for these weights: x" in str(
        refused(read, DETECTOR, other, strict=True, outputs=["loc"])
    )


def test_a_layer_whose_parameters_are_shared_stays() -> None:
    own = 'inner_product_param { num_output: 3 bias_term: false } param { name: "w" }'
    text = INPUT + layer("InnerProduct", own, name="a", top="a")
    text += layer("InnerProduct", own, name="b", top="b")
    w = np.ones((3, 256), np.float32)
    graph = read(text, v2("a", [dims(w.shape) + packed(w)]), strict=True, outputs=["b"])
    np.testing.assert_array_equal(graph.weights["a.w"], w)


def test_every_way_to_a_net_cuts_it(tmp_path: Path) -> None:
    path = tmp_path / "deploy.prototxt"
    path.write_text(DETECTOR)
    assert list(netc.read(path, outputs="loc", warn=print).outputs) == ["loc"]
    assert list(netc.from_caffe(path, outputs=["c"], warn=print).outputs) == ["c"]
    exe = netc.compile(path, outputs=["loc"], warn=print)
    assert exe(data=np.ones((1, 4, 8, 8), np.float32))["loc"].shape == (1, 6, 6, 2)
    assert isinstance(refused(netc.compile, path, outputs=[]), GraphError)
    assert isinstance(refused(netc.read, path, outputs=5), UsageError)
    path = tmp_path / "a.net"
    path.write_text("net a(x: f32[2]) -> y {\n  r = x |> relu\n  y = r |> exp\n}\n")
    assert list(netc.read(path, outputs=["r"]).outputs) == ["r"]


def test_sizes_that_are_given_as_symbols_keep_their_names() -> None:
    text = """
    layer { name: "p" type: "PriorBox" bottom: "map" bottom: "image" top: "p"
      prior_box_param { min_size: 4 } }
    """
    shapes = {"map": (1, 4, "h", "w"), "image": (1, 3, "H", "W")}
    graph = netc.from_caffe(text, shapes=shapes)
    assert [str(n.types[0]) for n in graph.inputs] == ["f32[N,4,h,w]", "f32[N,3,H,W]"]
    sizes = {"map": (1, 4, 2, 3), "image": (1, 3, 16, 24)}
    feed = {name: np.zeros(size, np.float32) for name, size in sizes.items()}
    assert netc.compile(graph)(feed)["p"].shape == (1, 2, 24)
    batches = {"map": ("B", 4, 2, 3), "image": ("N", 3, 16, 24)}
    graph = netc.from_caffe(text, shapes=batches)
    assert [str(n.types[0]) for n in graph.inputs] == ["f32[B,4,H,W]", "f32[N,3,16,24]"]
