"""The examples on two devices equal their meaning on one, and cross where they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import netc
from netc.ir.device import Device
from netc.ir.graph import Graph
from netc.ir.interpret import interpret
from netc.ir.op import Array
from netc.ir.ops.devices import Copy
from netc.passes.base import Context, run_passes, until
from netc.passes.pipelines import INFERENCE
from netc.passes.place import Place
from netc.passes.shard_channels import SplitChannels
from tests.examples.test_examples import EXAMPLES, quiet, seeded

TWO = (Device("cpu", 0), Device("cpu", 1))
NAMES = ["alexnet_two_devices", "gan_two_devices"]


def example(name: str, one_device: bool = False) -> Graph:
    text = (EXAMPLES / f"{name}.net").read_text("utf-8")
    text = text.replace("cpu:1", "cpu:0") if one_device else text
    return netc.parse(text, f"{name}.net", warn=quiet)


def fed(graph: Graph) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    sizes = [(n.name, n.types[0].sizes({"N": 1})) for n in graph.inputs]
    return {name: rng.normal(size=size).astype(np.float32) for name, size in sizes}


def copies(graph: Graph) -> list[str]:
    placed = run_passes(graph, (Place(TWO[0]),), Context(check=2))
    return [f"{n.inputs[0].type} to {n.device}" for n in placed.nodes if isinstance(n.op, Copy)]


def test_alexnet_crosses_where_the_paper_says() -> None:
    """The picture; what convolution 3 and each inner product read of the other half."""
    graph = example("alexnet_two_devices")
    assert sorted(copies(graph)) == sorted([
        "f32[N,3,227,227] to cpu:1",
        "f32[N,128,13,13] to cpu:0", "f32[N,128,13,13] to cpu:1",
        "f32[N,128,6,6] to cpu:0", "f32[N,128,6,6] to cpu:1",
        "f32[N,2048] to cpu:0", "f32[N,2048] to cpu:1", "f32[N,2048] to cpu:0",
    ])  # fmt: skip
    assert sum(n.types[0].count for n in graph.params) == 60_965_224  # as on one device


def test_only_pictures_cross() -> None:
    assert copies(example("gan_two_devices")) == ["f32[N,3,64,64] to cpu:1"]


@pytest.mark.parametrize("name", NAMES)
def test_it_equals_its_meaning_on_one_device(name: str) -> None:
    two, one = example(name), example(name, one_device=True)
    assert {n.device for n in two.nodes} >= set(TWO)
    placed = run_passes(two, (Place(TWO[0]),), Context(check=2))
    feed = fed(two)
    results = [interpret(g, feed, np.float32) for g in (one, placed)]
    assert all(np.array_equal(results[0][k], results[1][k]) for k in results[0])
    assert all(y.std() > 0 or y.size == 1 for y in results[0].values())


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_two_devices_as_on_one(name: str) -> None:
    two, one = example(name), example(name, one_device=True)
    feed = fed(two)
    there = netc.compile(two, devices=["cpu:0", "cpu:1"])(**feed)
    here = netc.compile(one)(**feed)
    assert all(np.array_equal(here[k], there[k]) for k in here)


def test_alexnet_is_split_by_a_pass_as_well() -> None:
    """All seven wide layers of alexnet.net over two devices, channel by channel."""
    whole = netc.read(EXAMPLES / "alexnet.net", warn=quiet)
    whole = replace(whole, weights=seeded(whole))
    names = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
    split = run_passes(whole, (SplitChannels(names, TWO), Place(TWO[0])), Context(check=1))
    where = {n.name: n.device for n in split.nodes}
    assert where["conv4.1"] == where["conv5.1"] == TWO[1]
    between = [n for n in split.nodes if isinstance(n.op, Copy) and "conv4" in n.name]
    assert not between
    feed = fed(whole)
    before, after = (interpret(g, feed, np.float32)["prob"] for g in (whole, split))
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()


def test_one_weird_trick_is_alexnet() -> None:
    """Bit by bit; only the picture's second half, halves of pool5 and of channels cross."""
    shapes = {"data": (2, 3, 227, 227)}
    two, one = (
        netc.read(EXAMPLES / f"{name}.net", shapes=shapes, warn=quiet)
        for name in ("alexnet_weird_trick", "alexnet")
    )
    done = run_passes(two, until(INFERENCE, "canonicalize"), Context(check=2))
    assert sorted(copies(done)) == sorted([
        "f32[1,3,227,227] to cpu:1",
        "f32[1,256,6,6] to cpu:0", "f32[1,256,6,6] to cpu:1",
        "f32[2,2048] to cpu:0", "f32[2,2048] to cpu:1", "f32[2,2048] to cpu:0",
    ])  # fmt: skip
    feed = fed(two)
    assert np.array_equal(netc.compile(two)(**feed)["prob"], netc.compile(one)(**feed)["prob"])
