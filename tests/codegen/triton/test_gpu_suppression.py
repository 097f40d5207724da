"""Non-maximum suppression on a GPU, in Triton's interpreter: the bits of loops by hand."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from netc.codegen.triton.anchors import suppression
from netc.codegen.triton.image import build_image
from tests.boxes import CORNERS, kept_by_hand
from tests.codegen.triton.rules import kernels_of, net_of, run
from tests.strategies import clustered

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def call(attributes: dict[str, float]) -> str:
    return f"non_max_suppression({', '.join(f'{k}={v}' for k, v in attributes.items())})"


def test_corners() -> None:
    """Those of one attribute set in one run, each a group of its own, filled up with its last."""
    found = {}
    for boxes, attributes, kept in CORNERS:
        found.setdefault(call(attributes), []).append((boxes, kept))
    for text, rows in found.items():
        x = np.array([boxes + boxes[-1:] * (4 - len(boxes)) for boxes, _ in rows], np.float32)
        out = run(net_of(f"(x: f32[N,4,4]) -> x |> {text}"), {"x": x})["y"]
        for got, (boxes, kept) in zip(out, rows, strict=True):
            assert got[: len(kept)].tolist() == kept, (boxes, text)


@pytest.mark.parametrize(("shape", "eta"), [("2,3,90,4", 1), ("N,3,T,4", 0.95)])
def test_more_boxes_than_a_chunk_has(
    shape: str, eta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suppression, "WHOLE", 32)
    x = clustered((2, 3, 90, 4), np.random.default_rng(0))
    x[0, 1, 7::20, 2] = np.nan
    attributes = {"overlap": 0.6, "eta": eta}
    want = [[kept_by_hand(group, **attributes) for group in row] for row in x]
    graph = net_of(f"(x: f32[{shape}]) -> x |> {call(attributes)}")
    np.testing.assert_array_equal(run(graph, {"x": x})["y"], want)


@pytest.mark.parametrize("precision", ["low", "fp16", "medium"])
def test_boxes_keep_their_digits(precision: str) -> None:
    """Far from 0, where bfloat16 and float16 know no half pixels."""
    x = clustered((2, 60, 4), np.random.default_rng(0)) + np.float32(1500)
    want = [kept_by_hand(2 * group, overlap=0.5) for group in x]
    graph = net_of("(x: f32[N,60,4]) -> x * 2 |> non_max_suppression(overlap=0.5)")
    rough = [kept_by_hand(2 * group.astype(np.float16), overlap=0.5) for group in x]
    assert rough != want
    np.testing.assert_array_equal(run(graph, {"x": x}, precision=precision)["y"], want)


def test_registers_are_enough() -> None:
    """Groups that stay in registers, groups in chunks, and such of unknown size."""
    kernels = {
        f"{name}_{symbol}": kernel
        for name, count in (("small", 400), ("full", 1024), ("large", 6000), ("open", "T"))
        for symbol, kernel in kernels_of(
            net_of(f"(x: f32[N,{count},4]) -> x |> {call({'overlap': 0.6, 'eta': 0.9})}")
        ).items()
    }
    image = build_image(kernels, ["sm_80", "sm_90"])
    for name, kernel in image.kernels.items():
        for variant in kernel.codes:
            assert {arch: code.local for arch, code in variant.items()} == {
                "sm_80": 0,
                "sm_90": 0,
            }, name
