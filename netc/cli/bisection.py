"""Which pass first makes results differ from the reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.cli.drawn import drawn
from netc.ir.graph import Graph
from netc.ir.interpret import interpret
from netc.ir.solve import sizes_where
from netc.passes.base import Context, Pass, run_passes

Arrays = Mapping[str, NDArray[Any]]
BOUND = 1e-9  # float64 against float64: only the order of sums may differ


@dataclass(frozen=True)
class Verdict:
    """What a stop does to the results."""

    name: str
    error: float
    output: str
    changed: bool
    bound: float = BOUND

    @property
    def fine(self) -> bool:
        """Whether the results are the same but for rounding."""
        return self.error <= self.bound


def seeded_feed(graph: Graph, seed: int, size: int = 2) -> dict[str, NDArray[Any]]:
    """An array for every input. Sizes left open are those of the file the net comes from, or else
    `size`, and 32 for height and width.
    """
    inputs = {node.name: node.types[0] for node in graph.inputs}
    sizes = sizes_where(inputs.values(), lambda axis, _: 32 if axis > 1 else size)
    sizes |= graph.usual
    return drawn(inputs, sizes, seed, 256)


def distance(got: Arrays, wanted: Arrays) -> tuple[float, str]:
    """The largest error of any output, relative to its largest magnitude, and that output."""
    worst, where = 0.0, ""
    for name, want in wanted.items():
        have = got.get(name)
        if have is None or have.shape != want.shape:
            return np.inf, name
        both = np.isnan(have) & np.isnan(want)
        gap = np.where(both | (have == want), 0.0, np.abs(have - want))
        finite = np.abs(want[np.isfinite(want)])
        error = float(gap.max(initial=0.0)) / max(float(finite.max(initial=0.0)), 1e-30)
        if not error <= worst:
            worst, where = error, name
    return worst, where


def walk(graph: Graph, passes: Iterable[Pass], feed: Arrays, ctx: Context) -> Iterable[Verdict]:
    """The verdict on each pass in turn, each judged by interpreting what it gives in float64.

    A pass that stores new parameters rounds them to float32; what comes after it is compared with
    what it gives.
    """
    wanted = interpret(graph, feed, seed=ctx.seed)
    for each in passes:
        after = run_passes(graph, (each,), ctx)
        if after is graph:
            yield Verdict(each.name, 0.0, "", False)
            continue
        got = interpret(after, feed, seed=ctx.seed)
        rounds = any(array is not graph.weights.get(n) for n, array in after.weights.items())
        bound = tolerance(graph) if rounds else BOUND
        yield Verdict(each.name, *distance(got, wanted), True, bound)
        graph, wanted = after, got if rounds else wanted


def compiled(graph: Graph, feed: Arrays, **options: Any) -> Verdict:
    """The verdict on the code that runs, which computes in float32."""
    from netc import api

    got = api.compile(graph, **options)(feed)
    error, output = distance(got, interpret(graph, feed))
    return Verdict("the compiled code", error, output, True, tolerance(graph))


def tolerance(graph: Graph) -> float:
    """What float32 may cost a whole net: 1e-5 of the largest value, more for a deep one."""
    return max(1e-5, 1e-6 * math.sqrt(len(graph.nodes)))
