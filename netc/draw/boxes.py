"""What a drawing shows: boxes with words, the edges between them, and blocks of boxes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, cast

from netc.errors import clean
from netc.ir.cost import bytes_of
from netc.ir.device import Device
from netc.ir.dims import evaluate
from netc.ir.graph import Graph, Node, Value
from netc.ir.op import Op, attributes
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.scalar import Elementwise
from netc.ir.types import TensorType

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "convolution": ("conv", "conv_transpose", "im2col"),
    "inner product": ("fc", "matmul", "gather"),
    "pooling": ("max_pool", "avg_pool", "global_avg_pool", "global_max_pool", "stochastic_pool"),
    "normalization": ("lrn", "batch_norm", "softmax", "log_softmax"),
    "reduction": ("reduce_sum", "reduce_mean", "reduce_max", "argmax", "accuracy"),
    "movement": ("concat", "slice", "reshape", "flatten", "transpose", "pad", "tile", "crop"),
}
_SHOWN = 28  # characters of a name in a box
_BLOCK = 3  # boxes that make a named block
_PLAIN = {"stride": 1, "dilation": 1, "pad": 0}  # says nothing on any axis
_WEIGHTED = ("conv", "conv_transpose", "fc")


@dataclass(eq=False)
class Box:
    """A node with the element-wise nodes that follow it alone."""

    nodes: list[Node]
    lines: list[str] = field(default_factory=list)  # the first is the title
    family: str = "other"
    device: str = ""
    block: str = ""
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edge:
    """From a box to a box, with the type of what flows, and whether it goes between devices."""

    source: int
    target: int
    label: str
    crosses: bool = False


@dataclass(frozen=True)
class Picture:
    """All there is to lay out."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]


def picture(graph: Graph) -> Picture:
    """The boxes of a graph. Parameters and constants are words in the box that reads them."""
    boxes, home = _gather(graph)
    outputs: dict[Node, list[str]] = {}
    for name, value in graph.outputs.items():
        outputs.setdefault(value.node, []).append(name)
    for box in boxes:
        box.lines = _words(box)
        box.outputs = tuple(name for n in box.nodes for name in outputs.get(n, ()))
        box.family = family_of(_parts(box.nodes[0])[0].op)
        box.device = box.nodes[0].place
    index = {id(box): i for i, box in enumerate(boxes)}
    edges: dict[tuple[int, int, str], Edge] = {}
    for box in boxes:
        for value in (v for n in box.nodes for v in n.inputs if v.node in home):
            source = home[value.node]
            if source is not box:
                label, devices = shape_text(value.type), {source.device, box.device} - {""}
                edge = Edge(index[id(source)], index[id(box)], label, len(devices) > 1)
                edges[edge.source, edge.target, edge.label] = edge
    _name_blocks(boxes)
    return Picture(tuple(boxes), tuple(edges.values()))


def family_of(op: Op) -> str:
    """The family an op is coloured by."""
    if isinstance(op, Input):
        return "input"
    for family, names in FAMILIES.items():
        if op.name in names:
            return family
    return "element-wise" if isinstance(op, Elementwise) else "other"


def shape_text(type: TensorType) -> str:
    """`64×56×56`: the shape without a leading batch symbol."""
    dims = [str(d) for d in type.shape]
    if len(dims) > 1 and not dims[0].isdigit():
        dims = dims[1:]
    text = "×".join(dims) or "1"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _gather(graph: Graph) -> tuple[list[Box], dict[Node, Box]]:
    """Boxes in the order of the graph, and the box each node is in."""
    boxes: list[Box] = []
    home: dict[Node, Box] = {}
    for node in graph.nodes:
        if isinstance(node.op, Param | Const):
            continue
        source = _follows(graph, node)
        box = home[source.node] if source and source.node in home else None
        if box is None:
            box = Box([])
            boxes.append(box)
        box.nodes.append(node)
        home[node] = box
    return boxes, home


def _follows(graph: Graph, node: Node) -> Value | None:
    """The value an element-wise node continues: its only one, read by nobody else."""
    moving = [v for v in node.inputs if not isinstance(v.op, Param | Const)]
    quiet = isinstance(node.op, Elementwise) or node.op.name == "dropout"
    if not quiet or len(moving) != 1 or isinstance(moving[0].op, Input):
        return None
    (value,) = moving
    alone = len(graph.uses[value]) == 1 and len(value.node.types) == 1
    return value if alone and value.node.place == node.place else None


def _words(box: Box) -> list[str]:
    main, *tail = (part for n in box.nodes for part in _parts(n))
    title, detail = _title(main)
    lines = [title, short(box.nodes[0].name)]
    if detail:
        lines.append(detail)
    tails = [" ".join(t for t in _title(n) if t) for n in tail]
    for i in range(0, len(tails), 2):
        lines.append("+ " + " + ".join(tails[i : i + 2]))
    return [*lines, *_fetched(box.nodes[0])]


def _fetched(node: Node) -> list[str]:
    """How many bytes a node takes from other devices, and from which; N counts as 1."""
    far = [v for v in dict.fromkeys(node.inputs) if node.device and _is_far(v, node.device)]
    if not far:
        return []
    known = dict.fromkeys(frozenset().union(*(v.type.symbols for v in far)), 1)
    count = sum(evaluate(bytes_of(v.type), known) for v in far)
    power = min(3, max(0, len(str(count)) - 1) // 3)
    shown = f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB')[power]}"
    each = f" a {'·'.join(sorted(known))}" if known else ""
    return [f"{shown}{each} from {', '.join(dict.fromkeys(str(v.node.device) for v in far))}"]


def _is_far(v: Value, device: Device) -> bool:
    return v.node.device not in (None, device) and not isinstance(v.op, Param | Const)


def _parts(node: Node) -> list[Node]:
    """A kernel's nodes, the heaviest first; any other node alone."""
    if node.op.name != "fused":
        return [node]
    body: Graph = cast(Any, node.op).body
    inside = [n for n in body.nodes if not isinstance(n.op, Input | Param | Const)]
    light = sorted(inside, key=lambda n: isinstance(n.op, Elementwise))
    return light or [node]


def _title(node: Node) -> tuple[str, str]:
    """An op in a word or two, and its attributes."""
    op = node.op
    if isinstance(op, Input):
        return "input", str(op.type)
    words = [op.name]
    if op.name in _WEIGHTED and len(node.inputs) > 1:
        w = node.inputs[1].type.shape
        if len(w) > 2:
            words.append("×".join(map(str, w[2:])))
        words.append(f"→ {node.types[0].shape[1 if len(w) > 2 else -1]}")
    return " ".join(words), _details(op)


def _details(op: Op) -> str:
    shown: list[str] = []
    defaults = {f.name: f.default for f in fields(cast(Any, op))}
    for name, value in attributes(op):
        plain = isinstance(value, tuple) and set(value) == {_PLAIN.get(name)}
        if plain or value == defaults.get(name, MISSING) or isinstance(value, Graph):
            continue
        if name == "kernel":
            shown.insert(0, "×".join(map(str, value)) if isinstance(value, tuple) else str(value))
        else:
            shown.append(name if value is True else f"{name} {_plain(value)}")
    return short(" · ".join(shown), 34)


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        same = len(set(value)) == 1
        return str(value[0]) if same else ",".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def short(text: str, limit: int = _SHOWN) -> str:
    """A text as a box may show it."""
    text = clean(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


_STEMS = (
    re.compile(r"^(.+?)[/.]"),  # inception_3a/1x1, fire2.squeeze
    re.compile(r"^((?:res|conv|block|layer|stage)\d+[a-z]?\d*)_"),  # res2a_branch1
)


def _name_blocks(boxes: list[Box]) -> None:
    """Name the block of each box whose name has a stem that several share."""
    for stem in _STEMS:
        stems = [stem.match(box.nodes[0].name) for box in boxes]
        counts = Counter(m[1] for m in stems if m)
        for box, m in zip(boxes, stems, strict=True):
            if m and not box.block and counts[m[1]] >= _BLOCK:
                box.block = short(m[1])
