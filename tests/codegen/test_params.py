"""Parameters are operands like others: of every op, on every back end, also where none is folded.

What only parameters feed is computed when compiling, but for results that are much larger.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace

import pytest

import netc
from netc.ir.graph import Builder, Graph
from netc.ir.op import REGISTRY, Case
from netc.ir.ops.convolution import PRODUCTS
from netc.ir.ops.sources import Initializer
from netc.ir.types import DType
from netc.passes import pipelines
from tests.codegen.cpu.harness import drawn
from tests.codegen.triton.rules import judge, run, samples

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
SAMPLES = [pytest.param(n, s, id=f"{n}-{i}") for n, i, s in samples() if s.inputs]


@pytest.fixture(autouse=True)
def nothing_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without the pass that computes what parameters feed."""
    kept = tuple(p for p in pipelines.MINIMAL if p.name != "fold_params")
    monkeypatch.setattr(pipelines, "MINIMAL", kept)


def choices(sample: Case) -> Iterator[tuple[int, ...]]:
    """Which operands are parameters: each one alone, and all of them."""
    floats = tuple(i for i, t in enumerate(sample.inputs) if t.dtype is DType.F32)
    yield from ((i,) for i in floats)
    if len(floats) > 1:
        yield floats


def graph_of(name: str, sample: Case, params: tuple[int, ...]) -> Graph:
    """The op alone, some of its operands parameters."""
    b = Builder()
    xs = [
        b.param(f"x{i}", t, Initializer()) if i in params else b.input(f"x{i}", t)
        for i, t in enumerate(sample.inputs)
    ]
    node = b(REGISTRY[name](**sample.attributes), *xs, name="y")
    made = b.graph("sample", {f"y{i}": v for i, v in enumerate(node.results)})
    arrays = drawn(sample)
    return replace(made, weights={f"x{i}": arrays[i] for i in params})


@pytest.mark.parametrize(("name", "sample"), SAMPLES)
def test_on_processors(name: str, sample: Case) -> None:
    for params in choices(sample):
        graph = graph_of(name, sample, params)
        if issubclass(REGISTRY[name], PRODUCTS) and len(params) < len(sample.inputs):
            continue  # whose weights must be parameters
        feed = {n.name: drawn(sample)[int(n.name[1:])] for n in graph.inputs}
        exe = netc.compile(graph, optimize=False)
        exe.poison()
        judge(graph, feed, exe(feed))


@needs_triton
@pytest.mark.parametrize(("name", "sample"), SAMPLES)
def test_on_gpus(name: str, sample: Case) -> None:
    for params in choices(sample):
        graph = graph_of(name, sample, params)
        feed = {n.name: drawn(sample)[int(n.name[1:])] for n in graph.inputs}
        judge(graph, feed, run(graph, feed, optimize=False))
