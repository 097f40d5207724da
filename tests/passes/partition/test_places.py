"""Placements by layer, from the command line or a file."""

from __future__ import annotations

import pytest

from netc.errors import GraphError, UsageError
from netc.ir.device import Device
from netc.ir.graph import Builder, Graph
from netc.ir.types import f32
from netc.passes.partition.choose import annotate, parse_places


def two_layers() -> Graph:
    b = Builder()
    x = b.relu(b.input("data", f32[1, 3]), name="a/relu1")
    return b.graph("g", {"y": b.tanh(b.exp(x, name="a/exp"), name="b")})


def test_a_layer_and_what_it_became() -> None:
    placed = annotate(two_layers(), {"a": "cpu:1", "b": "cuda:0@node1"})
    found = {n.name: n.device for n in placed.nodes}
    assert found["a/relu1"] == found["a/exp"] == Device("cpu", 1)
    assert found["b"] == Device("cuda", 0, "node1")
    assert found["data"] is None


def test_an_unknown_layer() -> None:
    with pytest.raises(GraphError, match="no layer 'a/relu' to place") as e:
        annotate(two_layers(), {"a/relu": "cpu:1"})
    assert "a/relu1" in e.value.diagnostics[0].help


def test_a_placement_file() -> None:
    text = "# the first half\nconv1 = cuda:0\nfc6=cuda:1@node1   # far away\n\n"
    assert parse_places(text) == {"conv1": "cuda:0", "fc6": "cuda:1@node1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv1 cuda:0", "p:1: 'conv1 cuda:0' is not `layer = device`"),
        ("\nconv1 = gpu", "p:2: no device 'gpu'"),
        ("a = cpu\na = cpu:1", "p:2: a is on cpu already"),
    ],
)
def test_bad_files(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_places(text, "p")
