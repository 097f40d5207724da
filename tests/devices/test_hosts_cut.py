"""Nets cut by host: parts that compute what the whole does, and overlap where they may."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import netc
from netc.errors import GraphError, UnsupportedError
from netc.ir.device import Device
from netc.ir.dims import evaluate, parse_dim
from netc.ir.graph import Builder, Graph
from netc.ir.interpret import initial_weights, interpret
from netc.ir.op import Array
from netc.ir.types import f32
from netc.ir.verify import verify
from netc.passes.base import Context, run_passes
from netc.passes.hosts import Part, cut_by_host, on_hosts
from netc.passes.hosts_plan import plan_of_parts
from netc.passes.partition.choose import annotate
from netc.passes.shardings import Shardings
from tests.strategies import feeds, graphs

from .nets import BRANCHES, on_devices

CPU = Device("cpu")
HOSTS = ("", "a", "b")
pytestmark = pytest.mark.filterwarnings("ignore")


def dealt(graph: Graph, seed: int, hosts: tuple[str, ...] = HOSTS) -> Graph:
    """The graph with its nodes on random hosts, two devices on each."""
    where = np.random.default_rng(seed).integers(0, 2 * len(hosts), len(graph.nodes))
    return on_devices(graph, lambda i, _: Device("cpu", int(where[i] % 2), hosts[where[i] // 2]))


def cut(graph: Graph) -> list[Part]:
    """The parts of a net."""
    return cut_by_host(graph, CPU)[1]


def composed(graph: Graph, parts: list[Part], feed: dict[str, Array]) -> dict[str, Array]:
    """What the parts give one after the other, by the reference."""
    sizes: dict[str, int] = {}
    for node in graph.inputs:
        shape = node.types[0].shape
        sizes |= {str(d): n for d, n in zip(shape, feed[node.name].shape, strict=True)}
    named = {v.name: v.name for v in graph.outputs.values()}
    known = {node.name: feed[node.name] for node in graph.inputs}
    for part in parts:
        given = {
            node.name: known[v.name] for node, v in zip(part.graph.inputs, part.reads, strict=False)
        }
        if part.sizes:
            told = tuple(evaluate(d, sizes) for d in part.graph.inputs[-1].types[0].shape)
            given[part.graph.inputs[-1].name] = np.empty(told, np.uint8)
        known |= interpret(part.graph, given)
    return {name: known[named[v.name]] for name, v in graph.outputs.items()}


@settings(max_examples=150, deadline=None)
@given(graphs(), st.integers(0, 1 << 30))
def test_parts_compute_what_the_whole_does(g: Graph, seed: int) -> None:
    placed = dealt(replace(g, weights=initial_weights(g)), seed)
    whole_placed, parts = cut_by_host(placed, CPU)
    for part in parts:
        verify(part.graph)
        assert not on_hosts(part.graph)
    feed = feeds(g, 0)
    whole, got = interpret(g, feed), composed(whole_placed, parts, dict(feed))
    for name, array in whole.items():
        assert np.array_equal(got[name], array, equal_nan=True), name


def test_a_part_is_as_large_as_may_be() -> None:
    g = netc.parse(BRANCHES)
    last = [n.name for n in g.nodes].index("y")
    two = on_devices(g, lambda i, _: Device("cpu", 0, "a" if i < last else "b"))
    assert [part.host for part in cut(two)] == ["a", "b"]
    one = on_devices(g, lambda *_: CPU)
    assert [part.host for part in cut(one)] == [""]


def test_a_value_that_others_wait_for_ends_a_part() -> None:
    """Branches run at the same time: b begins when the stem is done, not when a is."""
    g = on_devices(
        netc.parse(BRANCHES), lambda i, n: Device("cpu", 0, "b" if n.name == "a" else "a")
    )
    parts = cut(g)
    assert [part.host for part in parts] == ["a", "b", "a", "a"]
    assert [v.name for v in parts[0].gives] == ["x", "conv_1"]


def test_a_host_that_is_left_and_come_back_to_has_two_parts() -> None:
    b = Builder()
    x = b.input("x", f32["N", 4])
    hosts = iter("aba")
    for _ in range(3):
        with b.on(Device("cpu", 0, next(hosts))):
            x = b.relu(x)
    parts = cut(b.graph("g", {"y": x}))
    assert [part.host for part in parts] == ["a", "b", "a"]


def pipeline(micro_batches: int, batch: int | str = 8) -> Graph:
    """Two stages on two hosts."""
    net = f"""
    net two(data: f32[{batch}, 4, 9, 9]) -> out {{
      pipeline over cpu:0@a, cpu:0@b micro_batches={micro_batches} {{
        x = data |> conv(8, 3, pad=1) |> relu |> conv(8, 3, pad=1, name="x") |> relu
        out = x |> conv(8, 3, pad=1, name="y") |> relu |> global_avg_pool |> flatten |> fc(5)
      }}
    }}"""
    placed = annotate(netc.parse(net), {"x": "cpu:0@a", "y": "cpu:0@b"})
    return run_passes(placed, (Shardings(),), Context())


def test_micro_batches_stay_apart_and_are_calls_of_one_net() -> None:
    programs, plan = plan_of_parts(*cut_by_host(pipeline(4), CPU))
    assert len(programs) == 4  # the slices, both stages, and what joins the results
    for host in ("a", "b"):
        stage = [step for step in plan.steps if step.device == f"cpu:0@{host}"][:4]
        assert len({step.kernel for step in stage}) == 1
        assert len({step.reads for step in stage}) == 4


def test_micro_batches_of_a_batch_known_at_run_time_are_calls_of_one_net() -> None:
    programs, plan = plan_of_parts(*cut_by_host(pipeline(4, "N"), CPU))
    for host in ("a", "b"):
        called = [s.kernel for s in plan.steps if s.device == f"cpu:0@{host}"][:4]
        assert len(called) == 4
        assert len(set(called)) == 1
    assert [str(p.inputs[0].types[0]) for p in programs[1:3]] == ["f32[N,4,9,9]", "f32[N,8,9,9]"]


SLICED = """
net g(data: f32[N, 4]) -> y {
  h = data |> relu |> slice(axis=0, stop=N//2) |> abs @ cpu:0@a
  y = h |> slice(axis=0, stop=N//4) |> reduce_sum(axes=[0], keep=true) @ cpu:0@b
}"""


def ones_behind_a_share() -> Graph:
    """A part that reads half of the batch, and has a constant of all of it."""
    b = Builder()
    x = b.input("data", f32["N", 4])
    with b.on(Device("cpu", 0, "a")):
        h = b.abs(b.slice(b.relu(x), axis=0, stop=parse_dim("N//2")))
    with b.on(Device("cpu", 0, "b")):
        y = b.concat(h, b.const(type=f32["N", 4], value=1.0), axis=0)
        return b.graph("g", {"y": b.reduce_sum(y, axes=(0,), keep=True)})


@pytest.mark.parametrize("make", [lambda: netc.parse(SLICED), ones_behind_a_share])
def test_a_part_that_knows_more_of_the_batch_than_its_share(make: Callable[[], Graph]) -> None:
    g = make()
    feed = {"data": np.ones((8, 4), np.float32)}
    whole, parts = cut_by_host(g, CPU)
    assert any(part.sizes == ("N",) for part in parts)
    for name, array in interpret(g, feed).items():
        assert np.array_equal(composed(whole, parts, dict(feed))[name], array)


def test_parts_of_other_precisions_are_others() -> None:
    b = Builder()
    x, y, w = b.input("x", f32[2, 8]), b.input("y", f32[2, 8]), b.param("w", f32[8, 8])
    with b.on(Device("cpu", 0, "a")):
        first = b.fc(x, w, name="first")
    with b.on(Device("cpu", 0, "b")):
        second = b.fc(y, w, name="second")
    whole, parts = cut_by_host(b.graph("g", {"first": first, "second": second}), CPU)
    for precisions, count in (({}, 1), ({"first": "exact"}, 2), ({"second": "exact"}, 2)):
        assert len(plan_of_parts(whole, parts, precisions)[0]) == count


def test_a_net_in_too_many_parts() -> None:
    b = Builder()
    x = b.input("x", f32[4])
    for i in range(2100):
        with b.on(Device("cpu", 0, "ab"[i % 2])):
            x = b.relu(x)
    with pytest.raises(UnsupportedError, match="it would be in 2100 parts"):
        cut(b.graph("g", {"y": x}))


def test_sizes_that_no_input_of_a_part_has() -> None:
    b = Builder()
    x = b.input("x", f32["N", 2, "H", "W"])
    y = b.max_pool(x, kernel=(2, 2), stride=(2, 2))
    with b.on(Device("cpu", 0, "a")):
        z = b.relu(b.max_pool(y, kernel=(3, 3)))
    parts = cut(b.graph("g", {"z": z}))
    assert [part.sizes for part in parts] == [(), ("H", "W")]
    assert str(parts[1].graph.inputs[-1].types[0]) == "u8[0,H,W]"


def test_outputs_that_are_given() -> None:
    b = Builder()
    x, w = b.input("x", f32["N", 2]), b.param("w", f32[3])
    with b.on(Device("cpu", 0, "a")):
        y = b.relu(x)
    parts = cut(b.graph("g", {"x": x, "w": w, "y": y, "again": y}))
    assert [(part.host, [v.name for v in part.gives]) for part in parts] == [
        ("a", ["relu"]),
        ("", ["x", "w"]),
    ]


def test_a_device_that_is_not_there() -> None:
    g = on_devices(netc.parse(BRANCHES), lambda i, _: Device("cpu", 0, "a"))
    with pytest.raises(GraphError, match="is on cpu:0@a, which is not there"):
        netc.compile(g, devices=["cpu:0", "cpu:0@b"])


def test_a_net_on_one_host_is_compiled_without_what_it_does_not_need() -> None:
    code = (
        "import sys, netc; "
        "netc.compile(netc.parse('net n(x: f32[N, 4]) -> y { y = relu(x) }')); "
        "assert 'networkx' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
