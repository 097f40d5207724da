"""Sibling 1×1 convolutions as one: the input is read once, the matrix kernel is wider.

conv(x, w₁), conv(x, w₂) = slices of conv(x, concat(w₁, w₂)), and the same with one element-wise
op, such as a ReLU, after every one of them. The slices are views of channel blocks.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import ClassVar

from netc.ir.graph import Builder, Graph, Node, Stage, Value
from netc.ir.ops.convolution import Conv
from netc.ir.ops.elementwise import Clip, Elu, Relu, Sigmoid, Tanh
from netc.ir.ops.shape import Concat, Slice
from netc.passes.base import BEFORE_KERNELS, Context, Fired
from netc.passes.blocking import whole
from netc.passes.facts import Fixed, single_pixels
from netc.passes.rewrite import rebuilt

TAILS = (Relu, Clip, Elu, Sigmoid, Tanh)


@dataclass(frozen=True)
class Branch:
    """A convolution and the element-wise op that is its only reader, if it has one."""

    conv: Node
    tail: Node | None

    @property
    def end(self) -> Value:
        """What the rest of the net reads."""
        return (self.tail or self.conv).out


@dataclass(frozen=True)
class MergeSiblings:
    """Join 1×1 convolutions that read one value; at most `channels` outputs together."""

    channels: int = 512
    name: ClassVar[str] = "merge_siblings"
    needs: ClassVar[tuple[Stage, ...]] = BEFORE_KERNELS
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph with every family of siblings as one convolution."""
        groups: dict[Hashable, list[Branch]] = {}
        fixed = Fixed(graph)
        for node in graph.nodes:
            if _pointwise_conv(node) and all(fixed(v) for v in node.inputs[1:]):
                branch = Branch(node, _tail(graph, node))
                groups.setdefault(_family(branch), []).append(branch)
        families: list[list[Branch]] = []
        for members in groups.values():
            fitting = self._fitting(graph, members, ctx) if len(members) > 1 else []
            if len(fitting) > 1:
                families.append(fitting)
                into = f"with %{fitting[0].conv.name}"
                ctx.fired += [Fired(self.name, into, m.conv.name) for m in fitting[1:]]
        return _joined(graph, families) if families else graph

    def _fitting(self, graph: Graph, members: list[Branch], ctx: Context) -> list[Branch]:
        """Those that pay together; for each other one the reason is noted."""
        kept: list[Branch] = []
        total = 0
        for m in members:
            channels = m.conv.inputs[1].type.shape[0]
            why = _why_apart(graph, m)
            if why is None and isinstance(channels, int) and total + channels > self.channels:
                why = f"together they have more than {self.channels} channels"
            if why is not None:
                sibling = next(o for o in members if o is not m).conv.name
                reason = f"%{m.conv.name} stays apart from its sibling %{sibling}: {why}"
                ctx.refuse(self.name, m.conv, reason)
                continue
            total += channels if isinstance(channels, int) else 0
            kept.append(m)
        return kept


def _pointwise_conv(node: Node) -> bool:
    if not isinstance(node.op, Conv) or node.types[0].rank != 4 or node.op.groups != 1:
        return False
    return single_pixels(node)


def _tail(graph: Graph, conv: Node) -> Node | None:
    readers = graph.uses[conv.out]
    if len(readers) == 1 and readers[0] is not None and isinstance(readers[0].op, TAILS):
        return readers[0]
    return None


def _family(branch: Branch) -> Hashable:
    """Equal for branches that may be one."""
    conv, tail = branch.conv, branch.tail
    return (conv.inputs[0], conv.op, len(conv.inputs), conv.place, tail and repr(tail.op))


def _why_apart(graph: Graph, branch: Branch) -> str | None:
    channels = branch.conv.inputs[1].type.shape[0]
    if not whole(channels):
        return f"its {channels} channels do not fill blocks of 8"
    if branch.conv.inputs[0].type.shape[1] == 0:
        return "it has no input channels"
    for user in graph.uses[branch.end]:
        if user is None:
            return f"%{branch.end.name} is an output of the net, which owns its memory"
        if isinstance(user.op, Concat):
            return f"%{user.name} joins it in place, which a part of a wider result cannot be"
    return None


def _joined(graph: Graph, families: list[list[Branch]]) -> Graph:
    """The graph with each family as one convolution, made where its first member ends."""
    b = Builder({n.name for n in graph.nodes})
    family_of = {m.end: family for family in families for m in family}
    new: dict[Value, Value] = {}
    slices: dict[Value, Value] = {}
    for node in graph.nodes:
        inputs = tuple(new[v] for v in node.inputs)
        current = node if inputs == node.inputs else replace(node, inputs=inputs)
        for old, now in zip(node.results, current.results, strict=True):
            if old in family_of and old not in slices:
                family = family_of[old]
                slices |= _merged(b, new[family[0].conv.inputs[0]], family)
            new[old] = slices.get(old, now)
    return rebuilt(graph, new)


def _merged(b: Builder, x: Value, members: list[Branch]) -> dict[Value, Value]:
    """The wide convolution of x, its tail, and a slice for each member."""
    first = members[0]
    with b.at(first.conv.loc), b.on(first.conv.device):
        parts = [
            b.concat(*(m.conv.inputs[i] for m in members), axis=0, name=f"{first.conv.name}.{what}")
            for i, what in ((1, "w"), (2, "b"))[: len(first.conv.inputs) - 1]
        ]
        wide = b(first.conv.op, x, *parts, name=f"{first.conv.name}.wide").out
        if first.tail is not None:
            wide = b(first.tail.op, wide, name=f"{first.end.name}.wide").out
    out: dict[Value, Value] = {}
    start = 0
    for m in members:
        channels = m.conv.inputs[1].type.shape[0]
        assert isinstance(channels, int)
        end = m.end.node
        with b.at(end.loc), b.on(end.device):
            made = b(Slice(axis=1, start=start, stop=start + channels), wide, name=end.name)
        out[m.end] = replace(made, name=end.name).out
        start += channels
    return out
