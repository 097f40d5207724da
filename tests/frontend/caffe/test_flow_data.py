"""FlowNet 2's layers that prepare images, against what its C++ and CUDA compute."""

from __future__ import annotations

import math

import numpy as np
import pytest

import netc
from netc.errors import UnsupportedError
from netc.frontend.net.elaborate import parse_net
from netc.frontend.net.write import write_net
from netc.ir.interpret import interpret

from .files import dims, packed, read, refused, v2
from .test_flow import both, images, layer
from .test_layers import Array, inputs

SCALES = "mean_scale: 0.5 input_scale: 2 output_scale: 3"


@pytest.mark.parametrize("operation", ["ADD", "SUBTRACT"])
@pytest.mark.parametrize(("values", "scales"), [("[1.5]", ""), ("[1, 2, -3]", SCALES)])
def test_mean(operation: str, values: str, scales: str) -> None:
    a, b = images(2, 6, 3, 4), images(1, 3, 2, 2)
    text = layer(
        "Mean",
        f"mean_param {{ operation: {operation} value: {values} {scales} }}",
        "a b",
        "y z",
    )
    found = both(text, {"a": a, "b": b})
    given = [float(v) for v in values.strip("[]").split(",")]
    of_mean, of_x, of_all = (0.5, 2.0, 3.0) if scales else (1.0, 1.0, 1.0)
    for name, x in (("y", a), ("z", b)):
        wanted = np.zeros(x.shape)
        for n, k, i, j in np.ndindex(*x.shape):
            value = given[k % len(given)] * (1 if operation == "ADD" else -1)
            wanted[n, k, i, j] = of_all * (of_x * x[n, k, i, j] + of_mean * value)
        np.testing.assert_allclose(found[name], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("value: 1", "operation is missing"),
        ("operation: ADD", "value is missing"),
        ("operation: ADD value: [1, 2]", "2 values do not divide the channels of f32[1,3,4,4]"),
        ('operation: ADD file: "mean.binaryproto"', "its mean is in a file"),
    ],
)
def test_what_is_wrong_with_a_mean(rest: str, says: str) -> None:
    text = inputs("a", 1, 3, 4, 4) + layer("Mean", f"mean_param {{ {rest} }}")
    assert says in str(refused(read, text))


def cut(x: Array, size: tuple[int, int]) -> Array:
    """SpatialAugmentation of data_augmentation_layer.cu where nothing is drawn."""
    items, channels, tall, wide = x.shape
    y = np.zeros((items, channels, *size))
    for i, j in np.ndindex(*size):
        at_x = max(0.0, min(j - 0.5 * size[1] + 0.5 * wide, wide - 1.05))
        at_y = max(0.0, min(i - 0.5 * size[0] + 0.5 * tall, tall - 1.05))
        left, top = math.floor(at_x), math.floor(at_y)
        right, bottom = min(left + 1, wide - 1), min(top + 1, tall - 1)
        u, v = at_x - left, at_y - top
        y[:, :, i, j] = (
            (1 - u) * (1 - v) * x[:, :, top, left]
            + u * v * x[:, :, bottom, right]
            + (1 - u) * v * x[:, :, bottom, left]
            + u * (1 - v) * x[:, :, top, right]
        )
    return y


def augmentation(fields: str) -> str:
    return layer("DataAugmentation", f"augmentation_param {{ {fields} }}")


@pytest.mark.parametrize("size", [(6, 7), (4, 5), (3, 6), (1, 1), (6, 4)])
def test_augmentation_cuts_the_middle(size: tuple[int, int]) -> None:
    x = images(2, 3, 6, 7)
    drawn = "mirror { rand_type: 'bernoulli' prob: 0.5 } zoom { spread: 0.2 exp: true }"
    text = augmentation(f"crop_height: {size[0]} crop_width: {size[1]} {drawn}")
    np.testing.assert_allclose(both(text, {"a": x})["y"], cut(x, size), atol=1e-5)


def test_augmentation_of_an_image_of_one_pixel() -> None:
    x = images(2, 3, 1, 1)
    y = both(augmentation("crop_height: 1 crop_width: 1"), {"a": x})["y"]
    np.testing.assert_array_equal(y, cut(x, (1, 1)))


@pytest.mark.parametrize("cut_to", [None, (4, 5)])
def test_augmentation_takes_a_given_mean_off(cut_to: tuple[int, int] | None) -> None:
    x = images(2, 3, 6, 7)
    sides = f"crop_height: {cut_to[0]} crop_width: {cut_to[1]}" if cut_to else ""
    y = both(augmentation(f"{sides} mean: [1, 2, 3] mean_per_pixel: false"), {"a": x})["y"]
    wanted = cut(x, cut_to) if cut_to else x
    np.testing.assert_allclose(y, wanted - np.array([1, 2, 3])[:, None, None], atol=1e-5)
    y = both(augmentation(f"{sides} mean: [1, 2, 3]"), {"a": x})["y"]
    np.testing.assert_allclose(y, wanted, atol=1e-5)


def stored(runs: int, image: Array) -> bytes:
    """The blobs that training leaves: a number of runs, a mean image, its mean by channel."""
    blobs = [np.full((1, 1, 1, 1), runs, np.float32), image, image.mean((2, 3), keepdims=True)]
    return v2("l", [dims(b.shape) + packed(b) for b in blobs])


@pytest.mark.parametrize(
    ("fields", "name", "shape"),
    [
        ("recompute_mean: 10 mean_per_pixel: false max_multiplier: 1", "mean", (6, 7)),
        ("recompute_mean: 10 mean_per_pixel: false", "mean", (2, 2)),
        ("recompute_mean: 10", "mean_image", (6, 7)),
        ("recompute_mean: 10", "mean", (2, 3)),
    ],
)
@pytest.mark.parametrize("phase", ["test", "train"])
def test_augmentation_takes_the_mean_off_that_training_found(
    fields: str, name: str, shape: tuple[int, int], phase: str
) -> None:
    x, image = images(2, 3, 6, 7), images(1, 3, *shape)
    graph = read(inputs("a", *x.shape) + augmentation(fields), stored(10, image), phase=phase)
    assert [*graph.weights] == [f"l.{name}"]
    wanted = x - (image if name == "mean_image" else image.mean((2, 3), keepdims=True))
    np.testing.assert_allclose(interpret(graph, {"a": x})["y"], wanted, atol=1e-6)
    np.testing.assert_allclose(netc.compile(graph)(a=x)["y"], wanted, atol=1e-6)


@pytest.mark.parametrize("fields", ["mean_per_pixel: false", ""])
def test_the_text_of_an_augmentation_takes_the_caffemodel(fields: str) -> None:
    weights = stored(12, images(1, 3, 6, 7))
    graph = read(inputs("a", 1, 3, 6, 7) + augmentation(f"recompute_mean: 10 {fields}"), weights)
    again = parse_net(write_net(graph), weights=weights)
    ((name, array),) = graph.weights.items()
    np.testing.assert_array_equal(again.weights[name], array)


def test_augmentation_without_a_mean_has_one_blob() -> None:
    x = images(1, 3, 6, 7)
    runs = np.ones((1, 1, 1, 1), np.float32)
    weights = v2("l", [dims(runs.shape) + packed(runs)])
    graph = read(inputs("a", *x.shape) + augmentation(""), weights)
    assert not graph.weights


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (layer("DataAugmentation", "", "a a"), "one bottom and one top are"),
        (layer("DataAugmentation", "", "a", "y z"), "one bottom and one top are"),
        (
            augmentation("crop_height: 2 crop_width: 2 augment_during_test: true zoom { }"),
            "zoom draws numbers",
        ),
        (augmentation("recompute_mean: 11"), "after 10 runs its mean changes from run to run"),
    ],
)
def test_augmentations_that_are_refused(text: str, says: str) -> None:
    said = refused(read, inputs("a", 1, 3, 6, 7) + text, stored(10, images(1, 3, 6, 7)))
    assert isinstance(said, UnsupportedError)
    assert says in str(said)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("crop_height: 9 crop_width: 2", "crop_height 9 is not between 1 and 6"),
        ("crop_height: 2 crop_width: 0", "crop_width 0 is not between 1 and 7"),
        ("mean: [1, 2, 3] mean_per_pixel: false", "mean is of 3 channels, not f32[1,2,6,7]"),
    ],
)
def test_what_is_wrong_with_an_augmentation(fields: str, says: str) -> None:
    assert says in str(refused(read, inputs("a", 1, 2, 6, 7) + augmentation(fields)))


def test_training_with_an_augmentation_is_refused() -> None:
    text = inputs("a", 1, 3, 6, 7) + augmentation("crop_height: 2 crop_width: 2 mirror { }")
    assert "mirror draws numbers" in str(refused(read, text, phase="train"))
