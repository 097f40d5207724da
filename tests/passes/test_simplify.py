"""Algebra that keeps the numbers, NaN and infinities included."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from netc.ir.graph import Builder, Graph
from netc.ir.interpret import interpret
from netc.ir.types import f32
from netc.passes.base import Context
from netc.passes.simplify import Simplify, _taps
from tests.passes.rule import check, graph, run, unchanged

SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, 5.0, -2.5, 7.0])


def chain(*ops: str, shape: str = "f32[12]", params: str = "") -> str:
    """%x through unary ops to %y."""
    names = ["x", *(f"v{i}" for i in range(len(ops) - 1)), "y"]
    lines = [
        f"  %{out} = {op.replace('_', '%' + before, 1)} : {shape}"
        for op, before, out in zip(ops, names, names[1:], strict=False)
    ]
    return f"graph @g(input %x: {shape}{params}) {{\n" + "\n".join(lines) + "\n  return %y\n}"


def ops(g: Graph) -> list[str]:
    """Its nodes, sources aside, with their attributes."""
    return [repr(n.op) for n in g.nodes if n.op.name not in ("input", "param", "const")]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["relu(_)", "relu(_)"], ["relu(slope=0.0)"]),
        (["relu(_, slope=0.5)", "relu(_)"], ["relu(slope=0.0)"]),
        (["relu(_)", "relu(_, slope=0.5)"], ["relu(slope=0.0)"]),
        (["elu(_)", "relu(_)"], ["relu(slope=0.0)"]),
        (["relu(_)", "clip(_, low=-1.0, high=6.0)"], ["clip(low=0.0, high=6.0)"]),
        (["relu(_)", "clip(_, low=1.0, high=6.0)"], ["clip(low=1.0, high=6.0)"]),
        (["clip(_, low=-2.0, high=3.0)", "relu(_)"], ["clip(low=0.0, high=3.0)"]),
        (["clip(_, low=-3.0, high=-2.0)", "relu(_)"], ["clip(low=0.0, high=0.0)"]),
        (["clip(_, low=0.0, high=4.0)", "clip(_, low=-1.0, high=3.0)"],
         ["clip(low=0.0, high=3.0)"]),
        (["clip(_, low=0.0, high=1.0)", "clip(_, low=2.0, high=3.0)"], ["clip(low=2.0, high=2.0)"]),
        (["clip(_, low=2.0, high=3.0)", "clip(_, low=0.0, high=1.0)"], ["clip(low=1.0, high=1.0)"]),
        (["sigmoid(_)", "relu(_)"], ["sigmoid()"]),
        (["abs(_)", "abs(_)"], ["abs()"]),
        (["sqrt(_)", "relu(_)"], ["sqrt()"]),
        (["maximum(_, %x)"], []),
        (["affine(_, scale=2.0)", "affine(_, scale=3.0, shift=1.0)"],
         ["affine(scale=6.0, shift=1.0)"]),
        (["affine(_, scale=2.0, shift=0.5)", "affine(_, scale=3.0, shift=1.0)"],
         ["affine(scale=6.0, shift=2.5)"]),
    ],
)  # fmt: skip
def test_chains(before: list[str], after: list[str]) -> None:
    """The ops left, and the same results for NaN, ±∞, ±0, denormals and the largest numbers."""
    g = graph(chain(*before))
    simple = Simplify().run(g, Context())
    assert ops(simple) == after
    if "affine" in before[0]:
        return
    for dtype in (np.float64, np.float32):
        feed = {"x": SPECIAL.astype(np.float32)}
        want, got = interpret(g, feed, dtype)["y"], interpret(simple, feed, dtype)["y"]
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "ops_before",
    [
        ["relu(_)", "clip(_, low=-3.0, high=-2.0)"],  # clip would have its ends crossed
        ["relu(_, slope=-0.5)", "relu(_)"],  # positive below zero
        ["affine(_, scale=1e30)", "affine(_, scale=1e30)"],  # the product is infinite
        ["affine(_, scale=1e-30)", "affine(_, scale=1e-30)"],
        ["tanh(_)", "relu(_)"],
        ["relu(_)", "affine(_, scale=0.0)", "relu(_)"],  # NaN for ∞
    ],
)
def test_kept(ops_before: list[str]) -> None:
    unchanged(Simplify(), chain(*ops_before))


@pytest.mark.parametrize(
    ("op", "value", "after"),
    [
        ("mul(_, %c)", 2.5, "affine(scale=2.5, shift=0.0)"),
        ("add(%c, _)", 2.5, "affine(scale=1.0, shift=2.5)"),
        ("sub(_, %c)", 2.5, "affine(scale=1.0, shift=-2.5)"),
        ("sub(%c, _)", 2.5, "affine(scale=-1.0, shift=2.5)"),
        ("prelu(_, %c)", 0.25, "relu(slope=0.25)"),
    ],
)
def test_uniform_parameter(op: str, value: float, after: str) -> None:
    text = chain(op, shape="f32[2,3,4]", params=", param %c: f32[3,1]")
    g, _ = run(Simplify(), graph(text, c=np.full((3, 1), value, np.float32)))
    assert ops(g) == [after]


def test_zero_slopes_stay() -> None:
    """prelu(−∞, 0) is NaN, relu(−∞) is 0."""
    text = chain("prelu(_, %c)", shape="f32[2,3]", params=", param %c: f32[3]")
    unchanged(Simplify(), text, c=np.zeros(3, np.float32))


def test_parameters_join() -> None:
    text = chain(
        "mul(_, %a)", "mul(%b, _)", "add(_, %a)", "add(_, %b)",
        shape="f32[2,3]", params=", param %a: f32[3], param %b: f32[3]",
    )  # fmt: skip
    g, _ = run(Simplify(), graph(text))
    assert ops(g) == ["mul()", "mul()", "add()", "add()"]  # two of them over parameters only
    assert sum(1 for n in g.nodes if n.inputs and n.inputs[0] == g.inputs[0].out) == 1


def test_parameters_that_would_grow_stay() -> None:
    """[3, 1] · [1, 4] is larger than both."""
    text = chain(
        "mul(_, %a)", "mul(_, %b)",
        shape="f32[3,4]", params=", param %a: f32[3,1], param %b: f32[1,4]",
    )  # fmt: skip
    unchanged(Simplify(), text)


def test_shared_middle_stays() -> None:
    """A value with two readers is computed anyway."""
    text = """
    graph @g(input %x: f32[4]) {
      %a = affine(%x, scale=2.0) : f32[4]
      %y = affine(%a, scale=3.0) : f32[4]
      return %a, %y
    }
    """
    unchanged(Simplify(), text)


MOVES = """
graph @g(input %x: f32[2,6,3,5]) {{
  {}
  return %y
}}
"""


@pytest.mark.parametrize(
    ("lines", "after"),
    [
        ("%r = reshape(%x, shape=(2, 90)) : f32[2,90]\n"
         "%y = reshape(%r, shape=(2, 6, 15)) : f32[2,6,15]", ["reshape(shape=(2, 6, 15))"]),
        ("%r = reshape(%x, shape=(2, 90)) : f32[2,90]\n"
         "%y = reshape(%r, shape=(2, 6, 3, 5)) : f32[2,6,3,5]", []),
        ("%r = transpose(%x, perm=(0, 2, 3, 1)) : f32[2,3,5,6]\n"
         "%y = transpose(%r, perm=(0, 2, 1, 3)) : f32[2,5,3,6]", ["transpose(perm=(0, 3, 2, 1))"]),
        ("%r = slice(%x, start=1, stop=5) : f32[2,4,3,5]\n"
         "%y = slice(%r, start=1, stop=3) : f32[2,2,3,5]", ["slice(axis=1, start=2, stop=4)"]),
        ("%a = slice(%x, start=0, stop=2) : f32[2,2,3,5]\n"
         "%b = slice(%x, start=2, stop=6) : f32[2,4,3,5]\n"
         "%y = concat(%a, %b) : f32[2,6,3,5]", []),
        ("%a = slice(%x, start=1, stop=2) : f32[2,1,3,5]\n"
         "%b = slice(%x, start=2, stop=6) : f32[2,4,3,5]\n"
         "%y = concat(%a, %b) : f32[2,5,3,5]", ["slice(axis=1, start=1, stop=6)"]),
        ("%a = slice(%x, start=0, stop=2) : f32[2,2,3,5]\n"
         "%b = slice(%x, start=3, stop=6) : f32[2,3,3,5]\n"
         "%y = concat(%a, %b) : f32[2,5,3,5]",
         ["slice(axis=1, start=0, stop=2)", "slice(axis=1, start=3, stop=6)", "concat(axis=1)"]),
        ("%c = concat(%x, %x) : f32[2,12,3,5]\n"
         "%y = slice(%c, start=6, stop=12) : f32[2,6,3,5]", []),
        ("%c = concat(%x, %x) : f32[2,12,3,5]\n"
         "%y = slice(%c, start=7, stop=9) : f32[2,2,3,5]", ["slice(axis=1, start=1, stop=3)"]),
        ("%c = concat(%x, %x) : f32[2,12,3,5]\n"
         "%y = slice(%c, start=5, stop=7) : f32[2,2,3,5]",
         ["concat(axis=1)", "slice(axis=1, start=5, stop=7)"]),
        ("%c = concat(%x, %x) : f32[2,12,3,5]\n"
         "%y = concat(%c, %x, %c) : f32[2,30,3,5]", ["concat(axis=1)", "concat(axis=1)"]),
        ("%c = concat(%x, %x) : f32[2,12,3,5]\n"
         "%y = concat(%x, %c) : f32[2,18,3,5]", ["concat(axis=1)"]),
    ],
)  # fmt: skip
def test_moves(lines: str, after: list[str]) -> None:
    g, _ = run(Simplify(), graph(MOVES.format(lines)))
    assert ops(g) == after


def test_taps_that_meet_only_padding_are_cut() -> None:
    check(
        Simplify(),
        """
        graph @g(input %x: f32[N,4,1,2], param %w: f32[8,4,3,7], param %b: f32[8]) {
          %y = conv(%x, %w, %b, stride=(2, 1), pad=(1, 3), dilation=(1, 1)) : f32[N,8,1,2]
          return %y
        }""",
        """
        graph @g(input %x: f32[N,4,1,2], param %w: f32[8,4,3,7], param %b: f32[8]) {
          %slice = slice(%w, axis=2, start=1, stop=2) : f32[8,4,1,7]
          %slice_1 = slice(%slice, axis=3, start=2, stop=5) : f32[8,4,1,3]
          %y = conv(%x, %slice_1, %b, stride=(2, 1), pad=(0, 1), dilation=(1, 1)) : f32[N,8,1,2]
          return %y
        }""",
    )


@pytest.mark.parametrize(
    "line",
    [
        "conv(%x, %w, stride=(1, 1), pad=(1, 1), dilation=(1, 1)) : f32[2,8,2,2]",  # all meet
        "conv(%x, %v, stride=(1, 1), pad=(2, 2), dilation=(4, 4)) : f32[2,8,2,2]",  # none does
        "conv(%x, %w, stride=(3, 3), pad=(2, 2), dilation=(1, 1)) : f32[2,8,2,2]",  # another size
    ],
)
def test_taps_that_stay(line: str) -> None:
    params = "param %v: f32[8,4,2,2], param %w: f32[8,4,3,3]"
    text = f"graph @g(input %x: f32[2,4,2,2], {params}) {{\n%y = {line}\nreturn %y\n}}"
    unchanged(Simplify(), text)


def test_long_signals_are_not_walked_along() -> None:
    b = Builder()
    y = b.conv(b.input("x", f32[1, 1, 1 << 30]), b.param("w", f32[1, 1, 3]), pad=(1,))
    before = b.graph("g", {"y": y})
    assert Simplify().run(before, Context()) is before


def test_taps_are_those_of_every_window() -> None:
    """By the formula as by looking at each window."""
    for size, kernel, stride, pad, dilation in product(*(range(1, 5),) * 5):
        if (room := size + 2 * pad - dilation * (kernel - 1) - 1) < 0:
            continue
        starts = [i * stride - pad for i in range(room // stride + 1)]
        met = [t for t in range(kernel) if any(0 <= i + t * dilation < size for i in starts)]
        start, stop, left = _taps(size, len(starts), kernel, stride, pad, dilation)
        assert (start, stop) in ((0, kernel), (met[0], met[-1] + 1) if met else (0, kernel))
        assert left == pad - start * dilation


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_random_taps(data: st.DataObject) -> None:
    size, kernel = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 7))
    stride, pad, dilation = (data.draw(st.integers(least, 4)) for least in (1, 0, 1))
    assume(size + 2 * pad >= dilation * (kernel - 1) + 1)
    b = Builder()
    x, w = b.input("x", f32[2, 3, size]), b.param("w", f32[4, 3, kernel])
    y = b.conv(x, w, stride=(stride,), pad=(pad,), dilation=(dilation,))
    run(Simplify(), b.graph("g", {"y": y}))
