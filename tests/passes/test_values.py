"""CSE, folding of parameters, the order of kernels."""

from __future__ import annotations

import numpy as np
import pytest

from netc.ir.graph import Builder, Graph
from netc.ir.interpret import interpret
from netc.ir.types import f32
from netc.passes.base import Context, run_passes
from netc.passes.cse import Cse
from netc.passes.facts import is_kernel
from netc.passes.fold_params import FoldParams
from netc.passes.order import peak_bytes, schedule
from netc.passes.pipelines import INFERENCE
from tests.passes.rule import check, graph, run, unchanged


def test_same_twice() -> None:
    check(
        Cse(),
        before="""
            graph @g(input %x: f32[4], param %p: f32[4]) {
              %a = relu(%x) : f32[4]
              %b = relu(%x) : f32[4]
              %c = add(%a, %p) : f32[4]
              %d = add(%p, %b) : f32[4]
              return %a, %c, %d
            }
        """,
        after="""
            graph @g(input %x: f32[4], param %p: f32[4]) {
              %a = relu(%x) : f32[4]
              %c = add(%a, %p) : f32[4]
              return %a, %c, "d" = %c
            }
        """,
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("affine(%x, scale=0.0)", "affine(%x, scale=-0.0)"),
        ("relu(%x)", "relu(%x, slope=0.5)"),
        ("sub(%x, %y)", "sub(%y, %x)"),
        ("relu(%x)", "relu(%y)"),
        ("dropout(%x, seed=1)", "dropout(%x, seed=2)"),
        ("relu(%x) : f32[4] @ cpu:0", "relu(%x) : f32[4] @ cpu:1"),
    ],
)
def test_not_the_same(one: str, other: str) -> None:
    typed = [op if " : " in op else f"{op} : f32[4]" for op in (one, other)]
    text = f"""
    graph @g(input %x: f32[4], input %y: f32[4]) {{
      %a = {typed[0]}
      %b = {typed[1]}
      return %a, %b
    }}
    """
    unchanged(Cse(), text)


def test_parameters_fold_in_float64() -> None:
    """(p + 1) − 1, rounded once at the end."""
    text = """
    graph @g(input %x: f32[3], param %p: f32[3]) {
      %a = affine(%p, shift=1.0) : f32[3]
      %b = affine(%a, shift=-1.0) : f32[3]
      %y = mul(%x, %b) : f32[3]
      return %y
    }
    """
    tiny = np.float32([1e-9, 2e-9, 3e-9])
    after, _ = run(FoldParams(), graph(text, p=tiny))
    assert [n.op.name for n in after.nodes] == ["input", "param", "mul"]
    assert after.params[0].name == "b"
    np.testing.assert_allclose(after.weights["b"], tiny, rtol=1e-6)
    assert not after.weights["b"].flags.writeable


def test_an_output_folds_and_keeps_its_name() -> None:
    text = """
    graph @g(input %x: f32[3], param %p: f32[3]) {
      %a = exp(%p) : f32[3]
      %y = add(%x, %a) : f32[3]
      return %a, %y
    }
    """
    after, _ = run(FoldParams(), graph(text))
    assert after.outputs["a"].op.name == "param"


def test_constants_become_parameters() -> None:
    text = """
    graph @g(input %x: f32[2,3]) {
      %c = const(type=f32[2,3], value=1.5) : f32[2,3]
      %y = concat(%x, %c) : f32[2,6]
      return %y
    }
    """
    after, _ = run(FoldParams(), graph(text))
    assert "const" not in {n.op.name for n in after.nodes}


def test_much_larger_results_stay() -> None:
    text = """
    graph @g(input %x: f32[1000,1000], param %p: f32[1,1000]) {
      %t = tile(%p, axis=0, times=1000) : f32[1000,1000]
      %y = add(%x, %t) : f32[1000,1000]
      return %y
    }
    """
    unchanged(FoldParams(), text, "1000000 elements from 1000")


def test_what_a_size_of_a_run_decides_stays() -> None:
    text = """
    graph @g(input %x: f32[T,8], param %p: f32[99,8], param %q: f32[1,8,4,4]) {
      %part = slice(%p, axis=0, stop=<T>) : f32[T,8]
      %one = slice(%p, axis=0, start=<T>, stop=<T+1>) : f32[1,8]
      %map = resize_bilinear(%q, size=(<T>,8)) : f32[1,8,T,8]
      %y = add(%x, %part) : f32[T,8]
      %z = add(%x, %one) : f32[T,8]
      return %y, %z, %map
    }
    """
    unchanged(FoldParams(), text)


def test_prior_boxes_need_no_data() -> None:
    b = Builder()
    x, image = b.input("x", f32["N", 8, "H", 4]), b.input("image", f32["N", 3, 32, 32])
    boxes = b.prior_box(x, image, min_size=(8.0,), name="boxes")
    symbolic = b.graph("g", {"boxes": boxes})
    assert FoldParams().run(symbolic, Context()) is symbolic  # sizes are run-time ones
    b = Builder()
    x, image = b.input("x", f32["N", 8, 4, 4]), b.input("image", f32["N", 3, 32, 32])
    boxes = b.prior_box(x, image, min_size=(8.0,), name="boxes")
    fixed = b.graph("g", {"boxes": boxes})
    after = FoldParams().run(fixed, Context())
    feed = {"x": np.zeros((1, 8, 4, 4)), "image": np.zeros((1, 3, 32, 32))}
    np.testing.assert_allclose(
        interpret(after, feed)["boxes"], interpret(fixed, feed)["boxes"], rtol=1e-6
    )
    assert after.outputs["boxes"].op.name == "param"
    assert [n.name for n in after.inputs] == ["x", "image"]


def test_drawn_parameters_are_the_same_ones() -> None:
    """A parameter without an array is drawn by its name, folded or not."""
    b = Builder()
    from netc.ir.ops.sources import Initializer

    p = b.param("p", f32[3], Initializer("gaussian", 0.0, 1.0))
    g = b.graph("g", {"y": b.add(b.input("x", f32[3]), b.exp(p))})
    after = FoldParams().run(g, Context(seed=5))
    feed = {"x": np.ones(3)}
    np.testing.assert_allclose(
        interpret(after, feed)["y"], interpret(g, feed, seed=5)["y"], rtol=1e-6
    )


def wide_first() -> Graph:
    """Two branches; the one that comes second in the text should run first."""
    text = """
    graph @g(input %x: f32[64]) {
      %a = tile(%x, axis=0, times=100) : f32[6400]
      %b = softmax(%a, axis=0) : f32[6400]
      %c = softmax(%x, axis=0) : f32[64]
      %d = tile(%c, axis=0, times=400) : f32[25600]
      %e = reduce_sum(%d, axes=(0,), keep=true) : f32[1]
      %y = mul(%b, %e) : f32[6400]
      return %y
    }
    """
    return run_passes(graph(text), INFERENCE)


def test_order_of_least_peak() -> None:
    """The large intermediate comes and goes before the long-lived one is made."""
    g = wide_first()
    order = schedule(g)
    names = [n.name for n in order if is_kernel(n)]
    assert names.index("e") < names.index("a")
    assert peak_bytes(g, order) < peak_bytes(g, g.nodes)
    assert peak_bytes(g, order) == 4 * (64 + 25600)


def test_parts_of_a_concat_lie_in_it() -> None:
    text = """
    graph @g(input %x: f32[100]) {
      %a = softmax(%x, axis=0) : f32[100]
      %b = log_softmax(%x, axis=0) : f32[100]
      %c = concat(%a, %b, axis=0) : f32[200]
      %y = reduce_sum(%c, axes=(0,)) : f32[]
      return %y
    }
    """
    g = run_passes(graph(text), INFERENCE)
    assert peak_bytes(g, schedule(g)) == 4 * 200
