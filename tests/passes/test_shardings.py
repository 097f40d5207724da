"""Nets that say themselves how devices share them: regions, several ways, and what contradicts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netc.compiler import Options, lower
from netc.errors import GraphError
from netc.ir.device import Device
from netc.ir.graph import Builder, Graph, Node, Stage, Value
from netc.ir.interpret import interpret
from netc.ir.ops.convolution import Conv, Fc
from netc.ir.ops.devices import Copy
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.shards import Shard
from netc.ir.text import show
from netc.ir.types import f32
from netc.passes.base import Context, run_passes
from netc.passes.collectives import Collectives
from netc.passes.place import Place
from netc.passes.shard_batch import Pipeline, Replicate
from netc.passes.shard_channels import SplitChannels
from netc.passes.shardings import Sharding, Shardings, annotated
from tests.passes.test_shard import channelled, exact_net, integers, same_meaning, with_batch
from tests.strategies import graphs

DEVICES = tuple(Device("sim", i) for i in range(6))
TWO, OTHERS = DEVICES[:2], DEVICES[2:4]
REPLICATE = Shard("replicate", TWO)
SPLIT = Shard("split", TWO)
INPUT = Shard("split", TWO, "input")
ELSEWHERE = Shard("split", OTHERS)
PIPELINE = Shard("pipeline", TWO, micro_batches=4)
quick = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck),
                 derandomize=True)  # fmt: skip


def saying(graph: Graph, said: Callable[[Node], tuple[Shard, ...]]) -> Graph:
    """The graph with shardings on its nodes."""
    new: dict[Value, Value] = {}
    for node in graph.nodes:
        now = replace(node, inputs=tuple(new[v] for v in node.inputs))
        if not isinstance(node.op, Input | Param | Const):
            now = replace(now, shards=said(node))
        new.update(zip(node.results, now.results, strict=True))
    inputs = tuple(new[n.out].node for n in graph.inputs)
    return replace(graph, inputs=inputs, outputs={k: new[v] for k, v in graph.outputs.items()})


def done(graph: Graph) -> Graph:
    """The graph after all it says: nothing is left to do, and to copy."""
    after = run_passes(graph, (Shardings(), Collectives()), Context(check=2))
    assert not any(n.shards for n in after.nodes)
    placed = run_passes(after, (Place(DEVICES[0]),), Context(check=2))
    copies = [sum(isinstance(n.op, Copy) for n in g.nodes) for g in (after, placed)]
    assert copies[0] == copies[1], "place had to insert copies"
    return placed


def where(graph: Graph, *names: str) -> list[str]:
    """The devices of nodes by name."""
    found = {n.name: n for n in graph.nodes}
    return [str(found[name].device) for name in names]


# Which layers of `exact_net` say what: c1 (relu, max_pool), c2 in groups (relu), c3, f4, f5.
COMBINATIONS: dict[str, dict[str, tuple[Shard, ...]]] = {
    "replicas in the middle": dict.fromkeys(("max_pool", "c2", "relu_1", "c3"), (REPLICATE,)),
    "one node": {"c2": (REPLICATE,)},
    "replicas here and there": dict.fromkeys(("c1", "c3", "f5"), (REPLICATE,)),
    "convolutions replicated, inner products split": {
        **dict.fromkeys(("c1", "relu", "max_pool", "c2", "relu_1", "c3", "relu_2"), (REPLICATE,)),
        "f4": (SPLIT,), "f5": (SPLIT,),
    },
    "replicas on two devices, then on others": {
        "c1": (REPLICATE,), "relu": (REPLICATE,), "c2": (Shard("replicate", OTHERS),),
        "f4": (Shard("replicate", DEVICES[:4]),),
    },
    "splits over different devices": {"c1": (SPLIT,), "c2": (ELSEWHERE,), "f4": (ELSEWHERE,)},
    "splits of different number": {"c1": (SPLIT,), "f4": (Shard("split", DEVICES[1:4]),)},
    "by input elsewhere": {"c1": (SPLIT,), "f4": (ELSEWHERE,), "f5": (INPUT,)},
    "a split after replicas": {"c1": (REPLICATE,), "relu": (REPLICATE,), "f4": (INPUT,)},
    "a pipeline of some": dict.fromkeys(("c2", "relu_1", "c3", "relu_2", "f4"), (PIPELINE,)),
    "a split in a pipeline": {
        **dict.fromkeys(("c1", "relu", "max_pool", "relu_1", "c3", "relu_2", "f5"), (PIPELINE,)),
        "c2": (PIPELINE, SPLIT), "f4": (ELSEWHERE, PIPELINE),
    },
    "by input in a pipeline": {"c3": (PIPELINE, INPUT), "relu_2": (PIPELINE,), "f4": (PIPELINE,)},
    "replicas, then stages": {
        "c1": (REPLICATE,), "relu": (REPLICATE,), "c2": (PIPELINE,), "c3": (PIPELINE,),
    },
    "stages, then replicas, and a split": {
        "c1": (PIPELINE,), "relu": (PIPELINE,), "c2": (REPLICATE,), "c3": (REPLICATE,),
        "f4": (ELSEWHERE,),
    },
    "one device is a place": {"c1": (Shard("replicate", OTHERS[:1]),), "f4": (SPLIT,)},
}  # fmt: skip


@pytest.mark.parametrize("said", COMBINATIONS.values(), ids=COMBINATIONS)
def test_equal_bit_by_bit(said: dict[str, tuple[Shard, ...]]) -> None:
    graph = exact_net()
    assert said.keys() <= {n.name for n in graph.nodes}
    after = done(saying(graph, lambda n: said.get(n.name, ())))
    named = {d for shards in said.values() for s in shards for d in s.devices}
    assert {n.device for n in after.nodes if isinstance(n.op, Conv | Fc)} <= named
    feed = {"data": np.random.default_rng(0).integers(-3, 4, (8, 4, 9, 9)).astype(np.float32)}
    before, now = interpret(graph, feed), interpret(after, feed)
    assert all(np.array_equal(before[k], now[k]) for k in before)


def test_a_region_cuts_what_it_reads_and_is_gathered_where_it_is_read() -> None:
    b = Builder()
    x = b.relu(b.input("x", f32[4, 6]), name="head")
    with b.sharded((REPLICATE,)):
        h = b.relu(b.fc(x, integers(b, "u", (8, 6)), name="up"), name="mid")
    graph = b.graph("g", {"y": b.fc(h, integers(b, "d", (6, 8)), name="down")})
    after = done(graph)
    assert where(after, "head", "up.0", "up.1", "mid.0", "mid.1", "mid_1", "down") == [
        "sim:0", "sim:0", "sim:1", "sim:0", "sim:1", "sim:0", "sim:0"]  # fmt: skip
    copies = [n for n in after.nodes if isinstance(n.op, Copy)]
    assert [str(n.types[0]) for n in copies] == ["f32[2,6]", "f32[2,8]"]  # half in, half back
    same_meaning(graph, after)


def test_replicas_give_each_split_what_it_lacks() -> None:
    """Krizhevsky 2014: each device gets the other's half of the rows, no more."""
    b = Builder()
    x = b.input("x", f32[4, 4, 3, 3])
    with b.sharded((REPLICATE,)):
        x = b.conv(x, integers(b, "w", (4, 4, 1, 1)), name="conv")
    with b.sharded((SPLIT,)):
        x = b.relu(b.fc(x, integers(b, "u", (6, 36)), name="fc6"))
        x = b.fc(x, integers(b, "v", (6, 6)), name="fc7")
    graph = b.graph("g", {"y": x})
    after = done(graph)
    moved = [(str(n.device), str(n.types[0])) for n in after.nodes if isinstance(n.op, Copy)]
    assert sorted(moved) == [
        ("sim:0", "f32[2,4,3,3]"),  # the second half of the rows, for fc6.0
        ("sim:0", "f32[4,3]"),
        ("sim:0", "f32[4,3]"),
        ("sim:1", "f32[2,4,3,3]"),  # x
        ("sim:1", "f32[2,4,3,3]"),  # the first half, for fc6.1
        ("sim:1", "f32[4,3]"),
    ]
    same_meaning(graph, after)


def test_the_whole_net_is_what_the_passes_make() -> None:
    graph = exact_net()
    for shard, each in (
        (REPLICATE, Replicate(TWO)),
        (PIPELINE, Pipeline(TWO, 4)),
        (SPLIT, SplitChannels(tuple(channelled(graph)), TWO)),
    ):
        after = run_passes(saying(graph, lambda n, s=shard: (s,)), (Shardings(),))
        passed = run_passes(graph, (each,))
        if shard.way != "pipeline":  # whose machine is another
            assert show(after) == show(passed)
        same_meaning(graph, after)
        by_options = Sharding(split=each) if isinstance(each, SplitChannels) else Sharding(shard)
        assert show(run_passes(annotated(graph, by_options), (Shardings(),))) == show(after)


@quick
@given(graph=graphs(max_nodes=14, symbolic=False), seed=st.integers(0, 1000))
def test_any_regions(graph: Graph, seed: int) -> None:
    """Every node says something else, or nothing."""
    rng = np.random.default_rng(seed)
    graph = with_batch(graph, 4)
    ways = [(), (REPLICATE,), (PIPELINE,), (ELSEWHERE,), (PIPELINE, INPUT), (SPLIT,),
            (Shard("replicate", DEVICES[2:6]),)]  # fmt: skip
    few = [ways[i] for i in rng.integers(len(ways), size=3)]
    channels = set(channelled(graph))

    def said(node: Node) -> tuple[Shard, ...]:
        shards = few[rng.integers(len(few))]
        return tuple(s for s in shards if s.way != "split" or node.name in channels)

    graph = saying(graph, said)
    try:
        after = done(graph)
    except GraphError as e:
        if re.search(r"for \d devices|the batch of", str(e)):
            return
        raise
    same_meaning(graph, after)


def placed(device: Device, *shards: Shard) -> Graph:
    b = Builder()
    x = b.input("x", f32[4, 4, 3, 3])
    with b.on(device), b.sharded(shards):
        y = b.conv(x, integers(b, "w", (4, 4, 1, 1)), name="c")
    return b.graph("g", {"y": y})


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (placed(TWO[0], REPLICATE), "%c is placed on sim:0, but replicate runs it on each"),
        (placed(TWO[0], SPLIT), "%c is placed on sim:0, but is split over sim:0, sim:1"),
        (placed(OTHERS[0], PIPELINE), "%c is placed on sim:2, but its pipeline is over sim:0"),
        (saying(exact_net(), lambda n: (SPLIT,) if n.name == "max_pool" else ()),
         r"nothing in split\(sim:0, sim:1\) has channels to split"),
        (saying(exact_net(), lambda n: (Shard("split", DEVICES[:3]),) if n.name == "c2" else ()),
         "%c2 has 2 groups for 3 devices"),
        (saying(exact_net(7), lambda n: (REPLICATE,) if n.name == "c2" else ()),
         "the batch of %data is 7, which 2 replicas cannot share"),
    ],
)  # fmt: skip
def test_what_does_not_fit(graph: Graph, said: str) -> None:
    with pytest.raises(GraphError, match=said):
        Shardings().run(graph, Context())


@pytest.mark.parametrize(
    ("own", "options", "said"),
    [
        (REPLICATE, Sharding(PIPELINE), "%c is replicate.* by the net, and pipeline.* by options"),
        (REPLICATE, Sharding(split=SplitChannels(("c",), TWO)), "and split.* by options"),
        (SPLIT, Sharding(split=SplitChannels(("c",), OTHERS)), "and split.* by options"),
        (SPLIT, Sharding(REPLICATE), "%c is split.* by the net, and replicate"),
    ],
)
def test_options_that_contradict_the_net(own: Shard, options: Sharding, said: str) -> None:
    graph = saying(replace_device(placed(TWO[0])), lambda n: (own,))
    with pytest.raises(GraphError, match=said) as e:
        annotated(graph, options)
    assert "leave out one of them" in e.value.diagnostics[0].help


def replace_device(graph: Graph) -> Graph:
    """The graph with no node placed."""
    (y,) = graph.outputs.values()
    return replace(graph, outputs={"y": replace(y.node, device=None).out})


def test_options_and_the_net_together() -> None:
    graph = saying(replace_device(placed(TWO[0])), lambda n: (SPLIT,))
    after = annotated(graph, Sharding(PIPELINE))
    assert after.outputs["y"].node.shards == (PIPELINE, SPLIT)


def test_lowering_does_what_the_net_says() -> None:
    graph = saying(exact_net(), lambda n: (REPLICATE,))
    lowered = lower(graph, Options(devices=TWO))
    assert {n.device for n in lowered.order} == set(TWO)
    assert any(f.pass_name == "replicate" for f in lowered.context.fired)
    with pytest.raises(GraphError, match="is on sim:1, which is not there"):
        lower(graph, Options(devices=TWO[:1]))


def test_nothing_is_placed_that_is_still_to_be_shared() -> None:
    graph = saying(exact_net(), lambda n: (REPLICATE,))
    assert graph.stage is Stage.NET
    with pytest.raises(GraphError, match=r"%c1 is still to be shared by devices: replicate\("):
        Place().run(graph, Context())


def test_precisions_follow_shares_through_the_pass() -> None:
    graph = saying(exact_net(), lambda n: (REPLICATE,) if n.name in ("c1", "f5") else ())
    lowered = lower(graph, Options(optimize=False, precisions={"f5": "exact"}))
    kernels = {n.name for n in lowered.order if n.name.startswith("f5.")}
    assert kernels
    assert set(lowered.precisions) >= {
        k for k in kernels if "w" not in k and "_" not in k
    }  # nor copies
