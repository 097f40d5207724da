"""The nets in `examples/` equal those imported from Caffe; the shipped LeNet reads digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import netc
from benchmarks import zoo
from netc.ir.graph import Graph, Node, Value
from netc.ir.interpret import initial_weights, interpret
from netc.ir.ops.pooling import Pool
from netc.ir.types import TensorType
from netc.passes.base import Context
from netc.passes.canonicalize import Canonicalize
from tests.examples.prototxts import mobilenet, vgg16

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NETS = {
    "alexnet": "caffe__bvlc_alexnet_deploy.prototxt",
    "googlenet": "caffe__bvlc_googlenet_deploy.prototxt",
    "squeezenet": "SqueezeNet__deploy.prototxt",
    "resnet50": "deep-residual-networks__ResNet-50-deploy.prototxt",
    "mobilenet": mobilenet,
    "vgg16": vgg16,
}
SIZES = {"alexnet": 227, "squeezenet": 227}  # of the image; 224 for the others


def quiet(*args: object) -> None:
    """Nothing is said of weights that are not given."""


def imported(name: str, shared: Path) -> Graph:
    source = NETS[name]
    text = source() if callable(source) else (shared / "nets" / source).read_text()
    return netc.from_caffe(text, warn=quiet)


def example(name: str, **options: object) -> Graph:
    return netc.read(EXAMPLES / f"{name}.net", warn=quiet, **options)


def structure(graph: Graph, size: int) -> list[str]:
    """Every node with its attributes, shape and operands by number; parameters by name."""
    graph = Canonicalize().run(graph, Context())
    number: dict[Node, str] = {}
    lines = []
    for node in graph.nodes:
        number[node] = node.name if node in graph.params else str(len(number))
        operands = ", ".join(f"{number[v.node]}#{v.index}" for v in node.inputs)
        shapes = [sized(v, size).shape for v in node.results]
        lines.append(f"{number[node]} = {plain(node, size)}({operands}) : {shapes}")
    outputs = [f"{name} = {number[v.node]}#{v.index}" for name, v in graph.outputs.items()]
    return [*lines, *outputs]


def sized(v: Value, size: int) -> TensorType:
    """The type with batch 1 and this image size."""
    return v.type.with_shape(v.type.sizes({"N": 1, "H": size, "W": size}))


def plain(node: Node, size: int) -> str:
    """The op; initializers do not count, nor does `ceil` where it changes nothing."""
    if not node.inputs:
        return node.op.name
    if isinstance(node.op, Pool):
        down = replace(node.op, ceil=False)
        if down.infer(*(sized(v, size) for v in node.inputs)) == sized(node.out, size):
            return repr(down)
    return repr(node.op)


@pytest.mark.parametrize("name", NETS)
def test_it_equals_the_net_imported_from_caffe(name: str, shared: Path) -> None:
    size = SIZES.get(name, 224)
    ours, theirs = example(name), imported(name, shared)
    assert structure(ours, size) == structure(theirs, size)


def test_lenet_equals_the_net_imported_from_caffe(shared: Path) -> None:
    path = shared / "nets" / "caffe-tensorflow__lenet.prototxt"
    theirs = netc.from_caffe(path, preprocessing={"scale": 1 / 256}, warn=quiet)
    assert structure(example("lenet"), 28) == structure(theirs, 28)


@pytest.mark.parametrize("name", ["squeezenet", "mobilenet", "googlenet"])
def test_the_results_are_the_same(name: str, shared: Path) -> None:
    size = SIZES.get(name, 224)
    theirs = imported(name, shared)
    weights = seeded(theirs)
    ours = example(name, weights=weights, strict=True)
    x = np.random.default_rng(3).normal(0, 50, (1, 3, size, size))
    results = [
        interpret(g, {"data": x}, np.float32)["prob"]
        for g in (ours, replace(theirs, weights=weights))
    ]
    assert np.array_equal(*results)
    assert results[0].std() > 0


def seeded(graph: Graph) -> dict[str, np.ndarray]:
    """Weights for every parameter, those that start at 0 or 1 among them."""
    arrays = initial_weights(graph)
    rng = np.random.default_rng(1)
    return {k: (a + rng.uniform(0, 0.1, a.shape)).astype(np.float32) for k, a in arrays.items()}


def test_every_example_is_one_screen() -> None:
    files = sorted(EXAMPLES.glob("*.net"))
    assert len(files) == 15
    for path in files:
        lines = path.read_text("utf-8").splitlines()
        assert len(lines) <= 40, path.name
        assert max(map(len, lines)) <= 100, path.name


# Those of the last four are torchvision's and milesial/Pytorch-UNet's, with the statistics.
PARAMETERS = {
    "alexnet": 60_965_224, "googlenet": 6_998_552, "lenet": 431_080, "mobilenet": 4_253_864,
    "resnet50": 25_610_216, "squeezenet": 1_235_496, "vgg16": 138_357_544,
    "densenet121": 8_062_504, "resnet18": 11_699_112, "unet": 31_049_474,
    "vit_b16": 86_567_656,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_number_of_parameters(name: str) -> None:
    counts = [n.types[0].count for n in example(name).params]
    assert sum(counts) == PARAMETERS[name]


SMALL = {  # sizes as they are, and such that take less time
    "densenet121": ("growth = 32", "growth = 8"),
    "resnet18": ("64", "16"),
    "unet": ("size = 256", "size = 32"),
}


@pytest.mark.parametrize("name", SMALL)
def test_it_runs_as_the_reference_says(name: str) -> None:
    text = (EXAMPLES / f"{name}.net").read_text("utf-8").replace(*SMALL[name])
    graph = netc.parse(text, warn=quiet)
    graph = replace(graph, weights=zoo.seeded(graph))
    data = graph.inputs[0].types[0].sizes({"N": 2, "H": 64, "W": 32})
    x = np.random.default_rng(3).normal(0, 1, data).astype(np.float32)
    ((name, expected),) = interpret(graph, {"data": x}).items()
    got = netc.compile(graph)(data=x)[name]
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-4 * expected.max()  # float32 sums
    assert expected.std() > 0


def lenet() -> Graph:
    return example("lenet", weights=EXAMPLES / "lenet.safetensors", strict=True)


def test_lenet_reads_a_seven() -> None:
    from PIL import Image

    pixels = np.asarray(Image.open(EXAMPLES / "seven.png"))
    labels = (EXAMPLES / "digits.txt").read_text().split()
    prob = interpret(lenet(), {"data": pixels[None, None]})["prob"][0]
    assert labels[prob.argmax()] == "seven"
    assert prob.max() > 0.99


def test_lenet_reads_digits_it_has_not_seen() -> None:
    """990 of 1,000 held-out digits were right when it was trained; these are moved by a pixel."""
    from PIL import Image

    pixels = np.asarray(Image.open(EXAMPLES / "seven.png"))
    moved = [np.roll(pixels, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    prob = interpret(lenet(), {"data": np.stack(moved)[:, None]})["prob"]
    assert (prob.argmax(1) == 7).all()
