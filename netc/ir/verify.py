"""The invariants of a graph, by stage. A broken one is a bug in netc, not in the net."""

from __future__ import annotations

from collections.abc import Iterator

from netc.errors import NOWHERE, Diagnostic, GraphError, VerifyError, clean
from netc.ir.attributes import misfit
from netc.ir.dims import MAX_DIM
from netc.ir.graph import MAX_NODES, Graph, Node, Stage
from netc.ir.op import Op, typed
from netc.ir.ops.devices import Copy
from netc.ir.ops.elementwise import Cast
from netc.ir.ops.fused import Fused
from netc.ir.ops.layout import ToBlocked, ToPlain
from netc.ir.ops.random import Random
from netc.ir.ops.shape import Concat, Crop, Flatten, Pad, Reshape, Slice, Tile, Transpose
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.scalar import Elementwise

SHOWN = 20  # problems that one error lists

# Ops that a kernel computes element by element or by moving elements, around its anchor.
_AROUND = (Elementwise, Random, Cast, Const, Input, ToBlocked, ToPlain, Concat, Crop, Flatten, Pad,
           Reshape, Slice, Tile, Transpose)  # fmt: skip


def is_anchor(op: Op) -> bool:
    """Whether an op decides a kernel's loops: a convolution, a pool, a reduction, …"""
    return not isinstance(op, (*_AROUND, Param, Fused))


def is_copy(op: Op) -> bool:
    """Whether an op may read what lies on another device."""
    if isinstance(op, Fused):
        return any(isinstance(n.op, Copy) for n in op.body.nodes)
    return isinstance(op, Copy)


def verify(graph: Graph) -> Graph:
    """The graph itself, when it keeps every invariant of its stage; raises VerifyError."""
    found = problems(graph)
    if found:
        more = [Diagnostic(f"… and {len(found) - SHOWN} more")] if len(found) > SHOWN else []
        raise VerifyError([*found[:SHOWN], *more])
    return graph


def problems(graph: Graph) -> list[Diagnostic]:
    """Everything wrong with a graph."""
    loop = _cycle(graph)
    if loop is not None:
        return [_said(loop, "is part of a cycle")]
    return [*_body_problems(graph), *_locations(graph)]


def _body_problems(graph: Graph) -> list[Diagnostic]:
    """Everything wrong but locations, which the inputs of a body lack."""
    out = [*_form(graph), *_weights(graph), *_devices(graph)]
    for node in graph.nodes:
        out += [_said(node, why) for why in _node(node, graph)]
    return out


def _said(node: Node, why: str) -> Diagnostic:
    return Diagnostic(f"%{clean(node.name)} {why}", node.loc)


def _cycle(graph: Graph) -> Node | None:
    """A node that depends on itself; `Graph.nodes` would not end then."""
    state: dict[int, bool] = {}  # id -> done
    stack = [(v.node, False) for v in (*graph.outputs.values(), *graph.updates.values())]
    while stack:
        node, leaving = stack.pop()
        if leaving:
            state[id(node)] = True
        elif id(node) not in state:
            state[id(node)] = False
            stack.append((node, True))
            for v in node.inputs:
                if state.get(id(v.node)) is False:
                    return v.node
                stack.append((v.node, False))
    return None


def _form(graph: Graph) -> Iterator[Diagnostic]:
    if len(graph.nodes) > MAX_NODES:
        yield Diagnostic(f"@{clean(graph.name)} has more than {MAX_NODES} nodes")
    names: set[str] = set()
    for node in graph.nodes:
        if node.name in names:
            yield _said(node, "is a name used twice")
        names.add(node.name)
        if isinstance(node.op, Input) and node not in graph.inputs:
            yield _said(node, "is read, but is no input of the graph")
    for node in graph.inputs:
        if not isinstance(node.op, Input):
            yield _said(node, f"is an input of the graph, but is made by {node.op.name}")
    for symbol, size in graph.usual.items():
        if not 0 <= size <= MAX_DIM:
            yield Diagnostic(f"the usual size {size} of {clean(symbol)} is not 0 to {MAX_DIM}")
    if len(set(graph.inputs)) < len(graph.inputs):
        yield Diagnostic(f"@{clean(graph.name)} has an input twice")
    for name, v in (*graph.outputs.items(), *graph.updates.items()):
        if not 0 <= v.index < len(v.node.types):
            yield _said(v.node, f"has no result {v.index}, which {clean(name)!r} asks for")


def _weights(graph: Graph) -> Iterator[Diagnostic]:
    params = {n.name: n for n in graph.params}
    for name, array in graph.weights.items():
        node = params.get(name)
        if node is None:
            yield Diagnostic(f"@{clean(graph.name)} has weights for {clean(name)!r}, no parameter")
        elif (array.dtype, array.shape) != (node.types[0].dtype.numpy, node.types[0].shape):
            yield _said(node, f"is {node.types[0]}; its weights are {array.dtype} {array.shape}")
    for name in graph.updates:
        if name not in params:
            yield Diagnostic(f"@{clean(graph.name)} updates {clean(name)!r}, no parameter")


def _locations(graph: Graph) -> Iterator[Diagnostic]:
    """Where any node comes from a file, all do."""
    if all(n.loc == NOWHERE for n in graph.nodes):
        return
    for node in graph.nodes:
        if node.loc == NOWHERE:
            yield _said(node, "has no location, though the graph comes from a file")


def _devices(graph: Graph) -> Iterator[Diagnostic]:
    """Placed: every node has a device, where its operands lie; a copy reads from anywhere.

    Parameters have no place: each device that reads one keeps it.
    """
    if graph.stage is Stage.NET or all(n.device is None for n in graph.nodes):
        return
    for node in graph.nodes:
        if node.device is None:
            yield _said(node, "has no device, though others have")
        for v in node.inputs:
            free = is_copy(node.op) or isinstance(v.op, Param)
            if not free and v.node.device not in (node.device, None):
                yield _said(node, f"is on {node.device}, %{clean(v.name)} on {v.node.device}")


def _node(node: Node, graph: Graph) -> Iterator[str]:
    wrong = misfit(node.op)
    if wrong:
        yield f"has a wrong attribute: {wrong}"
        return
    missing = [v for v in node.inputs if not 0 <= v.index < len(v.node.types)]
    if missing:
        yield f"reads result {missing[0].index} of %{clean(missing[0].node.name)}"
        return
    try:
        types = typed(node.op, tuple(v.type for v in node.inputs))
    except (GraphError, TypeError) as e:
        yield f"does not fit its operands: {e}"
        return
    if types != node.types:
        yield f"is typed {', '.join(map(str, node.types))}, not {', '.join(map(str, types))}"
    if isinstance(node.op, Fused):
        yield from _kernel(node, node.op.body, graph.stage)


def _kernel(node: Node, body: Graph, stage: Stage) -> Iterator[str]:
    """A body is whole, flat, on one device, reads what it is given, and has one anchor at most."""
    if stage is not Stage.KERNELS:
        yield f"is fused, which stage {stage.value} does not allow"
    for v, inner in zip(node.inputs, body.inputs, strict=True):
        if v.type != inner.types[0]:
            yield f"is given %{clean(v.name)}: {v.type} where its body takes {inner.types[0]}"
    if _cycle(body) is not None:
        yield "has a cycle in its body"
        return
    if any(isinstance(n.op, Fused | Param) for n in body.nodes):
        yield "has a kernel or a parameter within its body"
    anchors = [n.op.name for n in body.nodes if is_anchor(n.op)]
    if len(anchors) > 1:
        yield f"has {len(anchors)} anchors: {', '.join(anchors)}"
    if any(n.device not in (None, node.device) for n in body.nodes):
        yield "has a body on another device"
    for d in _body_problems(body):
        yield f"has a wrong body: {d.message}"
