"""Channel blocks inside, the user's row-major layout at the edges, as few conversions as can be.

Each four-axis value is PLAIN or C8. Convolutions give C8 and, from more than a few channels on,
read it; sources, outputs and ops that cannot be blocked are PLAIN; the rest (element-wise ops,
pools, concat, slice, resize) may be either, with all their operands alike. The cheapest choice is
a minimum cut: one node per free op, and per value one edge for each direction of conversion, paid
once however many readers want it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from netc.ir.graph import Builder, Graph, Node, Stage, Value
from netc.ir.op import typed
from netc.ir.ops.convolution import Fc, Windowed
from netc.ir.ops.layout import ToBlocked, ToPlain
from netc.ir.ops.normalization import Lrn
from netc.ir.ops.pooling import Pool
from netc.ir.types import Layout, TensorType
from netc.passes.base import BEFORE_KERNELS, Context, Fired
from netc.passes.blocking import (
    conv_gives_blocked,
    conv_reads_blocked,
    data_inputs,
    why_plain,
)
from netc.passes.facts import SOURCES, Fixed, bytes_of
from netc.passes.rewrite import rebuilt

FEW = 4  # input channels up to which a convolution reads row-major input as it is
PLAIN, C8 = Layout.PLAIN, Layout.C8
FREE = None  # a reader that takes either layout


@dataclass(frozen=True)
class AssignLayout:
    """Insert `to_blocked` and `to_plain` where they cost least.

    `refuses` lets a back end keep a node row-major: it says why, or None.
    """

    refuses: Callable[[Node], str | None] = lambda node: None
    name: ClassVar[str] = "layout"
    needs: ClassVar[tuple[Stage, ...]] = BEFORE_KERNELS
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph with every value's layout decided."""
        if any(t.layout is C8 for n in graph.nodes for t in n.types):
            return graph
        wishes = Wishes(graph, self.refuses, ctx)
        labels = wishes.forced | choose(graph, wishes)
        if C8 not in labels.values():
            return graph
        ctx.fired.append(Fired(self.name, "blocked", graph.name))
        return _Converter(graph, labels, wishes).run()


class Wishes:
    """What each node demands: the layout of its results, and of each operand."""

    def __init__(self, graph: Graph, refuses: Callable[[Node], str | None], ctx: Context) -> None:
        self.fixed = Fixed(graph)
        self.forced: dict[Node, Layout] = {}
        self.free: list[Node] = []
        for node in graph.nodes:
            why = self._why_plain(node, refuses)
            if why:
                ctx.refuse("layout", node, why)
            if why is not None:
                self.forced[node] = PLAIN
            elif isinstance(node.op, Windowed):
                self.forced[node] = C8
            else:
                self.free.append(node)

    def _why_plain(self, node: Node, refuses: Callable[[Node], str | None]) -> str | None:
        """Why the results must be row-major; "" where it goes without saying."""
        if isinstance(node.op, SOURCES) or not blockable(node.types):
            return ""
        if self.fixed(node.results[0]):
            return ""
        why = why_plain(node, self.fixed)
        return refuses(node) if why is None else why

    def of(self, node: Node | None, value: Value, label: Layout | None) -> Layout | None:
        """The layout in which a reader wants a value, FREE for either."""
        if node is None:
            return PLAIN
        match node.op:
            case Fc(axis=axis) if value == node.inputs[0] and axis == 1 and value.type.rank == 4:
                return FREE
            case Fc():
                return PLAIN
            case Windowed(groups=groups) if label is C8:
                if value != node.inputs[0]:
                    return PLAIN
                few = isinstance(d := value.type.shape[1], int) and d <= FEW
                return FREE if few and groups == 1 else _read(node)
        return label if value in data_inputs(node, self.fixed) else PLAIN


def _read(conv: Node) -> Layout:
    return C8 if conv_reads_blocked(conv) else PLAIN


def blockable(types: tuple[TensorType, ...]) -> bool:
    """Whether all are float32 of four axes."""
    return all(t.rank == 4 and t.dtype.value == "f32" for t in types)


def choose(graph: Graph, wishes: Wishes) -> dict[Node, Layout]:
    """The layout of each free node, at the least cost in bytes moved."""
    free = set(wishes.free)
    chosen: dict[Node, Layout] = {}
    for component in components(graph, free):
        problem = Problem(graph, component, wishes)
        least = problem.least
        for label in (C8, PLAIN):
            if problem.cost(label) <= least:
                chosen.update(dict.fromkeys(component, label))
                break
        else:
            chosen.update(problem.cut())
    return chosen


def components(graph: Graph, free: set[Node]) -> Iterator[tuple[Node, ...]]:
    """Free nodes that are connected through a value that one makes and others read."""
    seen: set[Node] = set()
    for start in graph.nodes:
        if start not in free or start in seen:
            continue
        seen.add(start)
        found, stack = [start], [start]
        while stack:
            node = stack.pop()
            touching = [v.node for v in node.inputs]
            for v in (*node.inputs, *node.results):
                touching += [u for u in graph.uses[v] if u is not None]
            for other in touching:
                if other in free and other not in seen:
                    seen.add(other)
                    found.append(other)
                    stack.append(other)
        yield tuple(found)


class Problem:
    """The layouts of one component of free nodes; costs are bytes moved."""

    def __init__(self, graph: Graph, nodes: tuple[Node, ...], wishes: Wishes) -> None:
        self.graph, self.nodes, self.wishes = graph, nodes, wishes
        self.inside = set(nodes)
        inputs = (v for n in nodes for v in n.inputs if blockable((v.type,)))
        self.values = tuple(
            dict.fromkeys((*(v for v in inputs), *(v for n in nodes for v in n.results)))
        )
        self.prices = {n: {label: run_cost(n, label) for label in (PLAIN, C8)} for n in nodes}

    @property
    def least(self) -> int:
        """A bound no choice goes below: every node at its cheaper layout, nothing converted."""
        return sum(min(p.values()) for p in self.prices.values())

    def cost(self, label: Layout) -> int:
        """The cost when every node has the same layout."""
        total = sum(p[label] for p in self.prices.values())
        for v in self.values:
            made = label if v.node in self.inside else self.wishes.forced.get(v.node, PLAIN)
            wanted = {self._wanted(u, v, label) for u in self.graph.uses[v]}
            if (wanted - {FREE, made}) and v.node in self.inside:
                total += conversion(v)
            elif v.node not in self.inside and label is not made:
                reads = any(u in self.inside for u in self.graph.uses[v])
                total += conversion(v) if reads and label in wanted else 0
        return total

    def _wanted(self, user: Node | None, v: Value, label: Layout) -> Layout | None:
        if user is None:
            return PLAIN
        at = label if user in self.inside else self.wishes.forced.get(user, PLAIN)
        return self.wishes.of(user, v, at)

    def cut(self) -> dict[Node, Layout]:
        """The minimum cut: nodes on the source's side are C8."""
        import networkx as nx

        g: Any = nx.DiGraph()
        g.add_nodes_from(("C8", "PLAIN"))
        for n in self.nodes:
            g.add_edge("C8", n, capacity=self.prices[n][PLAIN])
            g.add_edge(n, "PLAIN", capacity=self.prices[n][C8])
        for v in self.values:
            self._add_value(g, v)
        _, (blocked, _) = nx.minimum_cut(g, "C8", "PLAIN")
        return {n: C8 if n in blocked else PLAIN for n in self.nodes}

    def _add_value(self, g: Any, v: Value) -> None:
        forced = self.wishes.forced.get(v.node, PLAIN)
        maker = v.node if v.node in self.inside else forced.name
        to_c8, to_plain = (v, "c8"), (v, "plain")
        g.add_edge(to_c8, maker, capacity=conversion(v))  # a reader is C8, the maker PLAIN
        g.add_edge(maker, to_plain, capacity=conversion(v))
        for user in self.graph.uses[v]:
            if user in self.inside:
                if self._wanted(user, v, C8) is C8:
                    g.add_edge(user, to_c8)
                    g.add_edge(to_plain, user)
                continue
            wanted = self._wanted(user, v, PLAIN)
            if wanted is C8:
                g.add_edge("C8", to_c8)
            elif wanted is PLAIN:
                g.add_edge(to_plain, "PLAIN")


def conversion(v: Value) -> int:
    """Bytes read and written to convert a value."""
    return bytes_of(v.type.plain()) + bytes_of(v.type.blocked())


def run_cost(node: Node, label: Layout) -> int:
    """Bytes that a node moves; windows over row-major planes are slower, some three times."""
    total = sum(bytes_of(_in(t, label)) for t in node.types)
    total += sum(bytes_of(_in(v.type, label)) for v in node.inputs if v.type.rank == 4)
    return total * 3 if label is PLAIN and isinstance(node.op, Pool | Lrn) else total


def _in(type: TensorType, label: Layout) -> TensorType:
    return replace(type, layout=label)


class _Converter:
    """Rebuilds the graph with each node in its layout and conversions made once."""

    def __init__(self, graph: Graph, labels: Mapping[Node, Layout], wishes: Wishes) -> None:
        self.graph, self.labels, self.wishes = graph, labels, wishes
        self.builder = Builder({n.name for n in graph.nodes})
        self.at: dict[tuple[Value, Layout], Value] = {}

    def run(self) -> Graph:
        """The converted graph."""
        for node in self.graph.nodes:
            self._place(node)
        roots = (*self.graph.outputs.values(), *self.graph.updates.values())
        return rebuilt(self.graph, {v: self.read(v, PLAIN, v.node) for v in roots})

    def read(self, v: Value, wanted: Layout | None, reader: Node) -> Value:
        """The value in the layout a reader wants; FREE takes what there is.

        Blocks are made where they are first read, since other devices may have none.
        """
        there = [label for label in (C8, PLAIN) if (v, label) in self.at]
        if wanted is FREE:
            made = self.labels.get(v.node, PLAIN)
            return self.at[v, made if made in there else there[0]]
        if wanted not in there:
            op, tail = (ToBlocked(), "c8") if wanted is C8 else (ToPlain(), "plain")
            source, device = self.at[v, there[0]], (reader if wanted is C8 else v.node).device
            with self.builder.at(v.node.loc), self.builder.on(device):
                made_node = self.builder(op, source, name=f"{v.name.replace('#', '.')}.{tail}")
            self.at[v, wanted] = made_node.out
        return self.at[v, wanted]

    def _place(self, node: Node) -> None:
        label = self.labels.get(node, PLAIN)
        inputs = tuple(self.read(v, self.wishes.of(node, v, label), node) for v in node.inputs)
        current = node
        if inputs != node.inputs:
            types = typed(node.op, tuple(v.type for v in inputs))
            current = replace(node, inputs=inputs, types=types)
        for old, new in zip(node.results, current.results, strict=True):
            self.at[old, new.type.layout] = new
            if isinstance(node.op, Windowed) and conv_gives_blocked(node) and label is C8:
                self.at[old, C8] = self.read(old, C8, node)
