"""A plan comes back from columns and from JSON as it was; binding gives the numbers it means."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import netc
from netc.errors import ArtifactError, NetcError
from netc.ir.dims import Dim, evaluate, least, most, sym
from netc.ir.plan import Affine, CodeArg, IntArg, Plan, TableArg
from netc.runtime.container import canonical
from netc.runtime.flat_plan import flatten
from netc.runtime.plan_json import plan_from_json, plan_to_json
from netc.runtime.sizes import SizeList, sizes_from_json
from netc.runtime.tables import TableSet

from .handmade import made_plan, make_plan

NET = """
net tiny(data: f32[N, 3, H, W]) -> out {
  x = data |> conv(24, 5, stride=2, pad=2) |> relu |> max_pool(3, stride=2)
  out = concat(x |> conv(16, 1) |> relu, x |> conv(24, 3, pad=1)) |> global_avg_pool |> softmax
}
"""


def again(plan: Plan) -> Plan:
    return plan_from_json(json.loads(canonical(plan_to_json(plan))))


def odd_plan() -> Plan:
    """Sizes and arguments of every kind."""
    plan, n = make_plan(), sym("N")
    odd = most(n // 3, least(n * n - 1, (n + 7) // 2 // 5))
    table = TableArg((Affine((n, odd + 1), (3, -n), 2 * n), Affine((), (), 5)))
    args = (*plan.steps[0].args, CodeArg("gather"), IntArg(odd), table, IntArg(-(1 << 62)))
    first = replace(plan.steps[0], args=args, barrier=False, device="cpu:1", name="ü\n")
    return replace(plan, steps=(first, *plan.steps[1:]))


@pytest.mark.parametrize("make", [make_plan, odd_plan, made_plan])
def test_round_trip(make: object) -> None:
    plan = make()  # type: ignore[operator]
    assert flatten(plan) == plan
    assert flatten(plan).steps == plan.steps
    assert again(plan) == plan
    assert plan_to_json(again(plan)) == plan_to_json(plan)
    assert hash(again(plan)) == hash(flatten(plan))
    assert again(plan) != replace(plan, steps=plan.steps[:1])
    assert (again(plan) == replace(plan, setup=None)) == (plan.setup is None)


@pytest.mark.filterwarnings("ignore")
def test_round_trip_of_a_compiled_net() -> None:
    plan = netc.compile(netc.parse(NET)).plan
    assert len(plan.steps) > 3
    assert again(plan) == plan


LEAVES = st.one_of(st.integers(-9, 99), st.sampled_from("NHW").map(sym))


def grown(inner: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
    return st.one_of(
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: a - b, inner, inner),
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(lambda a, b: a // b, inner, st.integers(1, 9)),
        st.builds(least, inner, inner),
        st.builds(most, inner, inner),
    )


@given(size=st.recursive(LEAVES, grown, max_leaves=6), n=st.integers(1, 40), h=st.integers(1, 40))
def test_sizes(size: Dim, n: int, h: int) -> None:
    rows = SizeList()
    place = rows.of(size)
    back = sizes_from_json(json.loads(canonical(rows.sizes.rows)))
    known = {"N": n, "H": h, "W": 17}
    assert back[place] == size
    assert back.numbers(known)[place] == evaluate(size, known)
    assert SizeList(back.rows).of(size) == place


def test_sizes_share_their_parts() -> None:
    """Rows are computed one by one, however long what they stand for is when written out."""
    rows: list[Any] = ["N", 3]
    for last in range(1, 200, 2):
        rows += [[[1, last, last], [1, 0]], ["min", last + 1, 1]]
    sizes = sizes_from_json(rows)
    assert sizes.numbers({"N": 5})[-1] == 3
    with pytest.raises(ArtifactError, match="a size of moderate length"):
        sizes[len(sizes) - 1]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (["N", [[1 << 40, 0, 0]]], "exceeds 64 bits"),
        (["N", [[-(1 << 62), 0]], [[1, 1, 1]]], "exceeds 64 bits"),
        (["N", 0, ["floordiv", 0, 1]], "divided by 0"),
        (["N", "W"], "no input says what W is"),
    ],
)
def test_sizes_that_are_no_numbers(rows: list[Any], why: str) -> None:
    with pytest.raises(NetcError, match=why):
        sizes_from_json(rows).numbers({"N": 1 << 20})


SMALL = st.lists(st.tuples(st.integers(0, 5), st.integers(-99, 99)), max_size=4)


@given(parts=st.lists(st.tuples(SMALL, st.integers(-999, 999)), max_size=3))
def test_tables(parts: list[tuple[list[tuple[int, int]], int]]) -> None:
    """base + Σ index[i] · stride[i], row-major, part after part."""
    rows = tuple((tuple(d for d, _ in p), tuple(s for _, s in p), base) for p, base in parts)
    wanted = [
        base + sum(int(i) * s for i, s in zip(index, strides, strict=True))
        for dims, strides, base in rows
        for index in np.ndindex(*dims)
    ]
    tables = TableSet([rows, rows])
    filled = tables.fill()
    assert tables.starts[0] == tables.starts[1]
    assert filled[tables.starts[0] :][: len(wanted)].tolist() == wanted
