"""Layers of detectors' forks: pooling over regions, and nets of it from prototxt to results."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netc
from netc.errors import UnsupportedError
from netc.frontend.net.elaborate import parse_net
from netc.frontend.net.write import write_net
from netc.ir.graph import Graph
from netc.ir.interpret import interpret
from netc.ir.op import REGISTRY
from netc.ir.text import parse, show

from .files import INPUT, read
from .test_layers import inputs, run

X = np.random.default_rng(1).normal(size=(2, 4, 8, 8)).astype(np.float32)
ROIS = np.array([[1, 0, 0, 60, 60], [0, 17, 5, 40, 63], [0, 9, 9, 8, 8]], np.float32)
ROI = "roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.125 }"
PS = "psroi_pooling_param { output_dim: 1 group_size: 2 spatial_scale: 0.125 }"


def on_rois(kind: str, rest: str, bottom: str = "data", top: str = "y") -> str:
    head = f'layer {{ name: "{kind}" type: "{kind}" bottom: "{bottom}" bottom: "rois"'
    return f'{head} top: "{top}" {rest} }}\n'


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1, 1), (3, 1, 5)])
def test_pooling_over_regions(shape: tuple[int, ...]) -> None:
    feed = {"data": X, "rois": ROIS.reshape(shape)}
    pooled: dict[str, dict[str, Any]] = {
        "ROIPooling": {"size": (2, 3)}, "PSROIPooling": {"channels": 1, "group": 2},
    }  # fmt: skip
    for kind, rest, op in (("ROIPooling", ROI, "roi_pool"), ("PSROIPooling", PS, "ps_roi_pool")):
        y = run(inputs("rois", *shape) + on_rois(kind, rest), feed=feed)
        wanted = REGISTRY[op](scale=0.125, **pooled[kind]).reference(X.astype(float), ROIS)
        np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize("kind", ["ROIAlign", "PSROIAlign", "DeformableConvolution"])
def test_what_forks_do_not_agree_on_is_refused(kind: str) -> None:
    with pytest.raises(UnsupportedError, match=f"layer {kind} of type {kind} is not supported"):
        read(INPUT + inputs("rois", 3, 5) + on_rois(kind, ""))


def test_the_scale_of_roi_pooling_is_1_unless_given() -> None:
    plain = inputs("rois", 3, 5) + on_rois("ROIPooling", ROI.replace("spatial_scale: 0.125", ""))
    feed = {"rois": ROIS * np.array([1, *(0.125,) * 4])}
    whole = inputs("rois", 3, 5) + on_rois("ROIPooling", ROI)
    np.testing.assert_array_equal(run(plain, feed=feed), run(whole, feed={"rois": ROIS}))


def detector(rois: str) -> str:
    """Fast R-CNN's end in small."""
    text = INPUT + rois
    text += (
        'layer { name: "c" type: "Convolution" bottom: "data" top: "c" '
        "convolution_param { num_output: 16 kernel_size: 3 pad: 1 weight_filler { std: 0.3 "
        'type: "gaussian" } } }\n'
        'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }\n'
    )
    text += on_rois("ROIPooling", ROI, "c", "p")
    for name, bottom, count in (("score", "p", 4), ("box", "p", 16)):
        text += (
            f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
            f"inner_product_param {{ num_output: {count} "
            'weight_filler { type: "gaussian" std: 0.1 } } }\n'
        )
    return text + 'layer { name: "prob" type: "Softmax" bottom: "score" top: "prob" }\n'


def feed_of(rois: int, shape: tuple[int, ...] = (5,)) -> dict[str, np.ndarray]:
    every = np.tile(ROIS, (rois, 1))[:rois]
    return {"data": X, "rois": every.reshape(rois, *shape)}


def test_a_detector_is_compiled() -> None:
    graph = read(detector(inputs("rois", 300, 5, 1, 1)), shapes={"rois": ("R", 5, 1, 1)})
    exe = netc.compile(graph)
    for count in (3, 1, 20, 0):
        feed = feed_of(count, (5, 1, 1))
        out = exe(feed)
        for name, want in interpret(graph, feed).items():
            assert out[name].shape == (count, {"prob": 4, "box": 16}[name])
            np.testing.assert_allclose(out[name], want, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize(("precision", "near"), [("high", 1e-5), ("low", 3e-2)])
def test_a_detector_runs_on_a_gpu(precision: str, near: float) -> None:
    graph, feed = read(detector(inputs("rois", 3, 5))), feed_of(3)
    exe = netc.compile(graph, target="cuda", gpu="interpret", cache=False, precision=precision)
    out = exe(feed)
    for name, want in interpret(graph, feed).items():
        np.testing.assert_allclose(out[name], want, rtol=near, atol=near)


def test_texts_of_a_detector_read_back() -> None:
    graph = read(detector(inputs("rois", 3, 5)) + on_rois("PSROIPooling", PS))
    feed = feed_of(3)
    want = interpret(graph, feed)
    texts = (parse_net(write_net(graph)), parse(show(graph)))
    for again in texts:
        given = Graph(**{**vars(again), "weights": graph.weights})
        for name, y in interpret(given, feed).items():
            np.testing.assert_array_equal(y, want[name])


def test_r_fcn_of_the_public_nets(shared: Path) -> None:
    path = shared / "nets" / "caffe-model__rcnn_deploy_rfcn_coco_air101-merge.prototxt"
    graph = read(path, shapes={"rois": (7, 5)})
    assert {n: str(v.type) for n, v in graph.outputs.items()} == {
        "bbox_pred": "f32[7,8,1,1]", "cls_prob": "f32[7,81,1,1]",
    }  # fmt: skip
    rng = np.random.default_rng(0)
    rois = np.concatenate([np.zeros((7, 1)), np.sort(rng.uniform(0, 640, (7, 4)))], 1)
    feed = {
        "rfcn_cls": rng.normal(size=(1, 3969, 40, 40)).astype(np.float32),
        "rfcn_bbox": rng.normal(size=(1, 392, 40, 40)).astype(np.float32),
        "rois": rois[:, [0, 1, 2, 4, 3]].astype(np.float32),
    }
    out = netc.compile(graph)(feed)
    for name, want in interpret(graph, feed).items():
        np.testing.assert_allclose(out[name], want, rtol=1e-5, atol=1e-6)
