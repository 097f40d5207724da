"""Sharded and partitioned nets, compiled, give what they give on one device, bit by bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import netc
from netc.ir.device import Device
from netc.ir.graph import Graph
from netc.ir.interpret import initial_weights
from netc.ir.op import Array
from netc.passes.base import Context, Pass
from netc.passes.shard_batch import Pipeline, Replicate
from netc.passes.shard_channels import SplitChannels

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TWO = (Device("cpu", 0), Device("cpu", 1))
COLUMNS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")


def example(name: str) -> Graph:
    """With a batch of 2."""
    text = (EXAMPLES / f"{name}.net").read_text("utf-8").replace("[N,", "[2,")
    graph = netc.parse(text, f"{name}.net", warn=lambda *_: None)
    return replace(graph, weights=initial_weights(graph))


def ran(graph: Graph, **options: object) -> Array:
    data = graph.inputs[0].types[0]
    x = np.random.default_rng(0).normal(0, 50, data.sizes({})).astype(data.dtype.numpy)
    return netc.compile(graph, **options)(data=x)["prob"]


@pytest.mark.parametrize(
    ("name", "sharding"),
    [
        ("squeezenet", Replicate(TWO)),
        ("googlenet", Pipeline(TWO, 2)),
        ("alexnet", SplitChannels(COLUMNS, TWO)),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_sharded(name: str, sharding: Pass) -> None:
    graph = example(name)
    split = sharding.run(graph, Context())
    assert split is not graph
    assert np.array_equal(ran(split, devices=["cpu:0", "cpu:1"]), ran(graph))


@pytest.mark.parametrize("strategy", ["greedy", "min_cut", "stages", "milp"])
@pytest.mark.parametrize("name", ["lenet", "googlenet"])
def test_placed_by_a_strategy(name: str, strategy: str) -> None:
    graph = example(name)
    there = ran(graph, devices=["cpu:0", "cpu:1"], strategy=strategy)
    assert np.array_equal(there, ran(graph))
