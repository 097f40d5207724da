"""YOLOv2's boxes and regions, against the loops of MobileNet-YOLO and Intel's training toolbox."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import pytest

import netc
from netc.errors import NetcError
from netc.ir.interpret import interpret

from .files import read
from .test_boxes import Array, same_rows
from .test_layers import inputs

Fields = dict[str, Any]


def layer(kind: str, bottoms: dict[str, Array], param: str, fields: Fields, more: str = "") -> str:
    """The text of a net of one layer."""
    said = " ".join(f"{name}: {value}" for name, value in fields.items() if value != [])
    heads = " ".join(f'bottom: "{name}"' for name in bottoms)
    text = "".join(inputs(name, *x.shape) for name, x in bottoms.items())
    return (
        f'{text}layer {{ name: "l" type: "{kind}" {heads} top: "y" {param} {{ {said} }} {more} }}'
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# ---- MobileNet-YOLO -----------------------------------------------------------------------------

YOLO: Fields = {
    "num_classes": 3, "num_box": 2, "confidence_threshold": 0.3, "nms_threshold": 0.45,
    "biases": [0.73, 0.87, 2.42, 1.65], "side": 13, "label_map_file": '"labels.prototxt"',
}  # fmt: skip


def maps(seed: int, *shapes: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {f"x{i}": rng.normal(0, 1.2, s).astype(np.float32) for i, s in enumerate(shapes)}


def box_iou(a: list[float], b: list[float]) -> float:
    """Of (x, y, w, h)."""
    w, h = (
        min(a[i] + a[2 + i] / 2, b[i] + b[2 + i] / 2)
        - max(a[i] - a[2 + i] / 2, b[i] - b[2 + i] / 2)
        for i in (0, 1)
    )
    inter = 0 if w < 0 or h < 0 else w * h
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def yolo2_rows(f: Fields, feed: dict[str, Array], item: int) -> list[list[float]]:
    """What Forward_cpu finds in an image."""
    predicts = []
    for x in feed.values():
        side = x.shape[3]
        for j, i, n in np.ndindex(side, side, f["num_box"]):
            each = 5 + f["num_classes"]
            numbers = x[item, n * each : (n + 1) * each, j, i].astype(float)
            box = [
                (i + sigmoid(numbers[0])) / side,
                (j + sigmoid(numbers[1])) / side,
                math.exp(numbers[2]) * f["biases"][2 * n] / side,
                math.exp(numbers[3]) * f["biases"][2 * n + 1] / side,
            ]
            share = np.exp(numbers[5:]) / np.exp(numbers[5:]).sum()
            score = sigmoid(numbers[4]) * share.max()
            if score >= f["confidence_threshold"]:
                predicts.append((score, int(share.argmax()), box))
    predicts.sort(key=lambda each: -each[0])
    kept: list[tuple[float, int, list[float]]] = []
    for each in predicts:
        if all(box_iou(other[2], each[2]) < f["nms_threshold"] for other in kept):
            kept.append(each)
    return [
        [item, label + 1, score, x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        for score, label, (x, y, w, h) in kept
    ]


@pytest.mark.parametrize("given", [{}, {"nms_threshold": 1}, {"confidence_threshold": 0.05}])
@pytest.mark.parametrize("shapes", [[(1, 16, 5, 5)], [(2, 16, 3, 3), (2, 16, 5, 5)]])
def test_yolo2(given: Fields, shapes: list[tuple[int, ...]]) -> None:
    fields, feed = YOLO | given, maps(len(given), *shapes)
    graph = read(layer("YoloDetectionOutput", feed, "yolo_detection_output_param", fields))
    items = shapes[0][0]
    wanted = [row for item in range(items) for row in yolo2_rows(fields, feed, item)]
    assert len(wanted) > 5 * items
    room = sum(items * 2 * s[2] * s[3] for s in shapes)
    same_rows(interpret(graph, feed)["y"], wanted, room)
    same_rows(netc.compile(graph)(**feed)["y"], wanted, room)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_yolo2_on_a_gpu() -> None:
    feed = maps(5, (1, 16, 5, 5))
    graph = read(layer("YoloDetectionOutput", feed, "yolo_detection_output_param", YOLO))
    exe = netc.compile(graph, target="cuda", gpu="interpret", cache=False)
    same_rows(exe(**feed)["y"], yolo2_rows(YOLO, feed, 0), 50)


def test_a_score_at_the_threshold_counts() -> None:
    """σ(0) · softmax of equal numbers is 1/8, of four classes."""
    fields = YOLO | {"num_classes": 4, "num_box": 1, "biases": [1, 1], "nms_threshold": 0.9}
    feed = {"x": np.zeros((1, 9, 2, 2), np.float32)}
    for least, count in ((0.125, 4), (0.1250001, 0)):
        given = fields | {"confidence_threshold": least}
        graph = read(layer("YoloDetectionOutput", feed, "yolo_detection_output_param", given))
        wanted = yolo2_rows(given, feed, 0)
        assert len(wanted) == count
        same_rows(netc.compile(graph)(**feed)["y"], wanted, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_classes": []}, "num_classes is missing"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"num_classes": 4}, "bottom 0 is f32[1,16,5,5]; 2 boxes of 4 classes need 18 channels"),
        ({"coords": 5}, "coords must be 4"),
        ({"biases": [1, 2, 3]}, "biases are two numbers above 0 for each of 2 boxes"),
        ({"biases": [1, 2, 3, 0]}, "biases are two numbers above 0 for each of 2 boxes"),
        ({"nms_threshold": 0}, "nms_threshold must be above 0"),
        ({"nms_threshold": 2}, "nms_threshold must be between 0 and 1"),
    ],
)
def test_wrong_fields_of_yolo2(given: Fields, message: str) -> None:
    feed = maps(1, (1, 16, 5, 5))
    with pytest.raises(NetcError, match="layer l") as e:
        read(layer("YoloDetectionOutput", feed, "yolo_detection_output_param", YOLO | given))
    assert message in str(e.value)


# ---- Intel's ------------------------------------------------------------------------------------


def regions(x: Array, num: int, classes: int, coords: int, do_softmax: bool) -> Array:
    """What Forward_cpu of region_yolo_layer.cpp makes of the numbers, one behind the other."""
    top = x.astype(float).ravel()
    cells = x.shape[2] * x.shape[3]
    inputs_of_image = cells * num * (classes + coords + 1)
    for b, n in np.ndindex(len(x), num):
        index = b * inputs_of_image + n * cells * (coords + classes + 1)
        for i in range(index, index + 2 * cells):
            top[i] = sigmoid(top[i])
        index += coords * cells
        for i in range(index, index + cells * (1 if do_softmax else classes + 1)):
            top[i] = sigmoid(top[i])
        for g in range(cells if do_softmax else 0):
            places = slice(index + cells + g, index + cells * (classes + 1), cells)
            e = np.exp(top[places] - top[places].max())
            top[places] = e / e.sum()
    return top.reshape(x.shape)


REGION: Fields = {"classes": 3, "coords": 4, "num": 2}
MASK = {"do_softmax": "false", "mask": [3, 4, 5], "num": 9, "anchors": [10, 13, 16, 30]}


@pytest.mark.parametrize(
    ("given", "flat", "shape"),
    [
        ({}, "", (2, 240)),
        ({"num": 1, "coords": 6, "classes": 9}, "", (2, 240)),
        ({"num": 4, "coords": 2, "classes": 1}, "", (2, 240)),
        ({"anchors": [1, 2, 3, 4]}, "axis: 2 end_axis: 3", (2, 16, 15)),
        ({}, "axis: 0 end_axis: 1", (32, 3, 5)),
        (MASK | {"mask": [3, 4]}, "", (2, 16, 3, 5)),
        (MASK | {"mask": [0, 1, 2, 3], "classes": 1, "coords": 2}, "axis: 1", (2, 16, 3, 5)),
    ],
)
def test_region_yolo(given: Fields, flat: str, shape: tuple[int, ...]) -> None:
    fields, feed = REGION | given, maps(3, (2, 16, 3, 5))
    text = layer("RegionYolo", feed, "region_yolo_param", fields, f"flatten_param {{ {flat} }}")
    num, softmax = len(given.get("mask", [])) or fields["num"], "mask" not in given
    wanted = regions(feed["x0"], num, fields["classes"], fields["coords"], softmax).reshape(shape)
    graph = read(text)
    np.testing.assert_allclose(interpret(graph, feed)["y"], wanted, atol=1e-6)
    np.testing.assert_allclose(netc.compile(graph)(**feed)["y"], wanted, atol=1e-6)


def test_region() -> None:
    feed = maps(4, (2, 16, 3, 5))
    graph = read(layer("Region", feed, "region_param", REGION))
    assert str(graph.outputs["y"].type) == "f32[N,16,H,W]"
    exe = netc.compile(graph)
    for shape in ((2, 16, 3, 5), (1, 16, 1, 1), (3, 16, 4, 2)):
        feed = maps(5, shape)
        wanted = regions(feed["x0"], 2, 3, 4, True)
        np.testing.assert_allclose(exe(**feed)["y"], wanted, atol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_region_yolo_on_a_gpu() -> None:
    feed = maps(6, (1, 16, 3, 5))
    graph = read(layer("RegionYolo", feed, "region_yolo_param", REGION))
    exe = netc.compile(graph, target="cuda", gpu="interpret", cache=False)
    wanted = regions(feed["x0"], 2, 3, 4, True).reshape(1, -1)
    np.testing.assert_allclose(exe(**feed)["y"], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("RegionYolo", {"num": 0}, "num must be at least 1"),
        ("RegionYolo", {"classes": -1}, "classes must be at least 1"),
        ("RegionYolo", {"coords": 1}, "coords must be at least 2"),
        ("RegionYolo", {"num": 3}, "3 boxes of 4 coords and 3 classes need 24 channels"),
        ("RegionYolo", {"do_softmax": "false"}, "mask is missing"),
        ("Region", {"num": []}, "num is missing"),
        ("Region", {"classes": 4}, "2 boxes of 4 coords and 4 classes need 18 channels"),
    ],
)
def test_wrong_fields_of_regions(kind: str, given: Fields, message: str) -> None:
    feed = maps(1, (1, 16, 5, 5))
    param = "region_param" if kind == "Region" else "region_yolo_param"
    with pytest.raises(NetcError, match="layer l") as e:
        read(layer(kind, feed, param, REGION | given))
    assert message in str(e.value)
