"""Norms into weights: what folds, what does not, and why."""

from __future__ import annotations

import numpy as np
import pytest

from netc.ir.graph import Graph
from netc.ir.interpret import interpret
from netc.passes.base import Context, run_passes
from netc.passes.canonicalize import Canonicalize
from netc.passes.checking import difference, feed_for
from netc.passes.fold_norms import FoldNorms
from netc.passes.fold_params import FoldParams
from tests.passes.rule import check, graph, run, unchanged

ONES = {"v": np.full((8, 1, 1), 0.5, np.float32)}
FOLDED = (Canonicalize(), FoldNorms(), FoldParams())


def folded(text: str, **weights: np.ndarray) -> tuple[list[str], Context]:
    """The ops left after folding, sources aside; results are checked."""
    before = graph(text, **weights)
    ctx = Context()
    after = run_passes(before, FOLDED, ctx)
    feed = feed_for(before)
    assert difference(interpret(before, feed), interpret(after, feed)) is None
    sources = ("input", "param", "const")
    return [n.op.name for n in after.nodes if n.op.name not in sources], ctx


def test_text() -> None:
    check(
        FoldNorms(),
        before="""
            graph @g(input %x: f32[2,4,5,5], param %w: f32[8,4,1,1], param %s: f32[8,1,1]) {
              %conv1 = conv(%x, %w) : f32[2,8,5,5]
              %scale1 = mul(%conv1, %s) : f32[2,8,5,5]
              return %scale1
            }
        """,
        after="""
            graph @g(
              input %x: f32[2,4,5,5],
              param %w: f32[8,4,1,1],
              param %s: f32[8,1,1],
            ) {
              %reshape = reshape(%s, shape=(8)) : f32[8]
              %reshape_1 = reshape(%reshape, shape=(8, 1, 1, 1)) : f32[8,1,1,1]
              %conv1.w = mul(%w, %reshape_1) : f32[8,4,1,1]
              %scale1 = conv(%x, %conv1.w) : f32[2,8,5,5]
              return %scale1
            }
        """,
    )


def net(body: str, x: str = "f32[2,4,6,6]", w: str = "f32[8,4,3,3]", c: int = 8) -> str:
    """A net around lines that make %y of %x, with parameters of c channels."""
    vector = f"f32[{c},1,1]"
    return f"""
    graph @g(input %x: {x}, param %w: {w}, param %b: f32[8], param %m: {vector},
             param %v: {vector}, param %s: {vector}, param %t: {vector}) {{
      {body}
      return %y
    }}
    """


BATCH_NORM = """%n = batch_norm(%c, %m, %v) : f32[2,8,4,4]
      %p = mul(%n, %s) : f32[2,8,4,4]
      %y = add(%p, %t) : f32[2,8,4,4]"""


@pytest.mark.parametrize("inputs", ["%x, %w", "%x, %w, %b"])
def test_batch_norm_scale_bias_after(inputs: str) -> None:
    ops, _ = folded(net(f"%c = conv({inputs}) : f32[2,8,4,4]\n      {BATCH_NORM}"), **ONES)
    assert ops == ["conv"]


def test_every_linear_op_after() -> None:
    for last in (
        "affine(%c, scale=2.0, shift=1.0)", "mul(%s, %c)", "add(%t, %c)", "sub(%c, %t)",
        "sub(%t, %c)", "div(%c, %v)", "batch_norm(%c, %m, %v)",
    ):  # fmt: skip
        body = f"%c = conv(%x, %w, %b) : f32[2,8,4,4]\n%y = {last} : f32[2,8,4,4]"
        ops, _ = folded(net(body), **ONES)
        assert ops == ["conv"], last


def test_not_the_reciprocal() -> None:
    """t / conv is no scale of conv."""
    body = "%c = conv(%x, %w, %b) : f32[2,8,4,4]\n%y = div(%t, %c) : f32[2,8,4,4]"
    assert folded(net(body))[0] == ["conv", "div"]


@pytest.mark.parametrize(
    ("op", "x", "w", "made"),
    [
        ("conv(%x, %w, %b, groups=4)", "f32[2,4,6,6]", "f32[8,1,3,3]", "f32[2,8,4,4]"),
        ("conv(%x, %w, %b, groups=2)", "f32[2,4,6,6]", "f32[8,2,3,3]", "f32[2,8,4,4]"),
        ("conv_transpose(%x, %w, %b)", "f32[2,4,2,2]", "f32[4,8,3,3]", "f32[2,8,4,4]"),
        ("conv_transpose(%x, %w, %b, groups=2)", "f32[2,4,2,2]", "f32[4,4,3,3]", "f32[2,8,4,4]"),
    ],
)
def test_groups_and_transposes_after(op: str, x: str, w: str, made: str) -> None:
    ops, _ = folded(net(f"%c = {op} : {made}\n      {BATCH_NORM}", x, w), **ONES)
    assert ops == [op.split("(")[0]]


BEFORE = """%n = batch_norm(%x, %m, %v) : {0}
      %p = mul(%n, %s) : {0}
      %q = add(%p, %t) : {0}
      """


@pytest.mark.parametrize(
    ("op", "x", "w", "left"),
    [
        ("conv(%q, %w, %b) : f32[2,8,4,4]", "f32[2,8,6,6]", "f32[8,8,3,3]", ["conv"]),
        ("conv(%q, %w) : f32[2,8,4,4]", "f32[2,8,6,6]", "f32[8,8,3,3]", ["conv"]),
        ("conv(%q, %w, groups=8) : f32[2,8,4,4]", "f32[2,8,6,6]", "f32[8,1,3,3]", ["conv"]),
        ("conv(%q, %w, groups=2) : f32[2,8,4,4]", "f32[2,8,6,6]", "f32[8,4,3,3]", ["conv"]),
        ("fc(%q, %w, %b) : f32[2,8]", "f32[2,8,2,3]", "f32[8,48]", ["fc"]),
        ("fc(%q, %w) : f32[2,8]", "f32[2,8,2,3]", "f32[8,48]", ["fc"]),
    ],
)
def test_before(op: str, x: str, w: str, left: list[str]) -> None:
    ops, _ = folded(net(BEFORE.format(x) + f"%y = {op}", x, w), **ONES)
    assert ops == left


def test_scale_before_padding_folds_but_no_shift() -> None:
    """Trap: padding is 0 after the shift, so a shifted weight would be wrong at the borders."""
    scale = "%q = mul(%x, %s) : f32[2,8,6,6]\n"
    shift = "%q = add(%x, %t) : f32[2,8,6,6]\n"
    last = "%y = conv(%q, %w, pad=(1, 1)) : f32[2,8,6,6]"
    eight = ("f32[2,8,6,6]", "f32[8,8,3,3]")
    assert folded(net(scale + last, *eight))[0] == ["conv"]
    ops, ctx = folded(net(shift + last, *eight))
    assert ops == ["add", "conv"]
    assert "padding 1x1 would have to be shifted too" in str(ctx.refusals[0])


def test_preprocessing_into_first_convolution() -> None:
    body = """%p = sub(%x, %m) : f32[2,3,6,6]
      %q = affine(%p, scale=0.017) : f32[2,3,6,6]
      %y = conv(%q, %w, %b) : f32[2,8,4,4]"""
    assert folded(net(body, "f32[2,3,6,6]", "f32[8,3,3,3]", 3))[0] == ["conv"]


def test_mean_image_stays() -> None:
    """A mean per pixel is no shift per channel."""
    text = """
    graph @g(input %x: f32[2,3,6,6], param %w: f32[8,3,3,3], param %mean: f32[3,6,6]) {
      %p = sub(%x, %mean) : f32[2,3,6,6]
      %y = conv(%p, %w) : f32[2,8,4,4]
      return %y
    }
    """
    ops, ctx = folded(text)
    assert ops == ["sub", "conv"]
    assert "%p is not folded into %y: its shift varies within a channel" in str(ctx.refusals[0])


def test_raw_convolution_is_an_output() -> None:
    """Trap 10: the raw output is read too."""
    unchanged(
        FoldNorms(),
        """
        graph @g(input %x: f32[2,4,5,5], param %w: f32[8,4,1,1], param %s: f32[8,1,1]) {
          %conv1 = conv(%x, %w) : f32[2,8,5,5]
          %scale1 = mul(%conv1, %s) : f32[2,8,5,5]
          return %conv1, %scale1
        }
        """,
        why="%scale1 stays apart from %conv1: it is read 2 times",
    )


def test_raw_convolution_is_read_twice() -> None:
    text = """
    graph @g(input %x: f32[2,4,5,5], param %w: f32[8,4,1,1], param %s: f32[8,1,1]) {
      %conv1 = conv(%x, %w) : f32[2,8,5,5]
      %scale1 = mul(%conv1, %s) : f32[2,8,5,5]
      %sum = add(%conv1, %scale1) : f32[2,8,5,5]
      return %sum
    }
    """
    unchanged(FoldNorms(), text, why="read 2 times")


def test_shared_weights_are_split() -> None:
    """Trap 19: the other reader of a shared weight keeps the weight as it was."""
    text = """
    graph @g(input %x: f32[2,8,5,5], param %w: f32[8,8,1,1], param %s: f32[8,1,1]) {
      %c1 = conv(%x, %w) : f32[2,8,5,5]
      %s1 = mul(%c1, %s) : f32[2,8,5,5]
      %r1 = relu(%s1) : f32[2,8,5,5]
      %y = conv(%r1, %w) : f32[2,8,5,5]
      return %y
    }
    """
    ops, _ = folded(text)
    assert ops == ["conv", "relu", "conv"]


def test_shared_statistics() -> None:
    """Two norms with one set of statistics, over two convolutions."""
    text = """
    graph @g(input %x: f32[2,8,5,5], param %w: f32[8,8,1,1], param %m: f32[8,1,1],
             param %v: f32[8,1,1]) {
      %c1 = conv(%x, %w) : f32[2,8,5,5]
      %n1 = batch_norm(%c1, %m, %v) : f32[2,8,5,5]
      %c2 = conv(%n1, %w) : f32[2,8,5,5]
      %n2 = batch_norm(%c2, %m, %v) : f32[2,8,5,5]
      return %n1, %n2
    }
    """
    assert folded(text, **ONES)[0] == ["conv", "conv"]


def test_statistics_at_run_time_stay() -> None:
    """Trap 11: statistics of the batch are no parameters."""
    text = """
    graph @g(input %x: f32[2,4,5,5], input %m: f32[8,1,1], param %w: f32[8,4,1,1],
             param %v: f32[8,1,1]) {
      %c = conv(%x, %w) : f32[2,8,5,5]
      %n = batch_norm(%c, %m, %v) : f32[2,8,5,5]
      return %n
    }
    """
    unchanged(FoldNorms(), text, **ONES)


def test_weights_that_are_updated_stay() -> None:
    """A parameter with an update is state, not a constant."""
    before = graph(net(f"%c = conv(%x, %w) : f32[2,8,4,4]\n      {BATCH_NORM}"), **ONES)
    param = before.by_name
    updates = {name: param[name] for name in ("w", "m", "v", "s", "t")}
    training = Graph("t", before.inputs, before.outputs, before.weights, updates)
    after, _ = run(FoldNorms(), training)
    assert after is training


@pytest.mark.parametrize("variance", [0.0, -1.0, np.inf, np.nan])
def test_scale_that_is_not_finite(variance: float) -> None:
    """∞ · 0 within a sum would make every element NaN, not the ones that are."""
    text = """
    graph @g(input %x: f32[2,4,5,5], param %w: f32[8,4,1,1], param %m: f32[8,1,1],
             param %v: f32[8,1,1]) {
      %c = conv(%x, %w) : f32[2,8,5,5]
      %n = batch_norm(%c, %m, %v, eps=0.0) : f32[2,8,5,5]
      return %n
    }
    """
    v = np.full((8, 1, 1), variance, np.float32)
    if variance == np.inf:  # 1/√∞ is 0: finite, but x/√∞ of a finite x is 0 as well
        assert folded(text, v=v)[0] == ["conv"]
        return
    unchanged(FoldNorms(), text, why="its scale is not finite", v=v)


def test_broadcasting_up_is_no_norm() -> None:
    """A scale that makes the result larger than the convolution's."""
    text = """
    graph @g(input %x: f32[1,4,1,1], param %w: f32[8,4,1,1], param %s: f32[8,5,5]) {
      %c = conv(%x, %w) : f32[1,8,1,1]
      %y = mul(%c, %s) : f32[1,8,5,5]
      return %y
    }
    """
    unchanged(FoldNorms(), text)


def test_norm_alone_needs_no_root() -> None:
    text = net(
        "%n = batch_norm(%x, %m, %v) : f32[2,8,6,6]\n%y = relu(%n) : f32[2,8,6,6]",
        "f32[2,8,6,6]",
    )
    assert folded(text, **ONES)[0] == ["add", "mul", "relu"]


def test_close_mean_keeps_its_digits() -> None:
    """x − m first: x·s − m·s would lose the digits of x − m."""
    text = net("%y = batch_norm(%x, %m, %v) : f32[2,8,6,6]", "f32[2,8,6,6]")
    before = graph(text, m=np.full((8, 1, 1), 1e4, np.float32), **ONES)
    after = run_passes(before, FOLDED)
    x = {"x": (1e4 + np.random.default_rng(0).standard_normal((2, 8, 6, 6))).astype(np.float32)}
    exact = interpret(before, x)["y"]
    assert np.abs(interpret(after, x, np.float32)["y"] - exact).max() < 1e-5


@pytest.mark.parametrize(
    ("norm", "left"),
    [
        ("mul(%f, %o)", ["fc"]),  # [o], the last axis
        ("add(%f, %o)", ["fc"]),
        ("mul(%f, %r)", ["fc", "mul"]),  # [3, 1], rows
        ("affine(%f, scale=2.0, shift=1.0)", ["fc"]),
    ],
)
def test_inner_product_of_many_rows(norm: str, left: list[str]) -> None:
    """The channels of an inner product are its last axis, whatever axis 1 is."""
    text = f"""
    graph @g(input %x: f32[2,3,4], param %w: f32[3,4], param %o: f32[3], param %r: f32[3,1]) {{
      %f = fc(%x, %w, axis=2) : f32[2,3,3]
      %y = {norm} : f32[2,3,3]
      return %y
    }}
    """
    assert folded(text)[0] == left
