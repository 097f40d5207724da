"""A placed net cut by host: parts, each of which one host computes without hearing from others.

A part is a net of its own: what it reads of others are inputs, what others read are outputs, and
its devices have no host any more. So each is compiled, saved, trusted and run as any net is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from heapq import heappop, heappush

from netc.errors import GraphError, UnsupportedError
from netc.ir.attributes import mapped, symbols_of
from netc.ir.device import Device
from netc.ir.dims import BATCH, Dim, Expr, parse_dim, substitute, symbols
from netc.ir.graph import Builder, Graph, Node, Value
from netc.ir.op import typed
from netc.ir.ops.devices import AllGather, Copy
from netc.ir.ops.shape import Slice
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.solve import said
from netc.ir.types import MAX_RANK, u8
from netc.passes.rewrite import changed, rebuilt

MAX_CALLS = 2048  # parts of one run
SIZES = "sizes"  # an input without elements, whose shape says what symbols are


@dataclass(frozen=True, eq=False)
class Part:
    """What a host computes between two times that it hears from others.

    `reads` and `gives` are values of the whole net, in the order of the part's inputs and outputs.
    Where `sizes` names symbols, the part has one input more, u8[0, …], whose shape they are.
    """

    host: str
    devices: tuple[Device, ...]  # with their host
    graph: Graph
    reads: tuple[Value, ...]
    gives: tuple[Value, ...]
    sizes: tuple[str, ...] = ()


def on_hosts(graph: Graph, devices: Iterable[Device] = ()) -> bool:
    """Whether any node, or one of some devices, is on a named host."""
    shared = (d for n in graph.nodes for s in n.shards for d in s.devices)
    placed = (n.device for n in graph.nodes if n.device is not None)
    return any(device.host for device in (*devices, *placed, *shared))


def cut_by_host(graph: Graph, default: Device) -> tuple[Graph, list[Part]]:
    """The net, all of it placed, and its parts, makers first.

    Nodes that name no device run on `default`.

    A part begins when all is there that its nodes wait for, and ends when what others wait for is
    made: so branches and micro-batches on several hosts overlap. Parts of one host that hear from
    the same others and tell the same are one. What cuts an input for a host, and joins what hosts
    give, is done where the caller is; an output that is an input or a parameter is given there.
    """
    graph = _without_crossings(_all_placed(graph, default))
    graph = _at_the_ends(graph)
    place = {node: i for i, node in enumerate(graph.nodes)}
    groups = _groups(graph)
    if len(groups) > MAX_CALLS:
        what = f"the net changes hosts too often: it would be in {len(groups)} parts"
        raise UnsupportedError(what, help="place neighbouring layers on one host")
    groups = _ordered(_joined(groups, place), place)
    cutter = _Cutter(graph)
    parts = [cutter.part(_host(nodes[0]), nodes) for nodes in groups]
    passed = [v for v in graph.outputs.values() if v.node.device is None]
    return graph, [*parts, *([cutter.passed_on(passed)] if passed else [])]


def _all_placed(graph: Graph, default: Device) -> Graph:
    """The graph with a place for every node but sources, and what only parameters feed.

    Of those each part that reads them has its own, and computes them when it is compiled.
    """
    held: set[Node] = set()
    for node in graph.nodes:
        fed = bool(node.inputs) and all(v.node in held for v in node.inputs)
        held |= {node} if fed or isinstance(node.op, Param | Const) else set()

    def placed(node: Node) -> Node:
        if node in held or isinstance(node.op, Input):
            return node if node.device is None else replace(node, device=None)
        return node if node.device is not None else replace(node, device=default)

    return changed(graph, placed)


def _host(node: Node) -> str:
    return node.device.host if node.device is not None else ""


def _without_crossings(graph: Graph) -> Graph:
    """The graph without copies from host to host: it is the parts that say what crosses."""
    new: dict[Value, Value] = {}
    for node in graph.nodes:
        inputs = tuple(new[v] for v in node.inputs)
        if isinstance(node.op, Copy):
            (source,) = inputs
            if source.node.device is None or _host(source.node) != _host(node):
                new[node.out] = source
                continue
        made = node if inputs == node.inputs else replace(node, inputs=inputs)
        new.update(zip(node.results, made.results, strict=True))
    return rebuilt(graph, new)


def _computing(nodes: Iterable[Node]) -> list[Node]:
    """The nodes that have a place: not sources, nor what only parameters feed."""
    return [n for n in nodes if n.device is not None]


def _feeding(node: Node) -> list[Node]:
    """The nodes that compute what a node reads."""
    return _computing(v.node for v in node.inputs)


def _at_the_ends(graph: Graph) -> Graph:
    """Slices of inputs, and gathers that only the caller reads, moved to where the caller is."""
    here = Device("cpu")

    def moved(node: Node) -> Node:
        last = isinstance(node.op, AllGather) and set(graph.uses[node.out]) == {None}
        return replace(node, device=here) if _host(node) and (_cuts(node) or last) else node

    return changed(graph, moved)


def _cuts(node: Node) -> bool:
    """Whether a node only cuts an input."""
    return isinstance(node.op, Slice) and isinstance(node.inputs[0].op, Input)


def _groups(graph: Graph) -> list[list[Node]]:
    """Nodes of one host that wait for the same values of others, and that the same values wait for.

    No way between two nodes of a group leads over another host: who is on such a way has heard
    from the first node, and so has the second, and the first has not. Sets of values are numbers
    with a bit for each. What cuts inputs is one group, too small to be several.
    """
    nodes = _computing(graph.nodes)
    bit = {v: 1 << i for i, v in enumerate(_crossing(nodes))}
    hears: dict[Node, int] = {}
    for node in nodes:
        hears[node] = 0
        for v in node.inputs:
            if v.node in hears:
                same = _host(v.node) == _host(node)
                hears[node] |= hears[v.node] if same else bit[v]
    tells = {node: sum(bit.get(v, 0) for v in node.results) for node in nodes}
    for node in reversed(nodes):
        for maker in _feeding(node):
            if _host(maker) == _host(node):
                tells[maker] |= tells[node]
    groups: dict[tuple[str, int, int], list[Node]] = {}
    for node in nodes:
        key = _host(node), hears[node], -1 if _cuts(node) else tells[node]
        groups.setdefault(key, []).append(node)
    return list(groups.values())


def _crossing(nodes: Iterable[Node]) -> dict[Value, None]:
    """The values that are read on another host than that they are made on."""
    return {v: None for n in nodes for v in n.inputs
            if v.node.device is not None and _host(v.node) != _host(n)}  # fmt: skip


def _joined(groups: Sequence[list[Node]], place: Mapping[Node, int]) -> list[list[Node]]:
    """Groups of one host that hear from the same others and tell the same, as one."""
    hears = _makers(groups)
    tells: list[set[int]] = [set() for _ in groups]
    for i, makers in enumerate(hears):
        for maker in makers:
            tells[maker].add(i)
    levels = _levels(hears)
    joined: dict[object, list[Node]] = {}
    for i, nodes in enumerate(groups):
        key = _host(nodes[0]), levels[i], frozenset(hears[i]), frozenset(tells[i])
        joined.setdefault(key, []).extend(nodes)
    return [sorted(nodes, key=lambda n: place[n]) for nodes in joined.values()]


def _makers(groups: Sequence[list[Node]]) -> list[set[int]]:
    """Of each group, the others that make what it reads."""
    home = {node: i for i, nodes in enumerate(groups) for node in nodes}
    read = (({home[m] for n in nodes for m in _feeding(n)}, i) for i, nodes in enumerate(groups))
    return [makers - {i} for makers, i in read]


def _levels(hears: Sequence[set[int]]) -> list[int]:
    """How many groups are before each, on the longest way; none of one level reads another."""
    levels = [0] * len(hears)
    for i in TopologicalSorter(dict(enumerate(hears))).static_order():
        levels[i] = max((levels[maker] + 1 for maker in hears[i]), default=0)
    return levels


def _ordered(groups: Sequence[list[Node]], place: Mapping[Node, int]) -> list[list[Node]]:
    """Makers first, and else as the net's nodes stand."""
    sorter = TopologicalSorter(dict(enumerate(_makers(groups))))
    sorter.prepare()
    ready: list[tuple[int, int]] = []
    out: list[list[Node]] = []
    while sorter.is_active():
        for i in sorter.get_ready():
            heappush(ready, (place[groups[i][-1]], i))
        _, i = heappop(ready)
        sorter.done(i)
        out.append(groups[i])
    return out


class _Cutter:
    """Makes nets of groups of nodes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.outputs = set(graph.outputs.values())

    def part(self, host: str, nodes: Sequence[Node]) -> Part:
        """The net of some nodes of a host."""
        inside, b = set(nodes), Builder(set(self.graph.by_name))
        new: dict[Value, Value] = {}
        reads: list[Value] = []
        for node in nodes:
            for v in node.inputs:
                if v in new or _is_held(v):
                    new.setdefault(v, v)
                elif v.node not in inside:
                    new[v] = _given(b, v)
                    reads.append(v)
            made = replace(
                node,
                inputs=tuple(new[v] for v in node.inputs),
                device=replace(node.device or Device("cpu"), host=""),
            )
            new.update(zip(node.results, made.results, strict=True))
        gives = [v for node in nodes for v in node.results if self._is_given(v, inside)]
        devices = dict.fromkeys(n.device for n in nodes if n.device is not None)
        return self._finished(b, host, tuple(devices), reads, gives, new)

    def passed_on(self, values: Iterable[Value]) -> Part:
        """A part of this host that gives what the net is given, or what it holds."""
        b = Builder(set(self.graph.by_name))
        given = list(dict.fromkeys(values))
        new = {v: v if _is_held(v) else _given(b, v) for v in given}
        reads = [v for v in given if new[v] is not v]
        return self._finished(b, "", (Device("cpu"),), reads, given, new)

    def _is_given(self, value: Value, inside: set[Node]) -> bool:
        """Whether another part reads a value, or the net's caller."""
        readers = self.graph.uses[value]
        return value in self.outputs or any(r is not None and r not in inside for r in readers)

    def _finished(
        self,
        b: Builder,
        host: str,
        devices: tuple[Device, ...],
        reads: list[Value],
        gives: list[Value],
        new: Mapping[Value, Value],
    ) -> Part:
        outputs = {v.name: new[v] for v in gives}
        name = f"{self.graph.name}_{gives[-1].node.name}"
        graph = Graph(name, tuple(b.inputs), outputs, usual=self.graph.usual)
        graph = _by_its_own_batch(graph)
        missing = _unknown(graph)
        if missing:
            if len(missing) >= MAX_RANK:
                what = f"a part of the net has {len(missing)} sizes that its inputs do not say"
                raise UnsupportedError(what, gives[-1].node.loc, "fix some of them with --shape")
            with b.at(gives[-1].node.loc):
                b.input(SIZES, u8[(0, *missing)])
            graph = replace(graph, inputs=(*graph.inputs, b.inputs[-1]))
        weights = {n.name: self.graph.weights[n.name] for n in graph.params
                   if n.name in self.graph.weights}  # fmt: skip
        graph = replace(graph, weights=weights)
        return Part(host, devices, graph, tuple(reads), tuple(gives), missing)


def _by_its_own_batch(graph: Graph) -> Graph:
    """A part for shares of a batch, such as `N//4`, as a net for a batch of its own.

    So shares are calls of one net. The graph itself where sizes would no longer fit together.
    """
    first = [n.types[0].shape[0] for n in graph.inputs if n.types[0].shape]
    shares = dict.fromkeys(d for d in first if isinstance(d, Expr) and str(d) not in symbols(d))
    if not shares:
        return graph
    names = _free_names(graph, len(shares))
    own: dict[Dim, Dim] = dict(zip(shares, map(parse_dim, names), strict=True))
    kept = {s for n in graph.inputs for d in n.types[0].shape for s in symbols(d) if d not in own}
    try:
        made = _with_sizes(graph, lambda d: own.get(d, d), kept | set(names))
    except GraphError:  # something else than these shares depends on the whole batch
        return graph
    if BATCH in kept:
        return made
    usual = {names[0]: parse_dim(BATCH)}
    return _with_sizes(made, lambda d: substitute(d, usual), {*kept, *names, BATCH})


def _free_names(graph: Graph, count: int) -> list[str]:
    """Names of sizes that a graph does not have."""
    taken = {s for n in graph.nodes for s in symbols_of(n.op).union(*(t.symbols for t in n.types))}
    names = (f"{BATCH}_{i}" for i in range(len(taken) + count))
    return [name for name in names if name not in taken][:count]


def _with_sizes(graph: Graph, change: Callable[[Dim], Dim], known: set[str]) -> Graph:
    """The graph with other sizes of its inputs. Raises GraphError where that makes no net."""
    new: dict[Value, Value] = {}
    for node in graph.nodes:
        op = mapped(node.op, change)
        if isinstance(op, Input):
            op = Input(op.type.with_shape(tuple(change(d) for d in op.type.shape)))
        inputs = tuple(new[v] for v in node.inputs)
        types = typed(op, tuple(v.type for v in inputs))
        if not symbols_of(op).union(*(t.symbols for t in types)) <= known:
            raise GraphError(f"%{node.name} has sizes that its part does not know")
        made = replace(node, op=op, inputs=inputs, types=types)
        new.update(zip(node.results, made.results, strict=True))
    inputs_now = tuple(new[n.out].node for n in graph.inputs)
    return replace(graph, inputs=inputs_now, outputs={k: new[v] for k, v in graph.outputs.items()})


def _is_held(value: Value) -> bool:
    """Whether a part has a value by itself."""
    return value.node.device is None and not isinstance(value.op, Input)


def _given(b: Builder, value: Value) -> Value:
    """A value of the whole as an input of a part."""
    b.names.discard(value.name)  # the one who had it is in another part
    with b.at(value.node.loc):
        return b.input(value.name.replace("#", "."), value.type)


def _unknown(graph: Graph) -> tuple[str, ...]:
    """The symbols of a net that no input's size says."""
    known = said(n.types[0] for n in graph.inputs)
    named = {s for n in graph.nodes for t in n.types for s in t.symbols}
    named |= {s for n in graph.nodes for s in symbols_of(n.op)}
    return tuple(sorted(s for s in named if s not in known))
