"""Windows over one axis are windows over images of height 1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import netc
from netc.ir.graph import Builder, Value
from netc.ir.interpret import interpret
from netc.ir.types import f32
from netc.passes.base import Context
from netc.passes.checking import feed_for
from netc.passes.lift_rows import LiftRows
from netc.passes.pipelines import INFERENCE, MINIMAL
from tests.drawn import RNG
from tests.passes.rule import check, unchanged

NET = """net rows(x: f32[N, 12, T]) -> y, z {
  a = x |> conv(24, 5, stride=2, pad=2) |> relu
  b = a |> conv(24, 3, pad=2, dilation=2, groups=3) |> scale(bias=true)
  c = concat(a + b, b |> max_pool(3, stride=1, pad=1))
  y = c |> avg_pool(2, stride=2) |> conv_transpose(8, 4, stride=4) |> tanh
  z = c |> global_avg_pool |> fc(5)
}"""


HEAD = (
    "graph @g(input %x: f32[N,4,L], param %w: f32[8,4,3], param %b: f32[8], param %s: f32[8,1]) {\n"
)


def test_what_stands_between_windows_is_lifted_too() -> None:
    check(
        LiftRows(),
        HEAD
        + """
        %a = conv(%x, %w, %b, stride=(2), pad=(1), dilation=(1)) : f32[N,8,(L+1)//2]
        %d = mul(%a, %s) : f32[N,8,(L+1)//2]
        %y = max_pool(%d, kernel=(3), stride=(1), pad=(1)) : f32[N,8,(L+1)//2]
        return %y
        }""",
        HEAD
        + """
        %x.image = reshape(%x, shape=(0, 4, 1, -1)) : f32[N,4,1,L]
        %w.image = reshape(%w, shape=(8, 4, 1, 3)) : f32[8,4,1,3]
        %a = conv(%x.image, %w.image, %b, stride=(1, 2), pad=(0, 1), dilation=(1, 1))
          : f32[N,8,1,(L+1)//2]
        %s.image = reshape(%s, shape=(1, 8, 1, 1)) : f32[1,8,1,1]
        %d = mul(%a, %s.image) : f32[N,8,1,(L+1)//2]
        %y = max_pool(%d, kernel=(1, 3), stride=(1, 1), pad=(0, 1)) : f32[N,8,1,(L+1)//2]
        %y.row = reshape(%y, shape=(0, 8, -1)) : f32[N,8,(L+1)//2]
        return "y" = %y.row
        }""",
    )


def test_rows_without_windows_stay() -> None:
    line = "%y = relu(%x) : f32[2,4,6]"
    unchanged(LiftRows(), f"graph @g(input %x: f32[2,4,6]) {{\n{line}\nreturn %y\n}}")


def test_a_pass_over_what_it_made_does_nothing() -> None:
    before = netc.parse(NET)
    for each in MINIMAL[:3]:
        before = each.run(before, Context())
    once = LiftRows().run(before, Context(check=2))
    assert LiftRows().run(once, Context()) is once
    assert not [n for n in once.nodes if n.op.name.startswith("conv") and n.types[0].rank == 3]


@pytest.mark.parametrize("precision", ["exact", "high", "low", "int8"])
def test_signals_of_any_length(precision: str) -> None:
    near = {"low": 0.03, "int8": 0.08}.get(precision, 1e-4)
    graph = netc.parse(NET)
    exe = netc.compile(graph, precision=precision, threads=2)
    for batch, length in ((1, 8), (3, 37), (2, 200)):
        x = RNG.normal(size=(batch, 12, length)).astype(np.float32)
        wanted, found = interpret(graph, {"x": x.astype(float)}), exe(x=x)
        for name in ("y", "z"):
            off = np.linalg.norm(found[name] - wanted[name])
            assert off <= near * np.linalg.norm(wanted[name])


def test_weights_are_stored_once() -> None:
    graph = netc.parse("net one(x: f32[N,64,T]) -> y { y = x |> conv(64, 3) }")
    artifact = netc.compile(graph).model
    assert len(artifact.weights) < 1.2 * 4 * (64 * 64 * 3 + 64)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_random_rows(data: st.DataObject) -> None:
    """Chains of windows, element-wise ops and concats over one axis, before the pass and after."""
    b = Builder()
    x = y = b.input("x", f32[2, 4, data.draw(st.integers(9, 20))])
    for i in range(data.draw(st.integers(1, 5))):
        y = _next(b, y, i, data)
    graph = b.graph("g", {"y": y, "x": b.relu(x)})
    feed = feed_for(graph)
    wanted = interpret(graph, feed)
    for each in INFERENCE[:3]:
        graph = each.run(graph, Context())
    after = LiftRows().run(graph, Context(check=2))
    for name, value in interpret(after, feed).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-12, atol=1e-12)


def _next(b: Builder, y: Value, i: int, data: st.DataObject) -> Value:
    channels, kind = y.type.shape[1], data.draw(st.integers(0, 7))
    assert isinstance(channels, int)
    stride, pad = data.draw(st.integers(1, 2)), data.draw(st.integers(0, 1))
    match kind:
        case 0:
            w = b.param(f"w{i}", f32[6, channels, 2])
            return b.conv(
                y, w, stride=(stride,), pad=(1,), dilation=(data.draw(st.integers(1, 2)),)
            )
        case 1:
            w = b.param(f"w{i}", f32[channels, 3, 2])
            return b.conv_transpose(y, w, b.param(f"b{i}", f32[3]), stride=(stride,))
        case 2 | 3:
            pool = b.max_pool if kind == 2 else b.avg_pool
            return pool(y, kernel=(2,), stride=(stride,), pad=(pad,), ceil=bool(pad))
        case 4:
            return b.concat(y, b.tanh(y), axis=1)
        case 5:
            return b.mul(y, b.param(f"s{i}", f32[channels, 1]))
        case 6:
            return b.add(y, b.global_avg_pool(y))
    return b.transpose(b.transpose(y, perm=(0, 2, 1)), perm=(0, 2, 1))
