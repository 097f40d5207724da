"""Which kernels treat every image of the batch alone.

The runtime may do a few images of such steps at a time (`runtime/turns.py`), where what lies
between the steps then stays in a cache.
"""

from __future__ import annotations

from netc.codegen.buffers import HOST_KINDS, Placement, kind_of
from netc.codegen.operand import Kernel, Operand
from netc.ir.dims import Dim, sym, symbols
from netc.ir.graph import Graph, Node, Value
from netc.ir.parts import Cut, follow


def batch_of(graph: Graph) -> str:
    """The symbol of the batch: the first input's first size. Nothing on several devices or GPUs."""
    devices = {n.device for n in graph.nodes}
    first = next((n.types[0] for n in graph.inputs if n.types[0].rank), None)
    if first is None or len(devices) > 1 or any(kind_of(n) not in HOST_KINDS for n in graph.nodes):
        return ""
    names = symbols(first.shape[0])
    name = next(iter(names), "")
    return name if names and first.shape[0] == sym(name) else ""


def by_image(kernel: Kernel, placement: Placement, batch: str) -> bool:
    """Whether image i of what a kernel gives is made of image i of what it reads, and of whole
    operands without a batch; and whether images follow one another in each of its buffers."""
    if not batch:
        return False
    size = sym(batch)
    operands = [o for o in (*kernel.ins, *kernel.outs) if o.array is None]
    if not all(_in_order(o, placement, size, batch) for o in operands):
        return False
    if not all(o.type.shape[:1] == (size,) for o in kernel.outs):
        return False
    cut: set[Value] = set()
    return all(_follows(n, cut, size, batch) for n in kernel.body.nodes)


def _in_order(o: Operand, placement: Placement, size: Dim, batch: str) -> bool:
    """Whether all that depends on the batch is how many images there are."""
    if any(batch in symbols(d) for d in (*o.type.shape[1:], *o.strides, o.offset)):
        return False
    owner = placement.owners[o.buffer].type
    return owner.shape[:1] == o.type.shape[:1] and (
        o.type.shape[:1] == (size,) or batch not in o.type.symbols
    )


def _follows(node: Node, cut: set[Value], size: Dim, batch: str) -> bool:
    """Whether a node works on one image as on all; its results join those that have a batch."""
    batched = [v for v in node.inputs if v in cut]
    if not batched:
        mine = [v for v in node.results if v.type.shape[:1] == (size,)]
        cut.update(mine if not node.inputs else ())
        rest = [v for v in node.results if v not in cut]
        return not any(batch in v.type.symbols for v in rest)
    found = follow(node, node.inputs.index(batched[0]), Cut(0, (size,)))
    if found is None or found.axis != 0:
        return False
    cut.add(node.out)
    reads = [None if part is None else part.axis for part in found.operands]
    return reads == [0 if v in cut else None for v in node.inputs]
