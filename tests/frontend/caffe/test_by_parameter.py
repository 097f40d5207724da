"""A Caffe file's blobs for the parameters of a net that is no prototxt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.errors import WeightsError
from netc.frontend.caffe.params import KINDS, by_parameter
from netc.frontend.net.elaborate import parse_net
from netc.frontend.net.write import write_net

from .files import dims, packed, read, v2

DATA = 'input: "data" input_shape { dim: 2 dim: 3 }\n'
RNN = """input: "data" input_shape { dim: 2 dim: 1 dim: 1 } input: "c" input_shape { dim: 2 dim: 1 }
layer { name: "r" type: "RNN" bottom: "data" bottom: "c" top: "y"
  recurrent_param { num_output: 1 } }"""
SHARED = "".join(
    f"""layer {{ name: "{name}" type: "Scale" bottom: "{bottom}" top: "{name}" param {{ name: "s" }}
    scale_param {{ bias_term: true }} }}\n"""
    for name, bottom in (("c", "data"), ("d", "c"))
)


def stored(name: str, *blobs: list[float]) -> bytes:
    return v2(name, [dims((len(b),)) + packed(np.array(b)) for b in blobs])


NETS = {
    "PSPNet's BN": (
        DATA + 'layer { name: "n" type: "BN" bottom: "data" top: "y" }',
        stored("n", [1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 4, 9]),
    ),
    "RNN": (RNN, stored("r", [0.1], [0.2], [0.3], [0.4], [0.5])),
    "BatchNorm": (
        DATA + 'layer { name: "n" type: "BatchNorm" bottom: "data" top: "y" }',
        stored("n", [2, 4, 6], [2, 8, 18], [2]),
    ),
    "a parameter of two layers": (
        DATA + SHARED,
        stored("c", [1, 2, 3], [4, 5, 6]) + stored("d", [1, 2, 3], [7, 8, 9]),
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_a_text_takes_the_blobs_that_the_prototxt_takes(name: str) -> None:
    text, blobs = NETS[name]
    wanted = read(text, blobs).weights
    found = parse_net(write_net(read(text, warn=ignore)), weights=blobs, strict=True).weights
    assert found.keys() == wanted.keys()
    for parameter, array in wanted.items():
        np.testing.assert_array_equal(found[parameter], array)


def ignore(_: Any) -> None:
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_the_place_of_a_blob_does_not_depend_on_the_order_of_use(kind: tuple[str, ...]) -> None:
    blobs = {"l": [np.full(1 if part == "factor" else 2, i + 1.0) for i, part in enumerate(kind)]}
    parts = [part for part in kind if part != "factor"]
    found = by_parameter(blobs, [f"l.{part}" for part in reversed(parts)])
    third = 3 if "factor" in kind else 1
    wanted = {p: (kind.index(p) + 1) / (third if kind.index(p) < 2 else 1) for p in parts}
    assert {n: round(float(a[0]), 5) for n, a in found.items()} == {
        f"l.{p}": round(v, 5) for p, v in wanted.items()
    }


def test_blobs_that_no_parameter_takes_are_told() -> None:
    blobs = {"l": [np.ones(2), np.zeros(2)], "m": [np.ones(2)], "o": [np.full(2, 5)]}
    assert sorted(by_parameter(blobs, ["l.w"])) == ["l.b", "l.w", "o"]  # m's is that of l


@pytest.mark.parametrize(("parts", "count"), [(["w", "b"], 1), (["alpha"], 1), (["w", "b"], 3)])
def test_blobs_that_cannot_be_told_apart_are_an_error(parts: list[str], count: int) -> None:
    with pytest.raises(WeightsError, match="which do not tell which is which"):
        by_parameter({"l": [np.ones(2)] * count}, [f"l.{part}" for part in parts])
