"""The reference meaning of a graph, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from netc.errors import InputError, ResourceError, clean
from netc.ir.attributes import bound
from netc.ir.graph import Graph, Node, Value
from netc.ir.op import Array, as_tuple
from netc.ir.ops.fused import Fused
from netc.ir.ops.shape import Reshape
from netc.ir.ops.sources import Const, Param
from netc.ir.solve import solved
from netc.ir.types import DType, TensorType

SEED = 0  # of the initializers of parameters without weights


def interpret(
    graph: Graph, feed: Mapping[str, Any], dtype: Any = np.float64, seed: int = SEED
) -> dict[str, Array]:
    """The outputs of `graph` for these inputs, computed in float64 or float32.

    Raises InputError where the feed does not fit the graph's inputs.
    """
    arrays = [_fed(n, feed) for n in graph.inputs]
    types = [n.types[0] for n in graph.inputs]
    sizes = {s: int(n) for s, n in solved(types, [x.shape for x in arrays]).items()}
    given: dict[Value, Array] = {}
    for n, x in zip(graph.inputs, arrays, strict=True):
        _check(n, x, sizes)
        given[n.results[0]] = _convert(x, n.types[0], dtype)
    weights = initial_weights(graph, seed)
    for node in graph.params:
        wanted = _element(node.types[0], dtype)
        given[node.results[0]] = np.asarray(weights[node.name], wanted)
    return run(graph, given, sizes, dtype)


def run(
    graph: Graph, given: Mapping[Value, Array], sizes: Mapping[str, int], dtype: Any
) -> dict[str, Array]:
    """The outputs of `graph`, its inputs' and parameters' arrays and its symbols given."""
    values = dict(given)
    last = {v: node for node in graph.nodes for v in node.inputs}
    kept = {*graph.outputs.values(), *values}
    for node in graph.nodes:
        if isinstance(node.op, Const):
            number = np.full(node.types[0].sizes(sizes), node.types[0].dtype.element(node.op.value))
            outs: tuple[Array, ...] = (_convert(number, node.types[0], dtype),)
        elif node.results[0] in values:
            continue
        else:
            outs = _computed(node, [values[v] for v in node.inputs], sizes, dtype)
        values.update(zip(node.results, outs, strict=True))
        for v in node.inputs:
            if last[v] is node and v not in kept:
                values.pop(v, None)
    return {name: values[v] for name, v in graph.outputs.items()}


def _computed(
    node: Node, xs: list[Array], sizes: Mapping[str, int], dtype: Any
) -> tuple[Array, ...]:
    """A node's results. Raises ResourceError where they do not fit into memory."""
    try:
        return _results(node, xs, sizes, dtype)
    except ResourceError:  # of a node within
        raise
    except (MemoryError, ValueError) as e:
        if isinstance(e, ValueError) and not any(words in str(e) for words in _TOO_BIG):
            raise
        message = f"{node.op.name} {clean(node.name)} needs more memory than there is"
        raise ResourceError(message, node.loc, str(e)) from None


_TOO_BIG = "array is too big", "Maximum allowed"  # what NumPy says of sizes beyond 64 bits


def _results(
    node: Node, xs: list[Array], sizes: Mapping[str, int], dtype: Any
) -> tuple[Array, ...]:
    """A node's results, its floats in the precision asked for."""
    if isinstance(node.op, Reshape):  # whose own sizes may be symbols
        return (xs[0].reshape(node.types[0].sizes(sizes)),)
    if isinstance(node.op, Fused):
        body = node.op.body
        given = dict(zip((n.results[0] for n in body.inputs), xs, strict=True))
        return tuple(run(body, given, sizes, dtype).values())
    outs = as_tuple(bound(node.op, sizes).reference(*xs))
    typed_outs = zip(outs, node.types, strict=True)
    return tuple(o.astype(dtype, copy=False) if t.dtype is DType.F32 else o for o, t in typed_outs)


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
        with np.errstate(invalid="ignore"):
            drawn = node.op.init.draw(shape, rng).astype(node.types[0].dtype.numpy, copy=False)
        out[node.name] = drawn
    return out


def _convert(x: Array, type: TensorType, dtype: Any) -> Array:
    return x.astype(_element(type, dtype))


def _element(type: TensorType, dtype: Any) -> Any:
    """Floats as asked for, integers in their own type."""
    return dtype if type.dtype is DType.F32 else type.dtype.numpy


def _fed(node: Node, feed: Mapping[str, Any]) -> Array:
    """The array fed to an input."""
    if node.name not in feed:
        raise InputError(f"input {clean(node.name)!r} is missing; it is {node.types[0]}")
    return np.asarray(feed[node.name])


def _check(node: Node, x: Array, sizes: Mapping[str, int]) -> None:
    """Refuse an array that is not what the input is."""
    type = node.types[0]
    if not type.symbols <= sizes.keys() or x.shape != type.sizes(sizes):
        what = f"input {clean(node.name)!r} is {type}"
        raise InputError(f"{what}, but the array given is {x.shape}")
