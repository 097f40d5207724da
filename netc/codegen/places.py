"""Which values are places, or are made of places: floats that keep all their digits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from netc.ir.graph import Graph, Node, Value
from netc.ir.ops.boxes import NonMaxSuppression, PriorBox
from netc.ir.ops.convolution import PRODUCTS
from netc.ir.ops.fused import Fused
from netc.ir.ops.image import Unpool
from netc.ir.ops.indexing import Gather, Iota, Pick
from netc.ir.ops.matmul import MatMul
from netc.ir.ops.pooling import MaxPoolIndex
from netc.ir.ops.reduction import Accuracy, ArgMax
from netc.ir.ops.regions import Regions
from netc.ir.ops.sources import Input, Param

_COUNTS = (MaxPoolIndex, ArgMax, PriorBox, Iota)  # whose results are numbers of elements, or boxes
_EXACT = (*_COUNTS, Unpool)  # whose results are, or are found by, numbers
_LOOKED_UP = (Gather, Pick, Unpool, Accuracy, Regions)  # whose second operand is places

Step: TypeAlias = tuple[Node, tuple[Value, ...], tuple[Value, ...]]


def exact_values(graph: Graph) -> frozenset[Value]:
    """The values that are places, that are made of places, or of which places are made.

    A product ends it on both sides: it is as exact as its own precision, not as what it reads.
    """
    steps = list(_inlined(graph))
    own = {v for node, _, outs in steps if isinstance(node.op, _EXACT) for v in outs}
    made: set[Value] = set()
    for node, inputs, outs in steps:
        if any(v in made for v in _data(node, inputs)):
            made.update(outs)
        elif isinstance(node.op, _COUNTS):
            made.add(outs[-1])
    sought: set[Value] = set()
    for node, inputs, outs in reversed(steps):
        if isinstance(node.op, _LOOKED_UP):
            sought.add(inputs[1])
        if isinstance(node.op, NonMaxSuppression):
            sought.add(inputs[0])
        if any(v in sought for v in outs) and not isinstance(node.op, _EXACT):
            sought.update(_data(node, inputs))
    return frozenset(own | made | sought)


def _data(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
    """The operands whose digits a node's results have."""
    if isinstance(node.op, (*PRODUCTS, MatMul, NonMaxSuppression)):
        return ()
    return inputs[:1] if isinstance(node.op, _LOOKED_UP) else inputs


def _inlined(graph: Graph) -> Iterator[Step]:
    """Each node that computes, with its operands and results: values of the graph, or of a body."""
    for node in graph.nodes:
        if not isinstance(node.op, Fused):
            if not isinstance(node.op, Input | Param):
                yield node, node.inputs, node.results
            continue
        body = node.op.body
        known = {i.out: v for i, v in zip(body.inputs, node.inputs, strict=True)}
        known |= dict(zip(body.outputs.values(), node.results, strict=True))
        for inner in body.nodes:
            if not isinstance(inner.op, Input | Param):
                reads = tuple(known.get(v, v) for v in inner.inputs)
                yield inner, reads, tuple(known.get(v, v) for v in inner.results)
