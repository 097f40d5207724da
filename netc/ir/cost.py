"""What a graph costs: operations, bytes moved, memory. Used by inspect, time and placement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from netc.ir.dims import BATCH, IMAGE, Dim, ceil_div, evaluate, product
from netc.ir.filtering import operations
from netc.ir.graph import Graph, Node, Value
from netc.ir.ops.fused import Fused
from netc.ir.ops.shape import Flatten, Reshape
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.solve import sizes_where
from netc.ir.types import Layout, TensorType

LANES = 8  # channels of a C8 block
_FREE = (Input, Param, Const, Reshape, Flatten)  # nothing is computed or moved


@dataclass(frozen=True)
class Cost:
    """Floating-point operations (a multiply-add is two), bytes read and written."""

    flops: Dim = 0
    read: Dim = 0
    written: Dim = 0


@dataclass(frozen=True)
class Row:
    """One node's cost for known sizes."""

    name: str
    op: str
    type: str
    flops: int
    bytes: int


@dataclass(frozen=True)
class Summary:
    """A graph's cost for known sizes; all but `flops` in bytes.

    `activations` is the largest sum of values alive together when nodes run in their order, each
    value in memory of its own.
    """

    rows: tuple[Row, ...]
    flops: int
    moved: int
    weights: int
    activations: int
    parameters: int  # a count, not bytes


def bytes_of(type: TensorType) -> Dim:
    """The bytes of a tensor as it lies in memory; C8 fills up its last block."""
    if type.layout is Layout.C8:
        n, c, h, w = type.shape
        return n * (ceil_div(c, LANES) * LANES) * h * w * type.dtype.size
    return product(type.shape) * type.dtype.size


def cost(node: Node) -> Cost:
    """The cost of a node. A value read twice by it is read once."""
    if isinstance(node.op, _FREE):
        return Cost()
    flops = node.op.flops(*(v.type.plain() for v in node.inputs))
    read: Dim = sum((bytes_of(v.type) for v in dict.fromkeys(node.inputs)), start=0)
    written: Dim = sum((bytes_of(t) for t in node.types), start=0)
    return Cost(flops, read, written)


def cost_on(node: Node, kind: str) -> Cost:
    """The cost of a node on a kind of device: processors do some convolutions with less."""
    whole = cost(node)
    return whole if kind == "cuda" else replace(whole, flops=operations(node, whole.flops))


def default_sizes(graph: Graph, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """A size for every symbol: as given, else usual, else one image of IMAGE by IMAGE."""
    types = [n.types[0] for n in graph.inputs]
    assumed = sizes_where(types, lambda axis, name: IMAGE if axis and name != BATCH else 1)
    return assumed | dict(graph.usual) | dict(sizes or {})


def summarize(graph: Graph, sizes: Mapping[str, int] | None = None) -> Summary:
    """The cost of every node and of the whole, symbols bound by `default_sizes`."""
    known = default_sizes(graph, sizes)
    rows = []
    for node in graph.nodes:
        if isinstance(node.op, Input | Param | Const):
            continue
        c = cost(node)
        moved = evaluate(c.read + c.written, known)
        types = ", ".join(str(TensorType(t.dtype, t.sizes(known), t.layout)) for t in node.types)
        rows.append(Row(node.name, named_op(node), types, evaluate(c.flops, known), moved))
    params = [evaluate(n.types[0].count, known) for n in graph.params]
    weights = sum(evaluate(bytes_of(n.types[0]), known) for n in graph.params)
    return Summary(
        tuple(rows), sum(r.flops for r in rows), sum(r.bytes for r in rows), weights,
        peak(graph, known), sum(params),
    )  # fmt: skip


def named_op(node: Node) -> str:
    """The op's name; for a kernel, those of its body: `conv+add+relu`."""
    if not isinstance(node.op, Fused):
        return node.op.name
    return "+".join(n.op.name for n in node.op.body.nodes if not isinstance(n.op, Input | Const))


def peak(graph: Graph, sizes: Mapping[str, int]) -> int:
    """The largest sum of bytes of values alive together, in the order of the nodes."""
    last: dict[Value, int] = {}
    for i, node in enumerate(graph.nodes):
        last.update(dict.fromkeys((*node.results, *node.inputs), i))
    last.update(dict.fromkeys((*graph.outputs.values(), *graph.updates.values()), len(graph.nodes)))
    ends: dict[int, list[Value]] = {}
    for v, i in last.items():
        ends.setdefault(i, []).append(v)
    alive = most = 0
    for i, node in enumerate(graph.nodes):
        held = () if isinstance(node.op, Param) else node.results
        alive += sum(evaluate(bytes_of(v.type), sizes) for v in held)
        most = max(most, alive)
        done = (v for v in ends.get(i, ()) if not isinstance(v.op, Param))
        alive -= sum(evaluate(bytes_of(v.type), sizes) for v in done)
    return most
