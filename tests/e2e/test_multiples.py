"""Inputs whose sizes are multiples: `f32[2*N, 3, 4*H, 4*W]` takes any that are, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

import netc
from netc.errors import GraphError, InputError
from netc.ir.types import f32
from tests.drawn import RNG

EVEN = f32["N", "2*T"]
WINDOWS = """
net windows(x: f32[2*N, 8, 4*H, 4*W]) -> y, half {
  w = reshape(x, [2*N, 8, H, 4, W, 4]) |> transpose([0, 2, 4, 3, 5, 1])
  w = reshape(w, [2*N*H*W, 16, 8]) |> softmax(axis=1)
  w = reshape(w, [2*N, H, W, 4, 4, 8]) |> transpose([0, 5, 1, 3, 2, 4])
  y = reshape(w, [2*N, 8, 4*H, 4*W]) + conv(x, 8, 3, pad=1)
  half = x |> max_pool(2, stride=2) |> resize_nearest(2) |> maximum(x)
}
"""


def drawn(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape), np.float32)


@pytest.mark.parametrize("options", [{}, {"optimize": False}, {"target": "cuda"}], ids=str)
def test_any_multiple(options: dict[str, Any], tmp_path: Path) -> None:
    graph = netc.parse(WINDOWS)
    gpu = "interpret" if "target" in options else "auto"
    netc.compile(graph, gpu=gpu, **options).save(tmp_path / "w.bin")
    exe = netc.load(tmp_path / "w.bin", gpu=gpu)
    assert exe.inputs["x"].shape == ("2*N", 8, "4*H", "4*W")
    for shape in ((2, 8, 4, 8), (6, 8, 12, 4)):
        x = drawn(*shape)
        got, want = exe(x=x), netc.interpret(graph, {"x": x})
        for name in ("y", "half"):
            np.testing.assert_allclose(got[name], want[name], atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "why"), [((3, 8, 4, 4), "2*N is never 3"), ((2, 8, 4, 6), "4*W is never 6")]
)
def test_no_multiple(shape: tuple[int, ...], why: str) -> None:
    graph = netc.parse(WINDOWS)
    with pytest.raises(InputError) as e:
        netc.compile(graph)(x=drawn(*shape))
    assert e.value.diagnostics[0].help == why
    with pytest.raises(InputError, match=r"2\*N,8,4\*H,4\*W"):
        netc.interpret(graph, {"x": drawn(*shape)})


def test_two_inputs_that_do_not_agree() -> None:
    exe = netc.compile(
        netc.parse("net n(a: f32[2*K], b: f32[K+1]) -> y { y = concat(a, b, axis=0) }")
    )
    assert exe(a=drawn(4), b=drawn(3))["y"].shape == (7,)
    with pytest.raises(InputError) as e:
        exe(a=drawn(4), b=drawn(4))
    assert e.value.diagnostics[0].help == "K+1 is not 4: K is 2 by a"


def test_chosen_shapes_say_what_sizes_are() -> None:
    graph = netc.parse(WINDOWS, shapes={"x": (2, 8, 8, 12)})
    assert str(graph.outputs["y"].type) == "f32[2,8,8,12]"
    opened = netc.parse(WINDOWS, shapes={"x": ("2*B", 8, "8*K", 12)})
    assert str(opened.outputs["y"].type) == "f32[2*B,8,8*K,12]"
    for shape, help in (((2, 8, 8, 11), "4*W is never 11"), ((2, 9, 8, 8), "only symbolic sizes")):
        with pytest.raises(GraphError) as e:
            netc.parse(WINDOWS, shapes={"x": shape})
        assert help in e.value.diagnostics[0].help


def test_one_input_says_it_for_all() -> None:
    text = "net n(a: f32[N, H], b: f32[N, H]) -> y { y = reshape(a + b, [N * H]) }"
    assert str(netc.parse(text, shapes={"a": (2, 3)}).outputs["y"].type) == "f32[6]"
    with pytest.raises(GraphError) as e:
        netc.parse(text, shapes={"a": (2, 3), "b": (2, 4)})
    assert e.value.diagnostics[0].help == "H is not 4 where H is 3"


def test_a_size_that_no_input_says() -> None:
    with pytest.raises(GraphError, match="no input says what H is"):
        netc.compile(netc.parse("net n(x: f32[N, H*W]) -> y { y = reshape(x, [N, H, W]) }"))


def test_from_python() -> None:
    @netc.net
    def halves(x: Annotated[netc.Tensor, EVEN]) -> dict[str, netc.Tensor]:
        return {"y": netc.reshape(x, (x.shape[0], x.shape[1] // 2, 2))}

    assert str(halves.outputs["y"].type) == "f32[N,T,2]"


def test_shares_of_a_batch_that_is_even() -> None:
    text = """
    net n(x: f32[2*N, 8, 2*H, 6]) -> y {
      replicate over cpu:0, cpu:1 { a = conv(x, 16, 3, pad=1) |> relu }
      y = fc(global_avg_pool(a), 5)
    }"""
    graph = netc.parse(text)
    exe = netc.compile(graph)
    for shape in ((2, 8, 4, 6), (6, 8, 2, 6)):
        x = drawn(*shape)
        np.testing.assert_allclose(exe(x=x)["y"], netc.interpret(graph, {"x": x})["y"], atol=1e-5)
