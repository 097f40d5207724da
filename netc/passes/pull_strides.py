"""Pixels that no reader looks at are not computed.

A 1×1 convolution with stride s reads every s-th pixel. Where all readers of a value skip pixels,
what makes it skips them: conv_s(relu(conv(x) + y)) = conv(relu(conv_s(x) + y[s])), y[s] every s-th
pixel of y. In residual nets as first published, whose stages begin with such convolutions, the end
of each stage is computed for a quarter of its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from netc.ir.graph import Builder, Graph, Node, Stage, Value
from netc.ir.ops.convolution import Conv
from netc.ir.ops.pooling import AvgPool, MaxPool
from netc.ir.scalar import Elementwise
from netc.ir.types import DType, Layout
from netc.passes.base import BEFORE_KERNELS, Context, Fired
from netc.passes.facts import aligned, single_pixels
from netc.passes.rewrite import rebuilt

Step: TypeAlias = tuple[int, int]  # down and across
EVERY: Step = (1, 1)
LIMIT = 1 << 31  # of a stride


@dataclass(frozen=True)
class PullStrides:
    """Strides go up to where pixels are made."""

    name: ClassVar[str] = "pull_strides"
    needs: ClassVar[tuple[Stage, ...]] = BEFORE_KERNELS
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph in which convolutions make no pixel that nothing reads."""
        wanted = _wanted(graph)
        skips: dict[Value, Step] = {}
        for node in graph.nodes:
            step = wanted.get(node.results[0], EVERY)
            if step != EVERY and (_can_skip(node) or any(v in skips for v in node.inputs)):
                skips[node.out] = step
                ctx.fired.append(Fired(self.name, "every {} by {}".format(*step), node.name))
        return _pulled(graph, skips) if skips else graph


def _wanted(graph: Graph) -> dict[Value, Step]:
    """Which pixels are read of each value that could have fewer."""
    found: dict[Value, Step] = {}
    for node in reversed(graph.nodes):
        if _is_image(node) and (_can_skip(node) or _is_pointwise(node)):
            readers = graph.uses[node.out]
            step = _common(_read(found, reader, node.out) for reader in readers)
            own = _stride(node) if _can_skip(node) else EVERY
            found[node.out] = step if max(_times(own, step)) < LIMIT else EVERY
    return found


def _read(found: Mapping[Value, Step], reader: Node | None, value: Value) -> Step:
    """Which pixels of a value one reader looks at."""
    if reader is None or not _is_image(reader):
        return EVERY
    after = found.get(reader.out, EVERY)
    if _takes_single_pixels(reader) and value not in reader.inputs[1:]:
        return _times(_stride(reader), after)
    return after if _is_pointwise(reader) and _covers(value, reader) else EVERY


def _common(steps: Iterable[Step]) -> Step:
    """Every pixel that any of these steps reaches is reached by it."""
    listed = list(steps)
    if not listed:
        return EVERY
    return math.gcd(*(s[0] for s in listed)), math.gcd(*(s[1] for s in listed))


def _is_image(node: Node) -> bool:
    """Whether a node makes a row-major image of floats, of a known height and width."""
    if len(node.types) != 1:
        return False
    type = node.types[0]
    plain = type.dtype is DType.F32 and type.layout is Layout.PLAIN and type.rank == 4
    return plain and all(isinstance(d, int) for d in type.shape[2:])


def _can_skip(node: Node) -> bool:
    """Whether a larger stride leaves work out."""
    return isinstance(node.op, Conv) or _takes_single_pixels(node)


def _takes_single_pixels(node: Node) -> bool:
    """Whether each result comes from one pixel: windows of 1×1 without padding."""
    match node.op:
        case Conv():
            return single_pixels(node)
        case MaxPool() | AvgPool():
            return node.op.kernel == (1, 1) and not node.op.ceil
    return False


def _stride(node: Node) -> Step:
    op = node.op
    assert isinstance(op, Conv | MaxPool | AvgPool)
    down, across = op.window(2)[0] if isinstance(op, Conv) else op.window()[1]
    return down, across


def _is_pointwise(node: Node) -> bool:
    """Whether each pixel of the result comes from that pixel of operands, or from no pixel."""
    if not isinstance(node.op, Elementwise):
        return False
    return all(
        v.type.dtype is DType.F32 and (_covers(v, node) or aligned(v.type, 4)[2:] == (1, 1))
        for v in node.inputs
    )


def _covers(value: Value, node: Node) -> bool:
    """Whether an operand has a pixel for each of the result."""
    return value.type.rank == 4 and value.type.shape[2:] == node.types[0].shape[2:]


def _times(a: Step, b: Step) -> Step:
    return a[0] * b[0], a[1] * b[1]


def _over(a: Step, b: Step) -> Step:
    return a[0] // b[0], a[1] // b[1]


def _pulled(graph: Graph, skips: Mapping[Value, Step]) -> Graph:
    """The graph whose values have only those pixels."""
    b = Builder({n.name for n in graph.nodes})
    new: dict[Value, Value] = {}
    taken: dict[tuple[Value, Step], Value] = {}  # every so-manyth pixel of a new value

    def every(value: Value, step: Step) -> Value:
        if step != EVERY and (value, step) not in taken:
            with b.at(value.node.loc), b.on(value.node.device):
                op = MaxPool(kernel=(1, 1), stride=step, pad=(0, 0))
                taken[value, step] = b(op, value, name=f"{value.name}.skipped").out
        return taken.get((value, step), value)

    for node in graph.nodes:
        inputs = tuple(new[v] for v in node.inputs)
        here = skips.get(node.results[0], EVERY)
        before = [skips.get(v, EVERY) for v in node.inputs]
        if here == EVERY and set(before) <= {EVERY}:
            now = node if inputs == node.inputs else replace(node, inputs=inputs)
            new.update(zip(node.results, now.results, strict=True))
            continue
        op = node.op
        if isinstance(op, Conv | MaxPool | AvgPool):
            op = replace(op, stride=_over(_times(_stride(node), here), before[0]))
        else:
            inputs = tuple(
                every(new[v], _over(here, had)) if _covers(v, node) else new[v]
                for v, had in zip(node.inputs, before, strict=True)
            )
        if isinstance(op, MaxPool | AvgPool) and op.stride == EVERY:  # nothing is left to skip
            new[node.out] = inputs[0]
            continue
        with b.at(node.loc), b.on(node.device):
            made = b(op, *inputs, name=node.name)
        new[node.out] = replace(made, name=node.name, shards=node.shards).out
    return rebuilt(graph, new)
