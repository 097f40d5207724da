"""Every strategy: whole, within memory, as the net says, the same each time; and how good."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from netc.errors import GraphError, UsageError
from netc.ir.device import Device
from netc.ir.graph import Builder, Graph, Node, Value
from netc.ir.interpret import interpret
from netc.ir.machine import CPU, DeviceSpec, Link, Machine, eight_gpus, two_cpus
from netc.ir.ops.sources import Const, Param
from netc.ir.types import f32
from netc.passes.base import Context, run_passes
from netc.passes.partition.choose import STRATEGIES, Partition, apply, placement_of
from netc.passes.partition.greedy import greedy
from netc.passes.partition.milp import milp
from netc.passes.partition.min_cut import min_cut, total
from netc.passes.partition.placement import evaluate, lower_bound, simulate, where_of
from netc.passes.partition.problem import problem_of, with_devices
from netc.passes.partition.stages import stages
from netc.passes.place import Place
from tests.passes.partition.nets import random_machine, random_net

EVERY = pytest.mark.parametrize("strategy", STRATEGIES)


def computing(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes if not isinstance(n.op, Param | Const)]


@EVERY
@pytest.mark.parametrize("seed", range(4))
def test_every_node_is_placed_and_the_time_is_the_simulated_one(strategy: str, seed: int) -> None:
    graph, machine = random_net(seed, 7), random_machine(seed, 2)
    found = placement_of(graph, machine, strategy)
    assert set(found.devices) == set(found.why) == {n.name for n in computing(graph)}
    assert all(found.why.values())
    assert found.seconds == pytest.approx(evaluate(graph, found, machine))
    assert found.seconds >= lower_bound(problem_of(graph, machine)) * (1 - 1e-9)
    assert placement_of(graph, machine, strategy).devices == found.devices


@EVERY
def test_what_the_net_says_holds(strategy: str) -> None:
    graph = random_net(5, 6)
    machine = random_machine(5, 2)
    wanted = {n: machine.devices[i % 2] for i, n in enumerate(computing(graph)) if i % 5 == 1}
    found = placement_of(with_devices(graph, wanted), machine, strategy)
    for node, device in wanted.items():
        assert found.devices[node.name] == device
        assert found.why[node.name] == f"the net says {device}"


@EVERY
def test_back_ends_have_a_say(strategy: str) -> None:
    graph, machine = random_net(6, 6), random_machine(6, 2)
    first = machine.devices[0]
    refused = {n.name for i, n in enumerate(computing(graph)) if n.op.name == "conv" and i % 2}

    def accepts(node: Node, device: Device) -> str | None:
        return "no such kernel" if node.name in refused and device == first else None

    found = placement_of(graph, machine, strategy, accepts)
    assert {found.devices[name] for name in refused} == {machine.devices[1]}


@EVERY
def test_no_back_end_takes_it(strategy: str) -> None:
    with pytest.raises(GraphError, match="no device takes %data") as e:
        placement_of(random_net(1), two_cpus(), strategy, lambda n, d: "no kernels today")
    assert "cpu:0: no kernels today" in e.value.diagnostics[0].help


@EVERY
def test_a_device_that_is_not_there(strategy: str) -> None:
    graph = random_net(1, 3)
    lost = with_devices(graph, {computing(graph)[1]: Device("cuda", 3)})
    with pytest.raises(GraphError, match="is placed on cuda:3, which is not there") as e:
        placement_of(lost, two_cpus(), strategy)
    assert "cpu:0, cpu:1" in e.value.diagnostics[0].help


@pytest.mark.parametrize("strategy", ["greedy", "stages", "min_cut", "milp"])
def test_memory_is_kept(strategy: str) -> None:
    """Parameters of 6 layers on two devices that hold 3.5 layers each."""
    b = Builder()
    x = b.input("x", f32[1, 512])
    for _ in range(6):
        x = b.relu(b.fc(x, b.param("w", f32[512, 512])))
    graph = b.graph("deep", {"y": x})
    spec = DeviceSpec(int(3.5 * 4 * 512 * 512), 5e10, 1e10, 1e-6)
    machine = Machine.uniform(["cpu:0", "cpu:1"], spec)
    found = placement_of(graph, machine, strategy)
    assert len(set(found.devices.values())) == 2
    assert max(found.memory.values()) <= spec.memory


@EVERY
def test_memory_that_does_not_do(strategy: str) -> None:
    machine = Machine.uniform(["cpu:0", "cpu:1"], DeviceSpec(1 << 14, 5e10, 1e10, 1e-6))
    with pytest.raises(GraphError, match=r"no placement that fits: the net needs .* KiB"):
        placement_of(random_net(2), machine, strategy)


@EVERY
@pytest.mark.parametrize("seed", range(3))
def test_the_meaning_stays(strategy: str, seed: int) -> None:
    graph, machine = random_net(seed, 5, channels=3, side=5), random_machine(seed, 2)
    placed = run_passes(graph, (Partition(machine, strategy), Place()), Context(check=2))
    feed = {"data": np.random.default_rng(0).normal(size=(1, 3, 5, 5))}
    before, after = interpret(graph, feed), interpret(placed, feed)
    assert all(np.array_equal(before[k], after[k]) for k in before)
    assert apply(placed, placement_of(graph, machine, strategy)).outputs.keys() == before.keys()


def skipping() -> Graph:
    """Whose value `a` is read at once, and again at the end."""
    b = Builder()
    x = b.input("x", f32[1, 16, 28, 28])

    def conv(x: Value, name: str) -> Value:
        weight = b.param(f"{name}.w", f32[16, x.type.shape[1], 3, 3])
        return b.conv(x, weight, pad=(1, 1), name=name)

    a = conv(x, "a")
    return b.graph("skip", {"y": conv(b.concat(a, conv(conv(a, "b"), "c"), axis=1), "y")})


def linked(count: int, *links: tuple[int, int]) -> Machine:
    """Equal devices with some links, each one way."""
    devices = [Device("cpu", i) for i in range(count)]
    ends = {(devices[a], devices[b]): Link(1e12, 1e-9) for a, b in links}
    return Machine("some links", dict.fromkeys(devices, CPU), ends)


RING = linked(3, (0, 1), (1, 2), (2, 0))


@pytest.mark.parametrize("strategy", ["annotated", "greedy", "milp", "stages"])
def test_only_links_that_are_there_are_used(strategy: str) -> None:
    found = placement_of(skipping(), RING, strategy)
    assert np.isfinite(found.seconds)
    assert found.seconds == pytest.approx(evaluate(skipping(), found, RING))


@pytest.mark.parametrize("strategy", ["greedy", "milp"])
def test_the_only_way_is_found(strategy: str) -> None:
    """To a device that no link leads to from the first, by one between them."""
    b = Builder()
    x = b.input("x", f32[1, 8])
    graph = b.graph("way", {"y": b.softmax(b.softmax(x, axis=1), axis=1)})
    ends = {graph.nodes[0]: Device("cpu", 0), graph.nodes[-1]: Device("cpu", 2)}
    found = placement_of(with_devices(graph, ends), RING, strategy)
    assert [d.index for d in found.devices.values()] == [0, 1, 2]


@EVERY
@pytest.mark.parametrize("links", [(), ((1, 0),)])
def test_a_link_that_is_not_there(strategy: str, links: tuple[tuple[int, int], ...]) -> None:
    machine, graph = linked(2, *links), skipping()
    ends = {graph.by_name["a"].node: Device("cpu", 0), graph.by_name["y"].node: Device("cpu", 1)}
    why = rf"{strategy} finds no placement that links join: %\w+ on cpu:1 reads %\w+, "
    with pytest.raises(GraphError, match=f"{why}and there is no link from cpu:0 to cpu:1"):
        placement_of(with_devices(graph, ends), machine, strategy)


@EVERY
def test_memories_that_are_too_small(strategy: str) -> None:
    small = Machine.uniform(("cpu:0", "cpu:1"), replace(CPU, memory=1000), name="small")
    with pytest.raises(GraphError, match=f"{strategy} finds no placement that fits: the net needs"):
        placement_of(skipping(), small, strategy)


@EVERY
def test_work_that_costs_nothing(strategy: str) -> None:
    b = Builder()
    x = b.input("x", f32[4, 6])
    graph = b.graph("as it is", {"x": x, "y": b.flatten(x)})
    found = placement_of(graph, two_cpus(), strategy)
    assert set(found.devices.values()) == {Device("cpu")}
    assert found.seconds == 0


def test_without_a_bound_milp_says_nothing_of_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of work that costs nothing but a copy, and a solver that had no time."""
    monkeypatch.setattr("scipy.optimize.milp", lambda *_, **__: SimpleNamespace(x=None))
    b = Builder()
    graph = b.graph("copied", {"y": b.flatten(b.input("x", f32[4, 6]))})
    pinned = with_devices(graph, dict(zip(graph.nodes, two_cpus().devices, strict=True)))
    found = milp(problem_of(pinned, two_cpus()))
    assert (found.bound, found.gap) == (0, None)
    assert found.seconds > 0


@EVERY
def test_nothing_to_place(strategy: str) -> None:
    b = Builder()
    graph = b.graph("fixed", {"y": b.param("w", f32[3])})
    found = placement_of(graph, two_cpus(), strategy)
    assert (found.devices, found.seconds) == ({}, 0)


@pytest.mark.parametrize("seed", range(12))
def test_min_cut_is_exact(seed: int) -> None:
    problem = problem_of(random_net(seed, 8), random_machine(seed, 2))
    found = where_of(problem, min_cut(problem))
    every = itertools.product(range(2), repeat=len(problem.items))
    least = min(total(problem, where) for where in every)
    assert total(problem, found) == pytest.approx(least, rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_milp_is_the_optimum(seed: int) -> None:
    """No placement of 8 items is faster than its bound; its own is within the stated gap."""
    problem = problem_of(random_net(seed, 6), random_machine(seed, 2))
    found = milp(problem)
    every = itertools.product(range(2), repeat=len(problem.items))
    least = min(simulate(problem, where).makespan for where in every)
    assert found.bound is not None
    assert found.bound <= least * (1 + 1e-6)
    assert found.seconds <= least * 1.02  # contention of copies is not in the program


@pytest.mark.parametrize("seed", range(6))
def test_stages_are_the_best_runs_of_items(seed: int) -> None:
    """Of all cuts of 8 items into runs, on links that cost nothing, none has a smaller maximum."""
    machine = replace(random_machine(seed, 3), between=Link(1e18, 1e-12))
    problem = problem_of(random_net(seed, 6), machine)
    n, least = len(problem.items), np.inf
    for order in itertools.permutations(range(3)):
        for i, j in itertools.combinations_with_replacement(range(n + 1), 2):
            bounds = ((0, i), (i, j), (j, n))
            work = [problem.seconds[s:e, d].sum() for (s, e), d in zip(bounds, order, strict=True)]
            least = min(least, max(work))
    assert stages(problem).interval == pytest.approx(least, rel=1e-6)


def test_two_devices_only() -> None:
    with pytest.raises(UsageError, match="min_cut takes two devices, not 8"):
        placement_of(random_net(1), eight_gpus(), "min_cut")


def test_an_unknown_strategy() -> None:
    with pytest.raises(UsageError, match="no strategy 'best'") as e:
        placement_of(random_net(1), two_cpus(), "best")
    assert "greedy" in e.value.diagnostics[0].help


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from netc.errors import UnsupportedError

    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UnsupportedError, match="needs scipy") as e:
        placement_of(random_net(1, 3), two_cpus(), "milp")
    assert "netc[partition]" in e.value.diagnostics[0].help


def test_two_thousand_nodes_on_eight_devices() -> None:
    graph = random_net(0, 900)
    assert len(computing(graph)) >= 2000
    start = time.process_time()
    placement = greedy(problem_of(graph, eight_gpus()))
    assert time.process_time() - start < 5
    assert placement.seconds > 0
