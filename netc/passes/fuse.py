"""Kernels: an anchor with its element-wise epilogue, or an element-wise chain, as one node.

Nodes are taken producers first, each a group of its own; an element-wise node joins the groups
that make its operands when the union
  - works on one device and over one shape,
  - has at most one anchor (an op that is not element-wise),
  - is convex: no path leaves it and comes back, so kernels still have an order, and
  - is something the back end has a kernel for (`accepts` says why not).
A value that is read outside its group becomes one more result of the kernel. Views (reshape,
slice, concat) move nothing and stay nodes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from netc.errors import VerifyError
from netc.ir.dims import Dim
from netc.ir.graph import Builder, Graph, Node, Stage, Value
from netc.ir.ops.devices import Copy
from netc.ir.ops.fused import Fused
from netc.ir.ops.layout import ToBlocked, ToPlain
from netc.ir.ops.sources import Param
from netc.ir.scalar import Elementwise
from netc.passes.base import Context, Fired, at_stage
from netc.passes.convexity import Convexity
from netc.passes.facts import SOURCES, is_kernel
from netc.passes.rewrite import rebuilt

# A body, and the names of those of its inputs that are parameters -> why not, or None.
Accepts = Callable[[Graph, frozenset[str]], "str | None"]


def everything(body: Graph, params: frozenset[str]) -> str | None:
    """Every body has a kernel: the interpreter's."""
    return None


@dataclass(frozen=True)
class Fuse:
    """Make kernels. `accepts` is the back end's word: why it has no kernel for a body, or None.

    With `join` off every node is a kernel of its own.
    """

    accepts: Accepts = everything
    join: bool = True
    max_inputs: int = 16
    max_nodes: int = 64
    name: ClassVar[str] = "fuse"
    needs: ClassVar[tuple[Stage, ...]] = (Stage.PLACED,)
    gives: ClassVar[Stage | None] = Stage.KERNELS

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph whose nodes are sources, views and kernels."""
        groups = Grouping(graph, self, ctx)
        for node in graph.nodes:
            if not isinstance(node.op, SOURCES):
                groups.add(node)
        groups.explain()
        return at_stage(_assemble(graph, groups), Stage.KERNELS)


def is_pointwise(node: Node) -> bool:
    """Whether the node works element by element: a formula, or a change of layout."""
    return isinstance(node.op, Elementwise | ToBlocked | ToPlain)


@dataclass(frozen=True, eq=False)
class Group:
    """Nodes that will be one kernel, producers first, and where they run."""

    nodes: tuple[Node, ...]
    anchor: Node | None
    shape: tuple[Dim, ...]

    @property
    def last(self) -> Node:
        """The node whose value is the kernel's first result."""
        return self.nodes[-1]

    @property
    def name(self) -> str:
        """The kernel's name: that of the last node that computes."""
        computing = [n for n in self.nodes if not isinstance(n.op, ToBlocked | ToPlain)]
        return (computing or self.nodes)[-1].name


class Grouping:
    """The partition of a graph's nodes into groups, grown one node at a time."""

    def __init__(self, graph: Graph, options: Fuse, ctx: Context) -> None:
        self.graph, self.options, self.ctx = graph, options, ctx
        self.order = {n: i for i, n in enumerate(graph.nodes)}
        self.of: dict[Node, Group] = {}
        self.convexity = Convexity(self.of)
        self.refused: list[tuple[Node, Node, str]] = []

    def add(self, node: Node) -> None:
        """Let the node join the groups of its operands where that is right."""
        anchor = None if is_pointwise(node) else node
        group = Group((node,), anchor, node.types[0].shape)
        self.of[node] = group
        self.convexity.add(group)
        if not self.options.join:
            return
        if not is_pointwise(node):
            self._join_prologue(node)
            return
        producers = [p for p in self._producers(node) if self._fits(node, p)]
        anchored = [p for p in producers if self.of[p].anchor is not None]
        together = anchored[:1] + [p for p in producers if p not in anchored]
        if len(together) > 1 and self._join(node, together) is None:
            together = []
        for producer in (*together, *anchored[1:]):
            if self.of[producer] is not self.of[node] and (why := self._join(node, [producer])):
                self.refused.append((node, producer, why))

    def _join_prologue(self, node: Node) -> None:
        """Let an anchor take in the element-wise kernel that makes its first operand."""
        if not (is_kernel(node) and node.inputs) or self.graph.uses[node.inputs[0]] != (node,):
            return
        producer = node.inputs[0].node
        group = self.of.get(producer)
        if group is None or group.anchor is not None or not is_kernel(producer):
            return
        why = "they are on different devices" if producer.device != node.device else None
        if why := why or self._join(node, [producer]):
            self.refused.append((node, producer, why))

    def _producers(self, node: Node) -> list[Node]:
        """The kernels that make the operands, the latest anchored one first."""

        def rank(p: Node) -> tuple[bool, int]:
            anchor = self.of[p].anchor
            return anchor is None, -self.order[anchor or p]

        return sorted(dict.fromkeys(v.node for v in node.inputs if is_kernel(v.node)), key=rank)

    def _fits(self, node: Node, producer: Node) -> bool:
        mine, other = self.of[node].shape, self.of[producer].shape
        why = ""
        if other != mine:
            why = f"they work on {_shape(other)} and {_shape(mine)}"
        elif producer.device != node.device:
            why = f"they are on {producer.device} and {node.device}"
        if why:
            self.refused.append((node, producer, why))
        return not why

    def _join(self, node: Node, producers: list[Node]) -> str | None:
        """Make one group of the node's and its producers'; why not, None when done."""
        parts = tuple(dict.fromkeys(self.of[n] for n in (node, *producers)))
        anchors = [g.anchor for g in parts if g.anchor is not None]
        if len(anchors) > 1:
            return f"it is part of %{anchors[0].name}'s kernel, and a kernel has one anchor"
        nodes = sorted((n for g in parts for n in g.nodes), key=self.order.__getitem__)
        if any(isinstance(n.op, Copy) for n in nodes):
            return "a copy between devices is a step of its own"
        if len(nodes) > self.options.max_nodes:
            return f"a kernel has at most {self.options.max_nodes} nodes"
        if (between := self.convexity.between(parts)) is not None:
            return f"%{between.name} lies between them"
        union = Group(tuple(nodes), anchors[0] if anchors else None, parts[0].shape)
        body = self.body(union)
        if len(body.inputs) > self.options.max_inputs:
            return f"a kernel takes at most {self.options.max_inputs} operands"
        outer = zip(body.inputs, self.operands(union), strict=True)
        params = frozenset(n.name for n, v in outer if isinstance(v.op, Param))
        if (why := self.options.accepts(body, params)) is not None:
            return why
        self.of.update(dict.fromkeys(union.nodes, union))
        self.convexity.merge(union, parts)
        target = union.anchor or union.nodes[0]
        self.ctx.fired.append(Fired("fuse", f"into %{target.name}", node.name))
        return None

    def explain(self) -> None:
        """Note why nodes that could be neighbours in a kernel are not."""
        for node, producer, why in self.refused:
            if self.of[node] is not self.of[producer]:
                reason = f"%{node.name} stays apart from %{producer.name}: {why}"
                self.ctx.refuse("fuse", node, reason)

    def operands(self, group: Group) -> tuple[Value, ...]:
        """The values a group reads from outside, the anchor's own first."""
        inside = set(group.nodes)
        first = group.nodes if group.anchor is None else (group.anchor, *group.nodes)
        return tuple(dict.fromkeys(v for n in first for v in n.inputs if v.node not in inside))

    def results(self, group: Group) -> tuple[Value, ...]:
        """The values that are read outside the group so far known; the last node's first."""
        inside = set(group.nodes)
        seen = [
            v
            for n in reversed(group.nodes)
            for v in n.results
            if n is group.last or len(group.nodes) == 1 or self._read_outside(v, inside)
        ]
        return tuple(dict.fromkeys(seen))

    def _read_outside(self, v: Value, inside: set[Node]) -> bool:
        return any(user is None or user not in inside for user in self.graph.uses[v])

    def body(self, group: Group) -> Graph:
        """The group as a graph of its own, whose inputs are its operands."""
        b = Builder({n.name for n in group.nodes})
        inner: dict[Value, Value] = {}
        for v in self.operands(group):
            inner[v] = b.input(_plain_name(v), v.type)
        for n in group.nodes:
            copy = replace(n, inputs=tuple(inner[v] for v in n.inputs))
            inner.update(zip(n.results, copy.results, strict=True))
        outputs = {_plain_name(v): inner[v] for v in self.results(group)}
        title = "_".join(n.op.name for n in group.nodes)
        return Graph(title, tuple(b.inputs), outputs)


def _plain_name(v: Value) -> str:
    return v.name.replace("#", ".")


def _shape(shape: Iterable[Dim]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _assemble(graph: Graph, groups: Grouping) -> Graph:
    """The graph with each group as one node."""
    new: dict[Value, Value] = {}
    for node in graph.nodes:
        if isinstance(node.op, SOURCES):
            new.update((v, v) for v in node.results)
    done: set[Group] = set()
    waiting: set[Group] = set()
    roots = [groups.of[n] for n in graph.nodes if n in groups.of]
    stack = list(reversed(roots))
    while stack:
        group = stack[-1]
        needed = [groups.of[v.node] for v in groups.operands(group) if v.node in groups.of]
        missing = [g for g in needed if g not in done]
        if group not in done and missing:
            if group in waiting:
                raise VerifyError(f"the kernel %{group.name} waits for itself", group.last.loc)
            waiting.add(group)
            stack += missing
            continue
        stack.pop()
        if group not in done:
            done.add(group)
            new.update(_node(groups, group, new))
    return rebuilt(graph, new)


def _node(groups: Grouping, group: Group, new: dict[Value, Value]) -> dict[Value, Value]:
    """The group's node over the new values, and what its results become."""
    last = group.last
    if not is_kernel(last):
        view = replace(last, inputs=tuple(new[v] for v in last.inputs))
        return dict(zip(last.results, view.results, strict=True))
    body = groups.body(group)
    inputs = tuple(new[v] for v in groups.operands(group))
    types = tuple(v.type for v in body.outputs.values())
    kernel = Node(Fused(body), inputs, types, group.name, last.loc, last.device)
    return dict(zip(groups.results(group), kernel.results, strict=True))
