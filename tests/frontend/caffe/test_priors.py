"""Default boxes of given sizes, against the loops of Intel's training toolbox."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

import netc
from netc.errors import NetcError
from netc.frontend.net.elaborate import parse_net
from netc.frontend.net.write import write_net
from netc.ir.graph import Graph
from netc.ir.interpret import interpret

from .files import read
from .test_layers import Array, inputs

Fields = dict[str, Any]
CLUSTERED: Fields = {"width": [9.5, 30, 4], "height": [12, 7.25, 40]}


def net(fields: Fields, kind: str = "PriorBoxClustered", **options: Any) -> Graph:
    """A net of one layer, for cells of 16 × 20 pixels of an image of 48 × 100."""
    said = " ".join(f"{name}: {value}" for name, value in fields.items() if value != [])
    return read(
        inputs("image", 1, 3, 48, 100)
        + 'layer { name: "map" type: "Pooling" bottom: "image" top: "map" pooling_param { '
        "kernel_h: 16 kernel_w: 20 stride_h: 16 stride_w: 20 } }\n"
        + f'layer {{ name: "l" type: "{kind}" bottom: "map" bottom: "image" top: "y" '
        f"prior_box_param {{ {said} }} }}\n",
        **options,
    )


def feed_of(high: int = 48, wide: int = 100) -> dict[str, Array]:
    return {"image": np.zeros((1, 3, high, wide), np.float32)}


def clustered(f: Fields, feed: dict[str, Array]) -> Array:
    """What Forward_cpu writes."""
    img_h, img_w = feed["image"].shape[2:]
    layer_height, layer_width = -(-img_h // 16), -(-img_w // 20)
    img_h, img_w = f.get("img_h", img_h), f.get("img_w", img_w)
    img_h, img_w = f.get("img_size", img_h), f.get("img_size", img_w)
    step_h, step_w = img_h / layer_height, img_w / layer_width
    step_h, step_w = f.get("step_h", step_h), f.get("step_w", step_w)
    step_h, step_w = f.get("step", step_h), f.get("step", step_w)
    top, offset = [], f.get("offset", 0.5)
    for h in range(layer_height):
        for w in range(layer_width):
            x, y = (w + offset) * step_w, (h + offset) * step_h
            for wide, tall in zip(f["width"], f["height"], strict=True):
                top.append((x - wide / 2) / img_w)
                top.append((y - tall / 2) / img_h)
                top.append((x + wide / 2) / img_w)
                top.append((y + tall / 2) / img_h)
    if f.get("clip") == "true":
        top = [min(max(v, 0.0), 1.0) for v in top]
    variance = f.get("variance", [0.1])
    return np.array([[top, [variance[i % len(variance)] for i in range(len(top))]]])


GIVEN: list[Fields] = [
    {},
    {"clip": "true", "variance": [0.1, 0.15, 0.2, 0.25], "offset": 0.25},
    {"img_size": 64, "variance": [0.3]},
    {"img_h": 40, "img_w": 70, "step": 9.5},
    {"step_h": 11, "step_w": 21.5, "flip": "false"},
]


@pytest.mark.parametrize("given", GIVEN)
def test_prior_box_clustered(given: Fields) -> None:
    graph, feed = net(CLUSTERED | given), feed_of()
    wanted = clustered(CLUSTERED | given, feed)
    assert wanted.shape == (1, 2, 180)
    np.testing.assert_allclose(interpret(graph, feed)["y"], wanted, atol=1e-6)
    np.testing.assert_allclose(netc.compile(graph)(**feed)["y"], wanted, atol=1e-6)
    again = parse_net(write_net(graph))
    np.testing.assert_allclose(interpret(again, feed)["y"], wanted, atol=1e-6)


def test_prior_box_clustered_for_images_of_any_size() -> None:
    fields = CLUSTERED | {"clip": "true"}
    graph = net(fields, shapes={"image": (1, 3, "H", "W")})
    exe = netc.compile(graph)
    for sizes in ((48, 100), (16, 20), (50, 43)):
        feed = feed_of(*sizes)
        for out in (interpret(graph, feed), exe(**feed)):
            np.testing.assert_allclose(out["y"], clustered(fields, feed), atol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_prior_box_clustered_on_a_gpu() -> None:
    graph, feed = net(CLUSTERED, shapes={"image": (1, 3, "H", "W")}), feed_of()
    exe = netc.compile(graph, target="cuda", gpu="interpret", cache=False)
    np.testing.assert_allclose(exe(**feed)["y"], clustered(CLUSTERED, feed), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": []}, "width must be above 0 and finite"),
        ({"height": []}, "height must be above 0 and finite"),
        ({"height": [1, 0, 2]}, "height must be above 0 and finite"),
        ({"width": [1, 2]}, "2 width for 3 height"),
        ({"variance": [1, 2]}, "give 1 variance, or 4"),
        ({"step": 0}, "step must be above 0"),
        ({"img_h": 5}, "give img_size, or img_h and img_w"),
        ({"step": 5, "step_w": 5}, "give step, or step_h and step_w"),
    ],
)
def test_wrong_fields(given: Fields, message: str) -> None:
    with pytest.raises(NetcError, match="layer l") as e:
        net(CLUSTERED | given)
    assert message in str(e.value)


def test_prior_box_has_no_sizes_of_clusters() -> None:
    with pytest.raises(NetcError, match="width is for a PriorBoxClustered"):
        net({"min_size": 4, "width": 3}, "PriorBox")
