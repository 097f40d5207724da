"""Names of nodes, settled when the whole net is known.

The last version of a blob carries the blob's name. Versions before it, made by layers that work
in place, are called `<blob>/<layer>`; steps within a layer `<layer>/<op>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from netc.ir.graph import Graph, Node, Value


def settled(graph: Graph, wanted: Mapping[Node, str]) -> Graph:
    """The same graph with nodes renamed: `wanted` first, every other as it is called now.

    Names of inputs and parameters never change; a name that is taken gets `_1`, `_2`, ….
    """
    fixed = {*graph.inputs, *graph.params}
    taken = {n.name for n in fixed}
    names: dict[Node, str] = {}
    for node in (*wanted, *graph.nodes):
        if node not in fixed and node not in names:
            names[node] = _free(wanted.get(node, node.name), taken)
            taken.add(names[node])
    new: dict[Node, Node] = {}
    for node in graph.nodes:
        inputs = tuple(Value(new[v.node], v.index) for v in node.inputs)
        new[node] = replace(node, name=names.get(node, node.name), inputs=inputs)
    outputs = {name: Value(new[v.node], v.index) for name, v in graph.outputs.items()}
    return replace(graph, inputs=tuple(new[n] for n in graph.inputs), outputs=outputs)


def _free(name: str, taken: set[str]) -> str:
    found, n = name, 1
    while found in taken:
        found, n = f"{name}_{n}", n + 1
    return found
