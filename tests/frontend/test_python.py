"""Nets built from Python: the same words, the same graphs, errors at the caller's line."""

# ruff: noqa: F821, UP037 (the "N" of a shape is no annotation)

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pytest

import netc
from netc.errors import GraphError, NetcError, UsageError
from netc.frontend.net.elaborate import parse_net
from netc.frontend.python import Tensor, words
from netc.ir.text import show


def test_the_same_graph_as_in_the_language() -> None:
    @netc.net
    def lenet(data: netc.f32["N", 1, 28, 28]):
        x = netc.max_pool(netc.conv(data, 20, kernel=5, name="conv1"), 2, stride=2)
        x = netc.max_pool(netc.conv(x, 50, 5, name="conv2"), 2, stride=2)
        x = netc.relu(netc.fc(x, 500))
        return {"prob": netc.softmax(netc.fc(x, 10), name="prob")}

    text = """
    net lenet(data: f32[N, 1, 28, 28]) -> prob {
      x = data |> conv(20, kernel=5, name="conv1") |> max_pool(2, stride=2, name="max_pool")
      x = x |> conv(50, 5, name="conv2") |> max_pool(2, stride=2, name="max_pool_1")
      prob = x |> fc(500) |> relu |> fc(10) |> softmax
    }
    """
    assert show(lenet) == show(parse_net(text, warn=lambda d: None))


def test_operators_and_results() -> None:
    @netc.net
    def n(x: netc.f32[2, 4], y: netc.f32[2, 4]):
        a, b = netc.split((x + 1) * y / 2 - x, 2)
        return -a, netc.maximum(b, 0.5, name="m"), 1 - b

    feed = {"x": np.full((2, 4), 3.0), "y": np.full((2, 4), 5.0)}
    out = netc.interpret(n, feed)
    assert {k: v[0, 0] for k, v in out.items()} == {"affine_1": -7.0, "m": 7.0, "affine_2": -6.0}


def test_sizes_are_python_numbers() -> None:
    @netc.net
    def n(x: netc.f32["N", 6, "H", "W"]):
        assert x.shape[1] == 6
        half = netc.conv(x, x.shape[1] // 2, (1, 3), pad=[0, 1], bias=False)
        return netc.reshape(half, (x.shape[0], 3, -1), name="y")

    assert str(n.outputs["y"].type) == "f32[N,3,H*W]"


def test_devices_names_and_shared_parameters() -> None:
    with netc.device("cpu:1"):

        @netc.net
        def n(x: netc.f32["N", 3]):
            a = netc.fc(x, 3, name="a", init=netc.gaussian(std=0.1))
            with netc.device("cuda:0"):
                b = netc.fc(a, 3, params=a)
            c = netc.fc(b, 3, w=netc.param(netc.f32[3, 3], name="w"), bias=False)
            return netc.add(b, c, name="y")

    assert [p.name for p in n.params] == ["a.w", "a.b", "w"]
    devices = {n.name: str(n.device) for n in n.nodes if n.device}
    assert devices == {
        "a": "cpu:1", "a.w": "cpu:1", "a.b": "cpu:1", "fc": "cuda:0", "w": "cpu:1",
        "fc_1": "cpu:1", "y": "cpu:1",
    }  # fmt: skip


def test_the_place_of_a_node_is_the_line_of_its_call() -> None:
    @netc.net
    def n(x: netc.f32[2, 3]):
        return netc.relu(
            x,
            name="y",
        )

    place = n.outputs["y"].node.loc
    assert place.file == "test_python.py"
    assert place.source is not None
    assert place.source.line(place.line).strip() == "return netc.relu("


def test_weights_by_name() -> None:
    @netc.net
    def n(x: netc.f32[1, 2]):
        return netc.fc(x, 1, name="f")

    arrays = {"f.w": np.array([[2.0, 3.0]]), "f.b": np.ones(1)}
    g = netc.with_weights(n, arrays, strict=True)
    assert netc.interpret(g, {"x": np.ones((1, 2))})["f"].tolist() == [[6.0]]
    with pytest.raises(NetcError, match=r"f.w is \[1,2\] in the net, \[3\] in the weights"):
        netc.with_weights(n, {"f.w": np.ones(3)})


def said(error: pytest.ExceptionInfo[NetcError]) -> tuple[str, str, str]:
    """The message, the source line and the help."""
    d = error.value.diagnostics[0]
    assert d.span.source is not None
    return d.message, d.span.source.line(d.span.line).strip(), d.help


def test_a_mistake_is_told_with_its_line() -> None:
    with pytest.raises(NetcError) as e:

        @netc.net
        def n(x: netc.f32[2, 3, 8, 8]):
            return netc.conv(x, 4, kernal=3)

    message = "conv has no argument `kernal`"
    assert said(e) == (message, "return netc.conv(x, 4, kernal=3)", "did you mean `kernel`?")


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(NetcError) as e:

        @netc.net
        def n(x: netc.f32[2, 3], y: netc.f32[2, 4]):
            return x + y

    assert said(e)[1] == "return x + y"


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (lambda x: 3, "returns int"),
        (lambda x: None, "returns NoneType"),
        (lambda x: [1], "returns list"),
        (lambda x: {}, "returns an empty dict"),
        (lambda x: (), "returns an empty tuple"),
        (lambda x: {1: x}, "returns dict with 1 for a name"),
        (lambda x: {"": x}, "returns dict with '' for a name"),
        (lambda x: {"\ud800": x}, r"returns dict with '\\ud800' for a name"),
        (lambda x: {"a": x, "b": 1}, "returns dict with int as 'b'"),
    ],
)
def test_what_a_net_must_return(result: Callable[[Tensor], object], why: str) -> None:
    def n(x: netc.f32[2]):
        return result(x)

    with pytest.raises(NetcError, match=why):
        netc.net(n)


def test_an_input_without_a_type() -> None:
    with pytest.raises(NetcError, match="input `x` of `n` has no type"):

        @netc.net
        def n(x):
            return x


def test_outside_of_a_net() -> None:
    kept: list[Tensor] = []

    @netc.net
    def n(x: netc.f32[2]):
        kept.append(x)
        return netc.relu(x)

    with pytest.raises(NetcError, match="no net is being built here"):
        netc.relu(kept[0])
    with pytest.raises(NetcError, match="no net is being built here"):
        kept[0] + 1


FOREIGN = {
    "operand": lambda x, kept: netc.add(x, kept),
    "output": lambda x, kept: kept,
    "one of several": lambda x, kept: (netc.relu(x), kept),
    "named output": lambda x, kept: {"a": x, "b": kept},
    "shared parameters": lambda x, kept: netc.fc(netc.fc(x, 2, name="shared"), 2, params=kept),
}


@pytest.mark.parametrize("use", FOREIGN)
@pytest.mark.parametrize("which", range(3))
def test_a_tensor_of_another_net(use: str, which: int) -> None:
    kept: list[Tensor] = []

    @netc.net
    def first(x: netc.f32[2, 2]):
        kept.extend((x, netc.fc(x, 2, name="shared"), netc.param(netc.f32[2, 2])))
        return kept[1] + kept[2]

    with pytest.raises(UsageError, match=r"test_python\.py:.* belongs to another net"):

        @netc.net
        def second(x: netc.f32[2, 2]):
            return FOREIGN[use](x, kept[which])


def test_a_tensor_is_no_truth_value() -> None:
    with pytest.raises(NetcError, match="has no value while the net is being built"):

        @netc.net
        def n(x: netc.f32[2]):
            return x if x else netc.relu(x)


def test_every_word_is_a_function() -> None:
    for word in words():
        assert callable(getattr(netc, word)), word
    with pytest.raises(AttributeError, match="did you mean `conv`"):
        netc.conw


def test_words_explain_themselves() -> None:
    assert netc.max_pool.__doc__.startswith("max_pool(x, kernel, stride=1, pad=0, ceil=false)\n")


def test_a_wrong_device_is_located_where_it_is_named() -> None:
    with pytest.raises(GraphError, match="no device 'foo'") as e:
        netc.device("foo")
    with pytest.raises(GraphError, match="no device"):
        netc.device(None)
    assert e.value.span.file == "test_python.py"


@pytest.mark.parametrize("what", [5, None, "lenet", dict, len])
def test_what_is_no_function(what: Any) -> None:
    with pytest.raises(UsageError, match="no function"):
        netc.net(what)


def test_a_method_may_describe_a_net() -> None:
    class Model:
        def net(self, x: netc.f32[2, 3]):  # type: ignore[no-untyped-def,valid-type]
            return netc.relu(x)

    graph = netc.net(Model().net)
    assert [n.name for n in graph.inputs] == ["x"]


def test_a_coroutine_describes_no_net() -> None:
    async def n(x: netc.f32[2, 3]):  # type: ignore[no-untyped-def,valid-type]
        return netc.relu(x)

    with pytest.raises(UsageError, match="`n` is `async`"):
        netc.net(n)


def test_inputs_have_names() -> None:
    def first(x: netc.f32[2, 3], /):  # type: ignore[no-untyped-def,valid-type]
        return netc.relu(x)

    def several(*xs: netc.f32[2, 3]):  # type: ignore[no-untyped-def,valid-type]
        return netc.relu(xs[0])

    for function in (first, several):
        with pytest.raises(UsageError, match="has no name to be given by"):
            netc.net(function)


@pytest.mark.parametrize(
    "keywords", [{"name": 3}, {"params": 5}, {"name": ""}, {"name": "\ud800"}, {"params": "\udfff"}]
)
def test_names_are_texts(keywords: dict[str, Any]) -> None:
    def n(x: netc.f32[2, 3]):  # type: ignore[no-untyped-def,valid-type]
        return netc.fc(x, 4, **keywords)

    with pytest.raises(UsageError, match="takes a text, not") as e:
        netc.net(n)
    assert said(e)[1] == "return netc.fc(x, 4, **keywords)"


@pytest.mark.parametrize("size", [1.5, None, b"N"])
def test_what_is_no_size(size: Any) -> None:
    with pytest.raises(GraphError, match="is no size"):
        netc.f32["N", size]
    assert netc.f32[np.int64(3)] == netc.f32[3]


def test_shardings() -> None:
    two = ["cpu:0", "cpu:1"]

    @netc.net
    def n(x: netc.f32[4, 8]):
        with netc.replicate(two):
            x = netc.relu(netc.fc(x, 8, name="one"), name="a")
        with netc.pipeline("cpu:0, cpu:1", micro_batches=4):
            x = x + 1.0
            with netc.split_channels(two, by="input"):
                x = netc.fc(x, 8, name="two")
            with netc.device("cpu:1"):
                x = netc.tanh(x)
        with netc.pipeline(two), netc.split_channels(two):
            x = netc.fc(x, 4, name="three")
        return netc.relu(x, name="four")

    stages = "pipeline(cpu:0, cpu:1, micro_batches=4)"
    assert {node.name: node.place for node in n.nodes if node.place} == {
        "one": "replicate(cpu:0, cpu:1)",
        "a": "replicate(cpu:0, cpu:1)",
        "affine": stages,
        "two": f"{stages} @ split(cpu:0, cpu:1, by=input)",
        "tanh": f"cpu:1 @ {stages}",
        "three": "pipeline(cpu:0, cpu:1, micro_batches=2) @ split(cpu:0, cpu:1)",
    }


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: netc.replicate([]), "replicate names no device"),
        (lambda: netc.replicate(["cpu:0", "cpu"]), "replicate names a device twice"),
        (lambda: netc.replicate(["tpu:0"]), "no device 'tpu:0'"),
        (lambda: netc.replicate(2), "replicate is over devices by their names"),
        (lambda: netc.replicate([2]), "replicate is over devices by their names"),
        (lambda: netc.split_channels(["cpu:0"], by="rows"), "no split by rows"),
        (lambda: netc.pipeline(["cpu:0"], micro_batches=0), "micro-batches are 0"),
        (lambda: netc.pipeline(["cpu:0"], micro_batches="4"), "micro-batches are '4'"),
    ],
)
def test_shardings_that_do_not_fit(make: Callable[[], object], said: str) -> None:
    with pytest.raises(NetcError, match=said) as e:
        make()
    assert e.value.span.file == "test_python.py"
    assert e.value.span.line


def test_shardings_within_others() -> None:
    two = ["cpu:0", "cpu:1"]
    with netc.replicate(two):
        for make in (netc.replicate, netc.split_channels, netc.pipeline):
            with pytest.raises(GraphError, match=r"within replicate\(cpu:0, cpu:1\)"):
                make(two)
        with pytest.raises(GraphError, match="is placed on cpu:0, but replicate runs it on each"):
            netc.device("cpu:0")
    with netc.device("cpu:2"), pytest.raises(GraphError, match="its pipeline is over cpu:0"):
        netc.pipeline(two)


def test_a_place_may_be_entered_again() -> None:
    two = ["cpu:0", "cpu:1"]
    on, shared = netc.device("cpu:1"), netc.split_channels(two)

    @netc.net
    def n(x: netc.f32[1, 4]):
        with on, on:
            a = netc.relu(x, name="a")
        with shared:
            b = netc.fc(a, 4, name="b")
        with netc.pipeline(two), shared:
            c = netc.fc(b, 4, name="c")
        with on:
            return netc.relu(c, name="d")

    said = {node.name: (str(node.device), len(node.shards)) for node in n.nodes}
    assert {name: said[name] for name in "abcd"} == {
        "a": ("cpu:1", 0), "b": ("None", 1), "c": ("None", 2), "d": ("cpu:1", 0)
    }  # fmt: skip
    with netc.replicate(two), pytest.raises(GraphError, match="is placed on cpu:1, but replicate"):
        on.__enter__()


def test_the_words_and_public_names_are_all_there_is() -> None:
    names = dir(netc)
    assert {*words(), "Tensor", "Graph", "net", "with_weights", "compile", "f32"} <= set(names)
    assert all(hasattr(netc, name) for name in names)
    assert not any(hasattr(netc, name) for name in ("os", "sys", "linecache", "Maker", "word"))


def test_cast_is_the_word() -> None:
    @netc.net
    def n(x: netc.u8[2, 3]):
        return netc.cast(x, netc.f32, name="a"), netc.cast(x, to="i32", name="b")

    assert {k: str(v.type) for k, v in n.outputs.items()} == {"a": "f32[2,3]", "b": "i32[2,3]"}


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("max_pool", "(x, kernel, stride=1, pad=0, ceil=False, *, name=None)"),
        ("concat", "(*xs, axis=1, name=None)"),
        ("fc", "params=None)"),
        ("gaussian", "(mean=0.0, std=1.0, sparse=-1)"),
    ],
)
def test_words_have_signatures(word: str, wanted: str) -> None:
    assert str(inspect.signature(getattr(netc, word))).endswith(wanted)


def test_an_annotation_that_type_checkers_take() -> None:
    @netc.net
    def n(x: Annotated[netc.Tensor, netc.f32["N", 3]]) -> netc.Tensor:
        return netc.relu(x)

    assert str(n.inputs[0].types[0]) == "f32[N,3]"


def test_an_annotation_in_quotes_too_many() -> None:
    def n(x: "netc.f32['N', 3]"):
        return netc.relu(x)

    with pytest.raises(UsageError) as e:
        netc.net(n)
    assert said(e)[2] == 'such as `x: netc.f32["N", 3, 224, 224]` without quotes'
