"""From a scheduled KERNELS graph to a plan, one code image and the packed weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from netc.codegen.buffers import CPU, Copy, Placement, Run, place_values
from netc.codegen.cpu.anchors import lower
from netc.codegen.cpu.emit import Module
from netc.codegen.cpu.gemm import GemmFamily
from netc.codegen.cpu.halo import zero_halo
from netc.codegen.cpu.image import Image
from netc.codegen.cpu.library import build_image
from netc.codegen.cpu.lowering import Lowering
from netc.codegen.cpu.target import Target
from netc.codegen.operand import WEIGHTS, Kernel, Packing, WeightStore
from netc.codegen.steps import Work, order_steps
from netc.ir.conditions import conditions
from netc.ir.dims import Dim, product
from netc.ir.graph import Builder, Graph, Node
from netc.ir.op import Array
from netc.ir.ops.fused import Fused
from netc.ir.ops.layout import ToBlocked, ToPlain
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.plan import Plan, Port
from netc.ir.queues import devices_of
from netc.ir.scalar import Elementwise
from netc.ir.verify import is_copy


@dataclass(frozen=True)
class Compiled:
    """What the CPU back end makes of a graph for one level."""

    plan: Plan
    image: Image


def compile_graph(
    graph: Graph, order: Sequence[Node], target: Target, store: WeightStore
) -> Compiled:
    """Lower every node of the schedule; what kernels read of the weights goes into the store.

    Raises UnsupportedError where an op has no kernel.
    """
    module = Module(target)
    ctx = Lowering(target, module, GemmFamily(module), store)
    placement = place_values(graph, order, graph.weights)
    work = [made for item in placement.work for made in _lowered(ctx, item)]
    work = _with_halos(ctx, placement, work)
    plan = _plan(graph, placement, work)
    return Compiled(plan, build_image(module, len(devices_of(plan))))


def _lowered(ctx: Lowering, item: Copy | Run) -> list[Work]:
    kernel = _copy_kernel(item) if isinstance(item, Copy) else _fused_kernel(item)
    reads = tuple(o.buffer for o in kernel.ins if o.buffer != WEIGHTS)
    flops, bytes_ = _cost(item, kernel)
    calls = lower(ctx, kernel)
    return [
        Work(
            call=call,
            name=item.node.name,
            op="copy" if isinstance(item, Copy) else _title(item.node),
            reads=reads,
            writes=tuple((o.buffer, str(o.offset)) for o in kernel.outs),
            flops=flops if i == 0 else 0,
            bytes=bytes_ if i == 0 else 0,
            device=str(item.node.device or CPU),
            copies=is_copy(item.node.op),
        )
        for i, call in enumerate(calls)
    ]


def anchor_of(body: Graph) -> Node | None:
    """The structured node of a body, if it has one; a change of layout only when it is alone."""
    found = [n for n in body.nodes if not isinstance(n.op, Elementwise | Input | Param | Const)]
    moved = [n for n in found if not isinstance(n.op, ToBlocked | ToPlain)]
    return next(iter(moved or found), None)


def _fused_kernel(run: Run) -> Kernel:
    assert isinstance(run.node.op, Fused)
    body = run.node.op.body
    return Kernel(run.node, body, anchor_of(body), run.ins, run.outs)


def _copy_kernel(copy: Copy) -> Kernel:
    b = Builder()
    x = b.input("x", copy.source.type)
    return Kernel(copy.node, b.graph("copy", {"y": x}), None, (copy.source,), (copy.target,))


def _title(node: Node) -> str:
    """The ops of a kernel as a person reads them: conv+add+relu."""
    assert isinstance(node.op, Fused)
    inner = [n.op.name for n in node.op.body.nodes if not isinstance(n.op, Input | Param)]
    return "+".join(inner) or "copy"


def _cost(item: Copy | Run, kernel: Kernel) -> tuple[Dim, Dim]:
    """FLOPs, and bytes that must pass: each operand once."""
    moved: Dim = 0
    for o in (*kernel.ins, *kernel.outs):
        moved = moved + o.type.count * o.type.dtype.size
    if isinstance(item, Copy):
        return 0, moved
    total: Dim = 0
    for n in kernel.body.nodes:
        total = total + n.op.flops(*(v.type.plain() for v in n.inputs))
    return total, moved


def _with_halos(ctx: Lowering, placement: Placement, work: list[Work]) -> list[Work]:
    """Before the first write of each buffer with a halo, the step that zeroes it."""
    out: list[Work] = []
    seen: set[int] = set()
    for w in work:
        for buffer, _ in w.writes:
            if buffer in seen or not any(placement.places[buffer].halo):
                continue
            seen.add(buffer)
            owner = placement.owners[buffer]
            call = zero_halo(ctx, owner)
            writes = ((buffer, "halo"),)
            moved = product(owner.sizes[:2]) * 4
            halo = replace(w, call=call, op="zero halo", reads=(), writes=writes, flops=0)
            out.append(replace(halo, bytes=moved))
        out.append(w)
    return out


def stored_params(
    store: WeightStore, weights: Mapping[str, Array]
) -> dict[str, tuple[int, Packing]]:
    """Where each parameter is in the weights section; those no kernel packed are added raw."""
    out: dict[str, tuple[int, Packing]] = {}
    for name, array in weights.items():
        if id(array) in store.packings:
            out[name] = store.packings[id(array)]
        else:
            out[name] = (store.add(np.asarray(array, np.float32)).offset, ("raw",))
    return out


def _plan(graph: Graph, placement: Placement, work: list[Work]) -> Plan:
    steps, buffers = order_steps(placement.places, work)
    inputs = tuple(Port(n.name, n.types[0], placement.inputs[n.name]) for n in graph.inputs)
    outputs = tuple(
        Port(name, v.type.plain(), placement.outputs[name]) for name, v in graph.outputs.items()
    )
    return Plan(inputs, outputs, buffers, steps, conditions(graph))
