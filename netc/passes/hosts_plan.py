"""The plan of a net on several hosts: steps that call parts, buffers between them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType

from netc.ir.conditions import conditions
from netc.ir.device import Device
from netc.ir.dims import Dim, parse_dim
from netc.ir.graph import Graph, Node, Value
from netc.ir.op import attributes
from netc.ir.ops.sources import Input, Param
from netc.ir.plan import PART, Buffer, BufferArg, IntArg, Plan, Port, Space, Step
from netc.passes.hosts import Part


def plan_of_parts(
    graph: Graph, parts: Sequence[Part], precisions: Mapping[str, str] = MappingProxyType({})
) -> tuple[list[Graph], Plan]:
    """The nets that parts are, each once, and the plan that calls them.

    Parts that compute the same of different values, such as the micro-batches of a stage, are
    calls of one net. A step's arguments are the buffers it reads, and the symbols it is told.
    `precisions` are those of nodes that are not computed like the rest.
    """
    numbers: dict[Hashable, int] = {}
    programs: list[Graph] = []
    plan = _PlanMaker(graph)
    for part in parts:
        key = _key(part.graph, precisions)
        if key not in numbers:
            numbers[key] = len(programs)
            programs.append(part.graph)
        plan.add(part, numbers[key])
    return programs, plan.finished()


class _PlanMaker:
    """Buffers and steps, as parts come."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.steps: list[Step] = []
        self.buffers: list[Buffer] = []
        self.inputs = {n.out: self._buffer(n.out, Space.INPUT, "cpu:0") for n in graph.inputs}
        self.made: dict[Value, int] = {}

    def add(self, part: Part, number: int) -> None:
        """A step that calls a net."""
        device = str(min(part.devices, default=Device("cpu")))
        given = set(self.graph.outputs.values())
        reads = tuple(self.inputs[v] if v in self.inputs else self.made[v] for v in part.reads)
        for v in part.gives:
            self.made[v] = self._buffer(v, Space.OUTPUT if v in given else Space.ARENA, device)
        writes = tuple(self.made[v] for v in part.gives)
        sizes = (IntArg(parse_dim(name)) for name in part.sizes)
        step = Step(
            kernel=f"{PART}{number}",
            args=(*map(BufferArg, reads), *sizes),
            name=_title(part.graph),
            op=f"part on {part.host}" if part.host else "part here",
            reads=reads,
            writes=writes,
            flops=_flops(part.graph),
            bytes=_sum([_bytes(v) for v in (*part.reads, *part.gives)]),
            device=device,
        )
        self.steps.append(step)

    def _buffer(self, value: Value, space: Space, device: str) -> int:
        self.buffers.append(Buffer(space, _bytes(value), 0, 0, device))
        return len(self.buffers) - 1

    def finished(self) -> Plan:
        """The plan of all steps there are."""
        inputs = [Port(v.name, v.type, buffer) for v, buffer in self.inputs.items()]
        outputs = [Port(name, v.type, self.made[v]) for name, v in self.graph.outputs.items()]
        ends = tuple(inputs), tuple(outputs), tuple(self.buffers)
        return Plan(*ends, tuple(self.steps), conditions(self.graph))


def _bytes(value: Value) -> Dim:
    return value.type.count * value.type.dtype.size


def _sum(sizes: Sequence[Dim]) -> Dim:
    total: Dim = 0
    for size in sizes:
        total = total + size
    return total


def _flops(graph: Graph) -> Dim:
    return _sum([n.op.flops(*(v.type for v in n.inputs)) for n in graph.nodes])


def _title(graph: Graph) -> str:
    """What a part is called: its first and its last node."""
    names = [n.name for n in graph.nodes if not isinstance(n.op, Input | Param)]
    if not names:
        return "passed on"
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"


def _key(graph: Graph, precisions: Mapping[str, str]) -> Hashable:
    """Equal for nets that compute the same of what they are given, whatever nodes are called."""
    place = {node: i for i, node in enumerate(graph.nodes)}

    def said(node: Node) -> Hashable:
        if isinstance(node.op, Param):
            return node.name
        written = tuple(repr(value) for _, value in attributes(node.op))
        inputs = tuple((place[v.node], v.index) for v in node.inputs)
        how = node.device, precisions.get(node.name)
        return type(node.op), written, inputs, node.types, how

    gives = tuple((place[v.node], v.index) for v in graph.outputs.values())
    return (*map(said, graph.nodes), gives)
