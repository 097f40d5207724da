"""Kernels: what becomes one, what does not, and the reason a user reads."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from strategies import graphs

from netc.ir.graph import Graph
from netc.ir.interpret import interpret
from netc.ir.verify import verify
from netc.passes.base import Context, run_passes
from netc.passes.checking import difference, feed_for
from netc.passes.fuse import SOURCES, Accepts, Fuse, Grouping, everything
from netc.passes.place import Place
from tests.passes.rule import graph

A = "f32[2,4,5,5]"
PARAMS = "param %w: f32[4,4,1,1], param %p: f32[4,1,1]"


def net(lines: str, outputs: str = "%y", x: str = A) -> str:
    return f"graph @g(input %x: {x}, {PARAMS}) {{\n{lines}\n  return {outputs}\n}}"


def fused(text: str, accepts: Accepts = everything, join: bool = True) -> tuple[Graph, Context]:
    before, ctx = graph(text), Context()
    after = run_passes(before, (Place(), Fuse(accepts, join)), ctx)
    verify(after)
    feed = feed_for(before)
    assert difference(interpret(before, feed), interpret(after, feed)) is None
    return after, ctx


def kernels(g: Graph) -> list[str]:
    """The names of the bodies, which list their ops."""
    return [n.op.body.name for n in g.nodes if n.op.name == "fused"]  # type: ignore[attr-defined]


CONV = f"%c = conv(%x, %w) : {A}\n"


def test_anchor_with_epilogue() -> None:
    g, ctx = fused(net(
        CONV + f"""%n = batch_norm(%c, %p, %p) : {A}
        %s = mul(%n, %p) : {A}
        %a = add(%s, %x) : {A}
        %y = prelu(%a, %p) : {A}"""
    ))  # fmt: skip
    assert kernels(g) == ["conv_batch_norm_mul_add_prelu"]
    (kernel,) = (n for n in g.nodes if n.op.name == "fused")
    assert kernel.name == "y"
    assert [v.name for v in kernel.inputs] == ["x", "w", "p"]
    assert not ctx.refusals


def test_inner_value_is_an_output_too() -> None:
    """ORT #13425: a value optimised out though the caller wants it."""
    g, _ = fused(net(CONV + f"%r = relu(%c) : {A}\n%y = tanh(%r) : {A}", "%c, %r, %y"))
    assert kernels(g) == ["conv_relu_tanh"]
    assert list(g.outputs) == ["c", "r", "y"]
    assert len(set(g.outputs.values())) == 3


def test_inner_value_is_read_by_another_kernel() -> None:
    g, _ = fused(net(
        CONV + f"%r = relu(%c) : {A}\n%d = conv(%r, %w) : {A}\n%y = add(%d, %r) : {A}"
    ))  # fmt: skip
    assert kernels(g) == ["conv_relu", "conv_add"]


def test_in_place_twice() -> None:
    g, _ = fused(net(CONV + f"%r = relu(%c) : {A}\n%s = relu(%r) : {A}\n%y = abs(%s) : {A}"))
    assert kernels(g) == ["conv_relu_relu_abs"]


def test_no_cycle_through_another_kernel() -> None:
    """sum = c + pool(relu(c)): the pool lies between."""
    g, ctx = fused(net(
        CONV + f"""%r = relu(%c) : {A}
        %m = max_pool(%r, kernel=(3, 3), pad=(1, 1)) : {A}
        %t = tanh(%m) : {A}
        %y = add(%r, %t) : {A}"""
    ))  # fmt: skip
    assert kernels(g) == ["conv_relu", "max_pool_tanh_add"]
    assert [str(r) for r in ctx.refusals] == [
        "fuse: %y stays apart from %r: it is part of %m's kernel, and a kernel has one anchor"
    ]


def test_no_cycle_through_a_view() -> None:
    """A path through a slice and a concat counts as any other."""
    g, ctx = fused(net(
        f"""%a = relu(%x) : {A}
        %s = slice(%a, start=0, stop=2) : f32[2,2,5,5]
        %t = slice(%a, start=2, stop=4) : f32[2,2,5,5]
        %b = concat(%t, %s) : {A}
        %y = add(%a, %b) : {A}"""
    ))  # fmt: skip
    assert kernels(g) == ["relu", "add"]
    assert "%y stays apart from %a: %b lies between them" in str(ctx.refusals[0])


def test_cycle_through_a_merged_kernel() -> None:
    """A path that enters a kernel at one node and leaves it at another."""
    g, _ = fused(net(
        f"""%a = relu(%x) : {A}
        %m = max_pool(%a, kernel=(1, 1)) : {A}
        %b = tanh(%m) : {A}
        %k = max_pool(%x, kernel=(1, 1)) : {A}
        %d = add(%b, %k) : {A}
        %e = max_pool(%k, kernel=(1, 1)) : {A}
        %f = add(%e, %a) : {A}
        %y = add(%f, %d) : {A}"""
    ))  # fmt: skip
    assert sum(name.count("pool") for name in kernels(g)) == 3


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (
            CONV + f"%d = conv(%x, %w) : {A}\n%y = add(%c, %d) : {A}",
            "it is part of %d's kernel, and a kernel has one anchor",
        ),
        (
            f"%c = global_avg_pool(%x) : f32[2,4,1,1]\n%y = mul(%x, %c) : {A}",
            "%y stays apart from %c: they work on [2,4,1,1] and [2,4,5,5]",
        ),
        (
            CONV + f"%y = relu(%c) : {A} @ cpu:1",
            "%y stays apart from %c_cpu1: a copy between devices is a step of its own",
        ),
    ],
)
def test_refusals(lines: str, why: str) -> None:
    before, ctx = graph(net(lines)), Context()
    run_passes(before, (Place(), Fuse()), ctx)
    assert any(why in str(r) for r in ctx.refusals), ctx.refusals


def test_back_end_has_its_say() -> None:
    def no_tails(body: Graph, params: frozenset[str]) -> str | None:
        assert params <= {"w", "p"}
        return "convolutions have no tails here" if "conv" in body.name else None

    g, ctx = fused(net(CONV + f"%r = relu(%c) : {A}\n%y = mul(%r, %p) : {A}"), no_tails)
    assert kernels(g) == ["conv", "relu_mul"]
    assert [r.reason for r in ctx.refusals] == [
        "%r stays apart from %c: convolutions have no tails here"
    ]


def test_one_result_only() -> None:
    """x · sigmoid(x) joins its convolution as a whole, where a part would need two results."""

    def one_result(body: Graph, params: frozenset[str]) -> str | None:
        return "a kernel has one result" if len(body.outputs) > 1 else None

    g, ctx = fused(net(CONV + f"%s = sigmoid(%c) : {A}\n%y = mul(%c, %s) : {A}"), one_result)
    assert kernels(g) == ["conv_sigmoid_mul"]
    assert not ctx.refusals


def test_every_node_alone() -> None:
    g, _ = fused(net(CONV + f"%r = relu(%c) : {A}\n%y = mul(%r, %p) : {A}"), join=False)
    assert kernels(g) == ["conv", "relu", "mul"]


def test_long_chain() -> None:
    """Thousands of nodes: no recursion, and kernels of bounded size."""
    lines, last = [], "x"
    for i in range(2000):
        lines.append(f"%v{i} = tanh(%{last}) : f32[3]")
        last = f"v{i}"
    text = f"graph @g(input %x: f32[3]) {{\n{chr(10).join(lines)}\nreturn %{last}\n}}"
    g, _ = fused(text)
    assert len(kernels(g)) == -(-2000 // Fuse().max_nodes)


def test_a_kernel_that_grows_gives_its_readers_new_ancestors() -> None:
    """%c's kernel takes in %e and so waits for %k; %q waits for it; so %y cannot join %k."""
    g, ctx = fused(net(
        f"""%k = max_pool(%x, kernel=(3, 3), pad=(1, 1)) : {A}
        %c = conv(%x, %w) : {A}
        %a = relu(%c) : {A}
        %q = max_pool(%a, kernel=(3, 3), pad=(1, 1)) : {A}
        %e = add(%a, %k) : {A}
        %v = reshape(%q, shape=(2, 4, 5, 5)) : {A}
        %y = add(%k, %v) : {A}""", "%k, %q, %e, %y",
    ))  # fmt: skip
    assert "conv_relu_add" in kernels(g)
    assert any("%y stays apart from %k" in str(r) for r in ctx.refusals)


@given(graphs())
@settings(max_examples=50, deadline=None)
def test_kernels_know_their_ancestors(net: Graph) -> None:
    net = run_passes(net, (Place(),), Context())
    groups = Grouping(net, Fuse(), Context())
    known = groups.convexity
    for node in net.nodes:
        if isinstance(node.op, SOURCES):
            continue
        groups.add(node)
        every = set(groups.of.values())
        above = {g: {h for h in every if known.bits[h] & known.ancestors[g]} for g in every}
        for group in every:
            feeding = known.feeding(group)
            assert above[group] == {*feeding}.union(*(above[f] for f in feeding))
