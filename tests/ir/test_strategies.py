"""The random graphs are what other tests take them for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strategies import OTHER_STAGES, SIZES, agree, feeds, graphs, wanted

from netc.ir.graph import Graph
from netc.ir.interpret import interpret
from netc.ir.op import REGISTRY
from netc.ir.ops.sources import Input
from netc.ir.text import parse

MANY = settings(
    max_examples=600, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def test_they_hold_what_breaks_compilers() -> None:
    seen: Counter[str] = Counter()
    ops: set[str] = set()

    @MANY
    @given(graphs())
    def look(graph: Graph) -> None:
        ops.update(n.op.name for n in graph.nodes)
        inside = [n for n in graph.nodes if n.inputs]
        seen["graphs"] += 1
        seen["symbolic batch"] += any(d == "N" for d in map(str, graph.inputs[0].types[0].shape))
        seen["symbolic image"] += "H" in graph.inputs[0].types[0].symbols
        seen["value used twice"] += any(len(us) > 1 for us in graph.uses.values())
        seen["intermediate is an output"] += any(
            None in us and len(us) > 1 for us in graph.uses.values()
        )
        seen["parameter used twice"] += any(len(graph.uses[p.out]) > 1 for p in graph.params)
        seen["concat of one value twice"] += any(
            n.op.name == "concat" and len(set(n.inputs)) < len(n.inputs) for n in inside
        )
        seen["concat of one"] += any(n.op.name == "concat" and len(n.inputs) == 1 for n in inside)
        seen["several inputs"] += len(graph.inputs) > 1
        seen["five nodes or more"] += len(inside) >= 5

    look()
    assert seen["graphs"] >= 500
    rare = {k: n for k, n in seen.items() if n < 10}
    assert not rare, rare
    missing = set(REGISTRY) - OTHER_STAGES - ops
    assert len(missing) < 25, missing  # the rest come in longer runs


@given(graphs(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_reference_agrees_with_itself(graph: Graph, seed: int) -> None:
    feed = feeds(graph, seed)
    want = wanted(graph, feed)
    assert agree(interpret(graph, feed, np.float32), want, graph) == ""


@given(graphs(), st.sampled_from([0, 1, 3]))
@settings(max_examples=60, deadline=None)
def test_any_batch_runs(graph: Graph, n: int) -> None:
    feed = feeds(graph, 0, {"N": n})
    sizes = SIZES | {"N": n}
    for name, y in interpret(graph, feed).items():
        assert y.shape == graph.outputs[name].type.sizes(sizes)


@given(graphs())
@settings(max_examples=60, deadline=None)
def test_a_wrong_result_is_seen(graph: Graph) -> None:
    feed = feeds(graph)
    want = wanted(graph, feed)
    name = next(iter(want))
    got = {k: w.exact.copy() for k, w in want.items()}
    got[name].flat[0] += 3 * max(want[name].bound, 1e-30)
    assert "is off by" in agree(got, want, graph)
    got[name].flat[0] = np.nan
    assert "finite" in agree(got, want, graph)
    assert "instead of" in agree({}, want, graph)
    assert "shape" in agree({**got, name: np.zeros((9, 9, 9))}, want, graph)


def test_cancellation_is_judged_by_what_was_subtracted() -> None:
    graph = parse(
        "graph @g(input %x: f32[4], input %y: f32[4]) {\n"
        "  %a = mul(%x, %y) : f32[4]\n  %b = sub(%a, %a) : f32[4]\n  return %b\n}"
    )
    want = wanted(graph, feeds(graph))
    assert agree({"b": np.full(4, 1e-8)}, want, graph) == ""
    assert agree({"b": np.full(4, 1e-5)}, want, graph) != ""


def test_inputs_are_all_read() -> None:
    @MANY
    @given(graphs())
    def look(graph: Graph) -> None:
        bare = replace(graph, inputs=())
        assert graph.inputs
        assert {n for n in bare.nodes if isinstance(n.op, Input)} == set(graph.inputs)

    look()
