"""Weights by parameter name into a graph, with a list of what did not match."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from netc.errors import Diagnostic, WeightsError, clean
from netc.frontend.binding import fitted
from netc.frontend.weights import read_params
from netc.ir.graph import Graph, frozen
from netc.ir.interpret import SEED

_LISTED = 10  # names in one remark

Source = str | os.PathLike[str] | bytes | memoryview | Mapping[str, Any]


def with_weights(graph: Graph, source: Source, strict: bool = False) -> Graph:
    """The graph with arrays from a file, or a mapping, by parameter name.

    What does not match is one warning, or under `strict` an error; a wrong shape is always one.
    """
    wanted = [n.name for n in graph.params]
    given = dict(source) if isinstance(source, Mapping) else read_params(source, wanted)
    arrays, wrong = dict(graph.weights), []
    for node in graph.params:
        if node.name not in given:
            continue
        try:
            array = fitted(given[node.name], node.types[0].sizes({}), node.name)
            arrays[node.name] = frozen(array)
        except WeightsError as e:
            wrong.append(Diagnostic(e.diagnostics[0].message, node.loc))
    if wrong:
        raise WeightsError(wrong)
    missing = [name for name in wanted if name not in arrays]
    unused = sorted(given.keys() - set(wanted))
    remarks = [_drawn(missing)] if missing else []
    if unused:
        remarks.append(f"the net has no parameter {_list(unused)}, which the weights hold")
    if remarks and strict:
        raise WeightsError([Diagnostic(r) for r in remarks])
    for remark in remarks:
        warnings.warn(remark, UserWarning, stacklevel=2)
    return replace(graph, weights=arrays)


def _drawn(names: list[str]) -> str:
    return f"no weights for {_list(names)}: drawn from the initializer with seed {SEED}"


def _list(names: list[str]) -> str:
    shown = ", ".join(map(clean, names[:_LISTED]))
    more = len(names) - _LISTED
    return shown + (f" and {more} more" if more > 0 else "")
