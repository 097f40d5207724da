"""Layers as a user names them: a node, and all nodes below it."""

from __future__ import annotations

import difflib

from netc.errors import GraphError, clean
from netc.ir.graph import Graph, Node
from netc.ir.ops.sources import Const, Param


def layer(graph: Graph, name: str, purpose: str) -> list[Node]:
    """The nodes that a name means: the node of this name, and those below it.

    Those are named `name/…` or `name.…`: the nodes of a block, the steps of a layer, and what
    later layers changed in place (a ReLU is `conv1`, the convolution before it `conv1/conv1`).
    Raises GraphError where there are none, which says what they were wanted for ("to place").
    """
    computing = [n for n in graph.nodes if not isinstance(n.op, Param | Const)]
    below = (f"{name}/", f"{name}.")
    found = [n for n in computing if n.name == name or n.name.startswith(below)]
    if not found:
        near = difflib.get_close_matches(name, [n.name for n in computing], 3)
        fits = f"did you mean {', '.join(map(clean, near))}?" if near else ""
        raise GraphError(f"there is no layer {clean(name)!r} {purpose}", help=fits)
    return found
