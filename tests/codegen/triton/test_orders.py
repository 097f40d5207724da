"""Which values lie row-major on a GPU, and what that saves."""

from __future__ import annotations

import pytest

from netc.codegen.triton.orders import row_major_values
from netc.compiler import Options, build, lower
from netc.ir.device import Device
from tests.codegen.triton.rules import net_of

GPU = Options(devices=(Device("cuda"),), archs=())


def found(text: str) -> set[str]:
    """The names of the kernels whose results lie row-major."""
    graph = lower(net_of(text), GPU).graph
    return {v.node.name for v in row_major_values(graph)} & {
        n.name for n in graph.nodes if n not in (*graph.inputs, *graph.params)
    }


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('(x: f32[N,4,9,8]) -> x |> softmax(axis=3, name="a") |> matmul(x, transpose_x=true,'
         ' name="b")', {"a", "b"}),
        ('(x: f32[N,9,8]) -> x |> exp(name="a") |> softmax(axis=2, name="b")'
         ' |> fc(5, axis=2, name="c")', {"b", "c"}),
        ('(x: f32[N,9,8,7]) -> x |> softmax(axis=3, name="a") |> conv(5, 3, name="b")', set()),
        ('(x: f32[N,9,8,7], y: f32[N,9,7,7]) -> x |> conv(9, 1, name="a")'
         ' |> matmul(softmax(y, axis=3, name="b"), name="c")', {"b"}),
        ('(x: f32[N,9,8,7], y: f32[7,5]) -> x |> softmax(axis=2, name="a")'
         ' |> transpose((0,2,1,3), name="b") |> matmul(y, name="c")', {"b", "c"}),
        ('(x: f32[N,9,8,7]) -> softmax(x, axis=1, name="a") |> max_pool(2, name="b")', set()),
    ],
)  # fmt: skip
def test_values_around_matrices_lie_row_major(text: str, names: set[str]) -> None:
    assert found(text) == names


def test_heads_are_split_without_a_copy_between() -> None:
    head = "fc(24, axis=2) |> reshape((0,0,4,6)) |> transpose((0,2,1,3))"
    graph = net_of(f"(x: f32[N,9,24]) -> matmul(x |> {head}, x |> {head}, transpose_y=true)")
    made = build(graph, GPU)
    ops = [s.op for s in made.levels[0].plan.steps]
    assert ops == ["fc", "transpose"] * 2 + ["matmul"]
