"""Mistakes in nets, each with the exact words a user reads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from netc.errors import GraphError, UnsupportedError, UsageError, WeightsError
from netc.frontend.caffe import from_caffe

from .files import INPUT, dims, packed, read, refused, v2


def layer(
    kind: str, rest: str = "", bottom: str = "data", name: str = "l", top: str = "out"
) -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}"\n  {rest} }}\n'


def conv(fields: str) -> str:
    return layer("Convolution", f"convolution_param {{ num_output: 4 {fields} }}")


def pool(fields: str) -> str:
    return layer("Pooling", f"pooling_param {{ {fields} }}")


def two(kind: str, tops: str, rest: str = "") -> str:
    return f'layer {{ name: "l" type: "{kind}" bottom: "data" bottom: "data" {tops} {rest} }}\n'


LABEL = 'layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 3 } } }\n'
ROIS = LABEL.replace("dim: 3", "dim: 3 dim: 5").replace('"y"', '"rois"')

MISTAKES = [
    (conv("kernel_size: 3 group: 0"), "3:52", "layer l: group must be at least 1"),
    (conv("kernel_size: 3 group: 3"), "3:52", "layer l: group 3 does not divide 4 channels"),
    (conv("kernel_size: 3 stride: 0"), "3:52", "layer l: stride 0 must be at least 1"),
    (conv("kernel_size: 3 dilation: 0"), "3:52", "layer l: dilation 0 must be at least 1"),
    (conv("kernel_size: 0"), "3:37", "layer l: kernel_size 0 must be at least 1"),
    (conv(""), "3:3", "layer l: kernel_size is missing"),
    (conv("kernel_h: 3"), "3:37", "layer l: kernel_h is given without kernel_w"),
    (conv("kernel_size: 3 stride_h: 2"), "3:52", "layer l: stride_h is given without stride_w"),
    (layer("BatchNorm", "batch_norm_param { eps: -0.5 }"), "3:22",
     "layer l: eps -0.5 must be 0 or more"),
    (layer("MVN", "mvn_param { eps: -1 }"), "3:15", "layer l: eps -1 must be 0 or more"),
    (layer("Normalize", "norm_param { eps: nan }"), "3:16", "layer l: eps nan must be 0 or more"),
    (layer("LRN", "lrn_param { k: -1 }"), "2:1",
     "lrn(data: f32[2,4,8,8]): k -1.0 must be 0 or more"),
    (pool("kernel_size: 3 pad_w: 1"), "3:34", "layer l: pad_w is given without pad_h"),
    (two("Eltwise", 'top: "a"', "eltwise_param { operation: PROD coeff: [1, 1] }"), "2:114",
     "layer l: PROD takes no coeff"),
    ('layer { name: "d" type: "DummyData" top: "d" top: "e" top: "f" dummy_data_param { num: [1, 2]'
     " channels: 1 height: 1 width: 1 } }", "2:64",
     "layer d: give 1 num, channels, height and width each, or 3"),
    (conv("kernel_size: 3 kernel_h: 3 kernel_w: 3"), "3:52",
     "layer l: give kernel_size, or kernel_h and kernel_w, not both"),
    (conv("kernel_size: [3, 3, 3]"), "3:51", "layer l: 3 kernel_size for 2 spatial axes"),
    (conv("kernel_size: 3 pad: 4611686018427387904"), "3:52",
     "layer l: pad 4611686018427387904 is too large"),
    (conv("kernel_size: 3 axis: 7"), "3:52", "layer l: axis 7 is outside f32[2,4,8,8]"),
    (conv("kernel_size: 11"), "2:1",
     "conv(data: f32[2,4,8,8], l.w: f32[4,4,11,11], l.b: f32[4]): "
     "a window of 11 does not fit 8 + 2 * 0"),
    (layer("Convolution", "convolution_param { kernel_size: 3 }"), "3:3",
     "layer l: num_output must be at least 1"),
    (layer("InnerProduct", "inner_product_param { num_output: 2147483648 }"), "3:25",
     "layer l: num_output 2147483648 is too large"),
    (layer("InnerProduct", "inner_product_param { num_output: 2 weight_filler { type: 'he' } }"),
     "3:55", "there is no filler 'he'"),
    (pool("kernel_size: 3 stride: 0"), "3:34", "layer l: stride 0 must be at least 1"),
    (pool("kernel_size: 2 pad: 2"), "2:1",
     "max_pool(data: f32[2,4,8,8]): pad 2 must be smaller than the kernel's 2"),
    (pool("kernel_size: 2 global_pooling: true"), "3:19",
     "layer l: global_pooling leaves no room for kernel_size"),
    (pool(""), "3:3", "layer l: kernel_size is missing"),
    (pool("kernel_size: 2 pad_l: 1 pad: 1 ceil_mode: false"), "3:43",
     "layer l: give pad or pad_l, not both"),
    (pool("kernel_size: 2 pad_l: 1"), "3:34",
     "layer l: pad_t, pad_l, pad_b and pad_r differ: this needs ceil_mode: false"),
    (pool("kernel_size: 2 pad_b: 2 ceil_mode: false"), "3:34",
     "layer l: pad_b 2 must be smaller than 2"),
    (pool("pool: STOCHASTIC kernel_size: 2 pad_b: 1"), "3:51",
     "layer l: pad_t, pad_l, pad_b and pad_r differ: STOCHASTIC pooling has no padding"),
    (pool("kernel_size: 2 pad_type: 1"), "3:34", "layer l: netc reads no pad_type: give each side"),
    (pool("global_pooling: true pad_r: 1"), "3:40", "layer l: netc reads no pad_r of Pooling"),
    (layer("Deconvolution", "convolution_param { num_output: 1 kernel_size: 2 pad_r: 1 }"), "3:52",
     "layer l: netc reads no pad_r of Deconvolution"),
    (layer("Pooling3D", "pooling_param { kernel_size: 2 pool: AVE_EXC_PAD }"), "3:34",
     "layer l: pooling over depth is MAX or AVE"),
    (layer("ReLU", "relu_param { maximum: 4 }"), "3:16", "layer l: netc reads no maximum"),
    (layer("ReLU", "relu_param { relu6: true negative_slope: 0.1 }"), "3:28",
     "layer l: netc reads no negative_slope with relu6"),
    (layer("LRN", "lrn_param { local_size: 4 }"), "3:15", "layer l: local_size 4 must be odd"),
    (layer("ReLU", bottom="dota"), "2:32", "layer l: no layer above makes 'dota'"),
    (layer("ReLU") + layer("ReLU", name="m"), "4:47", "layer m: 'out' is made twice"),
    (layer("ReLU", top=""), "2:47", "layer l: a top has no name"),
    (layer("Crop"), "2:1", "layer l: Crop takes 2 bottoms, not 1"),
    (two("ReLU", 'top: "a"'), "2:1", "layer l: ReLU takes 1 bottom, not 2"),
    (two("Eltwise", 'top: "a"', "eltwise_param { coeff: 1 }"), "2:90",
     "layer l: 1 coeff for 2 bottoms"),
    (pool("kernel_size: 8") + 'layer { name: "e" type: "Eltwise" bottom: "data" bottom: "out" '
     'top: "e" }', "4:1", "layer e: bottom 1 is f32[2,4,1,1], bottom 0 is f32[2,4,8,8]"),
    ('layer { name: "s" type: "Slice" bottom: "data" top: "a" top: "b" top: "c" }', "2:1",
     "layer s: 4 does not divide into 3 tops"),
    ('layer { name: "s" type: "Slice" bottom: "data" top: "a" top: "b"\n'
     " slice_param { slice_point: 9 } }", "3:16",
     "layer s: slice_point [9] must rise within 0 to 4"),
    (layer("Concat", "concat_param { axis: 1 concat_dim: 1 }"), "3:26",
     "layer l: give axis or concat_dim, not both"),
    (layer("Reshape", "reshape_param { shape { dim: -1 dim: -1 } }"), "3:19",
     "layer l: more than one dim is -1"),
    (layer("Reshape", "reshape_param { shape { dim: 0 dim: 0 dim: 0 dim: 0 dim: 0 } }"), "3:19",
     "layer l: dim 0 at axis 4 has nothing to copy in f32[2,4,8,8]"),
    (layer("Flatten", "flatten_param { axis: 3 end_axis: 1 }"), "3:3",
     "layer l: axis 3 lies behind end_axis 1"),
    (layer("Clip", "clip_param { min: 0 }"), "3:3", "layer l: clip_param needs max"),
    (layer("Tile", "tile_param { tiles: 0 }"), "3:16", "layer l: tiles must be at least 1"),
    (layer("Dropout", "dropout_param { dropout_ratio: 1 }"), "3:19",
     "layer l: dropout_ratio 1.0 must lie in 0 to 1"),
    (layer("Log", "log_param { base: 1 }"), "3:15", "layer l: base 1 has no logarithm"),
    (two("SmoothL1Loss", 'top: "a"', "smooth_l1_loss_param { sigma: 0 }"), "2:102",
     "layer l: sigma 0.0 must not be 0, nor infinite"),
    (layer("SPP", "spp_param { }"), "3:3", "layer l: pyramid_height must be at least 1"),
    (LABEL + 'layer { name: "a" type: "SoftmaxWithLoss" bottom: "data" bottom: "y" top: "loss" }',
     "3:1", "layer a: 3 labels for 128 predictions"),
    (layer("Permute", "permute_param { order: 0 order: 0 }"), "3:19",
     "layer l: order [0, 0] does not order 4 axes"),
    (layer("ShuffleChannel", "shuffle_channel_param { group: 3 }"), "3:27",
     "layer l: group 3 does not divide 4 channels"),
    (layer("Transpose", "transpose_param { dim: 0 dim: 1 }"), "3:21",
     "layer l: dim [0, 1] does not order the axes of f32[2,4,8,8]"),
    (layer("Transpose"), "2:1", "layer l: dim [] does not order the axes of f32[2,4,8,8]"),
    (layer("Reverse", "reverse_param { axis: 4 }"), "3:19",
     "layer l: axis 4 is outside f32[2,4,8,8]"),
    (layer("Reverse", "reverse_param { axis: 1 axis: -3 }"), "3:19",
     "layer l: an axis is given twice"),
    (layer("Reverse", "reverse_param { }"), "3:3", "layer l: axis is missing"),
    (layer("Reorg", "reorg_param { }"), "3:3", "layer l: stride must be at least 1"),
    (layer("Reorg", "reorg_param { stride: 3 }"), "3:17",
     "layer l: 4 channels do not divide by stride 3 squared"),
    (layer("Reorg", "reorg_param { stride: 2 flatten: true }"), "3:27",
     "layer l: netc reads no flatten"),
    (pool("kernel_size: 2 stride: 1") + layer("Reorg", "reorg_param { stride: 2 }", bottom="out",
                                              name="m", top="m"), "5:17",
     "layer m: stride 2 does not divide f32[2,4,7,7]"),
    (layer("PixelShuffle", "pixel_shuffle_param { upscale_factor: 0 }"), "3:25",
     "layer l: upscale_factor must be at least 1"),
    (layer("PixelShuffle"), "2:1", "layer l: upscale_factor must be at least 1"),
    (layer("Upsample"), "2:1", "layer l: scale is missing"),
    (layer("Upsample", "upsample_param { scale_h: 2 scale_w: 2 }"), "3:20",
     "layer l: scale_h is for an Upsample with a mask"),
    (layer("Upsample", "upsample_param { scale: 3 stride: 2 }"), "3:20",
     "layer l: netc repeats with scale 1"),
    (layer("Upsample", "upsample_param { stride_w: 2 }"), "3:20",
     "layer l: give stride, or stride_h and stride_w"),
    (layer("Upsample", "upsample_param { stride: 0 }"), "3:20",
     "layer l: stride must be at least 1"),
    (two("Upsample", 'top: "a"', "upsample_param { stride: 2 }"), "2:92",
     "layer l: stride is for an Upsample without a mask"),
    (layer("Lstm", "lstm_param { num_output: 2 batch_size: 2 }"), "3:30",
     "layer l: netc reads no batch_size"),
    (layer("Lstm", "lstm_param { num_output: 2 }"), "2:1",
     "layer l: Lstm needs 3 axes, time and batch first, not f32[2,4,8,8]"),
    (layer("ContinuationIndicator", "continuation_indicator_param { }"), "3:3",
     "layer l: time_step must be at least 1"),
    (two("ROIPooling", 'top: "a"', "roi_pooling_param { pooled_w: 2 }"), "2:77",
     "layer l: pooled_h must be at least 1"),
    (two("ROIPooling", 'top: "a"', "roi_pooling_param { pooled_w: 0 pooled_h: 2 }"), "2:97",
     "layer l: pooled_w must be at least 1"),
    (two("ROIPooling", 'top: "a"', "roi_pooling_param { pooled_w: 2 pooled_h: 2 }"), "2:1",
     "layer l: rois is f32[2,4,8,8]; five numbers for each are needed"),
    (two("PSROIPooling", 'top: "a"', "psroi_pooling_param { output_dim: 1 group_size: 2 }"),
     "2:79", "layer l: spatial_scale must be above 0"),
    (ROIS + two("PSROIPooling", 'top: "a"', "psroi_pooling_param { output_dim: 1 group_size: 3 "
                "spatial_scale: 1 }").replace('"data" top', '"rois" top'), "3:1",
     "ps_roi_pool(data: f32[2,4,8,8], rois: f32[3,5]): x has 4 channels; 1·3·3 are needed"),
    ('input: "i" input_shape { dim: 2147483648 }', "2:1",
     "input 'i': the size 2147483648 is not between 0 and 2147483647"),
    ('layer { name: "i" type: "Input" top: "i" input_param { shape { dim: -1 } } }', "2:1",
     "input 'i' has the size -1"),
    ('input: "i" input_dim: 1 input_dim: 2', "2:12",
     "1 inputs need 4 input_dim, four each; the file has 2"),
    ('input: "i" input_shape { dim: 1 } input_shape { dim: 1 }', "2:12",
     "1 inputs but 2 input_shape"),
    ("layers { name: 'a' type: RELU }", "2:1", "the file mixes layer { } and layers { }"),
    (layer("ReLU", "include { } exclude { }"), "3:15",
     "a layer has include rules or exclude rules, not both"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place", "message"), MISTAKES)
def test_mistakes(text: str, place: str, message: str) -> None:
    (found,) = refused(read, INPUT + text).diagnostics
    assert (str(found.span), found.message) == (f"<prototxt>:{place}", message)


HELP = [
    (layer("ReLU", bottom="dota"), "did you mean 'data'?"),
    (layer("Reluu"), "did you mean ReLU?"),
    (conv("kernel_h: 3"), "add kernel_w; Caffe would take 0"),
    (layer("ReLU") + layer("ReLU", name="m"),
     "the layer on line 2 makes it; in place is only the bottom at the same index"),
    ('layer { name: "d" type: "Data" top: "d" }',
     "give it: --shape d=N,C,H,W or shapes={'d': (…)}"),
    ('layer { name: "d" type: "Kinect" top: "d" }',
     "if it only reads data, give its shape: --shape d=N,C,H,W"),
    ('layer { name: "d" type: "Python" top: "d" top: "y" python_param { module: "m" } }',
     "if it only reads data, give the shapes of all it gives: --shape d=N,C,H,W --shape y=…"),
    (conv("kernel_size: 11"),
     "the file gives data=2,4,8,8; --shape data=2,4,H,W gives other sizes"),
    (LABEL + layer("SoftmaxWithLoss", 'bottom: "y"', name="a"),
     "the file gives data=2,4,8,8 y=3; --shape data=2,4,H,W --shape y=… gives other sizes"),
    (LABEL + layer("EuclideanLoss", 'bottom: "y"', name="a"),
     "the file gives data=2,4,8,8 y=3; --shape data=2,4,H,W --shape y=… gives other sizes"),
    (pool("pool: AVG kernel_size: 2"), "did you mean AVE?"),
    (layer("ReLU", top="r") + layer("Frob", bottom="r", name="m"),
     "--output r gives what it reads"),
    (layer("ReLU", top="r") + layer("Relux", bottom="r", name="m"),
     "did you mean ReLU?; --output r gives what it reads"),
    (layer("ReLU", top="r") + layer("Frob", bottom="r", name="m", top="r"), ""),
    ('layer { name: "d" type: "Data" top: "d" }' + layer("ReLU", bottom="d", top="r")
     + layer("Frob", bottom="r", name="m", top="m"), "--output r gives what it reads"),
    ('layer { name: "x" type: "ReLU" bottom: "data" top: "x" include { phase: TRAIN } }\n'
     + layer("ReLU", bottom="x"), "the layer on line 2 makes it, but only in: TRAIN"),
    (layer("Python", 'python_param { module: "os" layer: "system" }')
     + layer("ReLU", bottom="out", name="r", top="r"),
     "--shape out=… makes an input of what it gives"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "help"), HELP)
def test_help(text: str, help: str) -> None:
    (found,) = refused(read, INPUT + text).diagnostics
    assert found.help == help


def test_all_unsupported_layers_are_one_error() -> None:
    text = INPUT + layer("Frob", name="f", top="f") + layer("ReLU", bottom="f", name="r", top="r")
    text += layer("Pooling", "pooling_param { pool: MEDIAN kernel_size: 2 }", name="p", top="p")
    text += layer("MultiBoxLoss", bottom="r", name="d", top="d")
    error = refused(read, text)
    assert isinstance(error, UnsupportedError)
    assert str(error).splitlines() == [
        "<prototxt>:2:1: error: layer f of type Frob is not supported",
        '  layer { name: "f" type: "Frob" bottom: "data" top: "f"',
        "  ^",
        "  help: --shape f=… makes an input of what it gives",
        "<prototxt>:7:19: error: layer p: pool takes MAX, AVE, STOCHASTIC or "
        "AVE_EXC_PAD, not MEDIAN",
        "    pooling_param { pool: MEDIAN kernel_size: 2 } }",
        "                    ^",
        "<prototxt>:8:1: error: layer d of type MultiBoxLoss is not supported",
        '  layer { name: "d" type: "MultiBoxLoss" bottom: "r" top: "d"',
        "  ^",
    ]


def test_all_wrong_layers_are_one_error() -> None:
    text = INPUT + layer("LRN", "lrn_param { local_size: 2 }", name="a", top="a")
    text += layer("ReLU", bottom="a", name="b", top="b")  # says nothing more
    text += layer("Tile", "tile_param { }", name="c", top="c")
    error = refused(read, text)
    assert isinstance(error, GraphError)
    assert [str(d.span) for d in error.diagnostics] == ["<prototxt>:3:15", "<prototxt>:7:3"]


W = np.ones((4, 4, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        ([W], "layer l has 2 blobs, the weights have 1"),
        ([W[:2], np.ones(4)], "l.w is [4,4,3,3] in the net, [2,4,3,3] in the weights"),
        ([W, np.ones(4), np.ones(4)], "layer l has 2 blobs, the weights have 3"),
    ],
)
def test_weights_that_do_not_fit(blobs: list[np.ndarray], message: str) -> None:
    data = v2("l", [dims(b.shape) + packed(b) for b in blobs])
    error = refused(read, INPUT + conv("kernel_size: 3"), data)
    assert [d.message for d in error.diagnostics] == [message]
    assert str(error.span) == "<prototxt>:2:1"


@pytest.mark.parametrize("sizes", [(4, 4, 4), (4, 3, 1), (4, 4, 2, 4, 4), (4, 4), (4,)])
def test_statistics_that_do_not_fit(sizes: tuple[int, ...]) -> None:
    data = v2("l", [dims((n,)) + packed(np.ones(n)) for n in sizes], "BatchNorm")
    error = refused(read, INPUT + layer("BatchNorm"), data)
    assert isinstance(error, WeightsError)
    assert "layer l: the weights are no mean, variance and factor" in str(error)
    assert str(error.span) == "<prototxt>:2:1"


def test_what_is_dubious_is_a_warning_and_under_strict_an_error() -> None:
    text = INPUT + conv("kernel_size: 3 colour: 7")
    data = v2("l", [dims(W.shape) + packed(W), dims((4,)) + packed(np.ones(4))])
    data += v2("other", [dims((1,)) + packed(np.ones(1))])
    found: list[str] = []
    wrong = text + layer("ReLU", bottom="dota", name="r", top="r")
    refused(read, wrong, warn=lambda d: found.append(d.message))
    assert found == ["ConvolutionParameter has no field colour; ignored"]
    found.clear()
    read(text, data, warn=lambda d: found.append(d.message))
    assert found == [
        "ConvolutionParameter has no field colour; ignored",
        "the net has no layer for these weights: other",
    ]
    assert "no field colour" in str(refused(read, text, data, strict=True))
    assert "other" in str(refused(read, text.replace("colour: 7", ""), data, strict=True))


def test_parameters_without_weights_are_named() -> None:
    text = INPUT + conv("kernel_size: 3") + layer("PReLU", bottom="out", name="p", top="p")
    data = v2("l", [dims(W.shape) + packed(W), dims((4,)) + packed(np.ones(4))])
    found: list[str] = []
    read(text, data, warn=lambda d: found.append(d.message))
    assert found == ["the weights lack p.slope: drawn with seed 0"]
    found.clear()
    read(text, warn=lambda d: found.append(d.message))
    assert found == ["no weights are given: 3 parameters are drawn with seed 0"]


def test_calls_that_ask_for_what_is_not_there() -> None:
    text = INPUT + layer("ReLU")
    for options in ({"phase": "dev"}, {"shapes": {"x": (1,)}}, {"shapes": {"data": "abc"}},
                    {"shapes": {"data": (1.5, 2)}}, {"colour": 1}):  # fmt: skip
        assert isinstance(refused(read, text, **options), UsageError)
    assert isinstance(refused(from_caffe, "no/such/file.prototxt"), UsageError)
    assert "has no layers" in str(refused(read, "name: 'n'\n"))
    assert "has no outputs: it has only inputs" in str(refused(read, INPUT))


def test_weights_by_parameter_name() -> None:
    text = INPUT + conv("kernel_size: 3")
    graph = read(text, {"l.w": W, "l.b": np.ones(4)}, strict=True)
    np.testing.assert_array_equal(graph.weights["l.w"], W)
    assert "l.b" in str(refused(read, text, {"l.w": W}, strict=True))
    (found,) = refused(read, text, {"l.w": W[:1], "l.b": np.ones(4)}).diagnostics
    assert found.message == "l.w is [4,4,3,3] in the net, [1,4,3,3] in the weights"


def test_files_named_in_a_net_are_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # whoever opens it waits for ever
    for name in (str(pipe), "../../etc/passwd", "/dev/zero", "a\\000b"):
        text = f"""layer {{ name: "d" type: "Data" top: "data" top: "y"
          data_param {{ source: "{name}" batch_size: 2 }}
          transform_param {{ mean_file: "{name}" crop_size: 8 force_color: true }} }}
          layer {{ name: "p" type: "Python" top: "p" python_param {{ module: "{name}" }} }}
          layer {{ name: "h" type: "HDF5Output" bottom: "y" bottom: "p"
          hdf5_output_param {{ file_name: "{name}" }} }}\n"""
        read(text + layer("ReLU"), shapes={"p": (2, 3)})
