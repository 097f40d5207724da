"""The compile side of `cuda:N`: kernels as text, packed weights, how values lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netc.codegen.buffers import Placement
from netc.codegen.operand import Call, Kernel
from netc.codegen.places import exact_values
from netc.codegen.precision import Precision
from netc.codegen.steps import Work
from netc.codegen.triton.anchors import lower
from netc.codegen.triton.home import GpuHome
from netc.codegen.triton.lowering import Lowering, check_reach
from netc.codegen.triton.orders import row_major_values
from netc.codegen.weight_store import WeightStore
from netc.errors import clean
from netc.ir.cost import default_sizes
from netc.ir.gpu_code import KernelText
from netc.ir.graph import Graph

_LARGE = 4096  # numbers of a parameter


class GpuBackEnd:
    """Lowers kernels to Triton text; what they read of the weights goes into the store."""

    def __init__(
        self,
        store: WeightStore,
        precision: Precision = Precision.HIGH,
        by_node: Mapping[str, Precision] | None = None,
    ) -> None:
        self.ctx = Lowering(store, precision, by_node or {})
        self.home = GpuHome(self.ctx)

    def prepare(self, graph: Graph) -> None:
        """Note which values lie row-major and which keep all digits, and store whole the parameters
        that will be rounded.

        These stand before all that kernels read, so that no GPU takes them along. Only large ones:
        what kernels read as it is would be found there, and the GPU would take them all.
        """
        self.ctx.by_rows = row_major_values(graph)
        self.ctx.usual = default_sizes(graph)
        if not any(p.element for p in (self.ctx.precision, *self.ctx.by_node.values())):
            return
        self.ctx.exact = exact_values(graph)
        for node in graph.params:
            if node.out.type.rank >= 2 and graph.weights[node.name].size >= _LARGE:
                self.ctx.store.add(graph.weights[node.name])

    @property
    def kernels(self) -> Mapping[str, KernelText]:
        """The kernels so far, by the symbols that steps name."""
        return self.ctx.kernels

    def calls(self, kernel: Kernel) -> Sequence[Call]:
        """The launches of a kernel."""
        for node in kernel.body.nodes:
            for value in node.results:
                what = f"%{clean(node.name)}, {value.type},"
                check_reach(kernel.node, what, value.type.count)
        self.ctx.store.reads(kernel)
        return lower(self.ctx, kernel)

    def before(self, placement: Placement, work: list[Work]) -> list[Work]:
        """Nothing must be prepared."""
        return work
