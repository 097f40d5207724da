"""How values lie on a GPU: so that neighbours in a tile are neighbours in memory.

Channels are last for windows, values around matrix products are row-major (`orders`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from netc.codegen.buffers import Halo, Home, Run
from netc.codegen.operand import Operand, row_major
from netc.codegen.triton.lowering import Lowering
from netc.ir.dims import Dim
from netc.ir.graph import Builder, Graph, Node
from netc.ir.ops.convolution import Conv, Fc
from netc.ir.ops.fused import Fused
from netc.ir.ops.sources import Input, Param
from netc.ir.ops.windows import axis_of
from netc.ir.plan import Space
from netc.ir.types import DType, TensorType

if TYPE_CHECKING:
    from netc.codegen.buffers import Placer

FEW = 16  # channels below which a window's taps and channels are walked at once
WHOLE = 4  # channels that are read together


class GpuHome(Home):
    """Values of three or more axes [n, c, …] lie as [n, …, c] but for those that are multiplied
    along their last axis; kernels read any strides."""

    def __init__(self, ctx: Lowering) -> None:
        self.ctx = ctx

    def own(self, type: TensorType, buffer: int, halo: Halo, node: Node) -> tuple[Operand, Dim]:
        """A value alone in a buffer, floats as its kernel's precision stores them."""
        element = self._element(node) if type.dtype is DType.F32 else ""
        by_rows = any(v in self.ctx.by_rows for v in node.results)
        strides = row_major(type.shape) if by_rows else channels_last(type)
        operand = Operand(type, buffer, 0, strides, element=element)
        return operand, type.count * operand.item

    def _element(self, node: Node) -> str:
        """How floats are stored; places and indices need all their digits."""
        if any(v in self.ctx.exact for v in node.results):
            return ""
        inner = node.op.body.nodes if isinstance(node.op, Fused) else (node,)
        own = (n for n in (*inner, node) if not isinstance(n.op, Input))  # those are others' names
        named = [n for n in own if n.name in self.ctx.by_node]
        return self.ctx.precision_of(named[0] if named else node).element

    def holds_parts(self, concat: Node) -> bool:
        """Parts of any concat are written in place."""
        return True

    def ready(self, placer: Placer, node: Node, ins: list[Operand]) -> list[Operand]:
        """As they are, but for two that are copied: images of few channels get their pixels side by
        side, what is multiplied with computed weights gets their order."""
        assert isinstance(node.op, Fused)
        for anchor in node.op.body.nodes:
            place = _image_of(node.op.body, anchor)
            if place is not None and (lanes := _lanes(ins[place])):
                ins[place] = self._widened(placer, node, place, ins[place], lanes)
            place = _beside_computed(node.op.body, anchor, ins)
            if place is not None:
                ins[place] = placer.flat(ins[place], node)
        return ins

    def _widened(
        self, placer: Placer, node: Node, place: int, image: Operand, lanes: int
    ) -> Operand:
        """The image with so many channels, zeros behind the real ones, channels last."""
        v = node.inputs[place]
        if v not in placer.haloed:
            b = Builder()
            missing = lanes - image.type.sizes(dict.fromkeys(image.type.symbols, 1))[1]
            after = (0, missing, *(0 for _ in image.type.shape[2:]))
            y = b.pad(b.input("x", image.type), before=(0,) * image.type.rank, after=after)
            body = b.graph("pad", {"y": y})
            made = Node(Fused(body), (v,), (y.type,), f"{node.name}.image", node.loc, node.device)
            placer.haloed[v] = placer.fresh(y.type, Space.ARENA, made)
            placer.done.work.append(Run(made, (image,), (placer.haloed[v],)))
        return placer.haloed[v]


def _image_of(body: Graph, anchor: Node) -> int | None:
    """Which operand of a body a convolution with a window reads its rows from."""
    if not isinstance(anchor.op, Conv) or anchor.op.groups > 1 or anchor.out.type.rank != 4:
        return None
    x, w = anchor.inputs[:2]
    found = [i for i, n in enumerate(body.inputs) if n.out == x]
    windowed = any(d != 1 for d in w.type.shape[2:])
    return found[0] if found and windowed and isinstance(w.op, Input | Param) else None


def _beside_computed(body: Graph, anchor: Node, ins: list[Operand]) -> int | None:
    """Which operand of a body an inner product cannot read in the order of computed weights."""
    if not isinstance(anchor.op, Fc):
        return None
    places = {n.out: i for i, n in enumerate(body.inputs)}
    x, w = (places.get(v) for v in anchor.inputs[:2])
    if x is None or w is None or ins[w].array is not None:
        return None
    return None if _runs_on(ins[x], axis_of(anchor.op.axis, ins[x].type.rank)) else x


def _runs_on(o: Operand, axis: int) -> bool:
    """Whether elements are one step apart, in row-major order, from an axis on."""
    pairs = zip(o.type.shape[axis:], o.strides[axis:], strict=True)
    real = [(size, stride) for size, stride in pairs if size != 1]
    return all(outer == size * step for (_, outer), (size, step) in pairwise(real))


def _lanes(image: Operand) -> int:
    """To how many channels an image is widened for a convolution; 0 where it is read as it is."""
    channels = image.type.shape[1]
    if not isinstance(channels, int) or not 1 < channels < FEW or image.array is not None:
        return 0
    if image.strides[1] == 1:  # they are side by side, if not in whole words
        return 0
    return -(-channels // WHOLE) * WHOLE


def channels_last(type: TensorType) -> tuple[Dim, ...]:
    """Strides, in elements, with axis 1 fastest; row-major below three axes."""
    if type.rank < 3:
        return row_major(type.shape)
    n, c, *rest = type.shape
    last = row_major((n, *rest, c))
    return (last[0], last[-1], *last[1:-1])
