"""Tests that every op gets from its samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from strategies import domain_of, draw_array

from netc.errors import GraphError, Span
from netc.ir.attributes import misfit
from netc.ir.dims import Dim, evaluate, sym
from netc.ir.graph import Builder, Graph, Node
from netc.ir.interpret import interpret
from netc.ir.op import REGISTRY, Array, Case, as_tuple, typed
from netc.ir.text import parse, show
from netc.ir.types import DType, Layout, TensorType

HERE = Span("sample.net", 3, 7)
NO_SAMPLES = {"input", "param", "fused"}  # tested on their own
# Results that jump where rounding differs: judged in one precision only.
CHANCE = {"stochastic_pool"}


def cases(error: bool) -> list[object]:
    return list(_cases(error))


def _cases(error: bool) -> Iterator[object]:
    for name, op in sorted(REGISTRY.items()):
        for i, sample in enumerate(s for s in op.samples if bool(s.error) is error):
            yield pytest.param(name, sample, id=f"{name}-{i}")


def arrays(sample: Case, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [draw_array(t, domain_of(sample, i), rng) for i, t in enumerate(sample.inputs)]


def node_of(
    name: str, sample: Case, symbolic: frozenset[int] = frozenset()
) -> tuple[Node, Builder]:
    """The node of a sample; inputs in `symbolic` have N as their first size."""
    b = Builder()
    xs = []
    for i, t in enumerate(sample.inputs):
        t = t.with_shape((sym("N"), *t.shape[1:])) if i in symbolic else t
        xs.append(b.input(f"x{i}", t))
    b.loc = HERE
    return b(REGISTRY[name](**sample.attributes), *xs, name="y"), b


def graph_of(node: Node, b: Builder) -> Graph:
    return b.graph("sample", {v.name: v for v in node.results})


def test_every_op_has_samples() -> None:
    for name, op in REGISTRY.items():
        if name not in NO_SAMPLES:
            assert any(not s.error for s in op.samples), name


@pytest.mark.parametrize(("name", "sample"), cases(error=False))
def test_inferred_shape_is_the_actual_one(name: str, sample: Case) -> None:
    op = REGISTRY[name](**sample.attributes)
    types = typed(op, sample.inputs)
    outs = as_tuple(op.reference(*arrays(sample)))
    assert [t.sizes({}) for t in types] == [o.shape for o in outs]
    assert isinstance(op.flops(*(t.plain() for t in sample.inputs)), int)
    assert misfit(op) == ""


def first_sizes(sample: Case) -> frozenset[int]:
    """The inputs whose first size is the batch: the first, and those with as many items as it."""
    if not sample.inputs or not sample.inputs[0].rank:
        return frozenset()
    n = sample.inputs[0].shape[0]
    return frozenset(i for i, t in enumerate(sample.inputs) if t.rank and t.shape[0] == n)


@pytest.mark.parametrize(("name", "sample"), cases(error=False))
def test_symbolic_batch_gives_the_shape_of_every_batch(name: str, sample: Case) -> None:
    for symbolic in (first_sizes(sample), frozenset({0}) if sample.inputs else frozenset()):
        try:
            node, _ = node_of(name, sample, symbolic)
        except GraphError:
            continue  # the axis is one whose size must be known
        for n in (1, 2, 5):
            inputs = tuple(
                t.with_shape((n, *t.shape[1:])) if i in symbolic else t
                for i, t in enumerate(sample.inputs)
            )
            try:
                concrete = typed(node.op, inputs)
            except GraphError:
                continue  # legal for other batches
            assert [t.sizes({"N": n}) for t in node.types] == [t.sizes({}) for t in concrete]


@pytest.mark.parametrize(("name", "sample"), cases(error=False))
def test_symbolic_image_gives_the_shape_of_every_image(name: str, sample: Case) -> None:
    if not sample.inputs or sample.inputs[0].rank != 4:
        return
    first, *rest = sample.inputs
    shape: tuple[Dim, ...] = (*first.shape[:2], sym("H"), sym("W"))
    alike = [t.with_shape(shape) if t.shape == first.shape else t for t in rest]
    op = REGISTRY[name](**sample.attributes)
    try:
        types = typed(op, (first.with_shape(shape), *alike))
    except GraphError:
        return
    for h, w in ((5, 4), (8, 9), (16, 13), (7, 7)):
        sized = (*first.shape[:2], h, w)
        try:
            here = [t.with_shape(sized) if t.shape == first.shape else t for t in sample.inputs]
            concrete = typed(op, tuple(here))
        except GraphError:
            continue
        got = [tuple(evaluate(d, {"H": h, "W": w}) for d in t.shape) for t in types]
        assert got == [t.sizes({}) for t in concrete], (h, w)


@pytest.mark.parametrize(("name", "sample"), cases(error=False))
def test_both_precisions_agree(name: str, sample: Case) -> None:
    if name in CHANCE:
        return
    node, b = node_of(name, sample)
    graph = graph_of(node, b)
    feed = {f"x{i}": x for i, x in enumerate(arrays(sample, 1))}
    exact = interpret(graph, feed)
    rough = interpret(graph, feed, np.float32)
    for v in node.results:
        assert rough[v.name].dtype == (
            np.float32 if v.type.dtype is DType.F32 else v.type.dtype.numpy
        )
        # Sums here have at most a few hundred terms of size 1: 1e-4 is 8·2⁻²⁴·Σ|a||b| rounded up.
        np.testing.assert_allclose(rough[v.name], exact[v.name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "sample"), cases(error=False))
def test_text_round_trip(name: str, sample: Case) -> None:
    node, b = node_of(name, sample)
    text = show(graph_of(node, b))
    again = parse(text)
    assert show(again) == text
    assert again.outputs["y"].op == node.op
    assert again.outputs["y"].node.types == node.types


@pytest.mark.parametrize(("name", "sample"), cases(error=True))
def test_illegal_samples_are_refused_where_they_stand(name: str, sample: Case) -> None:
    with pytest.raises(GraphError) as caught:
        node_of(name, sample)
    assert sample.error in str(caught.value)
    assert caught.value.span == HERE


@pytest.mark.parametrize(("name", "sample"), cases(error=False))
def test_blocked_inputs_give_blocked_results(name: str, sample: Case) -> None:
    op = REGISTRY[name](**sample.attributes)
    plain = typed(op, tuple(t.plain() for t in sample.inputs))
    for i, t in enumerate(sample.inputs):
        may = op.blocked is not None and (i in op.blocked or -1 in op.blocked)
        inputs = tuple(
            replace(x, layout=Layout.C8 if i == j else Layout.PLAIN)
            for j, x in enumerate(sample.inputs)
        )
        if not may:
            with pytest.raises(GraphError, match="row-major"):
                typed(op, inputs)
        elif t.rank == 4:
            assert [x.plain() for x in typed(op, inputs)] == [x.plain() for x in plain]


def test_a_type_is_needed_for_sizes() -> None:
    assert TensorType(DType.F32, (sym("N"), 3)).sizes({"N": 4}) == (4, 3)
