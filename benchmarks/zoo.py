"""The nets of the benchmarks: the files in examples/, with seeded weights and inputs."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import netc
from netc.ir.graph import Graph, Node
from netc.ir.ops.sources import Param

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NAMES = (
    *("lenet", "squeezenet", "googlenet", "resnet50", "mobilenet", "alexnet", "vgg16"),
    *("resnet18", "densenet121", "unet", "vit_b16"),
)
QUICK = ("lenet", "squeezenet", "googlenet", "resnet50")  # what is run where nothing is said
_STEMS = {"squeezenet": "squeezenet*", "mobilenet": "mobilenet*", "resnet50": "resnet*50"}
_DAMPED = 0.3  # the ends of residual branches: else values double in each block
IMAGE = 224  # height and width where a net takes any
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Net:
    """A net with weights and one input."""

    name: str
    graph: Graph
    sizes: dict[str, int]
    feed: Arrays

    @property
    def flops(self) -> int:
        """Floating-point operations of one run."""
        return sum(node_flops(n, self.sizes) for n in self.graph.nodes)


def path_of(name: str) -> Path:
    """The file of a net."""
    found = sorted(EXAMPLES.glob(_STEMS.get(name, name) + ".net"))
    if not found:
        raise SystemExit(f"examples/ has no net called {name}; there are {', '.join(NAMES)}")
    return found[0]


def graph_of(name: str, **options: Any) -> Graph:
    """The net of an example, fed with floats where it takes bytes: not every engine does.

    `options` are those of `netc.parse`.
    """
    path = path_of(name)
    text = path.read_text(encoding="utf-8")
    if "u8[" not in text:
        return netc.read(path, warn=_silent, **options)
    floats = text.replace("u8[", "f32[").replace("cast(data, f32)", "data")
    return netc.parse(floats, path.name, warn=_silent, **options)


def convolutions(name: str) -> int:
    """How many a net has: what others take to compile it goes by that."""
    return sum(n.op.name == "conv" for n in graph_of(name).nodes)


def _silent(_: object) -> None:
    """Weights are drawn here on purpose."""


def read(name: str, batch: int = 1, image: int = IMAGE) -> Net:
    """A net with He-scaled weights drawn by rule, and a standard normal input."""
    graph = graph_of(name)
    return fed(name, replace(graph, weights=seeded(graph)), batch, image)


def fed(name: str, graph: Graph, batch: int, image: int = IMAGE) -> Net:
    """A net that has weights, with an input of this many images."""
    sizes = {s: batch for n in graph.inputs for s in n.types[0].symbols}
    sizes |= {s: image for n in graph.inputs for d in n.types[0].shape[2:] for s in _names(d)}
    feed = {}
    for node in graph.inputs:
        rng = np.random.default_rng(zlib.crc32(node.name.encode()))
        shape = node.types[0].sizes(sizes)
        feed[node.name] = rng.standard_normal(shape).astype(np.float32)
    return Net(name, graph, sizes, feed)


def _names(dim: object) -> frozenset[str]:
    from netc.ir.dims import symbols

    return symbols(dim)  # type: ignore[arg-type]


def seeded(graph: Graph) -> Arrays:
    """Every parameter by its name and use: weights He-scaled, variances and scales near one."""
    out: Arrays = {}
    for node in graph.params:
        rng = np.random.default_rng(zlib.crc32(node.name.encode()))
        shape = node.types[0].sizes({})
        out[node.name] = _draw(graph, node, shape, rng).astype(np.float32)
    return out


def _draw(
    graph: Graph, node: Node, shape: tuple[int, ...], rng: np.random.Generator
) -> NDArray[Any]:
    user = next((u for u in graph.uses[node.out] if u is not None), None)
    name = user.op.name if user else ""
    place = user.inputs.index(node.out) if user else 0
    if name == "batch_norm":
        return rng.normal(0, 0.1, shape) if place == 1 else rng.uniform(0.5, 1.5, shape)
    if name == "mul":
        scale = rng.uniform(0.8, 1.2, shape)
        return scale * _DAMPED if user and _ends_a_branch(graph, user) else scale
    if name == "prelu":
        return rng.uniform(0.1, 0.3, shape)
    if name in ("conv", "fc", "conv_transpose") and place == 1:
        return rng.normal(0, np.sqrt(2 / max(1, int(np.prod(shape[1:])))), shape)
    return rng.normal(0, 0.05, shape)


def _ends_a_branch(graph: Graph, node: Node) -> bool:
    """Whether what a node scales is shifted and then added to another value."""
    for _ in range(2):
        users = [u for u in graph.uses[node.out] if u is not None]
        if len(users) != 1 or users[0].op.name not in ("add", "sum"):
            return False
        node = users[0]
        if not any(isinstance(v.node.op, Param) for v in node.inputs):
            return True
    return False


def node_flops(node: Node, sizes: dict[str, int]) -> int:
    """The floating-point operations of one node."""
    from netc.ir.dims import evaluate

    return int(evaluate(node.op.flops(*(v.type for v in node.inputs)), sizes))
