"""Several ops as one kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from netc.ir.dims import Dim
from netc.ir.op import Array, Op, Types, require
from netc.ir.types import Layout, TensorType

if TYPE_CHECKING:
    from netc.ir.graph import Graph


class Fused(Op, name="fused"):
    """One kernel: `body` has one input per operand, and its outputs, in order, are the results.

    At most one node of the body is an anchor (a convolution, a pool, …); the rest is element-wise
    around it. Only the KERNELS stage has this op.
    """

    body: Graph
    blocked = (-1,)

    def infer(self, *xs: TensorType) -> Types:
        wanted = [n.types[0] for n in self.body.inputs]
        require(len(xs) == len(wanted), f"{len(xs)} operands for a body of {len(wanted)} inputs")
        for i, (x, want) in enumerate(zip(xs, wanted, strict=True)):
            require(x.plain() == want.plain(), f"operand {i} is {x}, the body takes {want}")
        return tuple(v.type for v in self.body.outputs.values())

    def result_layout(self, *xs: TensorType) -> Layout:
        """PLAIN leaves the body's own types as they are."""
        return Layout.PLAIN

    def reference(self, *xs: Array) -> tuple[Array, ...]:
        from netc.ir.interpret import interpret

        real = [x.dtype for x in xs if x.dtype.kind == "f"]
        feed = {n.name: x for n, x in zip(self.body.inputs, xs, strict=True)}
        dtype = np.result_type(*real) if real else np.dtype(np.float64)
        return tuple(interpret(self.body, feed, dtype).values())

    def flops(self, *xs: TensorType) -> Dim:
        total: Dim = 0
        for node in self.body.nodes:
            total = total + node.op.flops(*(v.type.plain() for v in node.inputs))
        return total
