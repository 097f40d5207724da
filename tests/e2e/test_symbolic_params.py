"""Parameters that are cut, resized or unpooled to sizes known only at run time."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import netc
from netc.errors import InputError

TARGETS = ["cpu"] + ["cuda"] * (importlib.util.find_spec("triton") is not None)
POSITIONS = "x + slice(param(f32[64,8], {}), axis=0, stop=size(x,1))"
WINDOW = "x + slice(param(f32[64,8], {}), axis=0, start=size(x,1), stop=2*size(x,1))"
BEHIND = "add(conv(x,16,3,pad=1), slice(param(f32[1,16,20,9], {}), axis=2, stop=size(x,2)))"
PADDED = "x + conv(slice(param(f32[1,8,20,9], {}), axis=2, stop=size(x,2)), 8, 3, pad=1)"
RESIZED = "conv(x,8,3,pad=1) * resize_bilinear(param(f32[1,8,20,20], {}), size=(size(x,2),9))"
UNPOOLED = "conv(x,8,3,pad=1) + unpool(param(f32[1,8,4,4], {0}), param(f32[1,8,4,4], {0})"


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("type_", "body"),
    [
        ("f32[N,T,8]", POSITIONS),
        ("f32[N,T,8]", WINDOW),
        ("f32[N,8,T,9]", BEHIND),
        ("f32[N,8,T,9]", PADDED),
        ("f32[N,8,T,9]", RESIZED),
        ("f32[N,8,T,9]", UNPOOLED + ", size=(size(x,2),9))"),
    ],
)
def test_any_size(type_: str, body: str, target: str, optimize: bool) -> None:
    drawn = body.format("init=uniform(0,9)")
    graph = netc.parse(f"net t(x: {type_}) -> y {{ y = {drawn} }}", warn=lambda *_: None)
    exe = netc.compile(graph, target=target, optimize=optimize, gpu="interpret")
    for batch, size in ((1, 5), (3, 12)):
        shape = graph.inputs[0].types[0].sizes({"N": batch, "T": size})
        x = np.random.default_rng(size).standard_normal(shape).astype(np.float32)
        want = netc.interpret(graph, {"x": x})["y"]
        np.testing.assert_allclose(exe(x=x)["y"], want, atol=2e-6 * np.abs(want).max())


def test_an_end_beyond_the_parameter_is_refused() -> None:
    exe = netc.compile(netc.parse("net t(x: f32[1,T,8]) -> y { y = " + POSITIONS.format("") + "}"))
    with pytest.raises(InputError, match="what is left behind its end"):
        exe(x=np.zeros((1, 65, 8), np.float32))
