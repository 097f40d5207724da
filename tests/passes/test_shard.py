"""Sharded graphs mean what the whole ones do, and cross devices only by copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netc.errors import GraphError, Source, Span
from netc.ir.device import Device
from netc.ir.dims import sym
from netc.ir.graph import Builder, Graph, Value
from netc.ir.interpret import interpret
from netc.ir.machine import DeviceSpec, Link, Machine
from netc.ir.op import REGISTRY
from netc.ir.ops.convolution import Conv, ConvTranspose, Fc
from netc.ir.ops.devices import Copy
from netc.ir.ops.indexing import Gather
from netc.ir.text import show
from netc.ir.types import f32
from netc.passes.base import Context, Pass, run_passes
from netc.passes.collectives import Collectives
from netc.passes.fold_params import FoldParams
from netc.passes.place import Place
from netc.passes.shard_batch import Pipeline, Replicate
from netc.passes.shard_channels import SplitChannels
from tests.strategies import agree, feeds, graphs, wanted

DEVICES = tuple(Device("sim", i) for i in range(8))
TWO = DEVICES[:2]
quick = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck),
                 derandomize=True)  # fmt: skip


def sharded(graph: Graph, *passes: Pass) -> Graph:
    """After the passes, each verified and read back; placed, with no copy but those written."""
    after = run_passes(graph, (*passes, Collectives()), Context(check=2))
    placed = run_passes(after, (Place(DEVICES[0]),), Context(check=2))
    assert count(placed, Copy) == count(after, Copy), "place had to insert copies"
    return placed


def count(graph: Graph, *ops: type) -> int:
    return sum(isinstance(n.op, ops) for n in graph.nodes)


def same_meaning(graph: Graph, after: Graph, sizes: Mapping[str, int] | None = None) -> None:
    feed = feeds(graph, sizes=sizes)
    why = agree(interpret(after, feed), wanted(graph, feed), graph)
    assert not why, f"{why}\n{show(graph)}\n{show(after)}"


def batched(graph: Graph, batch: int) -> Graph | None:
    """The graph built again for inputs of this batch; None where it fixes another."""
    b = Builder({n.name for n in graph.params})
    new: dict[Value, Value] = {}
    for node in graph.nodes:
        if node in graph.inputs:
            t = node.types[0]
            new[node.out] = b.input(node.name, t.with_shape((batch, *t.shape[1:])))
        elif node in graph.params:
            new[node.out] = node.out
        else:
            try:
                made = b(node.op, *(new[v] for v in node.inputs), name=node.name)
            except GraphError:
                return None
            new.update(zip(node.results, made.results, strict=True))
    outputs = {k: new[v] for k, v in graph.outputs.items()}
    return Graph(graph.name, tuple(b.inputs), outputs, graph.weights)


def with_batch(graph: Graph, batch: int) -> Graph:
    """The graph with this batch where it can have it, else as it is."""
    return batched(graph, batch) or graph


def batch_of(graph: Graph) -> object:
    return graph.inputs[0].types[0].shape[0] if graph.inputs else None


def channelled(graph: Graph) -> list[str]:
    """The convolutions and inner products of more than one channel both ways."""
    found = []
    for n in graph.nodes:
        if isinstance(n.op, Conv | ConvTranspose | Fc):
            axis = 1 if not isinstance(n.op, Fc) else n.op.axis
            found += [n.name] if n.inputs[0].type.shape[axis] != 1 else []
    return found


@quick
@given(graph=graphs(symbolic=False), ranks=st.integers(2, 8), each=st.integers(1, 2))
def test_replicas(graph: Graph, ranks: int, each: int) -> None:
    graph = with_batch(graph, ranks * each)
    if batch_of(graph) == ranks * each:
        same_meaning(graph, sharded(graph, Replicate(DEVICES[:ranks])))


@quick
@given(graph=graphs(symbolic=False), ranks=st.integers(2, 8), count=st.integers(1, 4))
def test_pipelines(graph: Graph, ranks: int, count: int) -> None:
    graph = with_batch(graph, 2 * count)
    if batch_of(graph) == 2 * count:
        same_meaning(graph, sharded(graph, Pipeline(DEVICES[:ranks], count)))


@settings(quick, max_examples=150)
@given(
    graph=graphs(max_nodes=14),
    ranks=st.integers(2, 4),
    by=st.sampled_from(["output", "input"]),
    seed=st.integers(0, 100),
)
def test_channels(graph: Graph, ranks: int, by: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = [name for name in channelled(graph) if rng.random() < 0.7]
    after = graph
    for name in chosen:  # those that can be
        try:
            after = sharded(graph, SplitChannels((name,), DEVICES[:ranks], by))
        except GraphError as e:
            if "devices" in str(e) or "not known" in str(e):  # fewer channels than devices
                continue
            raise
        same_meaning(graph, after)


@quick
@given(graph=graphs(max_nodes=14, symbolic=False), ranks=st.integers(2, 4), inner=st.booleans())
def test_one_after_another(graph: Graph, ranks: int, inner: bool) -> None:
    """Channels first, then micro-batches through what became of them."""
    graph = with_batch(graph, 4)
    names = tuple(channelled(graph))
    if batch_of(graph) != 4:
        return
    try:
        split = SplitChannels(names, DEVICES[:ranks], "input" if inner else "output")
        after = run_passes(graph, (split, Pipeline(DEVICES[:ranks], 2)), Context(check=2))
    except GraphError as e:
        if "devices" in str(e):  # fewer channels than devices
            return
        raise
    same_meaning(graph, after)


def integers(b: Builder, name: str, shape: tuple[int, ...]) -> Value:
    """A parameter of small integers: sums are exact in any order."""
    value = np.random.default_rng(len(b.names)).integers(-2, 3, shape).astype(np.float32)
    return b.param(name, f32[shape], value=value)


def exact_net(batch: int = 8) -> Graph:
    """Whole numbers throughout, so that every sharding must be equal bit by bit."""
    b = Builder()
    x = b.input("data", f32[batch, 4, 9, 9])
    x = b.relu(b.conv(x, integers(b, "w1", (8, 4, 3, 3)), integers(b, "b1", (8,)), name="c1"))
    x = b.max_pool(x, kernel=(3, 3), stride=(2, 2))
    x = b.conv(x, integers(b, "w2", (8, 4, 3, 3)), integers(b, "b2", (8,)), groups=2, name="c2")
    x = b.relu(x)
    x = b.conv(x, integers(b, "w3", (8, 4, 1, 1)), groups=2, name="c3")
    x = b.fc(b.relu(x), integers(b, "w4", (10, 8)), integers(b, "b4", (10,)), name="f4")
    y = b.fc(x, integers(b, "w5", (6, 10)), name="f5")
    return b.graph("exact", {"y": y, "x": x})


SHARDINGS = {
    "replicate 2": Replicate(TWO),
    "replicate 8": Replicate(DEVICES),
    "pipeline": Pipeline(DEVICES[:3], 4),
    "by output": SplitChannels(("c1", "f4", "f5"), TWO),
    "by input": SplitChannels(("c1", "f4", "f5"), TWO, "input"),
    "by output, 3": SplitChannels(("c1", "f4"), DEVICES[:3]),
    "groups": SplitChannels(("c2",), TWO),
}


@pytest.mark.parametrize("each", SHARDINGS.values(), ids=SHARDINGS)
def test_equal_bit_by_bit(each: Pass) -> None:
    graph = exact_net()
    after = sharded(graph, each)
    assert len({n.device for n in after.nodes}) > 1
    feed = {"data": np.random.default_rng(0).integers(-3, 4, (8, 4, 9, 9)).astype(np.float32)}
    before, now = interpret(graph, feed), interpret(after, feed)
    assert {k: v.type for k, v in after.outputs.items()} == {
        k: v.type for k, v in graph.outputs.items()
    }
    assert all(np.array_equal(before[k], now[k]) for k in before)


def test_picks_of_each_item_go_with_it() -> None:
    """gather(batch=1) of parts has parts of the index, so that no device reads another's."""
    b = Builder()
    x = b.input("x", f32[8, 3, 5])
    best = b.argmax(b.relu(x), axis=2, top_k=2)
    graph = b.graph("best", {"y": b.gather(b.affine(x, scale=2.0), best, axis=2, batch=2)})
    after = sharded(graph, Replicate(TWO))
    assert [n.device for n in after.nodes if isinstance(n.op, Gather)] == [*TWO]
    assert count(after, Copy) <= 2 * 2
    feed = {"x": np.random.default_rng(0).integers(-9, 9, (8, 3, 5)).astype(np.float32)}
    assert np.array_equal(interpret(graph, feed)["y"], interpret(after, feed)["y"])


REGIONS = [
    ("roi_pool", {"size": (2, 3)}, Replicate(TWO)),
    ("roi_pool", {"size": (2, 3)}, SplitChannels(("c",), TWO)),
    ("ps_roi_pool", {"channels": 2, "group": 2}, Replicate(TWO)),
    ("ps_roi_pool", {"channels": 2, "group": 2}, SplitChannels(("c",), TWO)),
]


@pytest.mark.parametrize(("name", "attributes", "each"), REGIONS)
def test_regions_may_read_any_image(name: str, attributes: dict[str, Any], each: Pass) -> None:
    """A batch of four images and one of four regions: each device has half of both."""
    b = Builder()
    x, rois = b.input("x", f32[4, 4, 6, 6]), b.input("rois", f32[4, 5])
    x = b.relu(b.conv(x, integers(b, "w", (8, 4, 1, 1)), name="c"))
    y = b(REGISTRY[name](**attributes), x, rois, name="y")
    graph = b.graph("regions", {"y": b.relu(y.out)})
    rows = [[3, 0, 0, 5, 5], [2, 1, 2, 4, 3], [1, 0, 3, 2, 5], [0, 2, 2, 3, 3]]
    images = np.random.default_rng(0).integers(-3, 4, (4, 4, 6, 6))
    feed = {"x": images.astype(np.float32), "rois": np.array(rows, np.float32)}
    after = sharded(graph, each)
    assert len({n.device for n in after.nodes}) > 1
    np.testing.assert_array_equal(interpret(after, feed)["y"], interpret(graph, feed)["y"])


def test_groups_on_devices_of_their_own_need_no_copies_between() -> None:
    """c2, ReLU and c3: two convolutions each, and copies only before and after."""
    after = sharded(exact_net(), SplitChannels(("c2",), TWO), FoldParams())
    assert count(after, Copy) == 2  # half of the pool's result out, half of the last ReLU back
    convs = {n.name: n for n in after.nodes if isinstance(n.op, Conv)}
    assert {"c2.0", "c2.1", "c3.0", "c3.1"} <= set(convs)
    assert all(n.op.groups == 1 for name, n in convs.items() if name != "c1")
    assert convs["c3.1"].device == TWO[1]


def test_by_input_after_by_output_copies_only_the_sums() -> None:
    """Megatron's halves: fc by output, ReLU, fc by input; one copy in, one sum back."""
    b = Builder()
    x = b.input("x", f32[2, 6])
    h = b.relu(b.fc(x, integers(b, "u", (8, 6)), integers(b, "c", (8,)), name="up"))
    y = b.fc(h, integers(b, "d", (6, 8)), integers(b, "e", (6,)), name="down")
    graph = b.graph("mlp", {"y": y})
    after = sharded(graph, SplitChannels(("up", "down"), TWO, ("output", "input")))
    assert sorted(n.name for n in after.nodes if isinstance(n.op, Copy)) == [
        "down.1_sim0",
        "x_sim1",
    ]
    same_meaning(graph, after)


def test_a_pipeline_copies_between_neighbours_only() -> None:
    after = sharded(exact_net(), Pipeline(DEVICES[:3], 4))
    steps = {(v.node.device, n.device) for n in after.nodes if isinstance(n.op, Copy)
             for v in n.inputs}  # fmt: skip
    order = [DEVICES[i] for i in range(3)]
    assert steps <= set(pairwise(order)) | {(order[0], order[2])}


def test_stages_are_chosen_by_what_a_micro_batch_costs() -> None:
    """Each of 8 reads the weights of up and down again, so these become a stage each."""
    b = Builder()
    x = b.input("x", f32[64, 64, 4, 4])
    x = b.conv(x, b.param("w", f32[16, 64, 5, 5]), pad=(2, 2), name="conv")
    h = b.fc(x, b.param("u", f32[1024, 256]), name="up")
    graph = b.graph("g", {"y": b.fc(h, b.param("d", f32[256, 1024]), name="down")})
    spec = DeviceSpec(memory=1 << 30, flops=1.5e12, bandwidth=5e10, launch=0.0)
    machine = Machine("two", dict.fromkeys(TWO, spec), between=Link(1e12, 0.0))
    for count, where in ((1, [0, 1, 1]), (8, [0, 0, 1])):
        after = Pipeline(TWO, count, machine).run(graph, Context())
        found = {n.name.split(".")[0]: n.device for n in after.nodes if isinstance(n.op, Conv | Fc)}
        assert found == dict(zip(("conv", "up", "down"), (TWO[i] for i in where), strict=True))


def located(graph: Graph) -> Graph:
    """The graph with its inputs in the first line of a file."""
    span = Span("net.net", 1, 12, Source("net.net", "net exact(data: f32[8, 4, 9, 9])"))
    moved = tuple(replace(n, loc=span) for n in graph.inputs)
    return replace(graph, inputs=moved)


def scalar_net() -> Graph:
    """Of a number alone."""
    b = Builder()
    return b.graph("scalar", {"y": b.relu(b.input("x", f32[()]))})


@pytest.mark.parametrize(
    ("graph", "each", "message", "help"),
    [
        (exact_net(7), Replicate(TWO), "the batch of %data is 7, which 2 replicas cannot share",
         "6 or 8"),
        (exact_net(1), Replicate(DEVICES), "the batch of %data is 1", "batch of 8 would fit"),
        (scalar_net(), Replicate(TWO), "%x has no batch, which 2 replicas could share", "axis"),
        (scalar_net(), Pipeline(TWO, 3), "has no batch, which 3 micro-batches", "first input"),
        (exact_net(8), Pipeline(TWO, 3), "which 3 micro-batches cannot share", "6 or 9"),
        (exact_net(), SplitChannels(("c12",), TWO), "no layer 'c12' to split", "c1"),
        (exact_net(), SplitChannels(("relu",), TWO), "%relu is relu", "conv"),
        (exact_net(), SplitChannels(("c2",), DEVICES[:3]), "has 2 groups for 3 devices",
         "at most 2 devices"),
        (exact_net(), SplitChannels(("f5",), DEVICES[:7]), "has 6 output channels for 7", "6"),
    ],
)  # fmt: skip
def test_what_does_not_fit(graph: Graph, each: Pass, message: str, help: str) -> None:
    with pytest.raises(GraphError, match=message) as e:
        each.run(located(graph), Context())
    assert help in e.value.diagnostics[0].help


@pytest.mark.parametrize("each", [Replicate(DEVICES[:3]), Pipeline(TWO, 4)])
def test_a_batch_that_is_known_at_run_time(each: Pass) -> None:
    """Shares differ by one at most; those of a batch with fewer rows are empty."""
    b = Builder()
    x = b.input("data", f32["N", 4, 5, 5])
    y = b.relu(b.conv(x, integers(b, "w", (6, 4, 3, 3)), name="c"))
    y = b.softmax(b.fc(b.flatten(y), integers(b, "v", (3, 54)), name="f"))
    graph = b.graph("g", {"y": y})
    after = sharded(graph, each)
    assert after.outputs["y"].type == graph.outputs["y"].type
    for batch in (1, 2, 3, 7, 8):
        same_meaning(graph, after, {"N": batch})


@quick
@given(graph=graphs(), ranks=st.integers(2, 5), batch=st.integers(1, 6))
def test_any_batch(graph: Graph, ranks: int, batch: int) -> None:
    if batch_of(graph) == sym("N"):
        same_meaning(graph, sharded(graph, Replicate(DEVICES[:ranks])), {"N": batch})


@pytest.mark.parametrize("each", [Replicate(TWO), SplitChannels(("c",), TWO)])
def test_annotations_that_contradict(each: Pass) -> None:
    b = Builder()
    x = b.input("x", f32[4, 4, 3, 3])
    with b.on(DEVICES[1]):
        y = b.conv(x, integers(b, "w", (4, 4, 1, 1)), name="c")
    with pytest.raises(GraphError, match="%c is placed on sim:1, but") as e:
        each.run(b.graph("g", {"y": y}), Context())
    assert "take the placement away" in e.value.diagnostics[0].help


def test_one_device_is_the_same_graph() -> None:
    graph = exact_net()
    for each in (Replicate(TWO[:1]), Pipeline(TWO[:1], 2), SplitChannels(("c1",), TWO[:1])):
        assert each.run(graph, Context()) is graph


@pytest.mark.long
@settings(quick, max_examples=5000)
@given(graph=graphs(max_nodes=20, symbolic=False), ranks=st.integers(2, 8), kind=st.integers(0, 3))
def test_any_sharding_long(graph: Graph, ranks: int, kind: int) -> None:
    graph, devices = with_batch(graph, ranks), DEVICES[:ranks]
    if batch_of(graph) != ranks:
        return
    names = tuple(channelled(graph))
    each: Pass = (
        Replicate(devices), Pipeline(devices, ranks),
        SplitChannels(names, devices), SplitChannels(names, devices, "input"),
    )[kind]  # fmt: skip
    try:
        after = sharded(graph, each)
    except GraphError as e:
        if "devices" in str(e):  # fewer channels than devices
            return
        raise
    same_meaning(graph, after)
