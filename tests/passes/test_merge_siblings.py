"""Sibling 1×1 convolutions as one."""

from __future__ import annotations

import pytest

from netc.ir.graph import Graph
from netc.passes.merge_siblings import MergeSiblings
from tests.passes.rule import graph, run, unchanged

P = "param %v: f32[8,4,1,1], param %w: f32[16,4,1,1], param %b: f32[8], param %c: f32[16]"
W3 = "param %k: f32[8,8,3,3], param %l: f32[8,16,5,5], param %o: f32[12,4,1,1]"


def net(lines: str, outputs: str = "%y") -> str:
    return f"graph @g(input %x: f32[N,4,9,9], {P}, {W3}) {{\n{lines}\n  return {outputs}\n}}"


def count(g: Graph, op: str) -> int:
    return sum(n.op.name == op for n in g.nodes)


TWO = """%p = conv(%x, %v, %b) : f32[N,8,9,9]
  %q = conv(%x, %w, %c) : f32[N,16,9,9]
  %r = relu(%p) : f32[N,8,9,9]
  %s = relu(%q) : f32[N,16,9,9]
"""
AFTER = """%m = conv(%r, %k, pad=(1, 1)) : f32[N,8,9,9]
  %n = conv(%s, %l, pad=(2, 2)) : f32[N,8,9,9]
  %y = add(%m, %n) : f32[N,8,9,9]"""


def test_inception() -> None:
    """Two reduced branches of an inception module: one convolution, one ReLU, two slices."""
    after, _ = run(MergeSiblings(), graph(net(TWO + AFTER)))
    assert count(after, "conv") == 3
    assert count(after, "relu") == 1
    assert [repr(n.op) for n in after.nodes if n.op.name == "slice"] == [
        "slice(axis=1, start=0, stop=8)", "slice(axis=1, start=8, stop=24)",
    ]  # fmt: skip
    assert after.by_name["r"].type == graph(net(TWO + AFTER)).by_name["r"].type


def test_a_family_reads_another() -> None:
    """The second family reads what the first became."""
    lines = """%p = conv(%x, %v) : f32[N,8,9,9]
      %q = conv(%x, %v, %b) : f32[N,8,9,9]
      %r = conv(%x, %v) : f32[N,8,9,9]
      %s = slice(%r, stop=4) : f32[N,4,9,9]
      %t = conv(%s, %v) : f32[N,8,9,9]
      %u = conv(%s, %w) : f32[N,16,9,9]
      %tt = tanh(%t) : f32[N,8,9,9]
      %uu = tanh(%u) : f32[N,16,9,9]
      %uuu = slice(%uu, stop=8) : f32[N,8,9,9]
      %a = add(%p, %q) : f32[N,8,9,9]
      %b1 = add(%a, %tt) : f32[N,8,9,9]
      %y = add(%b1, %uuu) : f32[N,8,9,9]"""
    after, _ = run(MergeSiblings(), graph(net(lines)))
    assert count(after, "conv") == 3  # p with r, q, t with u


@pytest.mark.parametrize(
    ("lines", "outputs", "why"),
    [
        (
            "%p = conv(%x, %v) : f32[N,8,9,9]\n%q = conv(%x, %o) : f32[N,12,9,9]",
            "%p, %q",
            "%q stays apart from its sibling %p: its 12 channels do not fill blocks of 8",
        ),
        (TWO, "%r, %s", "%r is an output of the net"),
        (TWO + "%y = concat(%r, %s) : f32[N,24,9,9]", "%y", "%y joins it in place"),
    ],
)
def test_apart(lines: str, outputs: str, why: str) -> None:
    unchanged(MergeSiblings(), net(lines, outputs), why)


def test_too_wide() -> None:
    unchanged(MergeSiblings(channels=16), net(TWO + AFTER), "more than 16 channels")


@pytest.mark.parametrize(
    "other",
    [
        "conv(%x, %w, stride=(2, 2)) : f32[N,16,5,5]",
        "conv(%x, %w, pad=(1, 1)) : f32[N,16,11,11]",
        "conv(%z, %w) : f32[N,16,9,9]",
    ],
)
def test_no_siblings(other: str) -> None:
    type = other.split(" : ")[1]
    lines = f"""%z = abs(%x) : f32[N,4,9,9]
      %p = conv(%x, %v) : f32[N,8,9,9]
      %q = {other}
      %r = tanh(%p) : f32[N,8,9,9]
      %s = sigmoid(%q) : {type}"""
    unchanged(MergeSiblings(), net(lines, "%r, %s"))


def test_three_of_different_widths() -> None:
    lines = """%p = conv(%x, %w, %c) : f32[N,16,9,9]
      %q = conv(%x, %v, %b) : f32[N,8,9,9]
      %r = conv(%x, %v, %b) : f32[N,8,9,9]
      %s = tanh(%p) : f32[N,16,9,9]
      %t = sigmoid(%q) : f32[N,8,9,9]
      %u = abs(%r) : f32[N,8,9,9]"""
    after, _ = run(MergeSiblings(), graph(net(lines, "%s, %t, %u")))
    assert count(after, "conv") == 3  # their tails differ: apart
    same = lines.replace("sigmoid", "tanh").replace("abs", "tanh")
    lines = same + "\n%sv = exp(%s) : f32[N,16,9,9]\n%tv = exp(%t) : f32[N,8,9,9]\n"
    lines += "%uv = exp(%u) : f32[N,8,9,9]"
    after, _ = run(MergeSiblings(), graph(net(lines, "%sv, %tv, %uv")))
    assert count(after, "conv") == count(after, "tanh") == 1
    assert count(after, "slice") == 3
