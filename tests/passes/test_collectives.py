"""all_gather and all_reduce: what they mean, what they become, and that copies are shared."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from netc.ir.device import Device
from netc.ir.graph import Builder, Graph
from netc.ir.interpret import interpret
from netc.ir.ops.devices import AllGather, AllReduce, Copy
from netc.ir.text import parse, show
from netc.ir.types import f32
from netc.passes.base import Context, run_passes
from netc.passes.collectives import Collectives
from netc.passes.place import Place
from netc.passes.shard_batch import Replicate
from netc.passes.shard_channels import SplitChannels

CPUS = tuple(Device("cpu", i) for i in range(3))


def three() -> Graph:
    """Three values on three devices, gathered on two of them and summed on all."""
    b = Builder()
    x = b.input("x", f32["N", 4])
    parts = []
    for i, device in enumerate(CPUS):
        with b.on(device):
            parts.append(b.affine(x, scale=float(i + 1), name=f"p{i}"))
    outputs = {}
    for device in CPUS:
        with b.on(device):
            outputs[f"sum{device.index}"] = b.all_reduce(*parts, name=f"sum{device.index}")
            if device.index:
                outputs[f"all{device.index}"] = b.all_gather(*parts, name=f"all{device.index}")
    return b.graph("three", outputs)


def ops(graph: Graph) -> list[str]:
    return sorted(n.op.name for n in graph.nodes if n.op.name != "input")


def test_what_they_become() -> None:
    g = three()
    made = run_passes(g, (Collectives(),), Context(check=2))
    assert not any(isinstance(n.op, AllGather | AllReduce) for n in made.nodes)
    copies = [n for n in made.nodes if isinstance(n.op, Copy)]
    assert len(copies) == 6  # each of three values once to each of two other devices
    assert len({(n.inputs[0], n.device) for n in copies}) == 6
    assert ops(made).count("concat") == 2
    assert ops(made).count("add") == 6
    assert Collectives().run(made, Context()) is made


@pytest.mark.parametrize("optimize", [True, False])
def test_runs(optimize: bool) -> None:
    g = three()
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    want, got = interpret(g, {"x": x}), netc.compile(g, optimize=optimize)(x=x)
    for name, array in want.items():
        assert np.array_equal(got[name], array.astype(np.float32)), name
    assert np.array_equal(want["sum0"], 6 * x)
    assert want["all1"].shape == (2, 12)


def test_one_value_needs_nothing() -> None:
    b = Builder()
    x = b.relu(b.input("x", f32[2, 3]))
    g = b.graph("g", {"y": b.all_reduce(x), "z": b.all_gather(x)})
    assert ops(Collectives().run(g, Context())) == ["relu"]


def test_text_says_what_crosses() -> None:
    """A split by output is gathered, a split by input summed where it is read, in one op each."""
    text = """
    net two(data: f32[2, 8, 9, 9]) -> y {
      x = data |> conv(8, 3, name="a") |> relu |> lrn(5)
      y = x |> conv(8, 3, name="b") |> relu
    }
    """
    g = netc.parse(text, warn=lambda *_: None)
    made = SplitChannels(("a", "b"), CPUS[:2], ("output", "input")).run(g, Context())
    said = show(made)
    assert said.count(" = all_gather(") == 1
    assert said.count(" = all_reduce(") == 1
    assert show(parse(said, weights=made.weights)) == said
    x = np.random.default_rng(0).standard_normal((2, 8, 9, 9)).astype(np.float32)
    g = parse(show(g), weights=netc.ir.interpret.initial_weights(g))
    again = SplitChannels(("a", "b"), CPUS[:2], ("output", "input")).run(g, Context())
    want = netc.compile(g)(data=x)["y"]
    np.testing.assert_allclose(netc.compile(again)(data=x)["y"], want, atol=1e-5)


def test_a_collective_that_a_net_has_is_shared_too() -> None:
    """Of values and parameters: shares of a parameter are cut where they are read."""
    b = Builder()
    x = b.relu(b.input("x", f32[4, 3]))
    p = b.param("p", f32[4, 3], value=np.arange(12, dtype=np.float32).reshape(4, 3))
    y = b.all_gather(b.all_reduce(x, p, x), p, axis=1)
    g = b.graph("g", {"y": y})
    made = run_passes(g, (Replicate(CPUS[:2]), Collectives()), Context(check=2))
    placed = run_passes(made, (Place(CPUS[0]),), Context(check=2))
    copies = [sum(isinstance(n.op, Copy) for n in each.nodes) for each in (made, placed)]
    assert copies[0] == copies[1]
    data = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    want = netc.compile(g, optimize=False)(x=data)["y"]
    both = netc.compile(g, optimize=False, replicate=["cpu:0", "cpu:1"])
    assert np.array_equal(both(x=data)["y"], want)
