"""Windows over one axis become windows of height 1 over images of height 1.

conv(x, w) of [n, c, l] = conv of [n, c, 1, l] by [o, c, 1, k], and so for its transpose and pools.
What back ends know of images (channel blocks, packed weights, fewer bits) then serves signals and
texts. Element-wise ops and concats of channels in between are lifted too, so that nothing stands
between a convolution and what fuses into it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from netc.ir.dims import Dim
from netc.ir.graph import Builder, Graph, Node, Stage, Value
from netc.ir.op import Op
from netc.ir.ops.convolution import PRODUCTS, Conv, ConvTranspose
from netc.ir.ops.pooling import AvgPool, Global, MaxPool
from netc.ir.ops.shape import Concat
from netc.ir.scalar import Elementwise
from netc.passes.base import BEFORE_KERNELS, Context, Fired
from netc.passes.canonicalize import reshaped
from netc.passes.facts import aligned
from netc.passes.rewrite import rebuilt

_WINDOWS = (Conv, ConvTranspose, MaxPool, AvgPool)
_ROW = 3  # axes of what a window moves along one of


@dataclass(frozen=True)
class LiftRows:
    """[n, c, l] as [n, c, 1, l] wherever windows are."""

    name: ClassVar[str] = "lift_rows"
    needs: ClassVar[tuple[Stage, ...]] = BEFORE_KERNELS
    gives: ClassVar[Stage | None] = None

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The graph with images for rows."""
        if not any(_is_window(node) for node in graph.nodes):
            return graph
        lifting = _Lifting(graph)
        for node in graph.nodes:
            if lifting.lifts(node):
                ctx.fired.append(Fired(self.name, "image of one row", node.name))
        return rebuilt(graph, lifting.new)


class _Lifting:
    """New values for old ones, and beside those of rows the images that they are."""

    def __init__(self, graph: Graph) -> None:
        self.new: dict[Value, Value] = {}
        self._build = Builder({n.name for n in graph.nodes})
        self._images: dict[Value, Value] = {}  # of new values

    def lifts(self, node: Node) -> bool:
        """Rebuild a node; whether it is of images now."""
        inputs = tuple(self.new[v] for v in node.inputs)
        with self._build.at(node.loc), self._build.on(node.device):
            image = self._lifted(node, inputs)
            shape = node.types[0].shape
            row = None if image is None else self._reshaped(image, shape, f"{node.name}.row")
        if image is None or row is None:
            now = node if inputs == node.inputs else replace(node, inputs=inputs)
            self.new.update(zip(node.results, now.results, strict=True))
            return False
        self._images[row] = image
        self.new[node.out] = row
        return True

    def _lifted(self, node: Node, inputs: tuple[Value, ...]) -> Value | None:
        """The image that the node's row is, where it is to be one and can be."""
        op = _op_of_images(node)
        if op is None or not (_is_window(node) or any(v in self._images for v in inputs)):
            return None
        bias = inputs[2:] if isinstance(op, PRODUCTS) else ()
        rows = [self._image(v, node) for v in inputs[: len(inputs) - len(bias)]]
        images = [v for v in rows if v is not None]
        if len(images) < len(rows):
            return None
        made = self._build(op, *images, *bias, name=node.name)
        return replace(made, name=node.name, shards=node.shards).out

    def _image(self, value: Value, node: Node) -> Value | None:
        """An operand of a node, as the node lifted reads it."""
        if value.type.rank < 2 and isinstance(node.op, Elementwise):
            return value  # lies along the last axis there too
        if value not in self._images:
            *outer, last = aligned(value.type, _ROW)
            found = self._reshaped(value, (*outer, 1, last), f"{value.name}.image")
            if found is None:
                return None
            self._images[value] = found
        return self._images[value]

    def _reshaped(self, value: Value, shape: tuple[Dim, ...], name: str) -> Value | None:
        found = reshaped(self._build, value, shape)
        return found and replace(found.node, name=self._build.unique(name)).out


def _is_window(node: Node) -> bool:
    return isinstance(node.op, _WINDOWS) and node.types[0].rank == _ROW


def _op_of_images(node: Node) -> Op | None:
    """The op that gives the image for the row, where there is one."""
    if len(node.types) != 1 or node.types[0].rank != _ROW:
        return None
    match node.op:
        case Conv() | ConvTranspose():
            stride, pad, dilation = node.op.window(1)
            return replace(node.op, stride=(1, *stride), pad=(0, *pad), dilation=(1, *dilation))
        case MaxPool() | AvgPool():
            kernel, stride, pad = node.op.window()
            return replace(node.op, kernel=(1, *kernel), stride=(1, *stride), pad=(0, *pad))
        case Concat(axis=1) | Global() | Elementwise():
            return node.op
    return None
