"""Layers that Caffe's goldens do not have, against NumPy; randomness; what training does."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from netc.errors import GraphError
from netc.frontend.caffe.build import KNOWN
from netc.frontend.caffe.importer import from_caffe
from netc.ir.interpret import interpret
from tests.drawn import RNG

from .files import INPUT, dims, packed, read, v2

X = np.random.default_rng(1).normal(size=(2, 4, 8, 8)).astype(np.float32)
Array = np.ndarray[Any, Any]


def run(
    layer: str,
    blobs: list[Array] | None = None,
    feed: dict[str, Array] | None = None,
    **options: Any,
) -> Array:
    """What the layer named l makes of X."""
    weights = v2("l", [dims(b.shape) + packed(b) for b in blobs]) if blobs else None
    graph = read(INPUT + layer, weights, **options)
    out = interpret(graph, {"data": X, **(feed or {})})
    assert list(out) == ["y"]
    return out["y"]


def one(kind: str, rest: str = "", more: str = "") -> str:
    return f'layer {{ name: "l" type: "{kind}" bottom: "data" {more} top: "y" {rest} }}\n'


def inputs(name: str, *shape: int) -> str:
    sizes = " ".join(f"dim: {d}" for d in shape)
    param = f"input_param {{ shape {{ {sizes} }} }}"
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" {param} }}\n'


MASTER = set(
    """
    AbsVal Accuracy ArgMax BNLL BatchNorm BatchReindex Bias Clip Concat ContrastiveLoss
    Convolution Crop Data Deconvolution Dropout DummyData ELU Eltwise Embed EuclideanLoss Exp
    Filter Flatten HDF5Data HDF5Output HingeLoss Im2col ImageData InfogainLoss InnerProduct
    Input LRN LSTM LSTMUnit Log MVN MemoryData MultinomialLogisticLoss PReLU Parameter Pooling
    Power Python RNN ReLU Reduction Reshape SPP Scale Sigmoid SigmoidCrossEntropyLoss Silence
    Slice Softmax SoftmaxWithLoss Split Swish TanH Threshold Tile WindowData
    """.split()  # noqa: SIM905
)
FORKS = set(
    """
    Permute Normalize PriorBox DepthwiseConvolution ConvolutionDepthwise ReLU6 ShuffleChannel
    Axpy BN Interp Upsample ROIPooling PSROIPooling
    """.split()  # noqa: SIM905
)


def test_every_type_of_master_and_of_the_forks_is_known() -> None:
    assert len(MASTER) == 61
    assert not (MASTER | FORKS).difference(KNOWN)


def test_permute() -> None:
    y = run(one("Permute", "permute_param { order: 0 order: 2 order: 3 }"))
    np.testing.assert_array_equal(y, X.transpose(0, 2, 3, 1))


def test_relu6() -> None:
    np.testing.assert_array_equal(run(one("ReLU6")), np.clip(X, 0, 6))


def test_shuffle_channel() -> None:
    y = run(one("ShuffleChannel", "shuffle_channel_param { group: 2 }"))
    np.testing.assert_array_equal(y, X[:, [0, 2, 1, 3]])


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 1, 1)])
def test_axpy(shape: tuple[int, ...]) -> None:
    text = inputs("a", *shape) + inputs("z", 2, 4, 8, 8)
    text += 'layer { name: "l" type: "Axpy" bottom: "a" bottom: "data" bottom: "z" top: "y" }'
    a, z = RNG.normal(size=shape), RNG.normal(size=X.shape)
    y = run(text, feed={"a": a, "z": z})
    np.testing.assert_allclose(y, a.reshape(2, 4, 1, 1) * X + z)


@pytest.mark.parametrize("kind", ["DepthwiseConvolution", "ConvolutionDepthwise"])
def test_depthwise_convolutions_have_a_group_per_channel(kind: str) -> None:
    w = RNG.normal(size=(4, 1, 3, 3)).astype(np.float32)
    y = run(one(kind, "convolution_param { num_output: 4 kernel_size: 3 bias_term: false }"), [w])
    grouped = "convolution_param { num_output: 4 kernel_size: 3 bias_term: false group: 4 }"
    np.testing.assert_array_equal(y, run(one("Convolution", grouped), [w]))


def test_normalize() -> None:
    w = np.arange(1, 5, dtype=np.float32)
    rest = "norm_param { across_spatial: false channel_shared: false eps: 0.5 }"
    y = run(one("Normalize", rest), [w])
    x = X.astype(np.float64)
    wanted = x / np.sqrt((x * x).sum(1, keepdims=True) + 0.5) * w[:, None, None]
    np.testing.assert_allclose(y, wanted)
    y = run(one("Normalize", "norm_param { eps: 0.5 }"), [np.full(1, 3)])
    np.testing.assert_allclose(y, 3 * x / np.sqrt((x * x).sum((1, 2, 3), keepdims=True) + 0.5))


def test_the_two_bn() -> None:
    w, b, m = (RNG.normal(size=(1, 4, 1, 1)).astype(np.float32) for _ in range(3))
    v = np.abs(RNG.normal(size=(1, 4, 1, 1))).astype(np.float32)
    x = X.astype(np.float64)
    y = run(one("BN", "bn_param { eps: 0.1 frozen: true }"), [w, b, m, v])
    np.testing.assert_allclose(y, (x - m) / np.sqrt(v + 0.1) * w + b, atol=1e-6)
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    learn = (x - mean) / np.sqrt(var + 1e-9) * w + b
    np.testing.assert_allclose(run(one("BN", "bn_param { }"), [w, b]), learn)
    y = run(one("BN", "bn_param { bn_mode: INFERENCE }"), [w, b])
    np.testing.assert_allclose(y, x * w + b)


def test_nvidias_batch_norm_has_a_scale_and_a_bias() -> None:
    blobs = [RNG.uniform(1, 2, n).astype(np.float32) for n in (4, 4, 1, 4, 4)]
    y = run(one("BatchNorm"), blobs)
    mean, var, factor, w, b = (a[:, None, None] for a in blobs)
    wanted = (X - mean / factor) / np.sqrt(var / factor + 1e-5) * w + b
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)


def test_a_batch_norm_factor_of_zero_makes_the_statistics_zero() -> None:
    y = run(one("BatchNorm"), [np.ones(4), np.ones(4), np.zeros(1)])
    np.testing.assert_allclose(y, X / np.sqrt(1e-5), rtol=1e-5)


def test_upsample_of_yolo_and_of_segnet() -> None:
    y = run(one("Upsample", "upsample_param { scale: 3 }"))
    np.testing.assert_array_equal(y, X.repeat(3, 2).repeat(3, 3))
    text = """layer { name: "p" type: "Pooling" bottom: "data" top: "p" top: "mask"
      pooling_param { kernel_size: 2 stride: 2 } }
      layer { name: "l" type: "Upsample" bottom: "p" bottom: "mask" top: "y"
      upsample_param { scale: 2 } }"""
    y = run(text)
    blocks = X.reshape(2, 4, 4, 2, 4, 2)
    largest = blocks.max((3, 5), keepdims=True)
    np.testing.assert_array_equal(y, np.where(blocks == largest, blocks, 0).reshape(X.shape))


@pytest.mark.parametrize(
    ("fields", "size"),
    [("height: 15 width: 3", (15, 3)), ("zoom_factor: 2", (15, 15)), ("shrink_factor: 3", (3, 3)),
     ("shrink_factor: 2 zoom_factor: 3", (10, 10)), ("height: 5 width: 5 pad_beg: -1", (5, 5))],
)  # fmt: skip
def test_interp(fields: str, size: tuple[int, int]) -> None:
    y = run(one("Interp", f"interp_param {{ {fields} }}"))
    assert y.shape[2:] == size
    x = X[:, :, 1:, 1:] if "pad" in fields else X
    for corner in ((0, 0), (0, -1), (-1, -1)):
        np.testing.assert_allclose(y[:, :, *corner], x[:, :, *corner], rtol=1e-6)


def test_prior_box() -> None:
    text = inputs("image", 1, 3, 64, 64)
    rest = "min_size: 10 max_size: 20 aspect_ratio: 2 variance: [0.1, 0.1, 0.2, 0.2]"
    text += one("PriorBox", f"prior_box_param {{ {rest} }}", 'bottom: "image"')
    y = run(text, feed={"image": np.zeros((1, 3, 64, 64), np.float32)})
    assert y.shape == (1, 2, 8 * 8 * 4 * 4)
    np.testing.assert_allclose(y[0, 0, :4], np.array([-1, -1, 9, 9]) / 64)
    np.testing.assert_allclose(y[0, 1, :4], [0.1, 0.1, 0.2, 0.2])


@pytest.mark.parametrize("margins", [(0, 0, 2, 3), (0, 1, 0, 0), (0, 0, 0, 0)])
def test_crop_center(margins: tuple[int, ...]) -> None:
    """`crop_size` is what goes at each end, not what stays."""
    y = run(one("CropCenter", f"crop_center_param {{ crop_size: {list(margins)} }}"))
    within = tuple(slice(m, size - m) for m, size in zip(margins, X.shape, strict=True))
    np.testing.assert_array_equal(y, X[within])


def test_crop_center_of_open_sizes() -> None:
    text = one("CropCenter", "crop_center_param { crop_size: [0, 0, 2, 3] }")
    graph = read(inputs("data", 2, 4, 8, 8) + text)
    assert [str(d) for d in graph.inputs[0].types[0].shape[2:]] == ["H", "W"]
    x = RNG.normal(size=(1, 4, 9, 11)).astype(np.float32)
    np.testing.assert_array_equal(interpret(graph, {"data": x})["y"], x[:, :, 2:7, 3:8])


@pytest.mark.parametrize(
    ("margins", "wrong"),
    [([0, 0, 4, 1], "leaves nothing of axis 2"), ([2, 2], "needs 4 numbers"), ([], "needs 4")],
)
def test_crop_center_that_does_not_fit(margins: list[int], wrong: str) -> None:
    with pytest.raises(GraphError, match=wrong):
        run(one("CropCenter", f"crop_center_param {{ crop_size: {margins} }}"))


def test_smooth_l1() -> None:
    text = inputs("t", 2, 4, 8, 8)
    text += one("SmoothL1Loss", "smooth_l1_loss_param { sigma: 2 }", 'bottom: "t"')
    t = RNG.normal(size=X.shape)
    d = np.abs(X - t)
    wanted = np.where(d < 1 / 4, 0.5 * 4 * d * d, d - 0.5 / 4).sum() / 2
    np.testing.assert_allclose(run(text, feed={"t": t}), wanted)


@pytest.mark.parametrize("ignore", [-1, 0, 1])
def test_a_label_to_ignore_is_compared_as_a_whole_number(ignore: int) -> None:
    t = RNG.uniform(-2.5, 2.5, X.shape)
    text = inputs("t", *X.shape)
    text += one("SigmoidCrossEntropyLoss", f"loss_param {{ ignore_label: {ignore} }}",
                'bottom: "t"')  # fmt: skip
    counts = np.trunc(t) != ignore
    wanted = (np.log1p(np.exp(X)) - X * t)[counts].sum() / 2
    np.testing.assert_allclose(run(text, feed={"t": t}), wanted, rtol=1e-6)


def test_pairs_are_similar_by_a_whole_number() -> None:
    text = (
        inputs("a", 4, 3)
        + inputs("s", 4)
        + """layer { name: "q" type: "Silence" bottom: "data" }
      layer { name: "l" type: "ContrastiveLoss" bottom: "a" bottom: "z" bottom: "s" top: "y"
      contrastive_loss_param { margin: 9 } }"""
    )
    a = RNG.normal(size=(4, 3))
    d = np.sqrt((a * a).sum(1))
    far = np.maximum(9 - d, 0) ** 2
    feed = {"a": a, "z": 0 * a, "s": np.array([0.9, 1, -1.5, -0.5])}
    wanted = np.where([False, True, True, False], d * d, far).sum() / 8
    np.testing.assert_allclose(run(inputs("z", 4, 3) + text, feed=feed), wanted)


def test_a_convolutions_pad_may_stand_for_one_axis() -> None:
    y = run(one("Convolution", "convolution_param { num_output: 1 kernel_size: 3 pad_h: 1 }"))
    assert y.shape == (2, 1, 8, 6)


def test_the_largest_passes_over_coefficients() -> None:
    rest = "eltwise_param { operation: MAX coeff: [-1, 5] }"
    text = inputs("z", *X.shape) + one("Eltwise", rest, 'bottom: "z"')
    np.testing.assert_array_equal(run(text, feed={"z": 0 * X}), np.maximum(X, 0))


@pytest.mark.parametrize(("kind", "wanted"), [("Scale", [2, 4, 6]), ("Bias", [3, 4, 5])])
def test_a_scalar_stands_at_any_axis(kind: str, wanted: list[float]) -> None:
    text = inputs("x", 3) + inputs("s") + 'layer { name: "q" type: "Silence" bottom: "data" }'
    text += f'layer {{ name: "l" type: "{kind}" bottom: "x" bottom: "s" top: "y" }}'
    y = run(text, feed={"x": np.array([1.0, 2, 3]), "s": np.array(2.0)})
    np.testing.assert_array_equal(y, wanted)


def test_dummy_data_has_one_size_for_all_tops_or_one_each() -> None:
    text = """layer { name: "d" type: "DummyData" top: "a" top: "b"
      dummy_data_param { num: [2, 3] channels: 4 height: [5, 6] width: 1 } }"""
    shapes = {name: v.type.shape for name, v in read(text).outputs.items()}
    assert shapes == {"a": (2, 4, 5, 1), "b": (3, 4, 6, 1)}


def test_ceil_mode() -> None:
    shapes = [
        run(one("Pooling", f"pooling_param {{ kernel_size: 3 stride: 2 {mode} }}")).shape[2:]
        for mode in ("", "ceil_mode: true", "ceil_mode: false", "round_mode: FLOOR")
    ]
    assert shapes == [(4, 4), (4, 4), (3, 3), (3, 3)]


@pytest.mark.parametrize(
    ("kind", "fields", "wanted"),
    [
        ("MAX", "kernel_size: 4 stride: 3", 4.0),
        ("AVE", "kernel_size: 4 stride: 3", 2.5),
        ("AVE", "kernel_size: 6 stride: 3 pad: 1", 10 / 16),
        ("STOCHASTIC", "kernel_size: 4 stride: 3", 3.0),
    ],
)
def test_a_pool_exceeds_the_image_by_less_than_its_stride(
    kind: str, fields: str, wanted: float
) -> None:
    text = inputs("data", 1, 1, 2, 2) + one("Pooling", f"pooling_param {{ pool: {kind} {fields} }}")
    x = np.array([1, 2, 3, 4], np.float32).reshape(1, 1, 2, 2)
    y = interpret(read(text), {"data": x})["y"]
    np.testing.assert_allclose(y, np.full((1, 1, 1, 1), wanted), rtol=1e-7)


def test_filter_moves_what_is_kept_to_the_front() -> None:
    text = inputs("s", 2) + one("Filter", "", 'bottom: "s"')
    y = run(text, feed={"s": np.array([0, 1.0])})
    np.testing.assert_array_equal(y, np.stack([X[1], 0 * X[1]]))
    two = """layer { name: "f" type: "Filter" bottom: "data" bottom: "t" bottom: "s" top: "a"
      top: "b" }"""
    graph = read(INPUT + inputs("s", 2) + inputs("t", 2, 3) + two)
    feed = {"data": X, "s": np.array([1.0, 1]), "t": np.eye(2, 3)}
    out = interpret(graph.with_outputs(["a", "b", "a#2"]), feed)
    np.testing.assert_array_equal(out["b"], np.eye(2, 3))
    assert out["a#2"] == 2


def test_lstm_unit() -> None:
    text = inputs("c", 1, 2, 3) + inputs("g", 1, 2, 12) + inputs("k", 1, 2)
    text += """layer { name: "l" type: "LSTMUnit" bottom: "c" bottom: "g" bottom: "k" top: "c1"
      top: "h" } layer { name: "s" type: "Silence" bottom: "data" }"""
    c, g = RNG.normal(size=(1, 2, 3)), RNG.normal(size=(1, 2, 12))
    out = interpret(read(INPUT + text), {"data": X, "c": c, "g": g, "k": np.array([[0, 1.0]])})
    i, f, o = (1 / (1 + np.exp(-g[..., k : k + 3])) for k in (0, 3, 6))
    cell = np.array([0, 1.0])[:, None] * f * c + i * np.tanh(g[..., 9:])
    np.testing.assert_allclose(out["c1"], cell)
    np.testing.assert_allclose(out["h"], o * np.tanh(cell))


def test_exposed_states_of_an_lstm_carry_a_sequence_on() -> None:
    def net(steps: int) -> str:
        text = inputs("x", steps, 2, 3) + inputs("k", steps, 2) + inputs("h0", 1, 2, 5)
        return (
            text
            + inputs("c0", 1, 2, 5)
            + """layer { name: "l" type: "LSTM" bottom: "x"
          bottom: "k" bottom: "h0" bottom: "c0" top: "y" top: "h" top: "c"
          recurrent_param { num_output: 5 expose_hidden: true weight_filler { type: "uniform"
          min: -1 } } }"""
        )

    x, zero = RNG.normal(size=(4, 2, 3)), np.zeros((1, 2, 5))
    ones = np.ones((4, 2))
    whole = interpret(read(net(4)), {"x": x, "k": ones, "h0": zero, "c0": zero})
    half = read(net(2))
    first = interpret(half, {"x": x[:2], "k": ones[:2], "h0": zero, "c0": zero})
    feed = {"x": x[2:], "k": ones[2:], "h0": first["h"], "c0": first["c"]}
    np.testing.assert_allclose(interpret(half, feed)["y"], whole["y"][2:])


def test_dropout_and_dummy_data_draw_from_the_seed() -> None:
    text = one("Dropout", "dropout_param { dropout_ratio: 0.25 }")
    np.testing.assert_array_equal(run(text), X)
    a, b, c = (run(text, phase="train", seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert 0.15 < (a == 0).mean() < 0.35
    np.testing.assert_allclose(a[a != 0], X[a != 0] / 0.75, rtol=1e-6)
    text = """layer { name: "d" type: "DummyData" top: "u" top: "g" top: "c" dummy_data_param {
      shape { dim: 1000 } data_filler { type: "uniform" min: 2 max: 3 }
      data_filler { type: "gaussian" mean: 5 std: 0.1 } data_filler { value: 7 } } }"""
    out = interpret(read(text, seed=3), {})
    assert 2 <= out["u"].min() < 2.1 < 2.9 < out["u"].max() <= 3
    assert abs(out["g"].mean() - 5) < 0.02
    assert (out["c"] == 7).all()


def test_batch_norm_in_training_uses_the_batch_and_may_not_fold() -> None:
    blobs = [np.ones(4), np.ones(4), np.ones(1)]
    y = run(one("BatchNorm"), blobs, phase="train")
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-9)
    np.testing.assert_allclose(y.std((0, 2, 3)), 1, rtol=1e-4)
    same = run(one("BatchNorm", "batch_norm_param { use_global_stats: false }"), blobs)
    np.testing.assert_array_equal(y, same)
    layer_phase = run(one("BatchNorm", "phase: TEST"), blobs, phase="train")
    np.testing.assert_allclose(layer_phase, (X - 1) / np.sqrt(1 + 1e-5), rtol=1e-5)


def test_data_layers_become_inputs_with_the_shapes_that_are_known() -> None:
    layers = {
        'type: "Data" data_param { batch_size: 5 } transform_param { crop_size: 7 '
        "mean_value: [1, 2, 3] }": "f32[N,3,7,7]",
        'type: "Data" data_param { batch_size: 5 } transform_param { crop_size: 7 '
        "force_gray: true }": "f32[N,1,7,7]",
        'type: "ImageData" image_data_param { batch_size: 2 new_height: 4 new_width: 6 }':
        "f32[N,3,4,6]",
        'type: "ImageData" image_data_param { new_height: 4 new_width: 6 is_color: false } '
        "transform_param { crop_size: 3 }": "f32[N,1,3,3]",
        'type: "MemoryData" memory_data_param { batch_size: 2 channels: 5 height: 4 width: 6 }':
        "f32[N,5,4,6]",
        'type: "WindowData" window_data_param { batch_size: 2 crop_size: 5 } '
        "transform_param { crop_size: 9 }": "f32[N,3,9,9]",
        'type: "ImageData" image_data_param { new_height: 4 new_width: 6 crop_size: 3 }':
        "f32[N,3,4,6]",
        'type: "Data" data_param { batch_size: 5 } transform_param { force_color: true '
        "resize_param { height: 3 width: 4 } resize_param { height: 3 width: 4 prob: 0 } }":
        "f32[N,3,3,4]",
    }  # fmt: skip
    for text, wanted in layers.items():
        net = f'layer {{ name: "d" top: "x" top: "label" {text} }}\n'
        fc = "inner_product_param { num_output: 1 }"  # so that height and width stay
        net += f'layer {{ name: "f" type: "InnerProduct" bottom: "x" top: "y" {fc} }}'
        assert [str(n.types[0]) for n in read(net).inputs] == [wanted, "f32[N]"]


def test_a_layer_that_only_reads_is_an_input_when_its_shapes_are_given() -> None:
    text = 'layer { name: "d" type: "Python" top: "x" top: "t" python_param { module: "m" } }'
    text += 'layer { name: "y" type: "EuclideanLoss" bottom: "x" bottom: "t" top: "y" }'
    graph = read(text, shapes={"x": (3, 5), "t": (3, 5)})
    assert [n.name for n in graph.inputs] == ["x", "t"]


C3D = """
layers { name: "data" type: VIDEO_DATA top: "data" top: "label"
  image_data_param { batch_size: 2 new_length: 4 new_height: 9 new_width: 12 crop_size: 8 } }
layers { name: "c" type: CONVOLUTION3D bottom: "data" top: "c" convolution_param {
  num_output: 5 kernel_size: 3 kernel_depth: 2 pad: 1 temporal_pad: 1 stride: 2 } }
layers { name: "p" type: POOLING3D bottom: "c" top: "p" pooling_param {
  pool: MAX kernel_size: 2 kernel_depth: 1 stride: 2 temporal_stride: 3 } }
"""


def test_c3ds_first_version_has_depth_in_the_messages_of_two_dimensions() -> None:
    graph = read(C3D)
    assert [str(n.types[0]) for n in graph.inputs] == ["f32[N,3,4,8,8]", "f32[N]"]
    assert str(graph.by_name["c"].type) == "f32[N,5,5,4,4]"
    assert str(graph.outputs["p"].type) == "f32[N,5,3,2,2]"


@pytest.mark.parametrize(
    ("power", "shift", "value"), [(-2, 0, np.inf), (0.5, -1, np.nan), (3, 2, 8), (0, 0, 1)]
)
def test_a_power_without_x_is_what_c_gives(power: float, shift: float, value: float) -> None:
    fields = f"power_param {{ power: {power} scale: 0 shift: {shift} }}"
    np.testing.assert_array_equal(run(one("Power", fields)), np.full(X.shape, value))


def test_a_known_python_loss_is_built_in() -> None:
    text = inputs("t", 2, 4, 8, 8)
    text += one("Python", 'python_param { module: "pyloss" layer: "EuclideanLossLayer" }',
              'bottom: "t"')  # fmt: skip
    t = RNG.normal(size=X.shape)
    np.testing.assert_allclose(run(text, feed={"t": t}), ((X - t) ** 2).sum() / 4)


def test_a_deep_net_is_imported_in_linear_time() -> None:
    def seconds(count: int) -> float:
        layers = "".join(
            f'layer {{ name: "{i}" type: "TanH" bottom: "{i - 1}" top: "{i}" }}\n'
            for i in range(1, count + 1)
        )
        start = time.process_time()
        from_caffe('input: "0" input_shape { dim: 1 dim: 3 }\n' + layers)
        return time.process_time() - start

    small = min(seconds(500) for _ in range(3))
    assert seconds(8000) < 16 * 4 * small  # 16 times the layers
