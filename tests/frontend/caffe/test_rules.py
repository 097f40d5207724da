"""Versions of the format, state rules, in-place tops, shared parameters, solver files."""

from __future__ import annotations

import numpy as np
import pytest

from netc.frontend.caffe.netrules import State, belongs
from netc.frontend.caffe.prototxt import read_text
from netc.frontend.caffe.upgrade import upgraded
from netc.frontend.net.elaborate import parse_net
from netc.frontend.net.write import write_net
from netc.ir.interpret import interpret

from .files import INPUT, dims, field, packed, read, refused, v2

V2 = """
name: "n"
layer { name: "input" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 9 dim: 9 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" param { lr_mult: 1 decay_mult: 3 }
  param { lr_mult: 2 } convolution_param { num_output: 4 kernel_size: 3 pad: 1 bias_term: true } }
layer { name: "p" type: "Pooling" bottom: "c" top: "p"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "n" type: "LRN" bottom: "p" top: "n" lrn_param { local_size: 3 alpha: 0.5 k: 2 } }
layer { name: "d" type: "Dropout" bottom: "n" top: "n" dropout_param { dropout_ratio: 0.3 } }
layer { name: "ip" type: "InnerProduct" bottom: "n" top: "ip"
  inner_product_param { num_output: 2 } }
layer { name: "s" type: "Softmax" bottom: "ip" top: "s" }
"""
V1 = """
name: "n" input: "x" input_dim: [1, 3, 9, 9]
layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" blobs_lr: 1 blobs_lr: 2 weight_decay: 3
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 bias_term: true } }
layers { name: "p" type: POOLING bottom: "c" top: "p"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
layers { name: "n" type: 15 bottom: "p" top: "n" lrn_param { local_size: 3 alpha: 0.5 k: 2 } }
layers { name: "d" type: DROPOUT bottom: "n" top: "n" dropout_param { dropout_ratio: 0.3 } }
layers { name: "ip" type: INNER_PRODUCT bottom: "n" top: "ip"
  inner_product_param { num_output: 2 } }
layers { name: "s" type: SOFTMAX bottom: "ip" top: "s" }
"""
V0 = """
name: "n" input: "x" input_shape { dim: 1 dim: 3 dim: 9 dim: 9 }
layers { layer { name: "pad1" type: "padding" pad: 1 } bottom: "x" top: "xp" }
layers { layer { name: "c" type: "conv" num_output: 4 kernelsize: 3 biasterm: true blobs_lr: 1
  blobs_lr: 2 weight_decay: 3 } bottom: "xp" top: "c" }
layers { layer { name: "pad2" type: "padding" pad: 1 } bottom: "c" top: "cp" }
layers { layer { name: "p" type: "pool" pool: AVE kernelsize: 3 stride: 2 } bottom: "cp" top: "p" }
layers { layer { name: "n" type: "lrn" local_size: 3 alpha: 0.5 k: 2 } bottom: "p" top: "n" }
layers { layer { name: "d" type: "dropout" dropout_ratio: 0.3 } bottom: "n" top: "n" }
layers { layer { name: "ip" type: "innerproduct" num_output: 2 } bottom: "n" top: "ip" }
layers { layer { name: "s" type: "softmax" } bottom: "ip" top: "s" }
"""


def shown(text: str) -> list[str]:
    graph = read(text)
    return [f"{n.name} = {n.op}({[v.name for v in n.inputs]}): {n.types[0]}" for n in graph.nodes]


@pytest.mark.parametrize("text", [V1, V0])
def test_old_versions_mean_the_same(text: str) -> None:
    assert shown(text) == shown(V2)


@pytest.mark.parametrize("text", [V0, V1])
def test_learning_rates_are_kept(text: str) -> None:
    c = next(m for m in upgraded(read_text(text)) if m.text("name") == "c")
    specs = [(p.real("lr_mult"), p.real("decay_mult")) for p in c.messages("param")]
    assert specs == [(1, 3), (2, 1)]


def test_preprocessing_in_a_data_layer_moves_to_transform_param() -> None:
    text = (
        'layers { name: "d" type: DATA top: "x" data_param { scale: 0.5 crop_size: 3 mirror: 1 } }'
    )
    (layer,) = upgraded(read_text(text))
    t = layer.sub("transform_param")
    assert (t.real("scale"), t.whole("crop_size"), t.flag("mirror")) == (0.5, 3, True)


def test_v0_data_fields_are_renamed() -> None:
    fields = 'type: "images" batchsize: 4 meanfile: "m" new_height: 9'
    text = f'layers {{ layer {{ name: "d" {fields} }} top: "x" }}'
    (layer,) = upgraded(read_text(text))
    assert layer.text("type") == "ImageData"
    assert layer.sub("image_data_param").whole("batch_size") == 4
    assert layer.sub("image_data_param").whole("new_height") == 9
    assert layer.sub("transform_param").text("mean_file") == "m"


def test_batch_norm_is_never_learned() -> None:
    text = 'layer { name: "b" type: "BatchNorm" param { lr_mult: 1 } param { } param { } }'
    (layer,) = upgraded(read_text(text))
    rates = [(p.real("lr_mult"), p.real("decay_mult")) for p in layer.messages("param")]
    assert rates == [(0, 0)] * 3


def test_a_forks_enumerator_is_the_type_it_spells() -> None:
    (layer,) = upgraded(read_text('layers { name: "p" type: PRELU }'), ["PReLU"])
    assert layer.text("type") == "PReLU"


RULES = [
    ("", "TEST", 0, (), True),
    ("include { phase: TEST }", "TEST", 0, (), True),
    ("include { phase: TEST }", "TRAIN", 0, (), False),
    ("exclude { phase: TEST }", "TEST", 0, (), False),
    ("exclude { phase: TEST }", "TRAIN", 0, (), True),
    ("include { phase: 1 }", "TEST", 0, (), True),
    ("include { min_level: 2 }", "TEST", 1, (), False),
    ("include { min_level: 2 max_level: 4 }", "TEST", 4, (), True),
    ("include { max_level: -1 }", "TEST", 0, (), False),
    ("include { stage: 'a' }", "TEST", 0, ("b",), False),
    ("include { stage: 'a' stage: 'b' }", "TEST", 0, ("a",), False),
    ("include { stage: 'a' stage: 'b' }", "TEST", 0, ("a", "b", "c"), True),
    ("include { not_stage: 'a' }", "TEST", 0, (), True),
    ("include { not_stage: 'a' }", "TEST", 0, ("a",), False),
    ("include { phase: TRAIN } include { stage: 'a' }", "TEST", 0, ("a",), True),
    ("exclude { phase: TRAIN } exclude { stage: 'a' }", "TEST", 0, ("a",), False),
    ("include { phase: TEST stage: 'a' }", "TRAIN", 0, ("a",), False),
]


@pytest.mark.parametrize(("rules", "phase", "level", "stages", "wanted"), RULES)
def test_state_rules(
    rules: str, phase: str, level: int, stages: tuple[str, ...], wanted: bool
) -> None:
    (layer,) = read_text(f"layer {{ {rules} }}").messages("layer")
    assert belongs(layer, State(phase, level, frozenset(stages))) is wanted


def relu(name: str, bottom: str, top: str, rest: str = "") -> str:
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "{bottom}" top: "{top}" {rest} }}\n'


def test_phase_level_and_stage_reach_the_rules() -> None:
    text = INPUT + relu("a", "data", "a") + relu("b", "a", "b", "include { phase: TRAIN }")
    text += relu("c", "a", "c", "include { min_level: 3 }")
    text += relu("d", "a", "d", "include { stage: 's' }")
    assert list(read(text).outputs) == ["a"]
    assert list(read(text, phase="train").outputs) == ["b"]
    assert list(read(text, level=3, stages=["s"]).outputs) == ["c", "d"]
    assert list(read("state { stage: 's' }" + text).outputs) == ["d"]


def test_outputs_are_in_the_order_of_their_names() -> None:
    text = INPUT + relu("z", "data", "z") + relu("a", "data", "a") + relu("m", "data", "m")
    assert list(read(text).outputs) == ["a", "m", "z"]


def test_readers_between_in_place_versions_see_what_they_did_in_caffe() -> None:
    text = (
        INPUT
        + """
    layer { name: "p" type: "Power" bottom: "data" top: "p" power_param { shift: -1 } }
    layer { name: "early" type: "AbsVal" bottom: "p" top: "early" }
    layer { name: "r" type: "ReLU" bottom: "p" top: "p" }
    layer { name: "late" type: "Power" bottom: "p" top: "late" power_param { scale: 2 } }
    """
    )
    graph = read(text)
    x = np.zeros((2, 4, 8, 8), np.float32)
    out = interpret(graph.with_outputs(["early", "late", "p"]), {"data": x})
    assert [float(v.ravel()[0]) for v in out.values()] == [1, 0, 0]
    assert [n.name for n in graph.nodes if not n.name.startswith("data")] == [
        "p/p", "early", "p", "late"]  # fmt: skip


SHARED = (
    INPUT
    + """
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" }
  inner_product_param { num_output: 3 bias_term: false } }
layer { name: "b" type: "InnerProduct" bottom: "data" top: "b" param { name: "w" SHARE }
  inner_product_param { num_output: 3 bias_term: false AXIS } }
"""
)


def shared(share: str = "", axis: str = "") -> str:
    return SHARED.replace("SHARE", share).replace("AXIS", axis)


def test_parameters_of_one_name_are_one() -> None:
    w = np.arange(3 * 256, dtype=np.float32).reshape(3, 256)
    graph = read(shared(), v2("a", [dims(w.shape) + packed(w)], "InnerProduct"))
    assert [n.name for n in graph.params] == ["a.w"]
    out = interpret(graph, {"data": np.ones((2, 4, 8, 8))})
    np.testing.assert_array_equal(out["a"], out["b"])


def test_weights_of_the_second_layer_do_for_the_first() -> None:
    w = np.ones((3, 256), np.float32)
    graph = read(shared(), v2("b", [dims(w.shape) + packed(w)], "InnerProduct"), warn=print)
    np.testing.assert_array_equal(graph.weights["a.w"], w)


@pytest.mark.parametrize(("factor", "names"), [("f", 2), ("", 4)])
def test_batch_norms_share_their_statistics_where_they_share_the_factor(
    factor: str, names: int
) -> None:
    shares = f'param {{ name: "m" }} param {{ name: "v" }} param {{ name: "{factor}" }}'
    text = 'input: "x" input_shape { dim: 2 dim: 3 }\n' + "".join(
        f'layer {{ name: "{n}" type: "BatchNorm" bottom: "x" top: "{n}" {shares} }}' for n in "ab"
    )
    blobs = [dims((3,)) + packed(np.array([2.0, 4, 6]))] * 2 + [dims((1,)) + packed(np.ones(1) * 2)]
    for owner in "ab" if factor else "":
        graph = read(text, v2(owner, blobs, "BatchNorm"), warn=print)
        assert list(graph.weights) == ["a.mean", "a.variance"]
        np.testing.assert_array_equal(graph.weights["a.mean"], [1, 2, 3])
    assert len(read(text).params) == names


def test_sharing_is_strict_about_shapes_unless_told() -> None:
    error = refused(read, shared(axis="transpose: true"))
    assert error.diagnostics[0].message == (
        "layer b: shares 'w' with a, but its shape is [256, 3], not [3, 256]"
    )
    assert len(read(shared("share_mode: PERMISSIVE", "transpose: true")).params) == 1


def test_the_net_of_a_solver() -> None:
    net = INPUT + relu("a", "data", "a", "include { phase: TRAIN stage: 's' }")
    net += relu("b", "data", "b", "include { phase: TEST }")
    text = f"base_lr: 1 net_param {{ {net} }} train_state {{ stage: 's' }}"
    assert list(read(text, phase="train").outputs) == ["a"]
    assert list(read(text).outputs) == ["b"]
    error = refused(read, 'net: "lenet.prototxt"\nbase_lr: 0.01\n')
    assert "the net is in another file" in str(error)
    assert error.diagnostics[0].help == "give that file instead: lenet.prototxt"


@pytest.mark.parametrize("said", ["# see net_param { }", 'name: "net_param { }"'])
def test_a_net_that_only_mentions_a_solvers_field_is_a_net(said: str) -> None:
    assert list(read(f"{said}\n{INPUT}{relu('r', 'data', 'y')}").outputs) == ["y"]


def test_a_binary_net_is_a_net_too() -> None:
    shape = field(1, field(1, bytes([1, 3])))
    layers = [
        field(1, "in") + field(2, "Input") + field(4, "x") + field(143, shape),
        field(1, "r") + field(2, "ReLU") + field(3, "x") + field(4, "y"),
    ]
    data = field(1, "net") + b"".join(field(100, layer) for layer in layers)
    graph = read(data)
    assert (graph.name, str(graph.outputs["y"].type)) == ("net", "f32[N,3]")


def test_blobs_in_the_net_itself_are_its_weights_unless_others_are_given() -> None:
    def bias(name: str, value: int) -> str:
        blob = f"blobs {{ shape {{ dim: 4 }} data: [{value}, 2, 3, 4] }}"
        return f'layer {{ name: "{name}" type: "Bias" bottom: "data" top: "{name}" {blob} }}\n'

    text = INPUT + bias("a", 1) + bias("b", 5)
    assert {n: a[0] for n, a in read(text).weights.items()} == {"a.b": 1, "b.b": 5}
    given = v2("b", [dims((4,)) + packed(np.full(4, 9))], "Bias")
    for weights in (given, {"b.b": np.full(4, 9)}):
        graph = read(text, weights, warn=print)
        assert {n: a[0] for n, a in graph.weights.items()} == {"a.b": 1, "b.b": 9}
    data = field(3, "x") + field(8, field(1, bytes([1, 4])))
    blob = dims((4,)) + packed(np.arange(4))
    layer = [(1, "c"), (2, "Bias"), (3, "x"), (4, "y"), (7, blob)]
    graph = read(data + field(100, b"".join(field(n, v) for n, v in layer)))
    np.testing.assert_array_equal(graph.weights["c.b"], np.arange(4))


def test_twins_of_two_phases_take_their_weights_once() -> None:
    twin = 'layer { name: "c" type: "Bias" bottom: "BOTTOM" top: "TOP" }\n'
    text = INPUT + twin.replace("BOTTOM", "data").replace("TOP", "u")
    text += twin.replace("BOTTOM", "u").replace("TOP", "v")
    graph = read(text, v2("c", [dims((4,)) + packed(np.ones(4))], "Bias"), warn=print)
    assert sorted(graph.weights) == ["c.b"]
    assert [n.name for n in graph.params] == ["c.b", "c.b_1"]


def test_an_input_without_a_shape_says_nothing_of_a_blob_that_a_layer_makes() -> None:
    assert [n.name for n in read('input: "data"\n' + INPUT + relu("a", "data", "a")).inputs] == [
        "data"
    ]
    twice = 'input: "data" input_shape { dim: 1 }\n' + INPUT + relu("a", "data", "a")
    assert "made twice" in str(refused(read, twice))


@pytest.mark.parametrize("kind", ["ReLU", "Split", "Dropout"])
def test_an_input_that_a_layer_changes_is_an_output_if_nothing_reads_it(kind: str) -> None:
    change = f'layer {{ name: "l" type: "{kind}" bottom: "data" top: "data" }}'
    early = 'layer { name: "e" type: "AbsVal" bottom: "data" top: "early" }\n'
    graph = read(INPUT + early + change)
    again = parse_net(write_net(graph))
    x = np.linspace(-1, 1, 2 * 4 * 8 * 8, dtype=np.float32).reshape(2, 4, 8, 8)
    for net in (graph, again):
        assert [n.name for n in net.inputs] == ["data"]
        assert list(net.outputs) == ["data", "early"]
        out = interpret(net, {"data": x})
        np.testing.assert_array_equal(out["data"], np.maximum(x, 0) if kind == "ReLU" else x)
        np.testing.assert_array_equal(out["early"], abs(x))
    assert list(read(INPUT + change + relu("r", "data", "y")).outputs) == ["y"]
