"""The compile side of `cpu:N`: kernels of one processor level, one code image, packed weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from netc.codegen.backend import HOST, BackEnd, plan_graph, team_size
from netc.codegen.buffers import Placement
from netc.codegen.cpu.anchors import lower
from netc.codegen.cpu.emit import Module
from netc.codegen.cpu.gemm import GemmFamily
from netc.codegen.cpu.halo import halo_bytes, zero_halo
from netc.codegen.cpu.home import CpuHome, short_maps
from netc.codegen.cpu.image import Image
from netc.codegen.cpu.library import build_image
from netc.codegen.cpu.lowering import Exactness, Lowering
from netc.codegen.cpu.target import Target
from netc.codegen.operand import Call, Kernel, Packing
from netc.codegen.precision import Precision
from netc.codegen.steps import Work
from netc.codegen.weight_store import WeightStore
from netc.ir.cost import default_sizes
from netc.ir.graph import Graph, Node
from netc.ir.ops.fused import Fused
from netc.ir.plan import Plan


@dataclass(frozen=True)
class Compiled:
    """What the CPU back end makes of a graph for one level."""

    plan: Plan
    image: Image


class CpuBackEnd:
    """Lowers kernels for one level; what they read of the weights goes into the store."""

    def __init__(self, target: Target, store: WeightStore, precision_of: Exactness) -> None:
        self.module = Module(target)
        self.ctx = Lowering(target, self.module, GemmFamily(self.module), store, precision_of)
        self.home = CpuHome(self.ctx)

    def calls(self, kernel: Kernel) -> Sequence[Call]:
        """The calls of a kernel."""
        self.ctx.store.reads(kernel)
        return lower(self.ctx, kernel)

    def before(self, placement: Placement, work: list[Work]) -> list[Work]:
        """Before the first write of each buffer with a halo, the step that zeroes it."""
        out: list[Work] = []
        seen: set[int] = set()
        for w in work:
            for buffer, _ in w.writes:
                if buffer in seen or not any(placement.places[buffer].halo):
                    continue
                seen.add(buffer)
                owner = placement.owners[buffer]
                call = zero_halo(self.ctx, owner)
                writes = ((buffer, "halo"),)
                halo = replace(w, call=call, op="zero halo", reads=(), writes=writes, flops=0)
                out.append(replace(halo, bytes=halo_bytes(owner)))
            out.append(w)
        return out


def compile_graph(
    graph: Graph,
    order: Sequence[Node],
    target: Target,
    store: WeightStore,
    others: Mapping[str, BackEnd] | None = None,
    precision_of: Exactness = lambda node: Precision.HIGH,
) -> Compiled:
    """Lower every node of the schedule; `others` are the back ends of other kinds of devices.

    `precision_of` says how exactly each node is computed. Raises UnsupportedError
    where an op has no kernel.
    """
    back_end = CpuBackEnd(target, store, precision_of)
    back_end.ctx.usual = default_sizes(graph)
    back_end.home.short = short_maps(graph, back_end.ctx.is_low) if target.pairs else frozenset()
    plan = plan_graph(graph, order, {HOST: back_end, **(others or {})})
    plan = replace(plan, setup=back_end.ctx.setup.plan())
    return Compiled(plan, build_image(back_end.module, team_size(plan)))


def stored_params(store: WeightStore, graph: Graph) -> dict[str, tuple[int, Packing]]:
    """Where each parameter is in the weights section.

    They are added by name, so that no order of nodes or of weights is seen in the file.
    """
    others = [n for n in graph.nodes if not isinstance(n.op, Fused)]  # what makes no kernel
    viewed = {v.node for v in (*graph.outputs.values(), *(v for n in others for v in n.inputs))}
    return {
        node.name: store.stored(graph.weights[node.name], viewed=node in viewed)
        for node in sorted(graph.params, key=lambda node: node.name)
    }
