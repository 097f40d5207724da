"""Graphs written in the language read back as equal graphs."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from netc.errors import UnsupportedError
from netc.frontend.caffe import from_caffe
from netc.frontend.net.elaborate import parse_net
from netc.frontend.net.mistakes import KEYWORDS
from netc.frontend.net.template import templates
from netc.frontend.net.write import write_net
from netc.ir.device import Device
from netc.ir.graph import Builder, Graph, Value
from netc.ir.ops.sources import Initializer, Param
from netc.ir.shards import Shard
from netc.ir.types import f32, u8
from tests.strategies import graphs


def difference(a: Graph, b: Graph) -> str:
    """What differs between two graphs, apart from the names of nodes in between; or nothing."""
    if [*a.outputs] != [*b.outputs]:
        return f"outputs {[*a.outputs]} and {[*b.outputs]}"
    if [(n.name, n.types) for n in a.inputs] != [(n.name, n.types) for n in b.inputs]:
        return "inputs"
    met: dict[Any, Any] = dict(zip(a.inputs, b.inputs, strict=True))
    stack = [(a.outputs[k], b.outputs[k]) for k in a.outputs]
    while stack:
        u, v = stack.pop()
        if u.node in met:
            if met[u.node] is not v.node or u.index != v.index:
                return f"{u} is shared, {v} is not"
            continue
        met[u.node] = v.node
        if wrong := _other(a, u, v):
            return wrong
        stack += zip(u.node.inputs, v.node.inputs, strict=True)
    return "" if len({*met.values()}) == len(met) else "what was apart is shared"


def _other(a: Graph, u: Value, v: Value) -> str:
    same = u.index == v.index and u.node.types == v.node.types
    same &= len(u.node.inputs) == len(v.node.inputs) and u.node.place == v.node.place
    if isinstance(u.op, Param):
        same &= isinstance(v.op, Param) and u.name == v.name
        same &= u.name in a.weights or u.op == v.op
    else:
        same &= u.op == v.op
    return "" if same else f"{u} = {u.op} and {v} = {v.op}"


def check(graph: Graph, phase: str = "test") -> str:
    """Both texts of a graph read back; gives the one with blocks."""
    text = write_net(graph)
    for t in (write_net(graph, blocks=False), text):
        read = parse_net(t, "t.net", phase=phase, warn=lambda d: None)
        assert not difference(graph, read), t
    return text


SHAPES = {
    "caffe__mnist_autoencoder": {"data": (100, 1, 28, 28)},
    "caffe__mnist_siamese_train_test": {"pair_data": (100, 2, 28, 28)},
}


def test_public_nets(shared: Path) -> None:
    lines = {}
    for path in sorted((shared / "nets").glob("*.prototxt")):
        graph = from_caffe(path, shapes=SHAPES.get(path.stem), warn=lambda d: None)
        lines[path.stem] = len(check(graph).splitlines())
    assert len(lines) == 29
    assert lines["caffe__bvlc_googlenet_deploy"] <= 40
    assert lines["deep-residual-networks__ResNet-50-deploy"] <= 40
    assert lines["SqueezeNet__deploy"] <= 25


def test_golden_cases(shared: Path) -> None:
    for folder in sorted((shared / "caffe" / "goldens").iterdir()):
        phase = "train" if '"TRAIN"' in (folder / "case.json").read_text() else "test"
        check(from_caffe(folder / "net.prototxt", phase=phase, warn=lambda d: None), phase)


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_random_graphs(graph: Graph) -> None:
    check(graph, "train")


def text_of(source: str) -> str:
    graph = parse_net(textwrap.dedent(source), "t.net", warn=lambda d: None)
    return check(graph)


def test_a_small_net() -> None:
    source = """
    net small(data: u8[N, 3, 12, 12]) -> prob, f {
      x = data |> cast(f32) |> affine(shift=-128) |> conv(8, 3, bias=false, init=msra, name="c1")
      x = x |> batch_norm(name="bn") |> scale(name="sc") |> prelu(name="pr")
      f = x |> max_pool((3, 2), stride=2, pad=1, ceil=true) |> reshape((0, -1))
      prob = f |> fc(10, bias_init=constant(0.5), name="ip") |> maximum(0.5) |> softmax
    }
    """
    assert text_of(source) == textwrap.dedent(source).lstrip()


def test_what_repeats_is_a_block() -> None:
    source = """
    block fire(x, out, n, out_2, name="") {
      a = x |> conv(out, 1, name="fire{n}/squeeze") |> relu
      b = a |> conv(out_2, 1, name="fire{n}/one") |> relu
      c = a |> conv(out_2, 3, pad=1, name="fire{n}/three") |> relu
      return concat(b, c)
    }

    net n(data: f32[N, 3, H, W]) -> y {
      x = data |> fire(4, "2", 8) |> fire(4, "3", 8) |> max_pool(2, stride=2) |> fire(6, "4", 12)
      y = x |> fire(8, "10", 16) |> softmax
    }
    """
    assert text_of(source) == textwrap.dedent(source).lstrip()


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["res2a_branch1", "res3b_branch1"], ("res", ["2a", "3b"], "_branch1")),
        (["fire2/a", "fire10/a"], ("fire", ["2", "10"], "/a")),
        (["conv1_12", "conv1_13"], ("conv1_", ["12", "13"], "")),
        (["a", "b"], ("", ["a", "b"], "")),
        (["x{{1", "x{{2"], ("x{{", ["1", "2"], "")),
        (["aa", "aaa"], ("aa", ["", "a"], "")),
    ],
)
def test_templates(texts: list[str], wanted: tuple[str, list[str], str]) -> None:
    assert templates(texts) == wanted


NAMES = ["relu_1", "x", "x_1", "true", "N", "constant", "f32", "a b", "conv1.w", "{n}", "}", "`",
         '"', "\\", "\n", "net", "block", "12", "é", "", " ", "x0", "a", "a_1", "name"]  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES, *sorted(KEYWORDS - {*NAMES})])
def test_hostile_names(name: str) -> None:
    """Of a layer with parameters, of one without, of an output, of everything at once."""
    for layer, plain, out in ((name, "p", "o"), ("l", name, "o"), ("l", "p", name)):
        if not out:
            continue
        b = Builder()
        x = b.input("data", f32["N", 4, 6, 6])
        for i in range(3):
            w = b.param(f"{layer}{'_' + str(i) if i else ''}.w", f32[4, 4, 1, 1])
            x = b.relu(b.conv(x, w, name=f"c{i}"), name=plain if not i else "")
        check(b.graph("g", {out: b.tanh(x)}))


@pytest.mark.parametrize("name", sorted(KEYWORDS))
def test_words_of_the_language_are_names_in_backquotes(name: str) -> None:
    b = Builder()
    x = b.input(name, f32["N", 3])
    text = check(b.graph(name, {"y": b.tanh(b.relu(x, name=name))}))
    assert f"(`{name}`: f32[N, 3])" in text


def test_parameters_that_no_word_makes() -> None:
    b = Builder()
    x = b.input("x", f32["N", 4])
    w = b.param("shared", f32[4, 4], Initializer("uniform", -1, 1))
    y = b.fc(b.fc(x, w), w)
    odd = b.param("odd.w", f32[1, 4], Initializer("gaussian", 0, 1, sparse=2))
    y = b.add(b.mul(y, odd), b.param("odd.b", f32[1, 4], Initializer("msra", fan="fan_out")))
    check(b.graph("g", {"y": y}))


def test_devices_formulas_and_several_results() -> None:
    b = Builder()
    x, s = b.input("x", f32["N", 3]), b.input("s", f32["N"])
    with b.on(Device("cuda", 1)):
        y = b.add(x, x)
        y = b.relu(b.formula(y, y, body="x0 * sigmoid(1.5 * x1)"))
    from netc.ir.ops.indexing import Compact

    rows, count = b(Compact(), y, s).results
    check(b.graph("g", {"rows": rows, "count": count, "y": y}))


def test_shardings() -> None:
    """Values are read across regions, parameters stand within one, and ways within another."""
    b = Builder()
    two = Device("cpu"), Device("cpu", 1)
    x = b.input("x", f32[4, 8])
    with b.sharded((Shard("replicate", two),)):
        w = b.param("w", f32[8, 8])
        x = b.fc(x, w, name="one")
        h = b.relu(x, name="h")
    y = b.add(x, h, name="y")
    with b.sharded((Shard("pipeline", two, micro_batches=4), Shard("split", two, "input"))):
        z = b.fc(b.add(y, b.const(type=f32[()], value=2.0)), w, b.param("two.b", f32[8]))
    with b.sharded((Shard("split", two),)):
        z = b.fc(b.add(z, h), b.param("v.w", f32[2, 8]), name="v")
    text = check(b.graph("g", {"z": b.relu(z), "y": y}))
    assert "  replicate over cpu:0, cpu:1 {\n" in text
    assert "  pipeline over cpu:0, cpu:1 micro_batches=4 {\n" in text
    assert "    split channels over cpu:0, cpu:1 by input {\n" in text
    assert "  split channels over cpu:0, cpu:1 {\n" in text


def test_an_output_under_two_names_and_numbers_on_the_left() -> None:
    b = Builder()
    x = b.input("x", u8[2, 3])
    y = b.cast(x, to=f32[()].dtype)
    one = b.const(type=f32[()], value=1.0)
    z = b.sub(one, y)
    check(b.graph("g", {"a": z, "b": z, "c": b.maximum(z, b.const(type=f32[()], value=0.25))}))


def test_what_has_no_text() -> None:
    b = Builder()
    x = b.input("x", f32[2, 8, 3, 3])
    with pytest.raises(UnsupportedError, match="no word for to_blocked"):
        write_net(b.graph("g", {"y": b.to_blocked(x)}))
    nothing = b.const(type=f32[()], value=math.nan)
    with pytest.raises(UnsupportedError, match="no number nan"):
        write_net(b.graph("g", {"y": b.maximum(x, nothing)}))


def test_infinite_numbers() -> None:
    b = Builder()
    x = b.input("x", f32[2, 8, 3, 3])
    low = b.const(type=f32[()], value=-math.inf)
    y = b.maximum(b.clip(x, low=-math.inf, high=math.inf), low)
    check(b.graph("g", {"y": b.pad(y, after=(0, 0, 1, 0), value=-math.inf)}))


def test_weights_go_along(shared: Path) -> None:
    home = shared / "models" / "lenet"
    graph = from_caffe(home / "lenet.prototxt", home / "lenet.caffemodel")
    text = write_net(graph)
    assert "init" not in text
    read = parse_net(text, "t.net", weights=dict(graph.weights), strict=True)
    for name, w in graph.weights.items():
        np.testing.assert_array_equal(read.weights[name], w)
    assert parse_net(text, "t.net", weights=home / "lenet.caffemodel", strict=True)


CAFFE_LAYERS = [
    ("dim: 3", 'type: "BatchNorm"', "batch_norm(data, mean=l.mean, variance=l.variance)"),
    (
        "dim: 3 dim: 4",
        'type: "Dropout" phase: TRAIN',
        "dropout(data, seed=2517025534, always=true)",
    ),
]


@pytest.mark.parametrize(("shape", "fields", "wanted"), CAFFE_LAYERS)
def test_layers_of_caffe_that_need_a_word_more(shape: str, fields: str, wanted: str) -> None:
    layer = f'layer {{ name: "l" bottom: "data" top: "y" {fields} }}'
    graph = from_caffe(f'input: "data" input_shape {{ {shape} }} {layer}', warn=lambda d: None)
    assert f"y = {wanted}" in check(graph)
