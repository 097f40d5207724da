"""Symbols from shapes: N of `2*N`, H of `4*H+1`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.errors import GraphError
from netc.ir.dims import evaluate, parse_dim, sym
from netc.ir.graph import Builder
from netc.ir.solve import Line, line_of, rounding, sizes_where, solved
from netc.ir.types import f32

H = sym("H")


@given(st.integers(1, 50), st.integers(-60, 60), st.integers(0, 200))
def test_a_line_is_solved_for_its_symbol(factor: int, rest: int, value: int) -> None:
    line = line_of(factor * H + rest)
    assert line == Line("H", factor, rest)
    assert line.solve(factor * value + rest) == value


@given(st.integers(2, 50), st.integers(-60, 60), st.integers(-100, 500))
def test_what_no_whole_number_gives_has_no_solution(factor: int, rest: int, size: int) -> None:
    found = Line("H", factor, rest).solve(size)
    assert (found is None) == (size not in range(rest, 10_000, factor))


@given(st.integers(1, 50), st.integers(-60, 60), st.integers(0, 500))
def test_the_nearest_is_the_least_that_is_not_smaller(factor: int, rest: int, size: int) -> None:
    line = Line("H", factor, rest)
    near = line.solve_near(size)
    assert factor * near + rest >= size
    assert near == 0 or factor * (near - 1) + rest < size


@pytest.mark.parametrize("text", ["7", "H*W", "H+W", "H//2", "2*(H//2)", "3-H", "H*H", "min(H,2)"])
def test_no_line(text: str) -> None:
    assert line_of(parse_dim(text)) is None


def test_symbols_are_known_by_the_first_size_that_says_them() -> None:
    types = [f32["N//2", "4*H"], f32["2*N", "H"]]
    assert solved(types, [(1, 8), (6, 9)]) == {"H": 2, "N": 3}
    assert solved(types, [(1, 7), (5, 9)]) == {"H": 9}
    assert solved([f32["4*H"]], [(8 * sym("K"),)]) == {"H": 2 * sym("K")}


def test_sizes_are_at_least_what_is_asked() -> None:
    sizes = sizes_where([f32["N", 3, "16*H", "W+2"]], lambda axis, _: 224 if axis else 1)
    assert sizes == {"N": 1, "H": 14, "W": 222}


def test_what_rounds_down_is_told() -> None:
    b = Builder()
    x = b.input("x", f32["N", 8, "H"])
    with pytest.raises(GraphError, match="do not fit") as e:
        b.add(x, b.input("y", f32["N", 8, "2*(H//2)"]))
    assert "H//2 rounds down" in e.value.diagnostics[0].help
    assert "`2*H` is a multiple of 2" in e.value.diagnostics[0].help
    assert rounding([4, H, (2 * H + 1) // 3]) == "" or "3*H" in rounding([(2 * H + 1) // 3])
    assert rounding([evaluate(4 * H, {"H": 2})]) == ""
