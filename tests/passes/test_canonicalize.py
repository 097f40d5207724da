"""One spelling for each thing."""

from __future__ import annotations

import pytest

from netc.passes.canonicalize import Canonicalize
from tests.passes.rule import check, graph, run, unchanged


def one(op: str, x: str, y: str, params: str = "") -> str:
    return f"graph @g(input %x: {x}{params}) {{\n  %y = {op} : {y}\n  return %y\n}}"


W = ", param %w: f32[6,2,3,3]"


@pytest.mark.parametrize(
    ("before", "after", "x", "y", "params"),
    [
        (
            "conv(%x, %w, groups=2)",
            "conv(%x, %w, stride=(1, 1), pad=(0, 0), dilation=(1, 1), groups=2)",
            "f32[N,4,9,9]", "f32[N,6,7,7]", W,
        ),
        (
            "max_pool(%x, kernel=(3, 3))",
            "max_pool(%x, kernel=(3, 3), stride=(1, 1), pad=(0, 0))",
            "f32[N,4,9,9]", "f32[N,4,7,7]", "",
        ),
        ("softmax(%x, axis=-1)", "softmax(%x, axis=1)", "f32[2,3]", "f32[2,3]", ""),
        ("flatten(%x)", "reshape(%x, shape=(2, 12))", "f32[2,3,4]", "f32[2,12]", ""),
        ("flatten(%x)", "reshape(%x, shape=(0, 12))", "f32[N,3,4]", "f32[N,12]", ""),
        ("flatten(%x)", "reshape(%x, shape=(0, -1))", "f32[N,3,H]", "f32[N,3*H]", ""),
        ("reshape(%x, shape=(0, -1))", "reshape(%x, shape=(0, 12))", "f32[N,3,4]", "f32[N,12]", ""),
        (
            "transpose(%x, perm=(0, 2, 1, 3))", "reshape(%x, shape=(2, 5, 1, 7))",
            "f32[2,1,5,7]", "f32[2,5,1,7]", "",
        ),
        (
            "transpose(%x, perm=(0, -1, 1))", "transpose(%x, perm=(0, 2, 1))",
            "f32[2,3,5]", "f32[2,5,3]", "",
        ),
        ("slice(%x, start=1)", "slice(%x, start=1, stop=3)", "f32[2,3]", "f32[2,2]", ""),
        (
            "avg_pool(%x, kernel=(7, 7))", "global_avg_pool(%x)",
            "f32[N,3,7,7]", "f32[N,3,1,1]", "",
        ),
        (
            "reduce_mean(%x, axes=(-1, 2), keep=true)", "global_avg_pool(%x)",
            "f32[N,3,7,7]", "f32[N,3,1,1]", "",
        ),
    ],
)  # fmt: skip
def test_spelling(before: str, after: str, x: str, y: str, params: str) -> None:
    check(Canonicalize(), one(before, x, y, params), one(after, x, y, params))


@pytest.mark.parametrize(
    "op",
    [
        "affine(%x)", "pow(%x)", "concat(%x)", "slice(%x)", "slice(%x, axis=3, stop=6)",
        "tile(%x)", "pad(%x)", "pad(%x, before=(0, 0, 0, 0))", "flatten(%x, axis=1, end=1)",
        "reshape(%x, shape=(0, 3, -1, 6))", "transpose(%x, perm=(0, 1, 2, -1))",
        "max_pool(%x, kernel=(1, 1))", "avg_pool(%x, kernel=(1, 1), ceil=true)", "crop(%x, %x)",
        "reduce_sum(%x, axes=())",
    ],
)  # fmt: skip
def test_does_nothing(op: str) -> None:
    text = f"""
    graph @g(input %x: f32[2,3,6,6]) {{
      %r = relu(%x) : f32[2,3,6,6]
      %y = {op.replace("%x", "%r")} : f32[2,3,6,6]
      return %y
    }}
    """
    after, _ = run(Canonicalize(), graph(text))
    assert [n.op.name for n in after.nodes] == ["input", "relu"]
    assert list(after.outputs) == ["y"]


@pytest.mark.parametrize(
    "op",
    [
        "max_pool(%x, kernel=(1, 1), stride=(2, 2), pad=(0, 0)) : f32[2,3,3,3]",
        "avg_pool(%x, kernel=(6, 6), stride=(1, 1), pad=(1, 1)) : f32[2,3,3,3]",
        "affine(%x, shift=1.0) : f32[2,3,6,6]",
    ],
)
def test_does_something(op: str) -> None:
    text = f"graph @g(input %x: f32[2,3,6,6]) {{\n  %y = {op}\n  return %y\n}}"
    unchanged(Canonicalize(), text)


def test_one_input_concat_of_an_input() -> None:
    """An output that is an input, after concat([x]) is gone."""
    after, _ = run(Canonicalize(), graph(one("concat(%x)", "f32[2,3]", "f32[2,3]")))
    assert after.outputs["y"] == after.inputs[0].out


def test_inner_product_reads_through_flatten() -> None:
    params = ", param %w: f32[5,12]"
    x, y = "f32[N,3,2,2]", "f32[N,5]"
    check(
        Canonicalize(),
        before=f"""
            graph @g(input %x: {x}{params}) {{
              %f = flatten(%x) : f32[N,12]
              %y = fc(%f, %w, axis=-1) : {y}
              return %y
            }}
        """,
        after=one("fc(%x, %w)", x, y, params),
    )


def test_inner_product_does_not_read_through_the_batch() -> None:
    """A reshape that mixes rows is not the inner product's to skip."""
    text = """
    graph @g(input %x: f32[2,6,2], param %w: f32[5,6]) {
      %f = reshape(%x, shape=(4, 6)) : f32[4,6]
      %y = fc(%f, %w) : f32[4,5]
      return %y
    }
    """
    unchanged(Canonicalize(), text)


def test_constants_of_any_batch() -> None:
    """A constant spread over a run-time shape is one number; then it folds."""
    text = """
    graph @g(input %x: f32[N,3], input %z: f32[3]) {
      %c = const(type=f32[N,3], value=1.5) : f32[N,3]
      %a = maximum(%x, %c) : f32[N,3]
      %b = mul(%a, %c) : f32[N,3]
      %y = add(%z, %c) : f32[N,3]
      return %b, %y
    }
    """
    after, _ = run(Canonicalize(), graph(text))
    shapes = [n.types[0].shape for n in after.nodes if n.op.name == "const"]
    assert sorted(map(len, shapes)) == [0, 0, 2]  # %z needs the batch of its constant
