"""Layers of Synopsys' fork, against what its C++ computes, written out in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

import netc
from netc.errors import UnsupportedError

from .files import read, refused
from .test_flow import both, images, layer, types
from .test_layers import Array, inputs
from .test_resample import away


@pytest.mark.parametrize(
    ("axes", "shape"), [("2", (3, 1, 4)), ("-3", (3, 1, 4)), ("[1, 2]", (3, 4))]
)
def test_squeeze(axes: str, shape: tuple[int, ...]) -> None:
    x = images(3, 1, 1, 4)
    y = both(layer("Squeeze", f"squeeze_param {{ axis: {axes} }}"), {"a": x})["y"]
    np.testing.assert_array_equal(y, x.reshape(shape))


def test_a_squeeze_leaves_the_batch_open() -> None:
    text = layer("Squeeze", "squeeze_param { axis: 2 }")
    assert types(read(inputs("a", 1, 3, 1, 5) + text)) == {"y": "f32[N,3,5]"}
    text = layer("Squeeze", "squeeze_param { axis: 0 }")
    assert types(read(inputs("a", 1, 3, 4) + text)) == {"y": "f32[3,4]"}


@pytest.mark.parametrize("value", [0.0, -1.5])
def test_pad(value: float) -> None:
    x = images(2, 3, 4, 5)
    given = f"paddings: [0, 1, 2, 0, 1, 1, 0, 3] constant_values: {value}"
    y = both(layer("Pad", f"pad_param {{ {given} }}"), {"a": x})["y"]
    wanted = np.full((3, 5, 6, 8), value)
    wanted[:2, 2:, 1:5, :5] = x
    np.testing.assert_array_equal(y, np.float32(wanted))


def resized(x: Array, size: tuple[int, int], way: str, nearest: bool) -> Array:
    """resize_nearest_neighbor_layer.cpp and resize_bilinear_layer.cpp of an NCHW blob."""
    y = np.zeros((*x.shape[:2], *size))
    scales = [
        np.float32(old - 1) / np.float32(new - 1)
        if way == "align_corners" and new > 1
        else np.float32(old) / np.float32(new)
        for old, new in zip(x.shape[2:], size, strict=True)
    ]
    for i, j in np.ndindex(*size):
        near, far, share = [], [], []
        for index, scale, old, new in zip((i, j), scales, x.shape[2:], size, strict=True):
            half = (np.float32(index) + np.float32(0.5)) * scale
            at = np.float32(index) * scale
            if nearest:
                places = {
                    "": math.floor(at),
                    "align_corners": away(float(at)),
                    "half_pixel_centers": math.floor(half),
                    "half_pixel_onnx": math.floor(half - 0.5),
                }
                near.append(max(min(places[way], old - 1), 0))
                continue
            if way == "half_pixel_centers" or (way == "pytorch_half_pixel" and new > 1):
                at = half - np.float32(0.5)
            elif way == "pytorch_half_pixel":
                at = np.float32(-0.5)
            near.append(max(math.floor(at), 0))
            far.append(min(math.ceil(at), old - 1))
            share.append(float(at) - math.floor(at))
        if nearest:
            y[:, :, i, j] = x[:, :, near[0], near[1]]
            continue
        rows = [
            x[:, :, r, near[1]] + (x[:, :, r, far[1]] - x[:, :, r, near[1]]) * share[1]
            for r in (near[0], far[0])
        ]
        y[:, :, i, j] = rows[0] + (rows[1] - rows[0]) * share[0]
    return y


SIZES = [(10, 14), (5, 7), (9, 4), (3, 3), (1, 11), (20, 28), (1, 1), (50, 2)]
WAYS = {
    "NearestNeighbor": ("", "align_corners", "half_pixel_centers", "half_pixel_onnx"),
    "Bilinear": ("", "align_corners", "half_pixel_centers", "pytorch_half_pixel"),
}
NAMES = {"NearestNeighbor": "resize_nearest_neighbor_param", "Bilinear": "resize_bilinear_param"}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "way"), [(k, way) for k, ways in WAYS.items() for way in ways])
def test_resize(kind: str, way: str, size: tuple[int, int]) -> None:
    x = images(2, 3, 5, 7)
    wanted = resized(x, size, way, kind == "NearestNeighbor")
    given = f"output_height: {size[0]} output_width: {size[1]} {way + ': true' if way else ''}"
    text = layer(f"Resize{kind}", f"{NAMES[kind]} {{ {given} }}")
    y = both(text, {"a": x.transpose(0, 2, 3, 1)})["y"]
    np.testing.assert_allclose(y, wanted.transpose(0, 2, 3, 1), atol=1e-5)
    text = layer(f"Resize{kind}", f'{NAMES[kind]} {{ {given} data_format: "NCHW" }}')
    np.testing.assert_allclose(both(text, {"a": x})["y"], wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["NearestNeighbor", "Bilinear"])
def test_resize_by_a_scale(kind: str) -> None:
    x = images(1, 2, 4, 6)
    given = 'scale_height: 1.3 scale_width: 2 data_format: "NCHW"'
    y = both(layer(f"Resize{kind}", f"{NAMES[kind]} {{ {given} }}"), {"a": x})["y"]
    np.testing.assert_allclose(y, resized(x, (5, 12), "", kind == "NearestNeighbor"), atol=1e-5)


@pytest.mark.parametrize("way", ["align_corners", "half_pixel_centers"])
def test_a_resize_to_a_size_leaves_the_image_open(way: str) -> None:
    given = f'output_height: 6 output_width: 4 {way}: true data_format: "NCHW"'
    text = layer("ResizeBilinear", f"resize_bilinear_param {{ {given} }}")
    graph = read(inputs("a", 1, 2, 8, 8) + text)
    x = images(2, 2, 5, 7)
    y = netc.compile(graph)(a=x)["y"]
    np.testing.assert_allclose(y, resized(x, (6, 4), way, False), atol=1e-5)


@pytest.mark.parametrize(
    ("given", "size"), [("factor: 2.4", (9, 14)), ("height: 3 width: 9", (3, 9))]
)
def test_resize_bilinear_of_another_fork(given: str, size: tuple[int, int]) -> None:
    x = images(1, 2, 4, 6)
    y = both(layer("ResizeBilinear", f"resize_bilinear_param {{ {given} }}"), {"a": x})["y"]
    np.testing.assert_allclose(y, resized(x, size, "", False), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "rest", "says"),
    [
        ("Squeeze", "squeeze_param { axis: 1 }", "axis 1 of f32[1,2,8,8] is not of size 1"),
        ("Squeeze", "squeeze_param { axis: 4 }", "axis 4 is outside f32[1,2,8,8]"),
        ("Pad", "pad_param { paddings: [1, 1] }", "8 paddings are needed, not 2"),
        ("ResizeBilinear", "resize_bilinear_param { output_height: 0 }", "must be at least 1"),
        ("ResizeBilinear", "resize_bilinear_param { scale_height: 0.1 }", "makes a height of 0.2"),
        ("ResizeBilinear", "resize_bilinear_param { factor: 1e39 }", "makes a height of inf"),
        ("ResizeBilinear", "resize_bilinear_param { factor: inf }", "makes a height of inf"),
        ("ResizeBilinear", "resize_bilinear_param { factor: nan }", "makes a height of nan"),
        (
            "ResizeNearestNeighbor",
            "resize_nearest_neighbor_param { align_corners: true half_pixel_centers: true }",
            "align_corners and half_pixel_centers exclude each other",
        ),
    ],
)
def test_what_is_wrong_with_these(kind: str, rest: str, says: str) -> None:
    assert says in str(refused(read, inputs("a", 1, 2, 8, 8) + layer(kind, rest)))


@pytest.mark.parametrize(
    ("kind", "rest", "says"),
    [
        ("Squeeze", "", "without an axis"),
        ("ResizeBilinear", 'resize_bilinear_param { data_format: "NCHWD" }', "data_format NCHWD"),
        ("ResizeBilinear", "resize_bilinear_param { output_scale: 2 }", "output_scale 2.0"),
        ("ResizeBilinear", "resize_bilinear_param { saturate: Signed }", "saturate Signed"),
    ],
)
def test_what_of_these_is_refused(kind: str, rest: str, says: str) -> None:
    said = refused(read, inputs("a", 1, 2, 8, 8) + layer(kind, rest))
    assert isinstance(said, UnsupportedError)
    assert says in str(said)
