"""What the tests of passes share."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np

from netc.ir.graph import Graph
from netc.ir.interpret import initial_weights, interpret
from netc.ir.op import Array
from netc.ir.text import parse, show
from netc.ir.verify import verify
from netc.passes.base import Context, Pass
from netc.passes.checking import difference, feed_for


def graph(text: str, **weights: Array) -> Graph:
    """The graph of an IR text, dedented; parameters without weights are drawn from a normal."""
    first = parse(textwrap.dedent(text).strip())
    rng = np.random.default_rng(7)
    given: dict[str, Array] = {}
    for name, array in initial_weights(first).items():
        drawn = rng.standard_normal(array.shape)
        given[name] = np.asarray(weights.get(name, drawn), np.float32)
    return parse(textwrap.dedent(text).strip(), weights=given)


def run(each: Pass, before: Graph) -> tuple[Graph, Context]:
    """The verified graph after a pass, with the same results, and what the pass noted."""
    ctx = Context()
    after = each.run(before, ctx)
    verify(after)
    feed = feed_for(before)
    assert difference(interpret(before, feed), interpret(after, feed)) is None
    return after, ctx


def check(each: Pass, before: str, after: str, **weights: Array) -> None:
    """The pass turns one IR text into the other, and its result is left alone by itself."""
    got, _ = run(each, graph(before, **weights))
    assert show(got) == show(parse(textwrap.dedent(after).strip()))
    assert each.run(got, Context()) is got


def unchanged(each: Pass, text: str, why: str = "", **weights: Array) -> None:
    """The pass returns the same object, and notes a reason that contains `why`."""
    before = graph(text, **weights)
    after, ctx = run(each, before)
    assert after is before
    assert not why or any(why in r.reason for r in ctx.refusals), ctx.refusals


def same(before: Graph, after: Graph, feed: Mapping[str, Array] | None = None) -> str | None:
    """Why two graphs do not give the same, None when they do."""
    given = feed_for(before) if feed is None else feed
    return difference(interpret(before, given), interpret(after, given))
