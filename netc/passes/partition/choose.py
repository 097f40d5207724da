"""The pass that places a graph by a strategy, and placements that users write by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from netc.errors import GraphError, UsageError, clean
from netc.ir.device import Device
from netc.ir.graph import Graph, Node, Stage
from netc.ir.machine import Machine
from netc.passes.base import Context, Fired
from netc.passes.layers import layer
from netc.passes.partition.annotated import annotated
from netc.passes.partition.greedy import greedy
from netc.passes.partition.milp import milp
from netc.passes.partition.min_cut import min_cut
from netc.passes.partition.placement import Placement, where_of
from netc.passes.partition.problem import (
    AcceptsNode,
    Problem,
    everywhere,
    problem_of,
    with_devices,
)
from netc.passes.partition.stages import stages

Strategy = Callable[[Problem], Placement]
STRATEGIES: Mapping[str, Strategy] = {
    "annotated": annotated, "greedy": greedy, "min_cut": min_cut, "stages": stages, "milp": milp,
}  # fmt: skip
DEFAULT = "greedy"


def placement_of(
    graph: Graph,
    machine: Machine,
    strategy: str = DEFAULT,
    accepts: AcceptsNode = everywhere,
    sizes: Mapping[str, int] | None = None,
) -> Placement:
    """The placement that a strategy finds for a graph on a machine, all of whose links there are.

    Raises GraphError where it finds none.
    """
    if strategy not in STRATEGIES:
        fits = f"there are {', '.join(STRATEGIES)}"
        raise UsageError(f"there is no strategy {clean(strategy)!r}", help=fits)
    problem = problem_of(graph, machine, sizes=sizes, accepts=accepts)
    placement = STRATEGIES[strategy](problem)
    problem.check_links(where_of(problem, placement), strategy)
    return placement


def apply(graph: Graph, placement: Placement) -> Graph:
    """The graph with a placement's devices on its nodes; parameters follow their readers."""
    found = {n: placement.devices[n.name] for n in graph.nodes if n.name in placement.devices}
    return with_devices(graph, found)


@dataclass(frozen=True)
class Partition:
    """Nodes go where a strategy puts them on a machine; what the net says holds."""

    machine: Machine
    strategy: str = DEFAULT
    accepts: AcceptsNode = everywhere
    name: ClassVar[str] = "partition"
    needs: ClassVar[tuple[Stage, ...]] = (Stage.NET,)
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph with a device on every node that computes; why, in the journal."""
        placement = placement_of(graph, self.machine, self.strategy, self.accepts)
        for name, device in placement.devices.items():
            ctx.fired.append(Fired("partition", f"{device}: {placement.why[name]}", name))
        return apply(graph, placement)


def check_places(graph: Graph, machine: Machine, devices: Sequence[Device]) -> None:
    """Raise GraphError where a placed graph's share of a device is more than its memory, or where
    no link brings what it reads.

    What has no place is on the first device.
    """
    problem = problem_of(graph, machine.only(devices))
    number = {d: i for i, d in enumerate(problem.devices)}
    where = [number[item.device or devices[0]] for item in problem.items]
    need = problem.needs(where)
    for d, device in enumerate(problem.devices):
        if need[d] > problem.memory[d]:
            raise problem.too_small(device, need[d], [i for i, at in enumerate(where) if at == d])
    problem.check_links(where)


def annotate(graph: Graph, places: Mapping[str, str]) -> Graph:
    """The graph with nodes on devices by name, as `--place conv1=cuda:0` says.

    What a name means is said in `netc.passes.layers`.
    """
    wanted: dict[Node, Device] = {}
    for name, text in places.items():
        device = Device.parse(text)
        wanted |= dict.fromkeys(layer(graph, name, "to place"), device)
    return with_devices(graph, wanted)


def parse_places(text: str, name: str = "placement") -> dict[str, str]:
    """Layer -> device, from lines such as `conv1 = cuda:0`; `#` starts a remark."""
    places: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        said = line.split("#", 1)[0].strip()
        if not said:
            continue
        layer, equals, device = (part.strip() for part in said.rpartition("="))
        where = f"{clean(name)}:{number}"
        if not (equals and layer and device):
            raise UsageError(f"{where}: {clean(said)!r} is not `layer = device`")
        if places.setdefault(layer, device) != device:
            raise UsageError(f"{where}: {clean(layer)} is on {clean(places[layer])} already")
        try:
            Device.parse(device)
        except GraphError as e:
            d = e.diagnostics[0]
            raise UsageError(f"{where}: {d.message}", help=d.help) from None
    return places
