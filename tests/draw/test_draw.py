"""Drawings: well-formed, complete, safe with any name, and without overlaps."""

from __future__ import annotations

import itertools
import random
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

import netc.ir.ops.elementwise  # noqa: F401
from netc.draw import draw
from netc.draw.boxes import picture
from netc.draw.layers import isotonic, layout
from netc.ir.device import Device
from netc.ir.graph import Builder, Graph
from netc.ir.types import f32


def two_branches(name: str = "y") -> Graph:
    b = Builder()
    x = b.input("data", f32["N", 3, 8, 8])
    left = b.relu(b.affine(x, scale=2.0), slope=0.1)
    with b.on(Device("cuda", 1)):
        right = b.sigmoid(x, name=name)
    return b.graph("net", {"out": b.add(left, right)})


def test_boxes_hold_a_node_and_the_element_wise_nodes_after_it() -> None:
    shown = picture(two_branches())
    assert [b.lines[0] for b in shown.boxes] == ["input", "affine", "sigmoid", "add"]
    assert shown.boxes[1].lines[-1] == "+ relu slope 0.1"
    assert [(e.source, e.target, e.label) for e in shown.edges] == [
        (0, 1, "3×8×8"),
        (0, 2, "3×8×8"),
        (1, 3, "3×8×8"),
        (2, 3, "3×8×8"),
    ]


def test_drawing_is_well_formed_and_names_outputs_and_devices() -> None:
    text = draw(two_branches(), devices=True)
    ElementTree.fromstring(text)
    assert "output out" in text
    assert "cuda:1" in text


def test_what_crosses_devices_shows_its_bytes() -> None:
    b = Builder()
    x = b.input("data", f32["N", 3, 8, 8])
    with b.on(Device("cuda", 0)):
        near = b.relu(x)
    with b.on(Device("cuda", 1)):
        far = b.all_reduce(b.sigmoid(near, name="s"), near, name="sum")
        y = b.affine(b.slice(far, axis=0, start=0, stop=2), scale=2.0)
    g = b.graph("net", {"out": y})
    lines = {box.lines[1]: box.lines[2:] for box in picture(g).boxes}
    assert lines["sum"] == ["768 B a N from cuda:0"]
    assert "768 B" not in str(lines["slice"])
    crossing = [e for e in picture(g).edges if e.crosses]
    assert len(crossing) == 2
    assert draw(g).count("stroke-dasharray") == 2


def test_hostile_names_stay_text() -> None:
    text = draw(two_branches('"/><script>\x00\u202e]]>' + "x" * 5000))
    root = ElementTree.fromstring(text)
    assert not root.findall(".//{http://www.w3.org/2000/svg}script")
    assert "\x00" not in text
    assert "\u202e" not in text


@given(st.integers(0, 2**32), st.integers(1, 25))
def test_boxes_of_a_layer_do_not_overlap_and_edges_go_down(seed: int, count: int) -> None:
    rng = random.Random(seed)
    edges = {(rng.randrange(b), b) for b in range(1, count) for _ in range(rng.randrange(1, 4))}
    widths = [rng.uniform(20, 200) for _ in range(count)]
    placed = layout(widths, sorted(edges))
    assert all(placed.layer[a] < placed.layer[b] for a, b in edges)
    for a in range(count):
        for b in range(a):
            if placed.layer[a] == placed.layer[b]:
                gap = abs(placed.x[a] - placed.x[b]) - (widths[a] + widths[b]) / 2
                assert gap >= 20


@given(st.lists(st.floats(-1e3, 1e3), min_size=1))
def test_isotonic_is_sorted_and_keeps_the_mean(wishes: list[float]) -> None:
    got = isotonic(wishes, [1.0] * len(wishes))
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(got))
    assert abs(sum(got) - sum(wishes)) < 1e-6 * (1 + sum(map(abs, wishes)))
