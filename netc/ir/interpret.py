"""The reference meaning of a graph, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from netc.errors import InputError, clean
from netc.ir.dims import symbols
from netc.ir.graph import Graph, Node
from netc.ir.op import Array, as_tuple
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.types import DType, TensorType

SEED = 0  # of the initializers of parameters without weights


def interpret(
    graph: Graph, feed: Mapping[str, Any], dtype: Any = np.float64, seed: int = SEED
) -> dict[str, Array]:
    """The outputs of `graph` for these inputs, computed in float64 or float32.

    Raises InputError where the feed does not fit the graph's inputs.
    """
    sizes: dict[str, int] = {}
    values: dict[Any, Array] = {}
    given = {n.name: _checked(n, feed, sizes) for n in graph.inputs}
    weights = initial_weights(graph, seed)
    for node in graph.nodes:
        if isinstance(node.op, Input):
            outs: tuple[Array, ...] = (_convert(given[node.name], node.types[0], dtype),)
        elif isinstance(node.op, Param):
            outs = (np.asarray(weights[node.name], dtype),)
        elif isinstance(node.op, Const):
            shape = node.types[0].sizes(sizes)
            outs = (np.full(shape, np.float32(node.op.value), dtype),)
        else:
            outs = as_tuple(node.op.reference(*(values[v] for v in node.inputs)))
        values.update(zip(node.results, outs, strict=True))
    return {name: values[v] for name, v in graph.outputs.items()}


def initial_weights(graph: Graph, seed: int = SEED) -> dict[str, Array]:
    """Every parameter's array: its weights, or a draw from its initializer.

    A draw depends on the seed and the parameter's name only, so it is the same in any graph.
    """
    import zlib

    out = dict(graph.weights)
    for node in graph.params:
        if node.name in out or not isinstance(node.op, Param):
            continue
        shape = node.types[0].sizes({})
        rng = np.random.default_rng([seed, zlib.crc32(node.name.encode())])
        out[node.name] = node.op.init.draw(shape, rng)
    return out


def _convert(x: Array, type: TensorType, dtype: Any) -> Array:
    return x.astype(dtype) if type.dtype is DType.F32 else x.astype(type.dtype.numpy)


def _checked(node: Node, feed: Mapping[str, Any], sizes: dict[str, int]) -> Array:
    """The array fed to an input, its symbols bound into `sizes`."""
    name, type = node.name, node.types[0]
    if name not in feed:
        raise InputError(f"input {clean(name)!r} is missing; it is {type}")
    x = np.asarray(feed[name])
    fits = x.ndim == type.rank
    for d, n in zip(type.shape, x.shape, strict=False):
        if isinstance(d, int):
            fits &= d == n
        elif len(symbols(d)) == 1 and str(d) in symbols(d):
            fits &= sizes.setdefault(str(d), n) == n
    if not fits:
        raise InputError(f"input {clean(name)!r} is {type}, but the array given is {x.shape}")
    return x
