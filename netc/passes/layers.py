"""Layers as a user names them: a node, or all nodes of a block."""

from __future__ import annotations

import difflib

from netc.errors import GraphError, clean
from netc.ir.graph import Graph, Node
from netc.ir.ops.sources import Const, Param


def layer(graph: Graph, name: str, purpose: str) -> list[Node]:
    """The nodes that a name means: the node of this name, or those below it.

    A name is a node's, or what stands before `/` or `.` in the names of several. Raises GraphError
    where there are none, which says what they were wanted for ("to place").
    """
    computing = [n for n in graph.nodes if not isinstance(n.op, Param | Const)]
    exact = [n for n in computing if n.name == name]
    found = exact or [n for n in computing if n.name.startswith((f"{name}/", f"{name}."))]
    if not found:
        near = difflib.get_close_matches(name, [n.name for n in computing], 3)
        fits = f"did you mean {', '.join(map(clean, near))}?" if near else ""
        raise GraphError(f"there is no layer {clean(name)!r} {purpose}", help=fits)
    return found
