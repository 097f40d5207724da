"""Spatial transformers, GRN and GroupNorm, against what their C++ computes, in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

import netc
from netc.errors import UnsupportedError

from .files import read, refused
from .test_flow import both, images, layer, types
from .test_layers import Array, inputs

THETAS = [f"theta_{i}_{j}" for i in (1, 2) for j in (1, 2, 3)]


def transformed(x: Array, theta: Array, size: tuple[int, int]) -> Array:
    """st_layer.cpp of daerduoCarey's: output_grid times theta, and transform_forward_cpu."""
    items, channels, tall, wide = x.shape
    y = np.zeros((items, channels, *size))
    for n, i, j in np.ndindex(items, *size):
        at = np.array([i / size[0] * 2 - 1, j / size[1] * 2 - 1, 1])
        px, py = theta[n].reshape(2, 3) @ at
        row, column = (px + 1) / 2 * tall, (py + 1) / 2 * wide
        for m in (math.floor(row), math.floor(row) + 1):
            for k in (math.floor(column), math.floor(column) + 1):
                if 0 <= m < tall and 0 <= k < wide:
                    w = max(0, 1 - abs(row - m)) * max(0, 1 - abs(column - k))
                    y[n, :, i, j] += w * x[n, :, m, k]
    return y


def transformer(fields: str) -> str:
    return layer("SpatialTransformer", f"st_param {{ {fields} }}", "a theta")


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({}, None),
        ({}, (3, 9)),
        ({"theta_1_1": 0.5, "theta_1_2": 0, "theta_2_1": 0, "theta_2_2": 0.5}, (4, 4)),
        ({"theta_2_2": -1.5}, None),
    ],
)
def test_spatial_transformer(given: dict[str, float], size: tuple[int, int] | None) -> None:
    x, count = images(2, 3, 5, 7), 6 - len(given)
    theta = images(2, count)
    fields = " ".join(f"{name}: {value}" for name, value in given.items())
    if size:
        fields += f" output_H: {size[0]} output_W: {size[1]}"
    rest = iter(theta.T)
    whole = [np.full(2, given[name]) if name in given else next(rest) for name in THETAS]
    wanted = transformed(x, np.stack(whole, 1), size or (5, 7))
    for shape in ((2, count), (2, count, 1, 1)):
        feed = {"a": x, "theta": theta.reshape(shape)}
        y = both(transformer(f"to_compute_dU: false {fields}"), feed)["y"]
        np.testing.assert_allclose(y, wanted, atol=1e-5)


def test_all_of_theta_given_but_one() -> None:
    x = images(1, 2, 4, 6)
    feed = {"a": x, "theta": np.full((1, 1), 0.25, np.float32)}
    given = "theta_1_1: 1 theta_1_2: 0 theta_1_3: 0 theta_2_1: 0 theta_2_2: 1"
    y = both(transformer(given), feed)["y"]
    wanted = transformed(x, np.array([[1, 0, 0, 0, 1, 0.25]]), (4, 6))
    np.testing.assert_allclose(y, wanted, atol=1e-5)


def test_a_transformer_leaves_batch_and_image_open() -> None:
    graph = read(inputs("a", 1, 3, 6, 8) + inputs("theta", 1, 6) + transformer(""))
    assert types(graph) == {"y": "f32[N,3,H,W]"}
    x, theta = images(2, 3, 5, 4), images(2, 6) / 2
    y = netc.compile(graph)(a=x, theta=theta)["y"]
    np.testing.assert_allclose(y, transformed(x, theta, (5, 4)), atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "shape", "says"),
    [
        ("", (1, 5), "bottom 1 is f32[1,5]; it has to give 6 numbers"),
        ("theta_1_1: 1", (1, 6), "it has to give 5 numbers"),
        ("output_H: 0", (1, 6), "output_H must be at least 1"),
        ("", (2, 6), "bottom 0 is f32[1,3,6,8], bottom 1 is f32[2,6]"),
    ],
)
def test_what_is_wrong_with_a_transformer(fields: str, shape: tuple[int, ...], says: str) -> None:
    text = inputs("a", 1, 3, 6, 8) + inputs("theta", *shape) + transformer(fields)
    assert says in str(refused(read, text))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ('transform_type: "Dense"', "transform_type Dense; affine is"),
        ('sampler_type: "nearest"', "sampler_type nearest; bilinear is"),
        ("compute_dU: false", "st_param with compute_dU"),
    ],
)
def test_transformers_that_are_refused(fields: str, says: str) -> None:
    text = inputs("a", 1, 3, 6, 8) + inputs("theta", 1, 6) + transformer(fields)
    said = refused(read, text)
    assert isinstance(said, UnsupportedError)
    assert says in str(said)


@pytest.mark.parametrize("fields", ["", "bias: 0.5", "bias: 0 dummy_backward: true"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 1, 1, 1), (1, 7, 2, 1)])
def test_grn(shape: tuple[int, ...], fields: str) -> None:
    x = images(*shape)
    bias = float(fields.split()[1]) if fields else 1e-7
    wanted = np.zeros(shape)
    for n, i, j in np.ndindex(shape[0], *shape[2:]):
        pixel = x[n, :, i, j].astype(float)
        wanted[n, :, i, j] = pixel / math.sqrt(sum(pixel * pixel) + bias)
    y = both(layer("GRN", f"grn_param {{ {fields} }}"), {"a": x})["y"]
    np.testing.assert_allclose(y, wanted, atol=1e-6)


def test_what_is_wrong_with_a_grn() -> None:
    text = inputs("a", 1, 3, 4, 4) + layer("GRN", "grn_param { bias: -1 }")
    assert "bias -1 must be 0 or more" in str(refused(read, text))
    assert "needs 4 axes" in str(refused(read, inputs("a", 1, 3) + layer("GRN")))


@pytest.mark.parametrize(
    ("fields", "groups", "eps"),
    [
        ("group_num: 3", 3, 1e-5),
        ("group_num: 1 eps: 0.5", 1, 0.5),
        ("group_ratio: 6 eps: 1e-4", 6, 1e-4),
    ],
)
@pytest.mark.parametrize("shape", [(2, 6, 4, 5), (3, 12, 1, 7), (2, 6)])
def test_group_norm(shape: tuple[int, ...], fields: str, groups: int, eps: float) -> None:
    x = images(*shape)
    wanted, each = np.zeros(shape), shape[1] // groups
    for n, g in np.ndindex(shape[0], groups):
        part = x[n, g * each : (g + 1) * each].astype(float)
        mean = sum(part.ravel()) / part.size
        variance = sum((part.ravel() - mean) ** 2) / part.size
        wanted[n, g * each : (g + 1) * each] = (part - mean) / math.sqrt(variance + eps)
    y = both(layer("GroupNorm", f"group_norm_param {{ {fields} }}"), {"a": x}, 1e-4)["y"]
    np.testing.assert_allclose(y, wanted, atol=1e-6)


def test_a_group_norm_leaves_batch_and_image_open() -> None:
    text = layer("GroupNorm", "group_norm_param { group_num: 2 }")
    assert types(read(inputs("a", 1, 4, 6, 8) + text)) == {"y": "f32[N,4,H,W]"}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("group_num: 4", "group_num 4 does not divide 6 channels"),
        ("group_num: 0", "group_num 0 does not divide 6 channels"),
        ("group_num: 2 eps: -1", "eps -1 must be 0 or more"),
        ("eps: 1", "without group_num or group_ratio, forks differ"),
        ("group: 2", "without group_num or group_ratio, forks differ"),
        ("group_ratio: 2", "group_ratio without eps"),
    ],
)
def test_what_is_wrong_with_a_group_norm(fields: str, says: str) -> None:
    text = inputs("a", 1, 6, 4, 4) + layer("GroupNorm", f"group_norm_param {{ {fields} }}")
    assert says in str(refused(read, text))
