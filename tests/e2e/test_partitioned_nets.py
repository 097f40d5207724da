"""Public nets and the examples, placed by every strategy on two devices, or on hosts, as on one."""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import netc
from benchmarks import zoo
from netc.ir.device import Device
from netc.ir.dims import Dim
from netc.ir.graph import Graph, Node
from netc.ir.op import Array
from netc.ir.ops.normalization import Softmax
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.plan_check import problems
from netc.passes.partition.problem import with_devices
from tests.conftest import shared_or_none
from tests.devices.workers import in_threads

TWO = (Device("cpu", 0), Device("cpu", 1))
STRATEGIES = ("greedy", "stages", "min_cut", "milp")
ROOT = shared_or_none()
NETS = {p.stem: p for p in sorted((ROOT / "nets").glob("*.prototxt"))} if ROOT else {}
LABELLED: dict[str, dict[str, Any]] = {  # what the file leaves to the caller
    "caffe__mnist_autoencoder": {"stages": ["test-on-test"], "shapes": {"data": [2, 1, 28, 28]}},
    "caffe__mnist_siamese_train_test": {"shapes": {"pair_data": [2, 2, 28, 28], "sim": [2]}},
}
SMALL = {
    "MTCNN_face_detection_alignment__det2", "SqueezeNet__deploy", "caffe-tensorflow__lenet",
    "caffe__cifar10_quick", "caffe__discriminator", "caffe__linreg", "caffe__mnist_autoencoder",
    "caffe__mnist_siamese_train_test",
}  # fmt: skip
QUICK = {"lenet", "squeezenet", "resnet18"}


def imported(name: str) -> Graph:
    """A public net with weights of a useful scale, asked for what its softmaxes read as well."""
    graph = netc.from_caffe(NETS[name], warn=lambda *_: None, **LABELLED.get(name, {}))
    logits = {
        n.inputs[0].name: n.inputs[0]
        for n in graph.nodes
        if isinstance(n.op, Softmax) and n.inputs[0].name not in graph.outputs
    }
    graph = replace(graph, outputs={**graph.outputs, **logits})
    return replace(graph, weights={**zoo.seeded(graph), **graph.weights})


def example(name: str) -> Graph:
    """A net of the benchmarks."""
    if name != "unet":
        return zoo.read(name).graph
    text = zoo.path_of(name).read_text("utf-8").replace("size = 256", "size = 32")
    graph = netc.parse(text, "unet.net", warn=lambda *_: None)
    return replace(graph, weights=zoo.seeded(graph))


def fed(graph: Graph) -> dict[str, Array]:
    """Two images, small where the net takes any; labels are 0 or 1."""

    def size(axis: int, dim: Dim) -> int:
        return dim if isinstance(dim, int) else 64 if axis > 1 else 2

    feed = {}
    for node in graph.inputs:
        rng = np.random.default_rng(zlib.crc32(node.name.encode()))
        shape = [size(axis, d) for axis, d in enumerate(node.types[0].shape)]
        image = len(shape) > 2
        array = rng.normal(size=shape) if image else rng.integers(0, 2, shape)
        feed[node.name] = array.astype(node.types[0].dtype.numpy)
    return feed


def with_ends_apart(graph: Graph) -> Graph:
    """The first node that computes on one device, the last on the other."""
    nodes = [n for n in graph.nodes if not isinstance(n.op, Input | Param | Const)]
    ends: dict[Node, Device] = {nodes[0]: TWO[0], nodes[-1]: TWO[1]}
    return with_devices(graph, ends)


@cache
def on_one(make: Any, name: str) -> tuple[Graph, dict[str, Array], dict[str, Array]]:
    """A net, its feed, and its results on one device."""
    graph = make(name)
    feed = fed(graph)
    return graph, feed, netc.compile(graph, threads=2)(feed)


def check(make: Any, name: str, strategy: str) -> None:
    """On both devices even where one would do: then the ends are placed apart."""
    graph, feed, want = on_one(make, name)
    assert any(np.isfinite(y).all() and y.any() for y in want.values())
    options: dict[str, Any] = {"devices": [str(d) for d in TWO], "strategy": strategy, "threads": 2}
    made = [netc.compile(graph, **options)]
    if len(made[0].devices) < 2 and graph.inputs:  # without any it is folded to a constant
        made.append(netc.compile(with_ends_apart(graph), **options))
    assert len(made[-1].devices) == 2 or not graph.inputs
    for exe in made:
        assert problems(exe.plan) == []
        exe.poison()
        got = exe(feed)
        for output, y in want.items():
            assert np.array_equal(got[output], y, equal_nan=True), output


needs_nets = pytest.mark.skipif(not NETS, reason="the shared folder with public nets is not here")


@needs_nets
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in SMALL else pytest.mark.long) for n in NETS]
)
def test_public_net(name: str, strategy: str) -> None:
    check(imported, name, strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.long) for n in zoo.NAMES]
)
def test_example(name: str, strategy: str) -> None:
    check(example, name, strategy)


def check_hosts(make: Any, name: str) -> None:
    """Thirds of the nodes on another host, here, and on a third, as they were written."""
    graph, feed, _ = on_one(make, name)
    nodes = [n for n in graph.nodes if not isinstance(n.op, Input | Param | Const)]
    hosts = [Device("cpu", 0, host) for host in ("a", "", "b")]
    placed = with_devices(graph, {n: hosts[3 * i // len(nodes)] for i, n in enumerate(nodes)})
    want = netc.compile(graph, threads=2, optimize=False)(feed)
    with in_threads():
        exe = netc.compile(placed, threads=2, optimize=False, hosts={"a": "-", "b": "-"})
        got = exe(feed)
    for output, y in want.items():
        assert np.array_equal(got[output], y, equal_nan=True), output


@needs_nets
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in SMALL else pytest.mark.long) for n in NETS]
)
def test_public_net_on_hosts(name: str) -> None:
    check_hosts(imported, name)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.long) for n in zoo.NAMES]
)
def test_example_on_hosts(name: str) -> None:
    check_hosts(example, name)
