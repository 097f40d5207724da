"""Nets and placements for tests of several devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import netc
from netc.ir.device import Device
from netc.ir.graph import Graph, Node, Value
from netc.ir.ops.sources import Const, Input, Param
from netc.passes.rewrite import rebuilt

BRANCHES = """
net branches(data: f32[N, 3, 20, 20]) -> out {
  x = data |> conv(16, 3, pad=1) |> relu |> max_pool(3, stride=2)
  a = x |> conv(16, 1) |> relu
  b = x |> conv(8, 1) |> relu |> conv(16, 3, pad=1) |> relu
  c = x |> max_pool(3, stride=1, pad=1) |> conv(8, 1) |> relu
  y = concat(a, b, c) |> conv(24, 3, pad=1) |> relu
  out = y |> global_avg_pool |> flatten |> fc(10) |> softmax
}
"""


def on_devices(graph: Graph, device: Callable[[int, Node], Device | None]) -> Graph:
    """The graph with nodes that compute on the devices that a function of their number says."""
    new: dict[Value, Value] = {}
    for i, node in enumerate(graph.nodes):
        inputs = tuple(new[v] for v in node.inputs)
        free = isinstance(node.op, Input | Param | Const)
        made = replace(node, inputs=inputs, device=None if free else device(i, node))
        if isinstance(node.op, Input):
            made = node
        new.update(zip(node.results, made.results, strict=True))
    return rebuilt(graph, new)


def cpus(count: int) -> list[Device]:
    """So many logical devices of this processor."""
    return [Device("cpu", i) for i in range(count)]


def alternating(count: int = 2, run: int = 1) -> Graph:
    """The branches with their nodes dealt out to devices, `run` in a row to each."""
    devices = cpus(count)
    return on_devices(netc.parse(BRANCHES), lambda i, _: devices[i // run % count])
