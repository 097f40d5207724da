"""Strides go up to where pixels are made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.ir.graph import Builder, Graph, Value
from netc.ir.interpret import interpret
from netc.ir.types import f32
from netc.passes.base import Context
from netc.passes.checking import feed_for
from netc.passes.pull_strides import PullStrides
from tests.passes.rule import check, graph, run, unchanged

P = "param %v: f32[8,4,1,1], param %w: f32[8,8,1,1], param %k: f32[8,4,3,3], param %b: f32[1,8,1,1]"


def net(lines: str, outputs: str = "%y", size: str = "9,12") -> str:
    return f"graph @g(input %x: f32[N,4,{size}], {P}) {{\n{lines}\n  return {outputs}\n}}"


def strides(g: Graph) -> dict[str, tuple[int, ...]]:
    return {n.name: n.op.stride for n in g.nodes if hasattr(n.op, "stride")}


END = """%a = conv(%x, %k, pad=(1, 1)) : f32[N,8,9,12]
  %c = conv(%x, %v) : f32[N,8,9,12]
  %d = add(%a, %c) : f32[N,8,9,12]
  %e = relu(%d) : f32[N,8,9,12]
"""
NEXT = """%p = conv(%e, %w, stride=(2, 3)) : f32[N,8,5,4]
  %q = conv(%e, %w, stride=(2, 3)) : f32[N,8,5,4]
  %y = add(%p, %q) : f32[N,8,5,4]"""


def test_the_end_of_a_stage() -> None:
    """Both convolutions of the block skip pixels, those that read it no longer do."""
    after, ctx = run(PullStrides(), graph(net(END + NEXT)))
    assert strides(after) == {"a": (2, 3), "c": (2, 3), "p": (1, 1), "q": (1, 1)}
    assert after.by_name["e"].type == f32["N", 8, 5, 4]
    assert {f.node for f in ctx.fired} == {"a", "c", "d", "e"}


def test_what_others_read_whole_is_skipped_beside_it() -> None:
    """The shortcut's pixels are taken out of a value that the net gives, or that others need."""
    check(
        PullStrides(),
        net("""%s = relu(%x) : f32[N,4,9,12]
          %c = conv(%s, %v) : f32[N,8,9,12]
          %m = mul(%c, %b) : f32[N,8,9,12]
          %t = conv(%x, %v) : f32[N,8,9,12]
          %d = sub(%m, %t) : f32[N,8,9,12]
          %y = conv(%d, %w, stride=(2, 2)) : f32[N,8,5,6]""", "%y, %t"),
        net("""%s = relu(%x) : f32[N,4,9,12]
          %c = conv(%s, %v, stride=(2, 2)) : f32[N,8,5,6]
          %m = mul(%c, %b) : f32[N,8,5,6]
          %t = conv(%x, %v) : f32[N,8,9,12]
          %t.skipped = max_pool(%t, kernel=(1, 1), stride=(2, 2), pad=(0, 0)) : f32[N,8,5,6]
          %d = sub(%m, %t.skipped) : f32[N,8,5,6]
          %y = conv(%d, %w, stride=(1, 1)) : f32[N,8,5,6]""", "%y, %t"),
    )  # fmt: skip


def test_readers_with_several_strides_share_what_is_common() -> None:
    lines = """%a = conv(%x, %k, stride=(2, 1)) : f32[N,8,4,10]
      %p = conv(%a, %w, stride=(2, 4)) : f32[N,8,2,3]
      %q = max_pool(%a, kernel=(1, 1), stride=(1, 6)) : f32[N,8,4,2]
      %r = avg_pool(%a, kernel=(1, 1), stride=(3, 2)) : f32[N,8,2,5]"""
    after, _ = run(PullStrides(), graph(net(lines, "%p, %q, %r")))
    assert strides(after) == {"a": (2, 2), "p": (2, 2), "q": (1, 3), "r": (3, 1)}


def test_a_pool_with_nothing_left_to_skip_is_gone() -> None:
    lines = """%a = conv(%x, %k) : f32[N,8,7,10]
      %y = max_pool(%a, kernel=(1, 1), stride=(2, 2)) : f32[N,8,4,5]"""
    after, _ = run(PullStrides(), graph(net(lines)))
    assert strides(after) == {"a": (2, 2)}
    assert after.outputs["y"].type == f32["N", 8, 4, 5]


@pytest.mark.parametrize(
    "lines",
    [
        "%a = relu(%x) : f32[N,4,9,12]\n%y = conv(%a, %v, stride=(2, 2)) : f32[N,8,5,6]",
        "%a = conv(%x, %v) : f32[N,8,9,12]\n%y = conv(%a, %w) : f32[N,8,9,12]",
        "%a = conv(%x, %v) : f32[N,8,9,12]\n"
        "%y = conv(%a, %w, stride=(2, 2), pad=(1, 1)) : f32[N,8,6,7]",
        "%a = conv(%x, %v) : f32[N,8,9,12]\n"
        "%y = max_pool(%a, kernel=(1, 1), stride=(2, 2), ceil=true) : f32[N,8,5,7]",
        "%a = conv(%x, %v) : f32[N,8,9,12]\n%s = softmax(%a) : f32[N,8,9,12]\n"
        "%y = conv(%s, %w, stride=(2, 2)) : f32[N,8,5,6]",
    ],
    ids=["no conv", "no stride", "padding", "rounded up", "an op that mixes"],
)
def test_what_stays(lines: str) -> None:
    unchanged(PullStrides(), net(lines))


def test_an_output_and_an_unknown_size_stay() -> None:
    lines = "%a = conv(%x, %v) : f32[N,8,9,12]\n%y = conv(%a, %w, stride=(2, 2)) : f32[N,8,5,6]"
    unchanged(PullStrides(), net(lines, "%a, %y"))
    lines = lines.replace("9,12", "H,12").replace("5,6", "(H - 1) // 2 + 1,6")
    unchanged(PullStrides(), net(lines, size="H,12"))


def test_a_stride_beyond_the_limit_stays() -> None:
    lines = """%a = conv(%x, %v, stride=(65536, 1)) : f32[N,8,1,12]
      %y = conv(%a, %w, stride=(65536, 1)) : f32[N,8,1,12]"""
    unchanged(PullStrides(), net(lines))
    after, _ = run(PullStrides(), graph(net(lines.replace("65536", "32768"))))
    assert strides(after) == {"a": (1 << 30, 1), "y": (1, 1)}


@st.composite
def residual(draw: st.DrawFn) -> Graph:
    """Convolutions, element-wise ops and 1×1 pools that read any earlier values of their size."""
    b = Builder()
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    weights = {}
    pool = [b.input("x", f32[2, 4, draw(st.integers(1, 13)), draw(st.integers(1, 13))])]
    for i in range(draw(st.integers(2, 14))):
        x = pool[-1 - draw(st.integers(0, min(3, len(pool) - 1)))]
        kind = draw(st.sampled_from(("conv", "conv", "relu", "add", "mul", "pool")))
        stride = draw(st.sampled_from(((1, 1), (1, 1), (2, 2), (3, 2), (1, 4))))
        if kind == "conv":
            k = draw(st.sampled_from((1, 1, 3)))
            w = b.param(f"w{i}", f32[4, 4, k, k])
            weights[w.name] = rng.standard_normal((4, 4, k, k)).astype(np.float32) / (2 * k)
            pool.append(b.conv(x, w, stride=stride, pad=(k // 2, k // 2)))
        elif kind == "pool":
            pool.append(b.max_pool(x, kernel=(1, 1), stride=stride))
        elif kind == "relu":
            pool.append(b.relu(x))
        elif kind == "mul":
            s = b.param(f"s{i}", f32[1, 4, 1, 1])
            weights[s.name] = rng.standard_normal((1, 4, 1, 1)).astype(np.float32)
            pool.append(b.mul(x, s))
        else:
            alike = [v for v in pool if v.type == x.type]
            pool.append(b.add(x, draw(st.sampled_from(alike))))
    outputs: dict[str, Value] = {"y": pool[-1]}
    if draw(st.booleans()):
        outputs["z"] = draw(st.sampled_from(pool[1:]))
    return b.graph("g", outputs, weights=weights)


@settings(max_examples=300, deadline=None)
@given(residual())
def test_random_residual_nets(before: Graph) -> None:
    """The same numbers; and done once, nothing is left to do."""
    ctx = Context(check=2)
    after = PullStrides().run(before, ctx)
    feed = feed_for(before)
    got, want = interpret(after, feed), interpret(before, feed)
    for name, y in want.items():
        np.testing.assert_allclose(got[name], y, rtol=1e-12, atol=1e-12)
    assert sum(n.op.name == "conv" for n in after.nodes) == sum(
        n.op.name == "conv" for n in before.nodes
    )
    again = PullStrides().run(after, Context(check=2))
    assert again is after
