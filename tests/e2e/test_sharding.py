"""Sharded and partitioned nets, compiled, give what they give on one device, bit by bit."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import netc
from netc.ir.device import Device
from netc.ir.graph import Graph
from netc.ir.interpret import initial_weights
from netc.ir.op import Array
from netc.ir.shards import Shard
from netc.passes.base import Context, Pass
from netc.passes.shard_batch import Pipeline, Replicate
from netc.passes.shard_channels import SplitChannels
from tests.passes.test_shard import exact_net
from tests.passes.test_shardings import COMBINATIONS, saying

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


@pytest.mark.parametrize("said", COMBINATIONS.values(), ids=COMBINATIONS)
def test_what_a_net_says(said: dict[str, tuple[Shard, ...]]) -> None:
    """Of whole numbers, so that no order of a sum matters."""
    graph = exact_net()
    x = np.random.default_rng(0).integers(-3, 4, (8, 4, 9, 9)).astype(np.float32)
    there = netc.compile(saying(graph, lambda n: said.get(n.name, ())))(data=x)
    here = netc.compile(graph)(data=x)
    assert all(np.array_equal(here[k], there[k]) for k in here)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_what_a_net_says_of_gpus() -> None:
    text = """net n(data: f32[4, 4, 9, 9]) -> prob {
      replicate over cuda:0, cuda:1 { x = data |> conv(8, 3, name="c1") |> relu }
      pipeline over cuda:0, cuda:1 { x = x |> max_pool(2, stride=2) |> conv(8, 3, name="c2") }
      split channels over cuda:0, cpu:0 { prob = x |> fc(6, name="fc") |> softmax }
    }"""
    graph = netc.parse(text, "n.net", warn=lambda *_: None)
    x = np.random.default_rng(0).normal(size=(4, 4, 9, 9)).astype(np.float32)
    exe = netc.compile(graph, gpu="interpret", precision="exact")
    assert set(exe.devices) == {"cpu:0", "cuda:0", "cuda:1"}
    want = netc.interpret(graph, {"data": x})["prob"]
    assert np.abs(exe(data=x)["prob"] - want).max() < 1e-6


@pytest.mark.parametrize("strategy", ["greedy", "min_cut", "stages", "milp"])
@pytest.mark.parametrize("name", ["lenet", "googlenet"])
def test_placed_by_a_strategy(name: str, strategy: str) -> None:
    graph = example(name)
    there = ran(graph, devices=["cpu:0", "cpu:1"], strategy=strategy)
    assert np.array_equal(there, ran(graph))
