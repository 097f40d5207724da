"""What a net demands of sizes known only at run time: windows that fit, slices that end in time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from netc.errors import Diagnostic, GraphError, clean
from netc.ir.attributes import symbols_of
from netc.ir.dims import Dim, lowest
from netc.ir.graph import Graph, Node
from netc.ir.ops.convolution import Conv, ConvTranspose
from netc.ir.ops.fused import Fused
from netc.ir.ops.indexing import Im2col
from netc.ir.ops.pooling import Pool
from netc.ir.ops.reduction import ArgMax
from netc.ir.ops.shape import Crop, Pad, Slice
from netc.ir.ops.windows import Ints, axis_of
from netc.ir.plan import Condition
from netc.ir.solve import said


def conditions(graph: Graph) -> tuple[Condition, ...]:
    """The conditions of every node, each demand once; where they hold, the reference has a result.

    Sizes that are numbers were checked when the node was made; what holds for all is left out.
    """
    found: dict[tuple[Dim, int], Condition] = {}
    for condition in chain.from_iterable(map(_of, graph.nodes)):
        size, least = condition.size, lowest(condition.size)
        if not isinstance(size, int) and (least is None or least < condition.minimum):
            found.setdefault((condition.size, condition.minimum), condition)
    return tuple(found.values())


def check_symbols(graph: Graph) -> None:
    """Refuse a size that no input says, since no run would know it."""
    known = said(n.types[0] for n in graph.inputs)
    for node in graph.nodes:
        named = symbols_of(node.op).union(*(t.symbols for t in node.types))
        for name in sorted(named - known):
            message = f"%{clean(node.name)}: no input says what {clean(name)} is"
            help = f"an input with it as a size, such as f32[{clean(name)}]"
            raise GraphError(Diagnostic(message, node.loc, help))


def _of(node: Node) -> Iterator[Condition]:
    op, name = node.op, clean(node.name)
    if isinstance(op, Fused):
        for inner in op.body.nodes:
            yield from _of(inner)
        return
    shapes = [v.type.shape for v in node.inputs]
    match op:
        case Conv():
            _, pad, dilation = op.window(len(shapes[0]) - 2)
            kernel = tuple(k for k in shapes[1][2:] if isinstance(k, int))
            yield from _windows(name, shapes[0], kernel, pad, dilation)
        case Im2col():
            kernel, _, pad, dilation = op.window()
            yield from _windows(name, shapes[0], kernel, pad, dilation)
        case Pool():
            yield from _least(name, shapes[0], op.least())
        case ConvTranspose():
            for size in node.types[0].shape[2:]:
                yield Condition(size, 1, f"{name}: what padding leaves")
        case Slice():
            size = shapes[0][axis_of(op.axis, len(shapes[0]))]
            stop = size if op.stop is None else op.stop
            if isinstance(stop, int):
                yield Condition(size, stop, f"{name}: where it ends")
            else:
                yield Condition(size - stop, 0, f"{name}: what is left behind its end")
            yield Condition(op.start, 0, f"{name}: where it starts")
            yield Condition(stop - op.start, 0, f"{name}: its length")
        case Pad():
            for size, least in zip(shapes[0], op.least(len(shapes[0])), strict=True):
                if least:
                    yield Condition(size, least, f"{name}: the size its padding needs")
        case ArgMax():
            yield Condition(op.searched(shapes[0]), op.top_k, f"{name}: how many it searches")
        case Crop():
            starts = op.offsets(len(shapes[0]))
            for i in range(axis_of(op.axis, len(shapes[0])), len(shapes[0])):
                left = shapes[0][i] - shapes[1][i]
                yield Condition(left, starts[i], f"{name}: what is cut off axis {i}")


def _windows(
    name: str, shape: tuple[Dim, ...], kernel: Ints, pad: Ints, dilation: Ints
) -> Iterator[Condition]:
    sizes = zip(kernel, pad, dilation, strict=True)
    return _least(name, shape, tuple(d * (k - 1) + 1 - 2 * p for k, p, d in sizes))


def _least(name: str, shape: tuple[Dim, ...], sizes: Ints) -> Iterator[Condition]:
    for size, least in zip(shape[2:], sizes, strict=True):
        yield Condition(size, least, f"{name}: the size its window needs")
