"""The torch modules that GPU timings are compared with compute what the graphs mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from strategies import domain_of, draw_array

import netc
from benchmarks import zoo
from netc.ir.graph import Builder, Graph
from netc.ir.interpret import interpret
from netc.ir.op import REGISTRY, Array, Case
from netc.ir.scalar import Elementwise
from netc.ir.types import DType, f32

torch = pytest.importorskip("torch")
from benchmarks.torch_net import _RULES, folded, tensors, torch_module  # noqa: E402

TOLERANCE = 1e-6  # the reference has its literals in float32


def run_both(graph: Graph, feed: dict[str, Array]) -> Iterator[tuple[Array, Array]]:
    """Each output by torch and by the reference, in float64."""
    sizes = {
        str(d): n
        for node in graph.inputs
        for d, n in zip(node.types[0].shape, feed[node.name].shape, strict=True)
    }
    module = torch_module(folded(graph), sizes, torch.float64)
    arrays = [feed[n.name] for n in graph.inputs]
    with torch.inference_mode():
        got = module(tensors(arrays, torch.float64))
    for (name, expected), ours in zip(interpret(graph, feed).items(), got, strict=True):
        assert name in graph.outputs
        yield ours.numpy(), expected


def samples() -> Iterator[object]:
    """Every sample of floats of an op that has a rule, or a formula."""
    for name, op in sorted(REGISTRY.items()):
        if name not in _RULES and not issubclass(op, Elementwise):
            continue
        for i, sample in enumerate(op.samples):
            floats = all(t.dtype is DType.F32 and 0 not in t.shape for t in sample.inputs)
            plain = name in ("conv", "lrn") and sample.inputs[0].rank == 2  # torch has none
            sides = [sample.attributes.get(side, ()) for side in ("before", "after")]
            plain |= "mode" in sample.attributes and any(any(side[:2]) for side in sides)
            if floats and not sample.error and not plain and name != "cast":
                yield pytest.param(name, sample, id=f"{name}-{i}")


@pytest.mark.parametrize(("name", "sample"), list(samples()))
def test_an_op_by_its_samples(name: str, sample: Case) -> None:
    rng = np.random.default_rng(0)
    b, feed, weights = Builder(), {}, {}
    xs = []
    for i, type in enumerate(sample.inputs):
        array = draw_array(type, domain_of(sample, i), rng)
        if i == 0:
            feed["x0"] = array
            xs.append(b.input("x0", type))
        else:
            weights[f"w{i}"] = array
            xs.append(b.param(f"w{i}", type))
    y = b.make(name, *xs, name="y", **sample.attributes)
    graph = replace(b.graph("sample", {"y": y}), weights=weights)
    for ours, expected in run_both(graph, feed):
        np.testing.assert_allclose(ours, expected, rtol=TOLERANCE, atol=TOLERANCE)


def example(name: str) -> zoo.Net:
    """An example with one image; a small one where the net takes others."""
    if name == "vit_b16":
        text = zoo.path_of(name).read_text("utf-8").replace("repeat 12", "repeat 2")
        graph = netc.parse(text, warn=lambda *args: None)
        return zoo.fed(name, replace(graph, weights=zoo.seeded(graph)), 1)
    if name != "unet":
        return zoo.read(name, image=64)
    text = zoo.path_of(name).read_text("utf-8").replace("size = 256", "size = 32")
    graph = netc.parse(text, warn=lambda *args: None)
    return zoo.fed(name, replace(graph, weights=zoo.seeded(graph)), 1)


LONG = {"vgg16": pytest.mark.long}


@pytest.mark.parametrize("name", [pytest.param(n, marks=LONG.get(n, ())) for n in zoo.NAMES])
def test_an_example(name: str) -> None:
    net = example(name)
    for ours, expected in run_both(net.graph, net.feed):
        assert ours.shape == expected.shape
        assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max()


def test_an_op_without_a_rule_is_named() -> None:
    b = Builder()
    y = b.argmax(b.input("x", f32[2, 3]), name="best")
    with pytest.raises(NotImplementedError, match=r"argmax \(%best\)"):
        torch_module(folded(b.graph("g", {"y": y})), {})
