"""Random graphs through the compiler, against the float64 reference, from poisoned memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netc.compiler import Options, build
from netc.errors import GraphError, InputError
from netc.ir.graph import Graph
from netc.ir.text import parse
from netc.runtime.session import executable
from tests.strategies import agree, feeds, graphs, wanted

RANDOM = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)


def check(graph: Graph, optimize: bool, seed: int) -> None:
    """One compilation, one and two threads, two sizes of the symbols, two runs each."""
    made = build(graph, Options(optimize=optimize, check=2))
    symbolic = any(n.types[0].symbols for n in graph.inputs)
    bindings = [None, {"N": 1, "H": 9, "W": 11}] if symbolic else [None]
    for sizes in bindings:
        feed = feeds(graph, seed, sizes)
        try:
            want = wanted(graph, feed)
        except GraphError:  # a window does not fit an image of this size
            with pytest.raises(InputError):
                executable(made, 1)(feed)
            continue
        first = None
        for threads in (1, 2):
            exe = executable(made, threads)
            exe.poison()
            got = exe(feed)
            assert not agree(got, want, graph), agree(got, want, graph)
            if first is None:
                first = got
            for name, y in got.items():
                np.testing.assert_array_equal(y, first[name])


def test_readers_with_different_halos_share_the_widest() -> None:
    graph = parse(
        """graph @halos(input %x: f32[N,1,8,8], param %v: f32[1,1,5,1], param %w: f32[1,1,1,1]) {
          %tall = conv(%x, %v, pad=(2, 0)) : f32[N,1,8,8]
          %wide = conv(%x, %w, pad=(1, 1)) : f32[N,1,10,10]
          return %tall, %wide
        }"""
    )
    check(graph, True, 0)
    check(graph, False, 0)


@settings(RANDOM, max_examples=160)
@given(graph=graphs(), seed=st.integers(0, 99))
def test_optimized(graph: Graph, seed: int) -> None:
    check(graph, True, seed)


@settings(RANDOM, max_examples=160)
@given(graph=graphs(), seed=st.integers(0, 99))
def test_as_written(graph: Graph, seed: int) -> None:
    check(graph, False, seed)


@pytest.mark.long
@settings(RANDOM, max_examples=10_000)
@given(graph=graphs(max_nodes=16), seed=st.integers(0, 99), optimize=st.booleans())
def test_many(graph: Graph, seed: int, optimize: bool) -> None:
    check(graph, optimize, seed)
