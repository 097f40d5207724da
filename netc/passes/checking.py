"""What is checked between passes, by level.

0: nothing. 1: form, where the stage changes. 2: form after every pass, and that the IR text reads
back. 3: also that results are unchanged on a seeded input.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from netc.errors import VerifyError
from netc.ir.graph import Graph
from netc.ir.interpret import interpret
from netc.ir.op import Array
from netc.ir.text import parse, show
from netc.ir.types import DType
from netc.passes.base import Context, Hook, Pass
from netc.passes.facts import nominal

TOLERANCE = 1e-5  # of the largest output: what folding in float32 may change in a whole graph
BIGGEST = 1 << 22  # elements of a graph's inputs above which results are not compared


def checks_for(level: int) -> tuple[Hook, ...]:
    """The hooks of a check level."""
    at = {1: (verify_at_stages,), 2: (verify_always, reads_back)}
    if level >= 3:
        return (*at[2], same_results)
    return at.get(level, ())


def verify_at_stages(done: Pass, before: Graph, after: Graph, ctx: Context) -> None:
    """Verify where the stage changed."""
    if before.stage is not after.stage:
        verify_always(done, before, after, ctx)


def verify_always(done: Pass, before: Graph, after: Graph, ctx: Context) -> None:
    """Verify the invariants of form."""
    from netc.ir.verify import verify

    if after is not before:
        verify(after)


def reads_back(done: Pass, before: Graph, after: Graph, ctx: Context) -> None:
    """print ∘ parse ∘ print = print."""
    text = show(after)
    if after is not before and show(parse(text)) != text:
        raise VerifyError(f"the IR after {done.name} does not read back")


def same_results(done: Pass, before: Graph, after: Graph, ctx: Context) -> None:
    """The reference results of both graphs agree on a seeded input."""
    feed = feed_for(before)
    if after is before or sum(x.size for x in feed.values()) > BIGGEST:
        return
    wanted = interpret(before, feed, seed=ctx.seed)
    given = interpret(after, feed, seed=ctx.seed)
    if why := difference(wanted, given):
        raise VerifyError(f"{done.name} changed the net's results: {why}")


def feed_for(graph: Graph, seed: int = 0, batch: int = 2) -> dict[str, Array]:
    """Seeded inputs: normal floats, small integers; a batch of `batch`, other sizes those of the
    file the net comes from, or else nominal.
    """
    sizes = {"N": batch} | dict(graph.usual)
    rng = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    for node in graph.inputs:
        type = node.types[0]
        shape = [nominal(d, sizes) for d in type.shape]
        if type.dtype is DType.F32:
            feed[node.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            feed[node.name] = rng.integers(0, 100, shape).astype(type.dtype.numpy)
    return feed


def difference(
    wanted: Mapping[str, Array], given: Mapping[str, Array], tolerance: float = TOLERANCE
) -> str | None:
    """Where results differ by more than the tolerance times the largest; NaN and ∞ in place."""
    for name, y in wanted.items():
        z = given[name]
        if y.shape != z.shape:
            return f"{name} was {y.shape}, is {z.shape}"
        if not np.array_equal(np.isnan(y), np.isnan(z)):
            return f"{name} has NaN at other places"
        finite = np.isfinite(y)
        if not np.array_equal(y[~finite], z[~finite], equal_nan=True):
            return f"{name} has infinities at other places"
        gap = np.abs(y[finite] - z[finite]).max(initial=0.0)
        scale = max(1e-30, float(np.abs(y[finite]).max(initial=0.0)))
        if not gap <= tolerance * scale:
            return f"{name} differs by {gap / scale:.1e} of its largest element"
    return None
