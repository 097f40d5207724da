"""What a layer's name means to --place, --split and --precision: the node and all below it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import netc
from netc.compiler import Options, lower
from netc.ir.graph import Graph
from netc.passes.layers import layer
from tests.cli.command import quiet, run

PROTOTXT = """
name: "inplace"
input: "data" input_shape { dim: 2 dim: 3 dim: 8 dim: 8 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 } }
layer { name: "bn2" type: "BatchNorm" bottom: "conv2" top: "conv2" }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
"""
BLOCK = """
block pair(x) { return x |> conv(4, 1, name="c") |> relu(name="r") |> relu(name="") }
net n(x: f32[N, 4, 5, 5]) -> y { y = x |> pair(name="p") |> relu }
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("NETC_DEVICES", raising=False)
    path = tmp_path / "inplace.prototxt"
    path.write_text(PROTOTXT)
    return path


def caffe() -> Graph:
    return netc.from_caffe(PROTOTXT, warn=quiet)


@pytest.mark.parametrize(
    ("graph", "name", "means"),
    [
        (caffe(), "conv1", ["conv1/conv1", "conv1"]),
        (caffe(), "conv1/conv1", ["conv1/conv1"]),
        (caffe(), "conv2", ["conv2/conv2", "conv2/bn2", "conv2"]),
        (netc.parse(BLOCK, warn=quiet), "p", ["p/c", "p/r", "p"]),
        (netc.parse(BLOCK, warn=quiet), "p/c", ["p/c"]),
    ],
)
def test_a_layer_is_a_node_and_what_is_below_it(graph: Graph, name: str, means: list[str]) -> None:
    assert [n.name for n in layer(graph, name, "to test")] == means


def test_a_layer_in_place_is_placed_whole() -> None:
    graph = caffe()
    feed = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    moved = netc.compile(graph, devices=["cpu:0", "cpu:1"], place={"conv1": "cpu:1"})
    assert np.array_equal(moved(data=feed)["conv2"], netc.compile(graph)(data=feed)["conv2"])


def test_place(path: Path) -> None:
    """One kernel there, with nothing of the layer left behind."""
    shown = run("explain", path, "--place", "conv1=cpu:1")
    there = [line.split() for line in shown.splitlines() if line.rstrip().endswith(" cpu:1")]
    assert [row[0] for row in there if row[1] != "copy"] == ["conv1"]
    assert {"conv", "relu"} <= set(there[-1])


def test_split(path: Path) -> None:
    shown = run("explain", path, "--split", "conv1,conv2=cpu:0,cpu:1", "--rules")
    for name in ("conv1/conv1", "conv2/conv2"):
        assert f"{name} split_channels by output over cpu:0, cpu:1" in " ".join(shown.split())


@pytest.mark.parametrize("name", ["conv1", "conv2"])
def test_precision(path: Path, name: str) -> None:
    """Of the kernel that the convolution, its batch norm and its ReLU become."""
    model = path.with_suffix(".bin")
    precise = {"conv1": "conv1/conv1", "conv2": "conv2/bn2"}
    assert lower(caffe(), Options(precisions={name: "exact"})).precisions[name] == "exact"
    on_gpus = Options(targets=("cuda",), precisions={name: "low"})
    assert dict(lower(caffe(), on_gpus).precisions) == {name: "low"}
    assert run("compile", path, "--precision", f"{name}=exact", "-o", model).startswith("0\n")
    assert f"  precision high; {precise[name]} + " in run("inspect", model)
    run("compile", path, "--precision", "exact", "-o", model)
    assert "  precision exact\n" in run("inspect", model)
    run("compile", path, "-o", model)
    assert "  precision high\n" in run("inspect", model)
