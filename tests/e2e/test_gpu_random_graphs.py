"""Random graphs on GPU kernels and on mixed plans, run by Triton's interpreter, from NaN-filled
memory, against the float64 reference."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.compiler import Options, build
from netc.errors import GraphError, InputError
from netc.ir.device import Device
from netc.ir.graph import Graph, Value
from netc.ir.ops.sources import Const, Input, Param
from netc.passes.rewrite import rebuilt
from netc.runtime.driver import GpuOptions
from netc.runtime.session import executable
from tests.codegen.triton.rules import with_variants
from tests.e2e.test_random_graphs import RANDOM
from tests.strategies import agree, feeds, graphs, wanted

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
GPU, CPU, OTHER = Device("cuda", 0), Device("cpu", 0), Device("cuda", 1)


def check(graph: Graph, optimize: bool, seed: int, devices: tuple[Device, ...] = (GPU,)) -> None:
    """One compilation, one run at each of two sizes of the symbols, and a second run: same bits.

    Of every kernel one variant runs, whichever the seed names.
    """
    options = Options(optimize=optimize, check=2, devices=devices, archs=())
    made = build(graph, options)
    if made.gpu is not None:
        made = with_variants(made, lambda known: known[seed % len(known)])
    exe = executable(made, 1, gpu=GpuOptions("interpret"))
    exe.poison()
    symbolic = any(n.types[0].symbols for n in graph.inputs)
    for sizes in [None, {"N": 1, "H": 9, "W": 11}] if symbolic else [None]:
        feed = feeds(graph, seed, sizes)
        try:
            want = wanted(graph, feed)
        except GraphError:  # a window does not fit an image of this size
            with pytest.raises(InputError):
                exe(feed)
            continue
        got = exe(feed)
        assert not agree(got, want, graph), agree(got, want, graph)
        for name, y in exe(feed).items():
            np.testing.assert_array_equal(y, got[name])


def scattered(graph: Graph, places: list[Device]) -> Graph:
    """The graph with its nodes on these devices in turns; sources follow their readers."""
    new: dict[Value, Value] = {}
    for i, node in enumerate(graph.nodes):
        inputs = tuple(new[v] for v in node.inputs)
        source = isinstance(node.op, Input | Param | Const)
        device = None if source else places[i % len(places)]
        placed = node if source else replace(node, inputs=inputs, device=device)
        new.update(zip(node.results, placed.results, strict=True))
    return rebuilt(graph, new)


@settings(RANDOM, max_examples=40)
@given(graph=graphs(), seed=st.integers(0, 99), optimize=st.booleans())
def test_on_one_gpu(graph: Graph, seed: int, optimize: bool) -> None:
    check(graph, optimize, seed)


@settings(RANDOM, max_examples=25)
@given(
    graph=graphs(),
    seed=st.integers(0, 99),
    places=st.lists(st.sampled_from([GPU, CPU, OTHER]), min_size=2, max_size=5),
)
def test_on_processor_and_gpus(graph: Graph, seed: int, places: list[Device]) -> None:
    check(scattered(graph, places), True, seed, (CPU, GPU, OTHER))


@pytest.mark.long
@settings(RANDOM, max_examples=2_000)
@given(
    graph=graphs(max_nodes=12),
    seed=st.integers(0, 99),
    optimize=st.booleans(),
    places=st.lists(st.sampled_from([GPU, GPU, CPU, OTHER]), min_size=1, max_size=5),
)
def test_many(graph: Graph, seed: int, optimize: bool, places: list[Device]) -> None:
    check(scattered(graph, places), optimize, seed, (CPU, GPU, OTHER))
