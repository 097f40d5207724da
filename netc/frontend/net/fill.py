"""Weights by parameter name into a graph, and remarks on what did not match."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from netc.errors import Diagnostic, WeightsError, clean
from netc.frontend.binding import fitted, numbers
from netc.ir.graph import Graph, frozen
from netc.ir.interpret import SEED

_LISTED = 10  # names in one remark

Source = str | os.PathLike[str] | bytes | memoryview | Mapping[str, Any]
Warn = Callable[[Diagnostic], None]


def filled(
    graph: Graph,
    source: Source | None,
    strict: bool = False,
    warn: Warn | None = None,
    unread: Collection[str] = (),
) -> Graph:
    """The graph with arrays from a file, or from a mapping, by parameter name.

    Layers that were left `unread` have weights for a reason: nothing is said of them.
    What does not match is told to `warn`, or to the log; under `strict` it is an error. An array
    of the wrong shape always is.
    """
    wanted = {n.name: n for n in graph.params}
    given = _arrays(source, [*wanted])
    arrays, wrong = dict(graph.weights), []
    for name, node in wanted.items():
        if name not in given:
            continue
        try:
            array = numbers(given[name], name)
            type = node.types[0]
            arrays[name] = frozen(fitted(array, type.sizes({}), name, type.dtype))
        except WeightsError as e:
            wrong.append(replace(e.diagnostics[0], span=node.loc))
    if wrong:
        raise WeightsError(sorted(wrong, key=lambda d: d.span.line))
    unused = {n for n in given.keys() - wanted if n.rpartition(".")[0] not in unread}
    remarks = _remarks([n for n in wanted if n not in arrays], unused, source)
    if remarks and strict:
        raise WeightsError([Diagnostic(r) for r in remarks])
    for remark in remarks:
        tell(Diagnostic(remark, severity="warning"), warn)
    return replace(graph, weights=arrays)


def tell(remark: Diagnostic, warn: Warn | None) -> None:
    """Give a remark to `warn`, or to the log, which has its own way to say how severe it is."""
    if warn is not None:
        warn(remark)
    else:
        said = replace(remark, severity="")
        logging.getLogger("netc").warning("%s", said, extra={"remark": remark})


def _arrays(source: Source | None, wanted: list[str]) -> Mapping[str, Any]:
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return {str(name): value for name, value in source.items()}
    from netc.frontend.weights import read_params  # the readers of Caffe's files: 75 ms

    return read_params(source, wanted)


def _remarks(missing: list[str], unused: set[str], source: Source | None) -> list[str]:
    if source is None and missing:
        return [f"no weights are given: {len(missing)} parameters are drawn with seed {SEED}"]
    out = []
    if missing:
        out.append(f"the weights lack {_listed(missing)}: drawn with seed {SEED}")
    if unused:
        out.append(f"the net has no parameters for these weights: {_listed(sorted(unused))}")
    return out


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(map(clean, names[:_LISTED])) + (f" and {more} more" if more > 0 else "")
