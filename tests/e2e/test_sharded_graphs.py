"""Random nets, sharded and placed at random over up to eight devices, give what one device does.

Nets that run as they were written are equal bit by bit, unless channels that are summed are split.
Optimized, constants may be folded into the weights of a share and not into those of the whole, or
the reverse: results are held to the bound of a run on one device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import netc
from netc.ir.graph import Graph, Node
from netc.ir.machine import Machine
from netc.ir.ops.convolution import Conv, ConvTranspose, Fc
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.plan_check import problems
from netc.ir.text import show
from netc.runtime.sim import simulate
from tests.layered import layered
from tests.passes.test_shard import with_batch
from tests.strategies import SIZES, agree, feeds, graphs, wanted

RANDOM = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)
BATCHES = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Sharding:
    """What `netc.compile` is told of where a net runs."""

    said: Mapping[str, Any]
    place: Mapping[str, str] = field(default_factory=dict)
    reorders: bool = False  # sums

    def compile(self, graph: Graph, threads: int, optimize: bool) -> netc.Executable:
        """The net in shares."""
        options = {**self.said, "threads": threads, "optimize": optimize}
        return netc.compile(graph, place=dict(self.place), **options)


def replicas(graph: Graph, devices: list[str], rng: np.random.Generator) -> Sharding | None:
    """The batch over some of the devices, as many as divide it."""
    batch = graph.inputs[0].types[0].shape[0]
    if not isinstance(batch, int):
        return None
    fits = [n for n in range(2, len(devices) + 1) if batch % n == 0]
    return Sharding({"replicate": devices[: rng.choice(fits)]}) if fits else None


def stages(graph: Graph, devices: list[str], rng: np.random.Generator) -> Sharding | None:
    """Some of the devices, any number of micro-batches, and nodes that are placed already."""
    batch = graph.inputs[0].types[0].shape[0]
    if not isinstance(batch, int):
        return None
    count = rng.integers(2, len(devices) + 1)
    cuts = [n for n in range(1, batch + 1) if batch % n == 0]
    said = {"pipeline": devices[:count], "micro_batches": int(rng.choice(cuts))}
    return Sharding(said, _placed(_computing(graph), devices[:count], 0.2, rng))


def channels(graph: Graph, devices: list[str], rng: np.random.Generator) -> Sharding | None:
    """Some layers over some of the devices, and others placed on any."""
    count = int(rng.integers(2, len(devices) + 1))
    ways: dict[Node, list[str]] = {}
    while not ways and count > 1:  # few layers have channels for many devices
        ways = {n: found for n in _computing(graph) if (found := _ways(n, count))}
        count -= not ways
    if not ways:
        return None
    named = list(ways)
    chosen = [n for n in named if rng.random() < 0.6] or [named[rng.integers(len(named))]]
    inner = rng.choice([0.0, 0.5])  # half of the nets reorder no sum
    split: dict[str, tuple[list[str], str]] = {}
    reorders = False
    for node in chosen:
        by = "input" if "input" in ways[node] and rng.random() < inner else ways[node][0]
        split[node.name] = (devices[:count], by)
        reorders |= by == "input" and not _grouped(node)
    free = [n for n in _computing(graph) if n not in chosen]
    place = _placed(free, devices, rng.choice([0.0, 0.3]), rng)
    return Sharding({"split": split}, place, reorders)


def anywhere(graph: Graph, devices: list[str], rng: np.random.Generator) -> Sharding:
    """No shares: every node on any device."""
    return Sharding({}, _placed(_computing(graph), devices, 1.0, rng))


def of_batch(graph: Graph, batch: int) -> Graph:
    """The graph with this batch, where nothing in it has another, of a number or a symbol."""
    made = with_batch(graph, batch)
    known = {s for n in made.inputs for s in n.types[0].symbols}
    return made if all(t.symbols <= known for n in made.nodes for t in n.types) else graph


def _computing(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes if not isinstance(n.op, Input | Param | Const)]


def _placed(
    nodes: list[Node], devices: list[str], share: float, rng: np.random.Generator
) -> dict[str, str]:
    """A share of the nodes, each on any of the devices."""
    return {n.name: devices[rng.integers(len(devices))] for n in nodes if rng.random() < share}


def _grouped(node: Node) -> bool:
    return not isinstance(node.op, Fc) and getattr(node.op, "groups", 1) > 1


def _ways(node: Node, count: int) -> list[str]:
    """By what a node can be split over so many devices."""
    if not isinstance(node.op, Conv | ConvTranspose | Fc):
        return []
    axis = 1 if not isinstance(node.op, Fc) else node.op.axis
    sizes = {"output": node.types[0].shape[-1 if isinstance(node.op, Fc) else 1]}
    sizes["input"] = node.inputs[0].type.shape[axis]
    if _grouped(node):
        sizes = dict.fromkeys(sizes, getattr(node.op, "groups", 1))
    return [by for by, size in sizes.items() if isinstance(size, int) and size >= count]


KINDS: tuple[Callable[..., Sharding | None], ...] = (replicas, stages, channels)


def check(graph: Graph, count: int, seed: int, optimize: bool) -> None:
    """One net, sharded in one way; placed at random where none fits."""
    rng = np.random.default_rng(seed)
    devices = [f"cpu:{i}" for i in rng.permutation(count)]
    made = (KINDS[k](graph, devices, rng) for k in rng.permutation(len(KINDS)))
    sharding = next((s for s in made if s is not None), None) or anywhere(graph, devices, rng)
    many = sharding.compile(graph, int(rng.integers(1, 4)), optimize)
    assert problems(many.plan) == []
    known = {s: SIZES.get(s, 3) for n in graph.inputs for s in n.types[0].symbols}
    simulate(many.plan, known, Machine.uniform(devices))  # refuses races
    feed = feeds(graph, seed)
    many.poison()
    got = many(feed)
    if sharding.reorders or optimize:
        why = agree(got, wanted(graph, feed), graph)
        assert not why, f"{why}\n{sharding}\n{show(graph)}"
        return
    for name, array in netc.compile(graph, optimize=optimize, threads=1)(feed).items():
        same = np.array_equal(got[name], array, equal_nan=True)
        assert same, f"{name} differs\n{sharding}\n{show(graph)}"


@settings(RANDOM, max_examples=60)
@given(
    graph=graphs(),
    batch=st.sampled_from(BATCHES),
    count=st.integers(2, 8),
    seed=st.integers(0, 1 << 30),
)
def test_random_graphs(graph: Graph, batch: int, count: int, seed: int) -> None:
    check(of_batch(graph, batch), count, seed, seed % 4 == 0)


@settings(RANDOM, max_examples=60)
@given(
    graph=st.sampled_from(BATCHES).flatmap(layered),
    count=st.integers(2, 8),
    seed=st.integers(0, 1 << 30),
)
def test_layered_nets(graph: Graph, count: int, seed: int) -> None:
    check(graph, count, seed, seed % 4 == 0)


@pytest.mark.long
@settings(RANDOM, max_examples=5000)
@given(
    data=st.data(),
    batch=st.sampled_from(BATCHES),
    count=st.integers(2, 8),
    seed=st.integers(0, 1 << 30),
)
def test_many(data: st.DataObject, batch: int, count: int, seed: int) -> None:
    kind = data.draw(st.sampled_from([graphs(max_nodes=14), layered(batch, max_blocks=8)]))
    check(of_batch(data.draw(kind), batch), count, seed, seed % 4 == 0)
