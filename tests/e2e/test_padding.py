"""pad in all its modes, on sizes known when compiling and not: bit for bit as NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from netc.errors import GraphError, NetcError

X = np.random.default_rng(8).standard_normal((2, 3, 6, 7)).astype(np.float32)
WIDTHS = [
    ((0, 0, 1, 1), (0, 0, 1, 1)),
    ((0, 0, 5, 2), (0, 0, 0, 6)),
    ((1, 0, 0, 0), (0, 2, 0, 1)),
    ((0, 0, 0, 3), (0, 0, 0, 0)),
]


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
@pytest.mark.parametrize(("before", "after"), WIDTHS)
@pytest.mark.parametrize("type", ["f32[N,3,H,W]", "f32[2,3,6,7]"])
def test_modes(mode: str, before: tuple[int, ...], after: tuple[int, ...], type: str) -> None:
    call = f'pad(x, before={before}, after={after}, mode="{mode}")'
    net = netc.parse(f"net t(x: {type}) -> y {{ y = {call} }}")
    want = np.pad(X, list(zip(before, after, strict=True)), mode=mode)
    for optimize in (True, False):
        np.testing.assert_array_equal(netc.compile(net, optimize=optimize)(x=X)["y"], want)


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("mode", ["edge", "reflect"])
def test_around_convolutions(mode: str, optimize: bool) -> None:
    pad = f'pad(before=(0, 0, 1, 2), after=(0, 0, 2, 1), mode="{mode}")'
    net = netc.parse(
        f"net t(x: f32[N,3,H,W]) -> y {{ y = x |> {pad} |> conv(16, 3) |> relu |> {pad}"
        f" |> conv(16, 3) |> relu |> {pad} |> conv(3, 3) |> {pad} |> affine(2, 1) }}",
        warn=lambda *_: None,
    )
    for size in ((1, 3, 4, 5), (2, 3, 19, 33)):
        x = np.random.default_rng(1).standard_normal(size).astype(np.float32)
        want = np.asarray(netc.interpret(net, {"x": x})["y"])
        got = netc.compile(net, optimize=optimize, precision="exact")(x=x)["y"]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("mode", ["edge", "reflect"])
def test_on_gpus(mode: str) -> None:
    pytest.importorskip("triton")
    call = f'exp(x) |> pad(before=(0, 0, 5, 2), after=(0, 0, 0, 6), mode="{mode}") |> relu'
    net = netc.parse(f"net t(x: f32[N,3,H,W]) -> y {{ y = {call} }}")
    around = [(0, 0), (0, 0), (5, 0), (2, 6)]
    want = np.pad(np.exp(X), around, mode=mode)  # type: ignore[call-overload]
    got = netc.compile(net, target="cuda", gpu="interpret", cache=False)(x=X)["y"]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_an_image_too_small_to_mirror() -> None:
    call = 'pad(x, before=(0, 0, 3, 0), mode="reflect")'
    exe = netc.compile(netc.parse(f"net t(x: f32[N,3,H,W]) -> y {{ y = {call} }}"))
    assert exe(x=X[:, :, :4])["y"].shape == (2, 3, 7, 7)
    with pytest.raises(NetcError, match="padding needs: H is 3, at least 4 fits"):
        exe(x=X[:, :, :3])
    with pytest.raises(GraphError, match=r'axis 2 of f32\[2,3,3,7\]: mode "reflect" needs a size'):
        netc.parse(f"net t(x: f32[2,3,3,7]) -> y {{ y = {call} }}")
    with pytest.raises(GraphError, match='"replicate" is none of "constant", "edge", "reflect"'):
        netc.parse('net t(x: f32[N,3]) -> y { y = pad(x, after=(0, 1), mode="replicate") }')
