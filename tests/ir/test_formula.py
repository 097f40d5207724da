"""Formulas of users: read, shown, evaluated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import GraphError
from netc.ir.formula import Apply, Number, Operand, Tree, evaluate, operands, parse, show
from netc.ir.scalar import NumPy, S


def value(text: str, *xs: float) -> float:
    b = NumPy(np.float64)
    return float(evaluate(parse(text), [S(b, np.float64(x)) for x in xs]).h)


@pytest.mark.parametrize(
    ("text", "xs", "want"),
    [
        ("x0 - x1 - 1", (5, 2), 2),
        ("x0 - (x1 - 1)", (5, 2), 4),
        ("x0 / x1 / 2", (8, 2), 2),
        ("-x0 * 2 + 3", (1,), 1),
        ("2 * -x0", (1,), -2),
        ("--x0", (4,), 4),
        ("max(x0, min(x1, 2))", (1, 5), 2),
        ("select(x0 >= 2, 10, -x0)", (1,), -1),
        ("pow(x0, 2) + abs(x1)", (3, -1), 10),
        ("1e1 + .5 + 2.", (0,), 12.5),
        ("sigmoid(0) + relu(-1) + floor(1.5)", (0,), 1.5),
    ],
)
def test_values(text: str, xs: tuple[float, ...], want: float) -> None:
    assert value(text, *xs) == want


@st.composite
def trees(draw: st.DrawFn, depth: int = 4) -> Tree:
    if depth == 0 or draw(st.booleans()):
        if draw(st.booleans()):
            return Operand(draw(st.integers(0, 3)))
        return Number(draw(st.floats(0, allow_nan=False)) + 0.0)
    fn = draw(st.sampled_from(["+", "-", "*", "/", "neg", "exp", "max", "select"]))
    count = {"neg": 1, "exp": 1, "select": 3}.get(fn, 2)
    parts = [draw(trees(depth - 1)) for _ in range(count)]
    if fn == "neg" and isinstance(parts[0], Apply) and parts[0].fn == "neg":
        return parts[0]
    if fn == "select":
        parts[0] = Apply("<", (parts[0], draw(trees(depth - 1))))
    return Apply(fn, tuple(parts))


@given(trees())
@settings(max_examples=300, deadline=None)
def test_what_is_shown_reads_back(tree: Tree) -> None:
    assert parse(show(tree)) == tree
    assert operands(tree) <= 4


def test_names_of_operands() -> None:
    assert show(parse("a * (b + 1.0)", names=("a", "b"))) == "x0 * (x1 + 1)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it ends early"),
        ("x0 +", "it ends early"),
        ("x0 x1", "'x1' fits nowhere"),
        ("(x0", "it ends early"),
        ("x0)", "')' fits nowhere"),
        ("sinus(x0)", "no 'sinus'"),
        ("y", "no 'y'"),
        ("max(x0)", "max takes 2 arguments, not 1"),
        ("x0 < 1", "'<' fits nowhere"),
        ("select(x0, 1, 2)", "',' where '<' fits"),
        ("x0 $ 1", "'$' fits nowhere"),
        ("(" * 60 + "x0" + ")" * 60, "nested deeper"),
        ("+".join(["x0"] * 300), "more than 200 operators"),
        (" " * 20_000 + "x0", "characters"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_a_close_name_is_offered() -> None:
    with pytest.raises(GraphError, match="did you mean sigmoid"):
        parse("sigmod(x0)")


@given(st.text("x01.+-*/()<>=, maxselect", max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_is_a_formula_or_an_error(text: str) -> None:
    try:
        tree = parse(text)
    except GraphError:
        return
    assert parse(show(tree)) == tree
