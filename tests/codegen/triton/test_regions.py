"""Regions on GPUs: odd ones, corners that keep their digits, and steps that are not joined."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from netc.codegen.triton.job import PORTABLE
from netc.ir.interpret import interpret
from tests.codegen.triton.rules import kernels_of, net_of, run
from tests.codegen.triton.texts import compile_all, job
from tests.ops.test_regions import CASES, CORNERS, by_hand, net
from tests.strategies import regions

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
NETS = (
    "(x: f32[N,8,H,W], r: f32[R,5]) -> roi_pool(x, relu(r), size=(2,2), scale=0.0625)",
    "(x: f32[N,8,H,W], r: f32[R,5]) -> ps_roi_pool(x, relu(r), channels=2, group=2, scale=0.0625)",
)


@pytest.mark.parametrize(("parts", "size", "scale", "h", "w"), CASES)
def test_by_hand(parts: bool, size: tuple[int, int], scale: float, h: int, w: int) -> None:
    rng = np.random.default_rng(0)
    channels = 2 * size[0] ** 2 if parts else 11
    x = rng.normal(size=(2, channels, h, w)).astype(np.float32)
    drawn = regions((10, 5), 2, int(h / scale), rng)
    rois = np.concatenate([np.array(CORNERS), drawn]).astype(np.float32)
    want = by_hand(x.astype(np.float64), rois, scale, size, parts)
    got = run(net(parts, size, scale, channels), {"x": x, "rois": rois})["y"]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 if parts else 1e-7)


@pytest.mark.parametrize("precision", ["low", "fp16", "medium"])
@pytest.mark.parametrize("text", NETS)
def test_corners_keep_their_digits(text: str, precision: str) -> None:
    """With 11 bits or fewer, 4087.98 is 4088, and 4095 is 4096: pixels of x begin there."""
    graph = net_of(text)
    x = np.random.default_rng(0).integers(0, 100, (1, 8, 270, 270)).astype(np.float32)
    near, far = 4087.98 if "(x, relu(r), size" in text else 4095, 4111
    feed = {"x": x, "r": np.array([[0, near, near, far, far]], np.float32)}
    got = run(graph, feed, precision=precision)["y"]
    np.testing.assert_allclose(got, interpret(graph, feed)["y"], rtol=1e-6)
    rounded = {**feed, "r": feed["r"].astype(np.float16)}
    assert (interpret(graph, rounded)["y"] != got).any(), "the digits matter"


@pytest.mark.parametrize("text", NETS)
def test_a_product_and_a_sum_are_two_roundings(text: str) -> None:
    texts = [k for k in kernels_of(net_of(text)).values() if "tl.div_rn" in k.text]
    (made,) = compile_all([job(k, PORTABLE) for k in texts]).values()
    assert b"mul.f32" in made.blob
    assert b"fma" not in made.blob
    machine = compile_all([job(k, arch) for k in texts for arch in ("sm_80", "sm_90")])
    assert [code.local for code in machine.values()] == [0, 0], "nothing spills"
