"""A small net of FlowNet 2's layers, against NumPy: two images, how they match, a first flow, the
second image moved by it, and what is left."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import netc
from netc.frontend.net.elaborate import parse_net
from netc.frontend.net.write import write_net
from netc.ir.graph import Graph
from netc.ir.interpret import interpret

from .files import dims, packed, read, v2
from .test_flow import CORRELATION, correlated, images, warped
from .test_layers import Array, inputs
from .test_resample import accumulated, downsampled, resampled

NET = """
layer { name: "mean0" type: "DataAugmentation" bottom: "img0" top: "a0"
  augmentation_param { recompute_mean: 10 mean_per_pixel: false augment_during_test: false } }
layer { name: "mean1" type: "Mean" bottom: "img1" top: "a1"
  mean_param { operation: SUBTRACT value: 0.1 value: 0.2 value: 0.3 } }
layer { name: "conv0" type: "Convolution" bottom: "a0" top: "f0" param { name: "conv_w" }
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 2 bias_term: false } }
layer { name: "conv1" type: "Convolution" bottom: "a1" top: "f1" param { name: "conv_w" }
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 2 bias_term: false } }
layer { name: "corr" type: "Correlation" bottom: "f0" bottom: "f1" top: "corr"
  correlation_param { pad: 4 kernel_size: 1 max_displacement: 4 stride_2: 2 } }
layer { name: "relu" type: "ReLU" bottom: "corr" top: "corr" relu_param { negative_slope: 0.1 } }
layer { name: "flow" type: "Convolution" bottom: "corr" top: "flow"
  convolution_param { num_output: 2 kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "large" type: "Resample" bottom: "flow" bottom: "img0" top: "large"
  resample_param { type: CUBIC } }
layer { name: "warp" type: "FlowWarp" bottom: "a1" bottom: "large" top: "warped" }
layer { name: "left" type: "Eltwise" bottom: "a0" bottom: "warped" top: "left"
  eltwise_param { operation: SUM coeff: 1 coeff: -1 } }
layer { name: "norm" type: "ChannelNorm" bottom: "left" top: "norm" }
layer { name: "all" type: "Accum" bottom: "flow" bottom: "large" bottom: "norm" top: "all" }
layer { name: "small" type: "Downsample" bottom: "all" top: "small"
  downsample_param { top_height: 4 top_width: 5 } }
layer { name: "full" type: "Resample" bottom: "flow" top: "full"
  resample_param { type: NEAREST width: 20 height: 16 } }
"""
SIZE = (8, 10)
OWN = np.random.default_rng(5)
FEED = {name: images(1, 3, *SIZE, rng=OWN) for name in ("img0", "img1")}
MEAN, CONV, FLOW = (
    images(*shape, rng=OWN) for shape in ((1, 3, 1, 1), (6, 3, 3, 3), (2, 25, 3, 3))
)


def net() -> Graph:
    blobs = {
        "mean0": [np.full((1, 1, 1, 1), 20, np.float32), np.tile(MEAN, (1, 1, *SIZE)), MEAN],
        "conv0": [CONV],
        "flow": [FLOW],
    }
    weights = b"".join(
        v2(name, [dims(b.shape) + packed(b) for b in each]) for name, each in blobs.items()
    )
    head = "".join(inputs(name, *x.shape) for name, x in FEED.items())
    return read(head + NET, weights, warn=lambda d: None)


def convolved(x: Array, w: Array, stride: int) -> Array:
    """A convolution with a frame of one zero."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], w)


def wanted() -> dict[str, Array]:
    a0 = FEED["img0"].astype(float) - MEAN
    a1 = FEED["img1"] - np.array([0.1, 0.2, 0.3])[:, None, None]
    p = CORRELATION | {"pad": 4, "max_displacement": 4, "stride_2": 2}
    corr = correlated(convolved(a0, CONV, 2), convolved(a1, CONV, 2), False, p)
    flow = convolved(np.where(corr > 0, corr, 0.1 * corr), FLOW, 1)
    large = resampled(flow, SIZE, "CUBIC")
    left = a0 - warped(a1, large, 0.0)
    norm = np.sqrt((left * left).sum(1, keepdims=True))
    small, _ = downsampled(accumulated([flow, large, norm], SIZE), (4, 5))
    return {"full": resampled(flow, (16, 20), "NEAREST"), "small": small}


def agrees(found: dict[str, Array], near: float) -> None:
    for name, x in wanted().items():
        np.testing.assert_allclose(found[name], x, rtol=near, atol=near)


def test_a_net_of_flownets_layers() -> None:
    graph = net()
    agrees(interpret(graph, {n: x.astype(float) for n, x in FEED.items()}), 1e-6)
    agrees(netc.compile(graph)(FEED), 2e-4)


def test_the_text_of_a_net_of_flownets_layers() -> None:
    graph = net()
    again = parse_net(write_net(graph))
    given = Graph(**{**vars(again), "weights": graph.weights})
    agrees(interpret(given, {n: x.astype(float) for n, x in FEED.items()}), 1e-6)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_a_net_of_flownets_layers_runs_on_a_gpu() -> None:
    exe = netc.compile(net(), target="cuda", gpu="interpret", cache=False, precision="high")
    agrees(exe(FEED), 2e-4)
