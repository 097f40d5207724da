"""Regions found by layers of C++, against their loops."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import pytest

import netc
from netc.errors import NetcError
from netc.frontend.net.elaborate import parse_net
from netc.frontend.net.write import write_net
from netc.ir.graph import Graph
from netc.ir.interpret import interpret
from netc.ir.text import parse, show

from .files import read
from .test_boxes import Array, Box, overlap
from .test_layers import inputs

HIGH, WIDE = 5, 7  # cells
Fields = dict[str, Any]


def net(
    kind: str,
    param: str,
    fields: Fields,
    feed: dict[str, Array],
    more: str = "",
    behind: str = "",
    **options: Any,
) -> Graph:
    """A net of one layer, with more tops, and what lies behind it."""
    said = " ".join(f"{name}: {value}" for name, value in fields.items() if value != [])
    return read(
        "".join(inputs(name, *x.shape) for name, x in feed.items())
        + f'layer {{ name: "p" type: "{kind}" bottom: "scores" bottom: "moves" bottom: "info" '
        f'top: "rois" {more} {param} {{ {said} }} }}\n' + behind,
        **options,
    )


def drawn(seed: int, items: int, high: int = HIGH, wide: int = WIDE) -> dict[str, Array]:
    """Scores, no two of them equal, and moves."""
    rng = np.random.default_rng(seed)
    count = items * 12 * high * wide
    feed = {
        "scores": (rng.permutation(count).reshape(items, 12, high, wide) + 1) / (count + 1),
        "moves": rng.normal(0, 0.4, (items, 24, high, wide)),
    }
    return {k: v.astype(np.float32) for k, v in feed.items()}


def same(out: dict[str, Array], wanted: list[list[list[float]]], room: int) -> None:
    """The rows (x0, y0, x1, y1, score) of each image in front of its room, and fillers."""
    assert out["rois"].shape == (len(wanted) * room, 5)
    for item, rows in enumerate(wanted):
        here = slice(item * room, (item + 1) * room)
        got, count = out["rois"][here], len(rows)
        table = np.array(rows).reshape(count, 5)
        assert (got[:count, 0] == item).all()
        np.testing.assert_allclose(got[:count, 1:], table[:, :4], 1e-4, 2e-3)
        assert (got[count:] == [-1, 0, 0, 0, 0]).all()
        if "probs" in out:
            assert out["probs"].shape == (len(wanted) * room,)
            np.testing.assert_allclose(out["probs"][here][:count], table[:, 4], 1e-5)
            assert (out["probs"][here][count:] == 0).all()


# ---- PVANET -------------------------------------------------------------------------------------

PVANET: Fields = {
    "feat_stride": 16, "base_size": 16, "min_size": 16, "ratio": [0.5, 1, 2], "scale": [2, 3],
    "pre_nms_topn": 100, "post_nms_topn": 40, "nms_thresh": 0.7,
}  # fmt: skip


def pvanet_anchors(f: Fields) -> list[list[float]]:
    """generate_anchors."""
    area, center = f["base_size"] ** 2, 0.5 * (f["base_size"] - 1)
    out = []
    for ratio in f["ratio"]:
        ratio_w = int(math.sqrt(area / ratio) + 0.5)
        ratio_h = int(ratio_w * ratio + 0.5)
        for scale in f["scale"]:
            w, h = 0.5 * (ratio_w * scale - 1), 0.5 * (ratio_h * scale - 1)
            out.append([center - w, center - h, center + w, center + h])
    return out


def pvanet_iou(a: Box, b: Box) -> float:
    """nms.cpp's iou."""
    if a[0] > b[2] or a[1] > b[3] or a[2] < b[0] or a[3] < b[1]:
        return 0.0
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    sizes = [(x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b)]
    return width * height / (sum(sizes) - width * height)


def moved(anchor: list[float], shift: tuple[int, int], by: Array, sides: Array) -> Box:
    """transform_box."""
    x0, y0, x1, y1 = (v + shift[i % 2] for i, v in enumerate(anchor))
    w, h = x1 - x0 + 1, y1 - y0 + 1
    cx, cy = by[0] * w + x0 + 0.5 * w, by[1] * h + y0 + 0.5 * h
    w, h = math.exp(by[2]) * w, math.exp(by[3]) * h
    right, low = sides[1] - 1, sides[0] - 1
    x0, x1 = (max(0, min(v, right)) for v in (cx - 0.5 * w, cx + 0.5 * w))
    y0, y1 = (max(0, min(v, low)) for v in (cy - 0.5 * h, cy + 0.5 * h))
    return x0, y0, x1, y1


def pvanet(f: Fields, feed: dict[str, Array], item: int) -> list[list[float]]:
    """What Forward_cpu finds in an image; equal scores in the order of the boxes."""
    info = feed["info"].reshape(len(feed["info"]), -1)
    info = info[item if len(info) > 1 else 0].astype(float)
    scores, moves = feed["scores"][item].astype(float), feed["moves"][item].astype(float)
    anchors, found = pvanet_anchors(f), []
    for y, x in np.ndindex(*scores.shape[1:]):
        for k, anchor in enumerate(anchors):
            shift = x * f["feat_stride"], y * f["feat_stride"]
            box = moved(anchor, shift, moves[4 * k : 4 * k + 4, y, x], info)
            large = box[2] - box[0] + 1 >= f["min_size"] * info[-1]
            large = large and box[3] - box[1] + 1 >= f["min_size"] * info[2]
            found.append((box, large * scores[len(anchors) + k, y, x]))
    found.sort(key=lambda each: -each[1])
    kept: list[tuple[Box, float]] = []
    for box, score in found[: f["pre_nms_topn"]]:
        if len(kept) == f["post_nms_topn"]:
            break
        if all(pvanet_iou(each, box) <= f["nms_thresh"] for each, _ in kept):
            kept.append((box, score))
    return [[*box, score] for box, score in kept]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"feat_stride": 8, "min_size": 30},
        {"base_size": 10, "ratio": [0.4, 1.5, 3], "scale": [4.5, 8]},
        {"pre_nms_topn": 30, "post_nms_topn": 100, "nms_thresh": 0.5},
        {"pre_nms_topn": 500, "min_size": 0, "nms_thresh": 0.9},
        {"pre_nms_topn": 210, "post_nms_topn": 210, "min_size": 60, "nms_thresh": 1},
        {"post_nms_topn": 1},
    ],
)
@pytest.mark.parametrize("info", [[[80, 112, 1.5]], [[80, 112, 0.5, 0.8]]])
def test_pvanets(given: Fields, info: list[list[float]]) -> None:
    fields = PVANET | given
    feed = drawn(7, 1) | {"info": np.array(info, np.float32)}
    graph = net("Proposal", "proposal_param", fields, feed, 'top: "probs"')
    wanted = [pvanet(fields, feed, 0)]
    room = min(fields["post_nms_topn"], fields["pre_nms_topn"])
    same(interpret(graph, feed), wanted, room)
    same(netc.compile(graph)(**feed), wanted, room)


@pytest.mark.parametrize("info", [(1, 3), (3, 4), (3, 4, 1, 1), (1, 1, 1, 3)])
def test_pvanets_of_a_batch(info: tuple[int, ...]) -> None:
    numbers = np.array([[80, 112, 1, 1.5], [70, 100, 1, 1], [100, 80, 2, 1]], np.float32)
    feed = drawn(3, 3) | {"info": numbers[: info[0], : max(info[1:])].reshape(info)}
    graph = net("Proposal", "proposal_param", PVANET, feed)
    assert list(graph.outputs) == ["rois"]
    wanted = [pvanet(PVANET, feed, item) for item in range(3)]
    assert all(len(rows) > 10 for rows in wanted)
    same(interpret(graph, feed), wanted, 40)
    same(netc.compile(graph)(**feed), wanted, 40)


def test_pvanets_of_images_of_any_size() -> None:
    feed = drawn(5, 1) | {"info": np.array([[80, 112, 1]], np.float32)}
    sizes = {"scores": (1, 12, "H", "W"), "moves": (1, 24, "H", "W")}
    graph = net("Proposal", "proposal_param", PVANET, feed, shapes=sizes)
    exe = netc.compile(graph)
    for high, wide in ((5, 7), (1, 2), (9, 4)):
        feed = drawn(high, 1, high, wide)
        feed["info"] = np.array([[16 * high, 16 * wide, 1]], np.float32)
        same(exe(**feed), [pvanet(PVANET, feed, 0)], 40)


def test_regions_are_pooled_over_and_texts_read_back() -> None:
    feed = drawn(4, 2) | {"info": np.array([[80, 112, 1], [70, 90, 1]], np.float32)}
    more = (
        'layer { name: "q" type: "ROIPooling" bottom: "moves" bottom: "rois" top: "y" '
        "roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.0625 } }"
    )
    graph = net("Proposal", "proposal_param", PVANET, feed, behind=more)
    want = interpret(graph, feed)["y"]
    assert want.shape == (80, 24, 2, 2)
    for again in (graph, parse_net(write_net(graph)), parse(show(graph))):
        np.testing.assert_allclose(netc.compile(again)(**feed)["y"], want, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_pvanets_on_a_gpu() -> None:
    feed = drawn(2, 1) | {"info": np.array([[80, 112, 1]], np.float32)}
    graph = net("Proposal", "proposal_param", PVANET, feed, 'top: "probs"')
    exe = netc.compile(graph, target="cuda", gpu="interpret", cache=False)
    same(exe(**feed), [pvanet(PVANET, feed, 0)], 40)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ratio": []}, "ratio is missing"),
        ({"scale": []}, "scale is missing"),
        ({"scale": [2, 0]}, "scale must be above 0"),
        ({"ratio": [1, 2]}, "bottom 0 is f32[1,12,5,7]; 4 anchors need 8 channels"),
        ({"feat_stride": 0}, "feat_stride must be between 1 and"),
        ({"base_size": 0}, "base_size must be between 1 and"),
        ({"min_size": 2**30}, "min_size must be at most"),
        ({"pre_nms_topn": 0}, "pre_nms_topn must be between 1 and"),
        ({"post_nms_topn": 2**30}, "post_nms_topn must be between 1 and"),
        ({"nms_thresh": 1.5}, "nms_thresh must be between 0 and 1"),
    ],
)
def test_wrong_fields_of_pvanets(given: Fields, message: str) -> None:
    feed = drawn(2, 1) | {"info": np.zeros((1, 3), np.float32)}
    with pytest.raises(NetcError, match="layer p") as e:
        net("Proposal", "proposal_param", PVANET | given, feed)
    assert message in str(e.value)


@pytest.mark.parametrize("info", [(1, 2), (2, 3), (3,)])
def test_other_facts_of_an_image(info: tuple[int, ...]) -> None:
    feed = drawn(2, 1) | {"info": np.zeros(info, np.float32)}
    with pytest.raises(NetcError, match="height, width and scale of each image are needed"):
        net("Proposal", "proposal_param", PVANET, feed)


# ---- Intel's ------------------------------------------------------------------------------------

SIMPLER: Fields = {
    "feat_stride": 16, "min_bbox_size": 16, "scale": [2, 3], "pre_nms_topn": 100,
    "post_nms_topn": 40, "iou_threshold": 0.7, "cls_threshold": 0.5, "max_num_proposals": 300,
}  # fmt: skip


def simpler(f: Fields, feed: dict[str, Array], item: int) -> list[list[float]]:
    """What Forward_cpu of simpler_nms_layer.cpp finds in an image; without scores."""
    info = feed["info"].reshape(len(feed["info"]), -1)
    high, wide, scale = (int(v) for v in info[item if len(info) > 1 else 0])
    scores, moves = feed["scores"][item].astype(float), feed["moves"][item].astype(float)
    anchors = pvanet_anchors({"base_size": 16, "ratio": [0.5, 1, 2], "scale": f["scale"]})
    found: list[tuple[float, int, Box]] = []
    for y, x in np.ndindex(*scores.shape[1:]):
        for k, anchor in enumerate(anchors):
            shift = x * f["feat_stride"], y * f["feat_stride"]
            by = moves[4 * k : 4 * k + 4, y, x]
            box = moved(anchor, shift, by, np.array([high, wide]))
            sides = int(box[2] - box[0] + 1), int(box[3] - box[1] + 1)
            if min(sides) >= f["min_bbox_size"] * scale:
                found.append((scores[len(anchors) + k, y, x], len(found), box))
    found.sort(reverse=True)
    kept: list[Box] = []
    for score, _, box in found[: f["pre_nms_topn"]]:
        apart = all(overlap(each, box, 1.0) <= f["iou_threshold"] for each in kept)
        if len(kept) < f["post_nms_topn"] and score > 0 and apart:
            kept.append(box)
    return [[*box, 0.0] for box in kept]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"feat_stride": 8, "min_bbox_size": 30},
        {"scale": [1.5, 4], "min_bbox_size": 0},
        {"pre_nms_topn": 30, "post_nms_topn": 100, "iou_threshold": 0.5},
        {"post_nms_topn": 1},
    ],
)
@pytest.mark.parametrize("info", [[[80.7, 112.2, 1.9]], [[80, 112, 1], [70, 100.5, 2], [9, 9, 1]]])
def test_simpler_nms(given: Fields, info: list[list[float]]) -> None:
    fields = SIMPLER | given
    feed = drawn(7, len(info)) | {"info": np.array(info, np.float32)}
    feed["scores"] = np.round(feed["scores"] * 64 - 16) / 64  # many are equal, some below 0
    graph = net("SimplerNMS", "simpler_nms_param", fields, feed)
    wanted = [simpler(fields, feed, item) for item in range(len(info))]
    room = min(fields["post_nms_topn"], fields["pre_nms_topn"])
    same(interpret(graph, feed), wanted, room)
    same(netc.compile(graph)(**feed), wanted, room)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scale": []}, "scale is missing"),
        ({"scale": [2]}, "bottom 0 is f32[1,12,5,7]; 3 anchors need 6 channels"),
        ({"iou_threshold": -1}, "iou_threshold must be between 0 and 1"),
        ({"post_nms_topn": 0}, "post_nms_topn must be between 1 and"),
    ],
)
def test_wrong_fields_of_simpler_nms(given: Fields, message: str) -> None:
    feed = drawn(2, 1) | {"info": np.zeros((1, 3), np.float32)}
    with pytest.raises(NetcError, match="layer p") as e:
        net("SimplerNMS", "simpler_nms_param", SIMPLER | given, feed)
    assert message in str(e.value)
