"""Fields that forks added to layers of Caffe, or to layers that other forks have too."""

from __future__ import annotations

import math

import numpy as np
import pytest

import netc
from netc.errors import GraphError, UnsupportedError
from netc.ir.interpret import interpret
from tests.drawn import RNG

from .files import INPUT, dims, packed, read, v2
from .test_layers import Array, X, inputs, one, run


def pooled_with_padding(
    x: Array, rois: Array, size: tuple[int, int], scale: float, ratio: float
) -> Array:
    """MS-CNN's roi_pooling_layer.cpp."""
    high, wide = x.shape[2:]
    out = np.zeros((len(rois), x.shape[1], *size))
    for n, (image, *roi) in enumerate(rois):
        pad_w, pad_h = (roi[2] - roi[0] + 1) * ratio, (roi[3] - roi[1] + 1) * ratio
        corners = (roi[0] - pad_w, roi[1] - pad_h, roi[2] + pad_w, roi[3] + pad_h)
        x0, y0, x1, y1 = (
            int(math.copysign(math.floor(abs(v * scale) + 0.5), v * scale)) for v in corners
        )
        step_h, step_w = max(y1 - y0 + 1, 1) / size[0], max(x1 - x0 + 1, 1) / size[1]
        for ph in range(size[0]):
            for pw in range(size[1]):
                top = min(max(math.floor(ph * step_h) + y0, 0), high)
                bottom = min(max(math.ceil((ph + 1) * step_h) + y0, 0), high)
                left = min(max(math.floor(pw * step_w) + x0, 0), wide)
                right = min(max(math.ceil((pw + 1) * step_w) + x0, 0), wide)
                if bottom > top and right > left:
                    bin = x[int(image), :, top:bottom, left:right]
                    out[n, :, ph, pw] = bin.max((1, 2))
    return out


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("count", [1, 6])
def test_regions_are_widened_before_they_are_pooled(ratio: float, count: int) -> None:
    corners = np.sort(RNG.uniform(-8, 72, (count, 2, 2)), axis=1).reshape(count, 4)
    image = RNG.integers(0, 2, (count, 1))
    rois = np.concatenate([image, corners], axis=1).astype(np.float32)
    fields = f"pooled_h: 2 pooled_w: 3 spatial_scale: 0.125 pad_ratio: {ratio}"
    text = inputs("rois", count, 5)
    text += one("ROIPooling", f"roi_pooling_param {{ {fields} }}", 'bottom: "rois"')
    feed = {"data": X, "rois": rois}
    wanted = pooled_with_padding(X, rois, (2, 3), 0.125, ratio)
    np.testing.assert_allclose(run(text, feed=feed), wanted)
    np.testing.assert_allclose(netc.compile(read(INPUT + text))(feed)["y"], wanted, rtol=1e-6)


@pytest.mark.parametrize("ratio", ["-1", "nan", "inf"])
def test_a_pad_ratio_is_0_or_more(ratio: str) -> None:
    fields = f"pooled_h: 2 pooled_w: 3 pad_ratio: {ratio}"
    text = one("ROIPooling", f"roi_pooling_param {{ {fields} }}", 'bottom: "rois"')
    with pytest.raises(GraphError, match="pad_ratio must be 0 or more"):
        run(inputs("rois", 3, 5) + text)


def test_bayesian_segnet_drops_in_test_too() -> None:
    text = one("Dropout", "dropout_param { dropout_ratio: 0.25 sample_weights_test: true }")
    y = run(text, seed=1)
    assert 0.15 < (y == 0).mean() < 0.35
    np.testing.assert_allclose(y[y != 0], X[y != 0] / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(y, run(text, seed=1, phase="train"))
    assert (y != run(text, seed=2)).any()
    off = text.replace("true", "false")
    np.testing.assert_array_equal(run(off), X)


def weighted_softmax_loss(
    x: Array, label: Array, weights: list[float], ignored: int | None, normalize: bool
) -> float:
    """SegNet's softmax_loss_layer.cpp."""
    loss, count = 0.0, 0
    for n, i, j in np.ndindex(label.shape):
        it = int(label[n, i, j])
        if it == ignored:
            continue
        e = np.exp(x[n, :, i, j] - x[n, :, i, j].max())
        loss -= np.log(max(e[it] / e.sum(), np.finfo(np.float32).tiny)) * weights[it]
        count += 1
    return loss / (count if normalize else len(x))


@pytest.mark.parametrize("ignored", [None, 1, 255])
@pytest.mark.parametrize("normalize", [True, False])
def test_softmax_loss_weighs_classes(ignored: int | None, normalize: bool) -> None:
    weights = [0.25, 2.0, 1.5, 0.75]
    label = RNG.integers(0, 4, (2, 8, 8)).astype(np.float32)
    label[0, :2] = label[0, :2] if ignored is None else ignored
    fields = f"weight_by_label_freqs: true class_weighting: {weights} "
    fields += f"normalize: {str(normalize).lower()} "
    fields += f"ignore_label: {ignored}" if ignored is not None else ""
    text = inputs("t", 2, 1, 8, 8)
    text += one("SoftmaxWithLoss", f"loss_param {{ {fields} }}", 'bottom: "t"')
    feed = {"data": X, "t": label.reshape(2, 1, 8, 8)}
    wanted = weighted_softmax_loss(X.astype(float), label, weights, ignored, normalize)
    np.testing.assert_allclose(run(text, feed=feed), wanted, rtol=1e-6)
    np.testing.assert_allclose(netc.compile(read(INPUT + text))(feed)["y"], wanted, rtol=1e-5)


def test_softmax_loss_needs_a_weight_for_each_class_it_is_told_to_weigh() -> None:
    text = inputs("t", 2, 1, 8, 8)
    fields = "class_weighting: [1, 2] weight_by_label_freqs"
    text += one("SoftmaxWithLoss", f"loss_param {{ {fields}: true }}", 'bottom: "t"')
    with pytest.raises(GraphError, match="2 class_weighting for 4 classes"):
        run(text)
    feed = {"data": X, "t": np.ones((2, 1, 8, 8))}
    plain = run(text.replace("true", "false"), feed=feed)
    np.testing.assert_array_equal(plain, run(text.replace(f"{fields}: true", ""), feed=feed))


def normalized_by_batches(x: Array, blobs: list[Array], eps: float, stored: bool) -> Array:
    """bn_layer.cpp of ChenglongChen/caffe-windows."""
    scale, shift, mean, variance = (b.astype(float).reshape(-1) for b in blobs)
    out = np.zeros(x.shape)
    for k in range(x.shape[1]):
        m = mean[k] if stored else x[:, k].mean()
        v = variance[k] if stored else ((x[:, k] - m) ** 2).mean()
        out[:, k] = (x[:, k] - m) / np.sqrt(v + eps) * scale[k] + shift[k]
    return out


@pytest.mark.parametrize("phase", ["test", "train"])
@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize("eps", [None, 0.25])
def test_bn_of_caffe_windows(phase: str, moving: bool, eps: float | None) -> None:
    blobs = [RNG.uniform(0.5, 2, (1, 4, 1, 1)).astype(np.float32) for _ in range(4)]
    fields = f"moving_average: {str(moving).lower()} decay: 0.9 "
    fields += 'scale_filler { type: "constant" value: 1 } shift_filler { type: "constant" } '
    fields += f"var_eps: {eps}" if eps is not None else ""
    text = one("BN", f"bn_param {{ {fields} }}")
    stored = moving and phase == "test"
    wanted = normalized_by_batches(
        X.astype(float), blobs, 1e-10 if eps is None else eps, stored=stored
    )
    np.testing.assert_allclose(run(text, blobs, phase=phase), wanted, rtol=1e-5, atol=1e-6)
    weights = v2("l", [dims(b.shape) + packed(b) for b in blobs])
    graph = read(INPUT + text, weights, phase=phase)
    np.testing.assert_allclose(netc.compile(graph)(data=X)["y"], wanted, rtol=1e-4, atol=1e-5)


def test_the_eps_of_bn_is_0_or_more() -> None:
    text = one("BN", "bn_param { moving_average: true var_eps: -1 }")
    with pytest.raises(GraphError, match="var_eps -1 must be 0 or more"):
        run(text)


def divided_by_norm(x: Array, kind: str) -> tuple[Array, Array]:
    """normalize_layer.cpp of happynear/caffe-windows."""
    x = x.astype(float).reshape(*x.shape, *[1] * (4 - x.ndim))
    y, norm = np.zeros(x.shape), np.zeros((x.shape[0], 1, *x.shape[2:]))
    for n, i, j in np.ndindex(len(x), *x.shape[2:]):
        column = x[n, :, i, j]
        total = (np.abs(column) if kind == "L1" else column**2).sum() + 1e-6
        norm[n, 0, i, j] = total if kind == "L1" else np.sqrt(total)
        y[n, :, i, j] = column / norm[n, 0, i, j]
    return y, norm


@pytest.mark.parametrize("kind", ["L1", "L2", ""])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (3, 7), (2, 5, 3)])
def test_normalize_of_caffe_windows_divides_by_the_norm(kind: str, shape: tuple[int, ...]) -> None:
    x = (RNG.normal(size=shape) / 100).astype(np.float32)
    fields = f'normalize_type: "{kind}"' if kind else "bp_norm: true fix_gradient: true"
    text = inputs("data", *shape)
    text += one("Normalize", f'top: "norm" normalize_param {{ {fields} }}')
    y, norm = divided_by_norm(x, kind or "L2")
    graph = read(text)
    for out in (interpret(graph, {"data": x}), netc.compile(graph)(data=x)):
        np.testing.assert_allclose(out["y"], y, rtol=1e-5)
        np.testing.assert_allclose(out["norm"], norm, rtol=1e-5)
    alone = read(text.replace('top: "norm"', ""))
    np.testing.assert_allclose(interpret(alone, {"data": x})["y"], y, rtol=1e-5)


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ('normalize_param { normalize_type: "L3" }', "normalize_type must be L1 or L2"),
        ("normalize_param { } norm_param { }", "norm_param is for a Normalize of SSD"),
    ],
)
def test_normalize_of_caffe_windows_refuses(rest: str, says: str) -> None:
    with pytest.raises(GraphError, match=says):
        run(one("Normalize", rest))


def test_a_field_of_losses_that_no_fork_has_is_told_of() -> None:
    text = INPUT + inputs("t", 2, 1, 8, 8)
    text += one("SoftmaxWithLoss", "loss_param { weight: 2 }", 'bottom: "t"')
    told: list[str] = []
    read(text, warn=lambda d: told.append(d.message))
    assert told == ["LossParameter has no field weight; ignored"]


def interpolated(x: Array, size: tuple[int, int]) -> Array:
    """caffe_cpu_interp2 of DeepLab's interp.cpp."""
    high, wide = x.shape[2:]
    steps = [(x.shape[2 + k] - 1) / (n - 1) if n > 1 else 0.0 for k, n in enumerate(size)]
    out = np.zeros((*x.shape[:2], *size))
    for i, j in np.ndindex(*size):
        y0, x0 = int(steps[0] * i), int(steps[1] * j)
        dy, dx = steps[0] * i - y0, steps[1] * j - x0
        y1, x1 = min(y0 + 1, high - 1), min(x0 + 1, wide - 1)
        top = (1 - dx) * x[:, :, y0, x0] + dx * x[:, :, y0, x1]
        bottom = (1 - dx) * x[:, :, y1, x0] + dx * x[:, :, y1, x1]
        out[:, :, i, j] = (1 - dy) * top + dy * bottom
    return out


@pytest.mark.parametrize("size", [(15, 3), (8, 8), (5, 11), (1, 1)])
@pytest.mark.parametrize("crop", [0, -1])
def test_interp_to_the_size_of_another_bottom(size: tuple[int, int], crop: int) -> None:
    text = inputs("like", 1, 2, *size)
    fields = f"use_blob_size: true pad_beg: {crop} height: 3 zoom_factor: 2"
    text += one("Interp", f"interp_param {{ {fields} }}", 'bottom: "like"')
    feed = {"data": X, "like": np.zeros((1, 2, *size), np.float32)}
    wanted = interpolated(X[:, :, -crop:, -crop:].astype(float), size)
    np.testing.assert_allclose(run(text, feed=feed), wanted, rtol=1e-4, atol=1e-5)
    y = netc.compile(read(INPUT + text))(feed)["y"]
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "more", "says"),
    [
        ("use_blob_size: true", "", "use_blob_size needs a second bottom"),
        ("height: 3 width: 3", 'bottom: "like"', "a second bottom needs use_blob_size: true"),
        ("use_blob_size: true", 'bottom: "like"', "Interp needs 4 axes, not f32"),
    ],
)
def test_interp_with_the_wrong_bottoms(fields: str, more: str, says: str) -> None:
    text = inputs("like", 2, 3) + one("Interp", f"interp_param {{ {fields} }}", more)
    with pytest.raises(GraphError, match=says):
        run(text)


@pytest.mark.parametrize("fields", ["fixed_size: 32", "fixed_ratio: 1", "density: 4"])
def test_the_denser_boxes_of_faceboxes_are_refused(fields: str) -> None:
    text = inputs("image", 1, 3, 64, 64)
    text += one("PriorBox", f"prior_box_param {{ min_size: 8 {fields} }}", 'bottom: "image"')
    with pytest.raises(UnsupportedError, match="makes FaceBoxes' denser boxes"):
        run(text)
