"""Copies between devices: one per value and destination, none where none is needed."""

from __future__ import annotations

import numpy as np

from netc.ir.device import Device
from netc.ir.graph import Builder, Graph
from netc.ir.interpret import interpret
from netc.ir.ops.devices import Copy
from netc.ir.ops.sources import Const
from netc.ir.types import f32
from netc.ir.verify import verify
from netc.passes.base import Context
from netc.passes.place import Place

A, B = Device("cpu", 0), Device("cpu", 1)


def placed(graph: Graph) -> Graph:
    return verify(Place().run(graph, Context()))


def copies(graph: Graph) -> list[str]:
    return [n.name for n in graph.nodes if isinstance(n.op, Copy)]


def test_one_copy_serves_all_readers_on_a_device() -> None:
    b = Builder()
    x = b.input("x", f32[2, 3])
    with b.on(A):
        h = b.relu(x, name="h")
    with b.on(B):
        y = b.add(b.tanh(h), b.sigmoid(h), name="y")
    g = b.graph("g", {"y": y, "h": h})
    made = placed(g)
    assert copies(made) == ["h_cpu1"]
    assert made.inputs[0].device == A
    feed = {"x": np.ones((2, 3), np.float32)}
    assert np.array_equal(interpret(made, feed)["y"], interpret(g, feed)["y"])


def test_parameters_and_constants_are_not_copied() -> None:
    b = Builder()
    x = b.input("x", f32[2, 3])
    w = b.param("w", f32[3])
    with b.on(A):
        c = b.const(type=f32[3], value=2.0)
        h = b.mul(b.mul(x, w), c)
    with b.on(B):
        y = b.add(b.mul(h, w), c)
    made = placed(b.graph("g", {"y": y}))
    assert len(copies(made)) == 1
    assert sorted(str(n.device) for n in made.nodes if isinstance(n.op, Const)) == [str(A), str(B)]


def test_a_copy_that_is_there_is_used() -> None:
    b = Builder()
    x = b.input("x", f32[2, 3])
    with b.on(A):
        h = b.relu(x)
    with b.on(B):
        c = b.copy(h, name="mine")
        y = b.add(c, b.tanh(h))
    assert copies(placed(b.graph("g", {"y": y}))) == ["mine"]


def test_one_device_has_no_copies() -> None:
    b = Builder()
    g = b.graph("g", {"y": b.relu(b.input("x", f32[2]))})
    assert not copies(placed(g))
