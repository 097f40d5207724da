"""The largest of rows by their ranks: every number of results, ties, and numbers that are none."""

import importlib.util
from itertools import product

import numpy as np
import pytest

import netc
from netc.codegen.triton.anchors.ranking import FEW
from netc.codegen.triton.image import build_image
from tests.codegen.cpu.harness import odd
from tests.codegen.triton.rules import kernels_of, net_of, run, run_variant

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
AXES = [("values=false", 65), ("values=true", 65), ("axis=1", 13), ("axis=-1, values=true", 5)]
ORDERS = ("false", "true")


@pytest.mark.parametrize(("how", "size"), AXES)
def test_every_count(how: str, size: int) -> None:
    x = odd((3, 13, 5))
    for top_k, first in product({1, 2, FEW, FEW + 1, size - 1, size}, ORDERS):
        if top_k <= size:
            graph = net_of(f"(x: f32[N,13,5]) -> argmax(x, {how}, top_k={top_k}, first={first})")
            (want,) = netc.interpret(graph, {"x": x}).values()
            np.testing.assert_array_equal(run(graph, {"x": x})["y"], want)


@pytest.mark.parametrize("variant", [0, 1])
@pytest.mark.parametrize("first", ORDERS)
def test_more_than_a_block(variant: int, first: str) -> None:
    """Rows along the first axis, each with several blocks and chunks."""
    graph = net_of(f"(x: f32[201,N]) -> argmax(x, axis=0, top_k=150, first={first})")
    x = odd((201, 2))
    (want,) = netc.interpret(graph, {"x": x}).values()
    np.testing.assert_array_equal(run_variant(graph, {"x": x}, variant)["y"], want)


def test_places_keep_their_digits() -> None:
    """Also where what is computed elsewhere has 16 bits."""
    graph = net_of("(x: f32[N,1000]) -> argmax(x, axis=1, top_k=12) |> affine(1, 0.5)")
    x = np.random.default_rng(0).permutation(2000).reshape(2, 1000).astype(np.float32)
    x[:, 256:] = np.minimum(x[:, 256:], 0)  # of what is left, every number is a bfloat16 too
    x[:, :256] = np.arange(256)
    (want,) = netc.interpret(graph, {"x": x}).values()
    np.testing.assert_array_equal(run(graph, {"x": x}, precision="low")["y"], want)


@pytest.mark.parametrize("net", [
    "(x: f32[N,20,8732]) -> argmax(x, axis=2, top_k=400) |> relu",
    "(x: f32[1,70,30,9]) -> argmax(x, top_k=6000, values=true, first=true)",
])  # fmt: skip
def test_nothing_spills(net: str) -> None:
    image = build_image(kernels_of(net_of(net)), ["sm_80", "sm_90"])
    codes = [code for kernel in image.kernels.values() for code in kernel.codes]
    assert [len(code) for code in codes] == [2, 2]
    assert all(c.local == 0 and c.registers <= 128 for code in codes for c in code.values())
