"""CTCGreedyDecoder against the loops of ctc_decoder_layer.cpp."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

import netc
from netc.errors import NetcError
from netc.ir.interpret import interpret

from .files import read
from .test_layers import Array, inputs


def text(feed: dict[str, Array], fields: str = "", tops: str = 'top: "y"') -> str:
    heads = " ".join(f'bottom: "{name}"' for name in feed)
    return "".join(inputs(name, *x.shape) for name, x in feed.items()) + (
        f'layer {{ name: "l" type: "CTCGreedyDecoder" {heads} {tops} '
        f"ctc_decoder_param {{ {fields} }} }}"
    )


def drawn(seed: int, steps: int, items: int, classes: int) -> dict[str, Array]:
    """Scores of which neighbours are often alike, and indicators that end some sequences."""
    rng = np.random.default_rng(seed)
    best = rng.integers(0, classes, (steps, items)).repeat(2, 0)[:steps]
    scores = rng.uniform(0, 1, (steps, items, classes)) + 2 * np.eye(classes)[best]
    scores[:, :, -1] = scores[:, :, 0]  # ties
    goes_on = np.arange(steps)[:, None] < rng.integers(1, steps + 4, items)
    goes_on[0] = rng.integers(0, 2, items)  # the first is not looked at
    return {"x": scores.astype(np.float32), "goes_on": goes_on.astype(np.float32)}


def decoded(feed: dict[str, Array], blank: int, merge: bool) -> tuple[Array, Array]:
    """What Decode and Forward_cpu write."""
    scores, (steps, items, classes) = feed["x"], feed["x"].shape
    goes_on = feed["goes_on"].reshape(steps, items)
    blank = classes - 1 if blank < 0 else blank
    labels, sums = -np.ones((items, steps, 1, 1)), np.zeros((items, 1, 1, 1))
    for n in range(items):
        before, said = -1, 0
        for t in range(steps):
            best = 0
            for k in range(1, classes):
                if scores[t, n, k] > scores[t, n, best]:
                    best = k
            sums[n] -= scores[t, n, best]
            if best != blank and not (merge and best == before):
                labels[n, said] = best
                said += 1
            before = best
            if t + 1 == steps or goes_on[t + 1, n] == 0:
                break
    return labels, sums


@pytest.mark.parametrize(
    ("fields", "blank", "merge"),
    [
        ("", -1, True),
        ("ctc_merge_repeated: false", -1, False),
        ("blank_index: 0", 0, True),
        ("blank_index: 2 ctc_merge_repeated: false", 2, False),
    ],
)
@pytest.mark.parametrize("shape", [(9, 5, 4), (1, 3, 3), (20, 1, 37), (6, 2, 3)])
def test_ctc_greedy_decoder(
    fields: str, blank: int, merge: bool, shape: tuple[int, int, int]
) -> None:
    feed = drawn(sum(shape), *shape)
    graph = read(text(feed, fields, 'top: "y" top: "lack"'))
    labels, sums = decoded(feed, blank, merge)
    for out in (interpret(graph, feed), netc.compile(graph)(**feed)):
        np.testing.assert_array_equal(out["y"], labels)
        np.testing.assert_allclose(out["lack"], sums, rtol=1e-5)


def test_indicators_of_four_axes_and_labels_that_are_right() -> None:
    feed = drawn(1, 7, 2, 4)
    feed["goes_on"] = feed["goes_on"].reshape(7, 2, 1, 1)
    wanted, _ = decoded(feed, -1, True)
    feed["right"] = np.zeros((7, 2), np.float32)
    graph = read(text(feed))
    assert list(graph.outputs) == ["y"]
    np.testing.assert_array_equal(netc.compile(graph)(**feed)["y"], wanted)


def test_any_number_of_sequences() -> None:
    feed = drawn(1, 7, 2, 4)
    exe = netc.compile(read(text(feed), shapes={"x": (7, "N", 4), "goes_on": (7, "N")}))
    for items in (1, 2, 6):
        feed = drawn(items, 7, items, 4)
        np.testing.assert_array_equal(exe(**feed)["y"], decoded(feed, -1, True)[0])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_ctc_greedy_decoder_on_a_gpu() -> None:
    feed = drawn(2, 9, 3, 300)
    exe = netc.compile(
        read(text(feed)), target="cuda", gpu="interpret", cache=False, precision="low"
    )
    got: Any = exe(**feed)["y"]
    np.testing.assert_array_equal(got, decoded(feed, -1, True)[0])


@pytest.mark.parametrize(
    ("shapes", "fields", "tops", "message"),
    [
        ([(4, 2, 3), (4, 2)], "blank_index: 3", "", "blank_index 3 is none of 3 classes"),
        ([(4, 2, 3), (4, 3)], "", "", "one indicator a step is needed"),
        ([(4, 2, 3), (4, 2, 2)], "", "", "one indicator a step is needed"),
        ([(4, 6), (4, 2)], "", "", "[t, n, classes] is needed"),
        ([(4, 2, 0), (4, 2)], "", "", "it holds no scores"),
        ([(4, 2, 3), (4, 2), (4, 2)], "", 'top: "z"', "its second top is an accuracy"),
    ],
)
def test_mistakes(shapes: list[tuple[int, ...]], fields: str, tops: str, message: str) -> None:
    names = ("x", "goes_on", "right")
    feed = {n: np.zeros(s, np.float32) for n, s in zip(names, shapes, strict=False)}
    with pytest.raises(NetcError, match="layer l") as e:
        read(text(feed, fields, f'top: "y" {tops}'))
    assert message in str(e.value)
