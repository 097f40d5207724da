"""Passes keep the meaning of random graphs: each alone, each left out, in any order."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netc.ir.graph import Graph, Node
from netc.ir.interpret import interpret
from netc.ir.text import parse, show
from netc.ir.verify import verify
from netc.passes.base import Context, Pass, run_passes
from netc.passes.facts import SOURCES, VIEWS
from netc.passes.fuse import Fuse
from netc.passes.order import Key, Memory, State, _least_growth, _least_peak, peak_bytes, schedule
from netc.passes.pipelines import INFERENCE, MINIMAL
from netc.passes.place import Place
from tests.strategies import agree, feeds, graphs, wanted

GRAPH_PASSES = tuple(p for p in dict.fromkeys(INFERENCE) if p.gives is None)
LOWERING = (Place(), Fuse())
quick = settings(
    max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def keeps_meaning(graph: Graph, passes: tuple[Pass, ...]) -> Graph:
    """The graph after the passes, each of which is verified, printed and read back."""
    after = run_passes(graph, passes, Context(check=2))
    feed = feeds(graph)
    why = agree(interpret(after, feed), wanted(graph, feed), graph)
    assert not why, f"{why}\n{show(graph)}\n{show(after)}"
    return after


@pytest.mark.parametrize("each", GRAPH_PASSES, ids=lambda p: p.name)
@quick
@given(graph=graphs())
def test_alone(each: Pass, graph: Graph) -> None:
    keeps_meaning(graph, (each,))


@pytest.mark.parametrize("each", GRAPH_PASSES, ids=lambda p: p.name)
@quick
@given(graph=graphs())
def test_left_out(each: Pass, graph: Graph) -> None:
    keeps_meaning(graph, tuple(p for p in INFERENCE if p != each))


@settings(quick, max_examples=150)
@given(graph=graphs(max_nodes=16))
def test_all(graph: Graph) -> None:
    after = keeps_meaning(graph, INFERENCE)
    assert set(after.outputs) == set(graph.outputs)
    assert [n.name for n in after.inputs] == [n.name for n in graph.inputs]
    assert {k: v.type for k, v in after.outputs.items()} == {
        k: v.type for k, v in graph.outputs.items()
    }


@settings(quick, max_examples=60)
@given(graph=graphs())
def test_minimal(graph: Graph) -> None:
    keeps_meaning(graph, MINIMAL)


@settings(quick, max_examples=100)
@given(graph=graphs(), order=st.permutations(GRAPH_PASSES))
def test_any_order(graph: Graph, order: list[Pass]) -> None:
    keeps_meaning(graph, (*order, *LOWERING))


@quick
@given(graph=graphs())
def test_nothing_left_to_do(graph: Graph) -> None:
    """A pass run twice does nothing the second time, and says so by the same object."""
    for each in GRAPH_PASSES:
        once = each.run(graph, Context())
        assert each.run(once, Context()) is once, each.name


@quick
@given(graph=graphs(max_nodes=16))
def test_kernels(graph: Graph) -> None:
    """After fusion there are sources, views and kernels; the order is one, and no worse."""
    after = run_passes(graph, INFERENCE)
    for node in after.nodes:
        assert isinstance(node.op, (*SOURCES, *VIEWS)) or node.op.name == "fused"
    order = schedule(after)
    seen = set()
    for node in order:
        assert all(v.node in seen for v in node.inputs)
        seen.add(node)
    assert seen == set(after.nodes)
    assert peak_bytes(after, order) <= peak_bytes(after, after.nodes)


def greedy(memory: Memory, key: Key) -> list[Node]:
    """Always the ready kernel with the smallest key, every one of them looked at."""
    state, left, order = State(memory), [*memory.kernels], list[Node]()
    while left:
        ready = [n for n in left if memory.needs[n] <= {*order}]
        order.append(min(ready, key=lambda n: key(state.look(n), state)))
        state.run(order[-1])
        left.remove(order[-1])
    return order


@pytest.mark.parametrize("key", [_least_peak, _least_growth])
@settings(quick, max_examples=100)
@given(graph=graphs(max_nodes=24), fused=st.booleans())
def test_the_order_is_that_of_looking_at_every_kernel(key: Key, graph: Graph, fused: bool) -> None:
    memory = Memory(run_passes(graph, INFERENCE) if fused else graph)
    assert memory.greedy(key) == greedy(memory, key)


@quick
@given(graph=graphs())
def test_text_of_kernels(graph: Graph) -> None:
    after = run_passes(graph, INFERENCE)
    verify(parse(show(after), weights=after.weights))


@pytest.mark.long
@settings(quick, max_examples=3000)
@given(
    graph=graphs(max_nodes=20),
    order=st.lists(st.sampled_from(GRAPH_PASSES), min_size=1, max_size=12),
)
def test_any_passes_long(graph: Graph, order: list[Pass]) -> None:
    keeps_meaning(graph, (*order, *LOWERING))
