"""Shardings as values, and on the nodes of IR text."""

from __future__ import annotations

import pytest

from netc.errors import GraphError, NetcError
from netc.ir.device import Device
from netc.ir.graph import Builder, Graph
from netc.ir.shards import Shard, within
from netc.ir.text import parse, show
from netc.ir.types import f32

TWO = (Device("cpu"), Device("cuda", 1))
REPLICATE = Shard("replicate", TWO)
SPLIT = Shard("split", TWO, "input")
PIPELINE = Shard("pipeline", TWO, micro_batches=4)


def sharded() -> Graph:
    b = Builder()
    x = b.input("x", f32[4, 8])
    with b.sharded((REPLICATE,)):
        w = b.param("w", f32[8, 8])
        x = b.fc(x, w, name="one")
    with b.sharded((PIPELINE, SPLIT)):
        x = b.fc(x, w, name="two")
    with b.on(TWO[1]), b.sharded((PIPELINE,)):
        x = b.relu(x, name="three")
    return b.graph("g", {"y": b.relu(x, name="four")})


def test_ir_text_is_an_exact_round_trip() -> None:
    text = show(sharded())
    assert "f32[4,8] @ replicate(cpu:0, cuda:1)\n" in text
    assert " @ pipeline(cpu:0, cuda:1, micro_batches=4) @ split(cpu:0, cuda:1, by=input)\n" in text
    assert " @ cuda:1 @ pipeline(cpu:0, cuda:1, micro_batches=4)\n" in text
    assert show(parse(text)) == text
    assert [n.shards for n in parse(text).nodes] == [n.shards for n in sharded().nodes]


def test_parameters_and_inputs_are_not_sharded() -> None:
    of = {n.name: n.shards for n in sharded().nodes}
    assert of == {"x": (), "w": (), "one": (REPLICATE,), "two": (PIPELINE, SPLIT),
                  "three": (PIPELINE,), "four": ()}  # fmt: skip


def test_a_pipeline_has_as_many_micro_batches_as_devices() -> None:
    assert Shard("pipeline", TWO).micro_batches == 2
    assert Shard.parse("pipeline(cpu:0, cuda:1)") == Shard("pipeline", TWO)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mirror(cpu:0)", "no way to shard 'mirror'"),
        ("replicate()", "replicate names no device"),
        ("replicate(cpu:0, cpu)", "replicate names a device twice: cpu:0, cpu:0"),
        ("replicate(tpu:0)", "no device 'tpu:0'"),
        ("replicate(cpu:0, by=input)", "no replicate by input"),
        ("split(cpu:0, by=rows)", "no split by rows"),
        ("split(cpu:0, micro_batches=2)", "micro-batches are of a pipeline"),
        ("pipeline(cpu:0, micro_batches=0)", "micro-batches are 0"),
        ("pipeline(cpu:0, micro_batches=1025)", "micro-batches are 1025"),
        ("pipeline(cpu:0, micro_batches=many)", "micro-batches are 'many'"),
        ("pipeline(cpu:0, by=output, depth=3)", "pipeline has no depth"),
        ("replicate(cpu:0) @ replicate(cpu:1)", "replicate within replicate(cpu:0)"),
        ("split(cpu:0) @ replicate(cpu:1)", "replicate within split(cpu:0)"),
    ],
)
def test_what_does_not_fit(text: str, said: str) -> None:
    source = f"graph @g(input %x: f32[1]) {{\n  %y = relu(%x) : f32[1] @ {text}\n  return %y\n}}\n"
    with pytest.raises(NetcError) as e:
        parse(source, "g.ir")
    assert said in str(e.value)
    assert str(e.value).startswith("g.ir:2:")


def test_what_goes_together() -> None:
    assert within((PIPELINE,), SPLIT) == (PIPELINE, SPLIT)
    assert within((SPLIT,), PIPELINE) == (SPLIT, PIPELINE)
    with pytest.raises(GraphError, match="pipeline within pipeline"):
        within((PIPELINE, SPLIT), PIPELINE)
