"""The order for several devices: valid, never slower than the order of least memory."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import graphs

import netc
from netc.compiler import Options, lower
from netc.ir.device import Device
from netc.ir.graph import Graph
from netc.passes.base import Context
from netc.passes.device_order import DeviceClock, on_several
from netc.passes.order import Memory, least_memory
from netc.passes.partition.problem import with_devices
from netc.passes.shard_batch import Pipeline, Replicate
from netc.passes.shard_channels import SplitChannels

TWO = (Device("cpu", 0), Device("cpu", 1))
NET = """
net two(data: f32[8, 8, 28, 28]) -> y {
  x = data |> conv(64, 3, pad=1, name="a") |> relu |> lrn(5)
  y = x |> conv(64, 3, pad=1, name="b") |> relu |> lrn(5) |> conv(32, 3, pad=1, name="c")
}
"""


def clock_of(graph: Graph) -> DeviceClock:
    return DeviceClock(graph, Memory(graph).needs)


def kernels(lowered: object) -> list[object]:
    clock = clock_of(lowered.graph)  # type: ignore[attr-defined]
    return [n for n in lowered.order if n in clock.needs]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("cut", "least"),
    [
        (Replicate(TWO), 1.9),
        (Pipeline(TWO, 4), 1.25),
        (SplitChannels(("a", "b", "c"), TWO), 1.6),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_devices_work_side_by_side(cut: object, least: float) -> None:
    """As fast as the way of sharding allows, on the clock."""
    graph = netc.parse(NET, warn=lambda *_: None)
    alone = lower(graph)
    one = clock_of(alone.graph).makespan(kernels(alone))
    made = lower(cut.run(graph, Context()), Options(devices=TWO))  # type: ignore[attr-defined]
    assert on_several(made.graph)
    assert not on_several(alone.graph)
    assert one / clock_of(made.graph).makespan(kernels(made)) > least


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(2, 8), st.randoms(use_true_random=False))
def test_producers_first_and_never_slower(g: Graph, count: int, random: Random) -> None:
    where = {n: Device("sim", random.randrange(count)) for n in g.nodes}
    made = lower(with_devices(g, where), Options(optimize=False))
    done: set[object] = set()
    for node in made.order:
        assert all(v.node in done for v in node.inputs)
        done.add(node)
    assert done == set(made.graph.nodes)
    clock, memory = clock_of(made.graph), Memory(made.graph)
    ready = [n for n in made.graph.nodes if n in memory.needs]
    for ties in (ready, clock.longest_way_first(ready)):
        order = clock.earliest_first(ties)
        assert sorted(map(ready.index, order)) == list(range(len(ready)))
    if on_several(made.graph):
        least = clock.makespan(least_memory(memory))
        assert clock.makespan(kernels(made)) <= least * (1 + 1e-9)  # type: ignore[arg-type]
