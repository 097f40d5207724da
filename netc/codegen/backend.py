"""From a scheduled KERNELS graph to a plan: one placement, each kernel by its device's back end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from netc.codegen.buffers import (
    HOST_KINDS,
    Copy,
    Home,
    Place,
    Placement,
    Run,
    Transfer,
    kind_of,
    place_values,
)
from netc.codegen.images import batch_of, by_image
from netc.codegen.operand import SCRATCH, WEIGHTS, Call, Cost, Kernel
from netc.codegen.steps import Work, order_steps
from netc.errors import UnsupportedError, clean
from netc.ir.conditions import conditions
from netc.ir.dims import Dim
from netc.ir.graph import Builder, Graph, Node
from netc.ir.ops.fused import Fused
from netc.ir.ops.layout import ToBlocked, ToPlain
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.plan import BufferArg, IntArg, Plan, Port, Space
from netc.ir.queues import devices_of
from netc.ir.scalar import Elementwise
from netc.ir.types import Layout
from netc.ir.verify import is_copy

MEMCPY = "memcpy"  # the kernel of a transfer: target, source, bytes
HOST = "host"  # the back end of every kind of device that has none of its own


class BackEnd(Protocol):
    """The compile side of a kind of device."""

    @property
    def home(self) -> Home:
        """How values lie there."""

    def calls(self, kernel: Kernel) -> Sequence[Call]:
        """The calls of a kernel. Raises UnsupportedError."""

    def before(self, placement: Placement, work: list[Work]) -> list[Work]:
        """The work with what must come before it."""


def plan_graph(graph: Graph, order: Sequence[Node], back_ends: Mapping[str, BackEnd]) -> Plan:
    """The plan of a graph whose nodes run in this order; back ends by kind of device.

    Raises UnsupportedError where an op has no kernel.
    """
    for node in graph.nodes:
        if isinstance(node.op, Input) and node.types[0].layout is Layout.C8:
            message = f"%{clean(node.name)} is {node.types[0]}: what a net is given is row-major"
            raise UnsupportedError(message, node.loc, "leave {c8} out, and give it to to_blocked")
    homes = dict.fromkeys(HOST_KINDS, back_ends[HOST].home)
    homes |= {kind: back_end.home for kind, back_end in back_ends.items() if kind != HOST}
    placement = place_values(graph, order, graph.weights, homes)
    batch = batch_of(graph)
    work: list[Work] = []
    for item in placement.work:
        if isinstance(item, Transfer):
            work.append(_moved(item))
        else:
            back_end = back_ends.get(kind_of(item.node)) or back_ends[HOST]
            work += _lowered(back_end, item, placement, batch)
    for back_end in back_ends.values():
        work = back_end.before(placement, work)
    return _plan(graph, placement, work, batch)


def _lowered(back_end: BackEnd, item: Copy | Run, placement: Placement, batch: str) -> list[Work]:
    kernel = _copy_kernel(item) if isinstance(item, Copy) else _fused_kernel(item)
    reads = tuple(o.buffer for o in kernel.ins if o.buffer != WEIGHTS)
    whole, each = _cost(item, kernel), by_image(kernel, placement, batch)
    made = []
    passed_on: tuple[int, ...] = ()  # the scratch memory that the call before left something in
    for i, call in enumerate(back_end.calls(kernel)):
        writes = tuple((o.buffer, f"{o.offset}{call.part}") for o in kernel.outs)
        own = passed_on
        if not own and not (isinstance(call.scratch, int) and call.scratch == 0):
            own = (len(placement.places),)
            device = str(item.node.device or "cpu:0")
            placement.places.append(Place(Space.ARENA, call.scratch, device=device))
        cost = call.cost or (Cost(whole.op) if i else whole)
        work = Work(
            call=_with_scratch(call, *own) if own else call,
            name=item.node.name,
            op=cost.op,
            reads=(*reads, *passed_on),
            writes=(*(writes if call.gives else ()), *((buffer, "scratch") for buffer in own)),
            flops=cost.flops,
            bytes=cost.bytes,
            device=str(item.node.device or "cpu:0"),
            copies=isinstance(item, Run) and is_copy(item.node.op),
            by_image=each,
        )
        made.append(work)
        passed_on = own if call.goes_on else ()
    return made


def _with_scratch(call: Call, buffer: int) -> Call:
    args = (
        BufferArg(buffer, a.offset) if isinstance(a, BufferArg) and a.buffer == SCRATCH else a
        for a in call.args
    )
    return replace(call, args=tuple(args))


def _moved(item: Transfer) -> Work:
    """The step of a transfer."""
    size = item.source.type.count * item.source.item  # what is sent has no gaps
    args = item.target.pointer(), item.source.pointer(), IntArg(size)
    return Work(
        call=Call(MEMCPY, args),
        name=item.node.name,
        op="copy",
        reads=(item.source.buffer,),
        writes=((item.target.buffer, str(item.target.offset)),),
        bytes=size * 2,
        device=str(item.node.device),
        copies=True,
    )


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


def _cost(item: Copy | Run, kernel: Kernel) -> Cost:
    """All that a kernel does; of bytes each operand once."""
    moved: Dim = 0
    for o in (*kernel.ins, *kernel.outs):
        moved = moved + o.type.count * o.item
    if isinstance(item, Copy):
        return Cost("copy", 0, moved)
    total: Dim = 0
    for n in kernel.body.nodes:
        total = total + n.op.flops(*(v.type.plain() for v in n.inputs))
    return Cost(kernel.title, total, moved)


def _plan(graph: Graph, placement: Placement, work: list[Work], batch: str) -> Plan:
    steps, buffers = order_steps(placement.places, work)
    inputs = tuple(Port(n.name, n.types[0], placement.inputs[n.name]) for n in graph.inputs)
    outputs = tuple(
        Port(name, v.type.plain(), placement.outputs[name]) for name, v in graph.outputs.items()
    )
    return Plan(inputs, outputs, buffers, steps, conditions(graph), batch=batch)


def team_size(plan: Plan) -> int:
    """How many devices' jobs the processor leads."""
    return len([d for d in devices_of(plan) if not d.startswith("cuda")]) or 1
