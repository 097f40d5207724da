"""Pipelines, the hook between passes, and rewriting itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from netc.errors import Span, VerifyError
from netc.ir.device import Device
from netc.ir.graph import Builder, Graph, Node, Stage, Value
from netc.ir.ops.elementwise import Affine, Relu
from netc.ir.types import f32
from netc.passes.base import BEFORE_KERNELS, Context, Pass, run_passes, until
from netc.passes.canonicalize import Canonicalize
from netc.passes.checking import difference, feed_for
from netc.passes.pipelines import INFERENCE, MINIMAL, PASSES, for_back_end
from netc.passes.rewrite import Rewriter, rewrite, rule
from netc.passes.simplify import RULES
from tests.passes.rule import graph

CHAIN = """
graph @g(input %x: f32[4]) {
  %a = relu(%x) : f32[4]
  %y = affine(%a, scale=2.0) : f32[4]
  return %y
}
"""


@dataclass(frozen=True)
class Halve:
    """A wrong pass: half of what every affine scales."""

    name: ClassVar[str] = "halve"
    needs: ClassVar[tuple[Stage, ...]] = BEFORE_KERNELS
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        @rule(Affine)
        def halve(rw: Rewriter, node: Node) -> Value | None:
            assert isinstance(node.op, Affine)
            return rw.affine(node.inputs[0], scale=1.0, shift=0.5) if node.op.scale == 2 else None

        return rewrite(graph, (halve,), ctx, self.name)


def test_every_pass_is_one() -> None:
    for p in (*INFERENCE, *MINIMAL):
        assert isinstance(p, Pass)
        assert type(p).__doc__
        assert type(p).run.__doc__
    assert len(PASSES) == len({p.name for p in INFERENCE})


def test_results_are_checked_in_the_usual_sizes() -> None:
    g = graph("graph @g(input %x: f32[N,H,W]) { %y = relu(%x) : f32[N,H,W] return %y }")
    assert feed_for(replace(g, usual={"H": 240}))["x"].shape == (2, 240, 64)


def test_every_rule_states_its_algebra() -> None:
    for r in RULES:
        assert "=" in r.algebra or "is" in r.algebra, r.name


def test_level_3_finds_wrong_passes() -> None:
    with pytest.raises(VerifyError, match="halve changed the net's results: y differs"):
        run_passes(graph(CHAIN), (Halve(),), Context(check=3))
    run_passes(graph(CHAIN), (Halve(),), Context(check=2))


def test_stages_are_kept() -> None:
    with pytest.raises(VerifyError, match="fuse needs stage placed, not net"):
        run_passes(graph(CHAIN), INFERENCE[-1:])


def test_hooks_see_every_pass() -> None:
    seen: list[str] = []
    ctx = Context(check=2, hooks=(lambda p, before, after, ctx: seen.append(p.name),))
    run_passes(graph(CHAIN), INFERENCE, ctx)
    assert seen == [p.name for p in INFERENCE]
    assert set(ctx.seconds) == set(seen)


def test_until() -> None:
    assert until(INFERENCE, "canonicalize") == INFERENCE[:3]
    with pytest.raises(
        VerifyError, match="no pass 'tidy'; there are shard, collectives, canonicalize"
    ):
        until(INFERENCE, "tidy")


def test_for_back_end() -> None:
    passes = for_back_end(INFERENCE, lambda body, params: "no", device=Device("cpu", 1))
    after = run_passes(graph(CHAIN), passes)
    assert [n.op.name for n in after.nodes] == ["input", "fused", "fused"]
    assert {n.device for n in after.nodes} == {Device("cpu", 1)}


def test_replacements_inherit() -> None:
    """Name, location and device of the replaced node."""
    b = Builder()
    x = b.input("x", f32[4])
    loc, device = Span("a.net", 3, 1), Device("cpu", 1)
    with b.at(loc), b.on(device):
        y = b.relu(b.affine(b.affine(x, scale=2.0), scale=3.0, name="named"))
    after = run_passes(b.graph("g", {"y": y}), INFERENCE[:3])
    made = after.by_name["named"].node
    assert isinstance(made.op, Affine)
    assert (made.loc, made.device) == (loc, device)


def test_rules_that_never_rest() -> None:
    @rule(Relu)
    def again(rw: Rewriter, node: Node) -> Value | None:
        """relu = relu."""
        return rw.relu(node.inputs[0])

    with pytest.raises(VerifyError, match="do not come to rest"):
        rewrite(graph(CHAIN), (again,), Context(), "spin")


def test_rules_must_keep_types() -> None:
    @rule(Relu)
    def reshaped(rw: Rewriter, node: Node) -> Value | None:
        """relu(x) ≠ reshape(x)."""
        return rw.reshape(node.inputs[0], shape=(2, 2))

    with pytest.raises(VerifyError, match=r"f32\[4\] became f32\[2,2\]"):
        rewrite(graph(CHAIN), (reshaped,), Context(), "wrong")


def test_updates_are_rebuilt() -> None:
    b = Builder()
    x, w = b.input("x", f32[4]), b.param("w", f32[4], value=np.ones(4, np.float32))
    step = b.sub(w, b.affine(b.mul(x, w), scale=0.1))
    g = replace(b.graph("g", {"y": b.mul(x, w)}), updates={"w": step})
    after = run_passes(g, INFERENCE, Context(check=2))
    assert list(after.updates) == ["w"]
    assert [n.name for n in after.params] == ["w"]


def test_nothing_to_do_is_the_same_object() -> None:
    g = graph("graph @g(input %x: f32[4]) {\n  %y = tanh(%x) : f32[4]\n  return %y\n}")
    assert Canonicalize().run(g, Context()) is g


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ([1.0, np.nan, np.inf], None),
        ([1.0 + 1e-7, np.nan, np.inf], None),
        ([1.1, np.nan, np.inf], "differs by 1.0e-01"),
        ([1.0, 2.0, np.inf], "NaN at other places"),
        ([1.0, np.nan, -np.inf], "infinities at other places"),
        ([1.0, np.nan], "was (3,), is (2,)"),
    ],
)
def test_difference(other: list[float], why: str | None) -> None:
    found = difference({"y": np.array([1.0, np.nan, np.inf])}, {"y": np.array(other)})
    assert found == why if why is None else why in str(found)
