"""Where each value of a scheduled KERNELS graph lies: its buffer, strides and halo.

Reshape, slice and concat become views where the bytes allow it: a reshape of a dense value, a
slice, and concat whose parts are written in place by their producers. Everything else is a copy,
which is an element-wise kernel with strides. Buffers that a padded convolution reads carry a
halo of zeros, so that no kernel tests for borders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from netc.codegen import phases
from netc.codegen.operand import BLOCK, WEIGHTS, Operand, row_major
from netc.ir.device import Device
from netc.ir.dims import Dim, product
from netc.ir.graph import Graph, Node, Value
from netc.ir.op import Array
from netc.ir.ops import devices
from netc.ir.ops.convolution import Conv, ConvTranspose, Fc
from netc.ir.ops.fused import Fused
from netc.ir.ops.indexing import Compact
from netc.ir.ops.matmul import MatMul
from netc.ir.ops.reduction import ArgMax
from netc.ir.ops.shape import Concat, Flatten, Reshape, Slice
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.plan import Space
from netc.ir.types import Layout, TensorType
from netc.ir.verify import is_copy

VIEWS = (Reshape, Flatten, Slice, Concat)
CPU = Device("cpu")
HOST_KINDS = ("cpu", "sim")  # kinds of devices whose kernels are the processor's
DENSE = (ArgMax, Compact, Fc, MatMul)  # their kernels write results without gaps

Halo = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """One buffer to be: what it must hold, and how far around each plane it is zero."""

    space: Space
    size: Dim
    halo: Halo = (0, 0)
    device: str = "cpu:0"


@dataclass(frozen=True)
class Copy:
    """Elements to be copied between two operands of one shape, in a step of its own."""

    source: Operand
    target: Operand
    node: Node


@dataclass(frozen=True)
class Run:
    """A fused node to be run on these operands."""

    node: Node
    ins: tuple[Operand, ...]
    outs: tuple[Operand, ...]


@dataclass(frozen=True)
class Transfer:
    """Bytes to be moved to another kind of device, as they are."""

    source: Operand
    target: Operand
    node: Node


class Home:
    """How values lie on a kind of device; this one is the processor's."""

    def own(self, type: TensorType, buffer: int, halo: Halo, node: Node) -> tuple[Operand, Dim]:
        """A value of this node alone in a buffer, and the bytes of that buffer."""
        return own_buffer(type, buffer, halo)

    def holds_parts(self, concat: Node) -> bool:
        """Whether the operands of a concat can be written straight into its result."""
        if concat.out.type.layout is not Layout.C8 or getattr(concat.op, "axis", None) != 1:
            return False
        counts = [v.type.shape[1] for v in concat.inputs[:-1]]
        return all(isinstance(c, int) and c % BLOCK == 0 for c in counts)

    def reads_any(self, kernel: Node, readers: Sequence[Node], operand: Operand) -> bool:
        """Whether a kernel reads an operand however it lies, with no zeros around it."""
        return False

    def ready(self, placer: Placer, node: Node, ins: list[Operand]) -> list[Operand]:
        """The operands of a kernel in a form it can read, copied where they are not."""
        assert isinstance(node.op, Fused)
        anchored = any(not _elementwise(n) for n in node.op.body.nodes)
        for i, inner in enumerate(node.op.body.inputs):
            readers = [n for n in node.op.body.nodes if n.inputs[:1] == (inner.out,)]
            if self.reads_any(node, readers, ins[i]):
                continue
            wanted = max((wanted_halo(n) for n in readers), default=(0, 0))
            if any(w > h for w, h in zip(wanted, ins[i].halo, strict=True)):
                ins[i] = placer.with_halo(node.inputs[i], node)
            elif anchored and not any(wanted):
                ins[i] = placer.dense(ins[i], node)
        return ins


@dataclass
class Placement:
    """Operands of all values, buffers, and the work in order."""

    places: list[Place] = field(default_factory=list)
    work: list[Copy | Run | Transfer] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    owners: list[Operand] = field(default_factory=list)  # the whole of each buffer, in order


def place_values(
    graph: Graph,
    order: Sequence[Node],
    weights: Mapping[str, Array],
    homes: Mapping[str, Home] | None = None,
) -> Placement:
    """Lay out every value of a graph whose nodes run in this order.

    `homes` says how values lie on kinds of devices that are not the processor.
    """
    placer = Placer(graph, weights, homes or {})
    for node in order:
        placer.place(node)
    placer.finish()
    return placer.done


def c8_strides(height: Dim, width: Dim, blocks: Dim, halo: Halo) -> tuple[Dim, ...]:
    """Strides (N, channel block, H, W), in elements, of a C8 buffer of its own."""
    row = (width + 2 * halo[1]) * BLOCK
    plane = (height + 2 * halo[0]) * row
    return (blocks * plane, plane, row, BLOCK)


def own_buffer(
    type: TensorType, buffer: int, halo: Halo = (0, 0), element: str = ""
) -> tuple[Operand, Dim]:
    """A value alone in a buffer, floats stored so, and the bytes of that buffer."""
    probe = Operand(type, buffer, 0, (), halo, element=element)
    size = probe.item
    if type.layout is Layout.C8:
        strides = c8_strides(probe.sizes[2], probe.sizes[3], probe.sizes[1], halo)
        offset = (strides[2] * halo[0] + strides[3] * halo[1]) * size
        made = replace(probe, offset=offset, strides=strides)
        return made, probe.sizes[0] * strides[0] * size
    if any(halo):
        *lead, height, width = type.shape
        padded = (*lead, height + 2 * halo[0], width + 2 * halo[1])
        strides = row_major(padded)
        offset = (strides[-2] * halo[0] + halo[1]) * size
        return replace(probe, offset=offset, strides=strides), product(padded) * size
    return replace(probe, strides=row_major(type.shape), halo=(0, 0)), type.count * size


def convolutions(graph: Graph) -> Iterator[tuple[Value, Halo]]:
    """Each value a 2-D convolution reads, with the zeros it wants around it."""
    for node in graph.nodes:
        if not isinstance(node.op, Fused) or kind_of(node) not in HOST_KINDS:
            continue
        outer = dict(zip(node.op.body.inputs, node.inputs, strict=True))
        for inner in node.op.body.nodes:
            wanted = wanted_halo(inner)
            if any(wanted) and inner.inputs[0].node in outer:
                yield outer[inner.inputs[0].node], wanted


def kind_of(node: Node) -> str:
    """The kind of device a node runs on."""
    return node.device.kind if node.device else CPU.kind


def crosses(node: Node) -> bool:
    """Whether a node is a copy between devices one of which is no processor."""
    if not is_copy(node.op):
        return False
    kinds = {kind_of(node), *(kind_of(v.node) for v in node.inputs)}
    return not kinds <= set(HOST_KINDS)


def wanted_halo(node: Node) -> Halo:
    """The zeros around its first input that the kernel of this op reads."""
    if isinstance(node.op, Conv) and node.types[0].rank == 4 and node.op.pad:
        return node.op.pad
    if isinstance(node.op, ConvTranspose) and phases.why_whole(node) is None:
        return tuple(a.halo for a in phases.axes_of(node))
    return (0, 0)


def _writes_densely(node: Node) -> bool:
    """Whether a kernel's results have no place for zeros between their rows: a copy has."""
    return isinstance(node.op, Fused) and any(isinstance(n.op, DENSE) for n in node.op.body.nodes)


def _halos(graph: Graph) -> dict[Value, Halo]:
    """The halo of each value that has a buffer of its own, the widest any reader wants."""
    parents: dict[Value, Value] = {}
    for node in graph.nodes:
        if isinstance(node.op, Concat) and node.out.type.layout is Layout.C8:
            parents.update((v, node.out) for v in node.inputs)
        if isinstance(node.op, Slice) and node.out.type.layout is Layout.C8:
            parents[node.out] = node.inputs[0]
    halos: dict[Value, Halo] = {}
    for value, wanted in convolutions(graph):
        while value is not None:
            had = halos.get(value, (0, 0))
            halos[value] = tuple(max(a, b) for a, b in zip(had, wanted, strict=True))
            if value not in parents:
                break
            value = parents[value]
    return halos


class Placer:
    """Walks the schedule once, giving each value its operand."""

    def __init__(
        self, graph: Graph, weights: Mapping[str, Array], homes: Mapping[str, Home]
    ) -> None:
        self.graph, self.weights, self.halos = graph, weights, _halos(graph)
        self.homes, self.host = homes, Home()
        self.done = Placement()
        self.device = CPU
        self.at: dict[Value, Operand] = {}
        self.packed: dict[Value, Operand] = {}  # copies for other devices
        self.haloed: dict[Value, Operand] = {}  # copies with zeros around, of values without
        self.output_of = {v: name for name, v in reversed(list(graph.outputs.items()))}
        self.parent = self._concat_parents()

    def home(self, device: Device | None) -> Home:
        """How values lie there."""
        return self.homes.get(device.kind, self.host) if device else self.host

    def _concat_parents(self) -> dict[Value, tuple[Node, int]]:
        """Which concat each value can be written into by its producer."""
        parents: dict[Value, tuple[Node, int]] = {}
        for node in self.graph.nodes:
            if not isinstance(node.op, Concat):
                continue
            times = Counter(node.inputs)
            for i, v in enumerate(node.inputs):
                if v not in parents and times[v] == 1 and self._writable(v, node):
                    parents[v] = (node, i)
        return parents

    def _writable(self, v: Value, concat: Node) -> bool:
        if v in self.output_of or kind_of(v.node) != kind_of(concat) or crosses(v.node):
            return False
        produced = isinstance(v.node.op, Fused | Concat)
        return produced and self.home(concat.device).holds_parts(concat)

    def fresh(self, type: TensorType, space: Space, node: Node, halo: Halo = (0, 0)) -> Operand:
        """A value of a node in a new buffer."""
        home = self.host if space is not Space.ARENA else self.home(self.device)
        operand, size = home.own(type, len(self.done.places), halo, node)
        return self._placed(operand, space, size)

    def _placed(self, operand: Operand, space: Space, size: Dim) -> Operand:
        self.done.places.append(Place(space, size, operand.halo, str(self.device)))
        self.done.owners.append(operand)
        return operand

    def place(self, node: Node) -> None:
        """Give the node's values their operands, and queue its work."""
        self.device = node.device or CPU
        match node.op:
            case Input():
                operand = self.fresh(node.types[0], Space.INPUT, node)
                self.done.inputs[node.name] = operand.buffer
                self.at[node.out] = operand
            case Param():
                array = self.weights[node.name]
                strides = row_major(node.types[0].shape)
                self.at[node.out] = Operand(node.types[0], WEIGHTS, 0, strides, array=array)
            case Const():
                self._fill(node)
            case Reshape() | Flatten():
                self._reshape(node)
            case Slice():
                self._slice(node, node.op)
            case Concat():
                self._concat(node, node.op)
            case _:
                self._run(node)

    def _run(self, node: Node) -> None:
        assert isinstance(node.op, Fused), f"{node!r} is not a kernel"
        if crosses(node):
            self._transfer(node)
            return
        ins = self.home(self.device).ready(self, node, [self.at[v] for v in node.inputs])
        outs = tuple(self._destination(v) for v in node.results)
        self.at.update(zip(node.results, outs, strict=True))
        self.done.work.append(Run(node, tuple(ins), outs))

    def _transfer(self, node: Node) -> None:
        """Bytes go as they are: between GPUs a whole buffer, else row-major in the type's form."""
        v, there = node.inputs[0], self.device
        source = self.at[v]
        alike = kind_of(v.node) == kind_of(node) and source.buffer != WEIGHTS
        if alike and self.done.owners[source.buffer] == source:
            target = replace(source, buffer=len(self.done.places))
            size = self.done.places[source.buffer].size
        else:
            self.device = v.node.device or CPU
            source = self._packed(v, node)
            self.device = there
            target, size = own_buffer(source.type, len(self.done.places))
        self.at[node.out] = self._placed(target, Space.ARENA, size)
        self.done.work.append(Transfer(source, self.at[node.out], node))

    def _packed(self, v: Value, node: Node) -> Operand:
        """A value row-major, in its own type; packed once, however many devices want it."""
        source = self.at[v]
        if source.is_row_major and not source.element and source.array is None:
            return source
        if v not in self.packed:
            packed, size = own_buffer(source.type.plain(), len(self.done.places))
            self.packed[v] = self._placed(packed, Space.ARENA, size)
            self.done.work.append(Copy(source, packed, replace(node, device=self.device)))
        return self.packed[v]

    def _fill(self, node: Node) -> None:
        """A constant that a kernel must find in memory is a kernel of its own."""
        body = Graph("fill", (), {node.name: node.out})
        kernel = Node(Fused(body), (), node.types, node.name, node.loc, node.device)
        self.at[node.out] = self._destination(node.out)
        self.done.work.append(Run(kernel, (), (self.at[node.out],)))

    def with_halo(self, v: Value, node: Node) -> Operand:
        """A copy with the widest halo any reader wants; all of them share it."""
        if v not in self.haloed:
            self.haloed[v] = self.copy(self.at[v], node, self._halo(v))
        return self.haloed[v]

    def dense(self, operand: Operand, node: Node) -> Operand:
        """The operand, row-major without gaps; a copy where it is a view with gaps."""
        if operand.is_c8 or operand.dense or operand.array is not None:
            return operand
        return self.copy(operand, node)

    def copy(self, source: Operand, node: Node, halo: Halo = (0, 0)) -> Operand:
        """A copy in a buffer of its own."""
        made, size = own_buffer(source.type, len(self.done.places), halo, source.element)
        return self._copied(source, self._placed(made, Space.ARENA, size), node)

    def _copied(self, source: Operand, target: Operand, node: Node) -> Operand:
        self.done.work.append(Copy(source, target, node))
        return target

    def _destination(self, v: Value) -> Operand:
        """Where a kernel writes `v`: into its concat, into the caller's array, or its own."""
        if v in self.parent:
            return self._part(*self.parent[v])
        halo = (0, 0) if _writes_densely(v.node) else self._halo(v)
        if v in self.output_of and v.type.layout is Layout.PLAIN and not any(halo):
            operand = self.fresh(v.type, Space.OUTPUT, v.node)
            self.done.outputs[self.output_of[v]] = operand.buffer
            return operand
        return self.fresh(v.type, Space.ARENA, v.node, halo)

    def _halo(self, v: Value) -> Halo:
        return self.halos.get(v, (0, 0))

    def _part(self, concat: Node, index: int) -> Operand:
        """Input `index` of a concat, as a view of its result."""
        whole = self._whole(concat)
        assert isinstance(concat.op, Concat)
        before = [v.type.shape[concat.op.axis] for v in concat.inputs[:index]]
        start = sum(before, start=0)
        return sub_operand(whole, concat.inputs[index].type, concat.op.axis, start)

    def _whole(self, concat: Node) -> Operand:
        if concat.out not in self.at:
            self.at[concat.out] = self._destination(concat.out)
        return self.at[concat.out]

    def _reshape(self, node: Node) -> None:
        source, type = self.flat(self.at[node.inputs[0]], node), node.types[0]
        array = source.array
        if array is not None:
            array = array.reshape(type.sizes({}))
        self.at[node.out] = replace(
            source, type=type, strides=row_major(type.shape), halo=(0, 0), array=array
        )

    def flat(self, source: Operand, node: Node) -> Operand:
        """The operand as row-major bytes; a copy where it lies otherwise."""
        if kind_of(node) in HOST_KINDS:
            return self.dense(source, node)
        if source.is_row_major or source.array is not None:
            return source
        return self.copy(source, node)

    def _slice(self, node: Node, op: Slice) -> None:
        source, type = self.at[node.inputs[0]], node.types[0]
        start, length = op.start, type.shape[op.axis]
        edges = (start % BLOCK, type.shape[1] % BLOCK) if op.axis == 1 else ()
        if source.is_c8 and any(edge != 0 for edge in edges):
            raise AssertionError("a C8 slice must begin and end at a channel block")
        if source.array is not None:
            if isinstance(start, int) and isinstance(length, int):
                part = source.array[(*(slice(None),) * op.axis, slice(start, start + length))]
                strides = row_major(type.shape)
                self.at[node.out] = Operand(type, WEIGHTS, 0, strides, array=part.copy())
                return
            target = self.fresh(source.type, Space.ARENA, node)
            source = self._copied(source, target, node)  # of which any run takes a part
        self.at[node.out] = sub_operand(source, type, op.axis, start)

    def _concat(self, node: Node, op: Concat) -> None:
        whole = self._whole(node)
        start: Dim = 0
        for i, v in enumerate(node.inputs):
            if self.parent.get(v) != (node, i):
                part = sub_operand(whole, v.type, op.axis, start)
                self.done.work.append(Copy(self.at[v], part, node))
            start = start + v.type.shape[op.axis]

    def finish(self) -> None:
        """Copy to the caller what no kernel wrote there."""
        for name, v in self.graph.outputs.items():
            if name in self.done.outputs:
                continue
            self.device = v.node.device or CPU
            target = self.fresh(v.type.plain(), Space.OUTPUT, v.node)
            self.done.outputs[name] = target.buffer
            self.done.work.append(Copy(self.at[v], target, v.node))


def sub_operand(whole: Operand, type: TensorType, axis: int, start: Dim) -> Operand:
    """The part of an operand that begins at `start` along an axis."""
    size = whole.item
    if whole.is_c8 and axis == 1:
        offset = whole.strides[1] * (start // BLOCK) * size
        return replace(whole, type=type, offset=whole.offset + offset)
    halo = whole.halo if axis < type.rank - 2 else (0, 0)
    offset = whole.strides[axis] * start * size
    return replace(whole, type=type, offset=whole.offset + offset, halo=halo)


def _elementwise(node: Node) -> bool:
    from netc.ir.scalar import Elementwise

    return isinstance(node.op, Elementwise | Input | Param | devices.Copy)
