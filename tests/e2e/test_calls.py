"""What a user may get wrong in a call ends in a NetcError that says what would fit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netc
from netc.errors import GraphError, InputError, UnsupportedError, UsageError, WeightsError
from netc.frontend.preprocess import preprocessing
from netc.ir.graph import Builder
from netc.ir.types import f32

TEXT = "net tiny(data: f32[N, 2, 4, 4]) -> prob { prob = data |> conv(3, 3) |> relu |> softmax }"
PROTOTXT = """\
input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 2 kernel_h: 1 kernel_w: 3 weight_filler { FILLER } } }
"""


@pytest.fixture(scope="module")
def graph() -> netc.Graph:
    return netc.parse(TEXT)


@pytest.mark.parametrize("path", [None, 3, [1], {}])
@pytest.mark.parametrize("call", [netc.read, netc.load, netc.compile, netc.from_caffe, netc.parse])
def test_what_is_no_path(call: Callable[[Any], Any], path: Any) -> None:
    with pytest.raises(UsageError):
        call(path)


@pytest.mark.parametrize(
    "options",
    [
        {"target": None},
        {"target": 5},
        {"devices": [3]},
        {"cpu": None},
        {"cpu": []},
        {"cpu": ["x86-64-v9"]},
        {"check": 9},
        {"threads": -1},
        {"flavour": 1},
        {"outputs": 3},
        {"precisions": []},
        {"precisions": {1: "low"}},
        {"place": []},
        {"place": [("conv1", "cpu:0")]},
        {"place": "conv1"},
        {"place": {1: "cpu:0"}},
    ],
    ids=str,
)
def test_options_of_compile(graph: netc.Graph, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        netc.compile(graph, **options)


@pytest.mark.parametrize(
    "options",
    [
        *({"level": "x"}, {"shapes": [1]}, {"phase": 1}, {"flavour": 1}),
        *({"seed": "x"}, {"seed": -1}, {"seed": 1.5}, {"seed": 1 << 31}),
    ],
    ids=str,
)
def test_options_of_from_caffe(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        netc.from_caffe(PROTOTXT.replace("FILLER", ""), **options)


def test_an_option_that_a_prototxt_does_not_have() -> None:
    with pytest.raises(UsageError, match="no option 'flavour'") as e:
        netc.from_caffe(PROTOTXT.replace("FILLER", ""), flavour=1)
    fits = set(e.value.diagnostics[0].help.removeprefix("there are ").split(", "))
    assert {"weights", "caffemodel", "phase", "stages", "labels", "warn", "crop"} <= fits


def test_weights_of_a_prototxt_have_two_names(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(PROTOTXT.replace("FILLER", ""))
    arrays = {"c.w": np.ones((2, 3, 1, 3)), "c.b": np.zeros(2)}
    x = np.ones((1, 3, 8, 8), np.float32)
    for name in ("weights", "caffemodel"):
        assert (netc.compile(path, **{name: arrays})(data=x)["c"] == 9).all()
    with pytest.raises(UsageError, match="two names of one option"):
        netc.read(path, weights=arrays, caffemodel=arrays)


def test_none_is_no_label_and_no_stage() -> None:
    text = PROTOTXT.replace("FILLER", "")
    assert netc.from_caffe(text, stages=None, labels=None).labels == ()
    assert netc.parse(TEXT, labels=None).labels == ()
    for options in ({"labels": 3}, {"stages": 3}):
        with pytest.raises(UsageError, match=f"{next(iter(options))} "):
            netc.from_caffe(text, **options)
    with pytest.raises(UsageError, match="labels are names or their file, not 3"):
        netc.parse(TEXT, labels=3)


class Tracked:
    """As a tensor of PyTorch that requires grad."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("use tensor.detach().numpy() instead")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Tracked(), "conv.b: a Tracked that gives no array\n.*\n.*\n  help: use tensor.detach"),
        ([1, 2, 1e39], "conv.b has numbers beyond float32"),
        ([[1, 2], [3]], "conv.b is list, not real numbers"),
    ],
)
def test_weights_that_float32_does_not_hold(graph: netc.Graph, value: Any, why: str) -> None:
    with pytest.raises(WeightsError, match=why):
        netc.with_weights(graph, {"conv.b": value})


def test_infinite_weights_are_weights(graph: netc.Graph) -> None:
    weights = {"conv.b": np.array([1, np.inf, -np.inf])}
    assert np.isinf(netc.with_weights(graph, weights).weights["conv.b"]).sum() == 2


def test_options_of_parse() -> None:
    with pytest.raises(UsageError, match="no option 'flavour'"):
        netc.parse(TEXT, flavour=1)


def test_of_several_wrong_names_the_first_is_said() -> None:
    """Not any of them: an error is the same each time."""
    wrong = {f"w{i}": (1,) for i in range(8)}
    for call in (lambda: netc.parse(TEXT, **wrong), lambda: preprocessing(wrong)):
        with pytest.raises(UsageError, match="no option 'w0'"):
            call()
    with pytest.raises(GraphError) as e:
        netc.parse(TEXT, shapes=wrong)
    said = [d.message for d in e.value.diagnostics]
    assert said == [f"the net has no input `{name}` to shape" for name in wrong]


def test_interpret_takes_a_graph_and_a_mapping(graph: netc.Graph) -> None:
    with pytest.raises(InputError, match="by name"):
        netc.interpret(graph, None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no net"):
        netc.interpret(None, {})
    with pytest.raises(UsageError, match="no option 'foo'"):
        netc.interpret(graph, {}, foo=1)


@pytest.mark.parametrize(
    "options",
    [
        *({"seed": "x"}, {"seed": -1}, {"seed": 1.5}, {"seed": None}, {"seed": [1, 2]}),
        {"seed": True},
        *({"dtype": "x"}, {"dtype": np.int32}, {"dtype": None}),
    ],
    ids=str,
)
def test_options_of_interpret(graph: netc.Graph, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(options))} is "):
        netc.interpret(graph, {}, **options)


def test_a_seed_is_any_whole_number() -> None:
    g = netc.parse("net n(x: f32[1, 2]) -> y { y = fc(x, 2, init=gaussian(0, 1)) }")
    feed = {"x": np.ones((1, 2), np.float32)}
    one, two = (netc.interpret(g, feed, seed=s)["y"] for s in (7, np.int64(7)))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "feed",
    [
        {"x": np.array([300, -1]), "z": [0]},
        {"x": np.array([1.7, 2], np.float32), "z": [0]},
        {"x": np.zeros(2, np.uint8), "z": np.array([1 + 1j])},
        {"x": np.zeros(2, np.uint8), "z": np.zeros(1), "w": [0]},
        {"x": np.zeros(2, np.uint8), "Z": [0]},
    ],
)
def test_interpret_refuses_what_an_executable_refuses(feed: dict[str, Any]) -> None:
    g = netc.parse("net n(x: u8[2], z: f32[1]) -> y { y = cast(x, f32) + z }")
    with pytest.raises(InputError):
        netc.compile(g)(feed)
    with pytest.raises(InputError, match=r"expected (u8\[2\]|f32\[1\]), got|no input is called"):
        netc.interpret(g, feed)


def test_interpret_takes_what_float64_holds() -> None:
    g = netc.parse("net n(z: f32[1]) -> y { y = z * 1 }")
    assert netc.interpret(g, {"z": np.array([0.1])})["y"] == [0.1]


def test_outputs_are_names_of_any_kind_of_collection(graph: netc.Graph) -> None:
    x = np.ones((1, 2, 4, 4), np.float32)
    for outputs in ("relu", ["relu"], {"relu": 1}, (name for name in ["relu"])):
        assert netc.compile(graph, outputs=outputs)(data=x)["relu"].shape == (1, 3, 2, 2)
    with pytest.raises(GraphError, match="no output"):
        netc.compile(graph, outputs=[])


def test_a_near_name_is_told_once() -> None:
    graph = netc.parse("net n(x: f32[2]) -> prob { prob = tanh(x, name='prob') }".replace("'", '"'))
    with pytest.raises(GraphError) as e:
        graph.with_outputs(["prod"])
    assert e.value.diagnostics[0].help == "did you mean prob?"


def test_outputs_are_told_where_no_name_is_near() -> None:
    graph = netc.parse("net n(x: f32[2]) -> y, z { y = tanh(x) z = relu(x) }")
    with pytest.raises(GraphError) as e:
        graph.with_outputs(["nothing"])
    assert e.value.diagnostics[0].help == "it gives y, z; any node may be named"


def test_outputs_leave_no_weights_behind(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **{"conv.w": np.ones((3, 2, 3, 3)), "conv.b": np.ones(3)})
    graph = netc.parse(TEXT, weights=tmp_path / "w.npz")
    assert set(graph.weights) == {"conv.w", "conv.b"}
    assert set(graph.with_outputs(["data"]).weights) == set()


def test_ir_takes_weights_by_name(tmp_path: Path, graph: netc.Graph) -> None:
    from netc.ir.text import show

    (tmp_path / "tiny.ir").write_text(show(graph))
    arrays = {"conv.w": np.full((3, 2, 3, 3), 0.5, np.float32), "conv.b": np.zeros(3, np.float32)}
    np.savez(tmp_path / "w.npz", **arrays)
    x = np.ones((1, 2, 4, 4), np.float32)
    got = netc.compile(tmp_path / "tiny.ir", weights=tmp_path / "w.npz", outputs=["relu"])(data=x)
    assert (got["relu"] == 9).all()


def test_a_graph_of_kernels_is_not_compiled_again(graph: netc.Graph) -> None:
    from netc.compiler import lower

    with pytest.raises(GraphError, match="has had its passes"):
        netc.compile(lower(graph).graph)


@pytest.mark.parametrize(
    ("filler", "message"),
    [
        ('type: "gaussian" std: -1', "deviation of -1.0 is below 0"),
        ('type: "gaussian" std: nan', "gaussian takes numbers"),
        ('type: "uniform" min: -inf', "uniform takes numbers"),
        ('type: "uniform" min: 2 max: 1', "2.0 to 1.0 is no range"),
        ('type: "bilinear"', "bilinear fills no"),
    ],
)
def test_fillers_that_draw_nothing(filler: str, message: str) -> None:
    with pytest.raises(GraphError, match=message) as e:
        netc.from_caffe(PROTOTXT.replace("FILLER", filler))
    assert e.value.span.line


@pytest.mark.parametrize("value", ["x", None, [[1], [2, 3]], np.ones((3, 2, 3, 3), complex), {}])
def test_weights_that_are_no_numbers(value: Any) -> None:
    with pytest.raises(WeightsError, match=r"conv\.w is .*, not real numbers"):
        netc.parse(TEXT, weights={"conv.w": value})


@pytest.mark.parametrize("mask", [True, False])
def test_masked_weights_are_refused(mask: bool) -> None:
    w = np.ma.masked_array(np.ones((3, 2, 3, 3)), mask)
    with pytest.raises(WeightsError, match=r"conv\.w is a masked array") as e:
        netc.parse(TEXT, weights={"conv.w": w})
    assert e.value.diagnostics[0].help == "fill it first: x.filled(0)"


def test_weights_as_lists_and_under_odd_names() -> None:
    w = np.ones((3, 2, 3, 3)).tolist()
    assert set(netc.parse(TEXT, weights={"conv.w": w, 1: 2}).weights) == {"conv.w"}


@pytest.mark.parametrize("weights", [5, [1], object()])
def test_weights_that_are_no_file(weights: Any) -> None:
    with pytest.raises(UsageError, match="is no path"):
        netc.parse(TEXT, weights=weights)
    with pytest.raises(UsageError, match="is no path"):
        netc.from_caffe(PROTOTXT.replace("FILLER", ""), weights)


class Angry:
    """Something that looks like an array and is none."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise ZeroDivisionError("no array today")


class AngryToo:
    """The same with DLPack."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self, **_: Any) -> Any:
        raise KeyError("nor a capsule")


@pytest.mark.parametrize("value", [Angry(), AngryToo()])
def test_foreign_objects_that_fail(graph: netc.Graph, value: Any) -> None:
    exe = netc.compile(graph)
    with pytest.raises(InputError, match="got Angry"):
        exe(data=value)


def test_an_executable_is_not_pickled(graph: netc.Graph) -> None:
    exe = netc.compile(graph)
    for refused in (pickle.dumps, copy.deepcopy):
        with pytest.raises(UsageError, match="not pickled"):
            refused(exe)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_what_is_given_in_channel_blocks_is_refused(target: str) -> None:
    """A caller's arrays are row-major; blocks of them would be read beyond their end."""
    b = Builder()
    x = b.input("x", f32[1, 3, 4, 4].blocked())
    graph = b.graph("g", {"y": b.to_plain(b.relu(x))})
    with pytest.raises(UnsupportedError, match=r"%x is .*: what a net is given is row-major") as e:
        netc.compile(graph, target=target, arch="ptx" if target == "cuda" else None)
    assert "to_blocked" in e.value.diagnostics[0].help


@pytest.mark.parametrize("batch", [1, 2])
def test_a_parameter_as_large_as_a_result_is_added_to_it(batch: int) -> None:
    """One value an element, not a channel: the tail of an inner product does not read it."""
    b = Builder()
    rng = np.random.default_rng(0)
    w, p = (rng.standard_normal(s).astype(np.float32) for s in ((3, 4), (batch, 3)))
    x = b.input("x", f32[batch, 4])
    product = b.fc(x, b.param("w", f32[3, 4], value=w))
    graph = b.graph("g", {"y": b.add(product, b.param("p", f32[batch, 3], value=p))})
    data = rng.standard_normal((batch, 4)).astype(np.float32)
    got, want = netc.compile(graph)(x=data)["y"], netc.interpret(graph, {"x": data})["y"]
    np.testing.assert_allclose(got, want, atol=1e-5)
