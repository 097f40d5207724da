"""Comparisons of constants, and `and or not`."""

from __future__ import annotations

import pytest

from netc.errors import GraphError
from netc.frontend.net.elaborate import parse_net


def value(expr: str) -> bool:
    """What a truth value is: whether a layer then has a bias."""
    text = f"net n(x: f32[N, 4]) -> y {{ y = fc(x, 3, bias={expr}) }}"
    g = parse_net(text, "t.net", warn=lambda d: None)
    return [n.name for n in g.params] == ["y.w", "y.b"]


@pytest.mark.parametrize(
    "expr",
    [
        "none == none",
        "1 == 1.0",
        '"same" == "same"',
        "(1, 2) == [1, 2.0]",
        '[f32, "a", none] == [f32, "a", none]',
        "true == (2 < 3)",
        "f32 == f32",
        "f32[3, N] == f32[3, N]",
        "gaussian(0, 1) == gaussian",
        "N + 1 > N",
        "N * 2 - N == N",
        "channels(x) == 4",
        "size(x, 0) == N",
    ],
)
def test_constants_that_are_the_same(expr: str) -> None:
    assert value(expr)
    if "==" in expr:
        assert not value(expr.replace("==", "!="))


@pytest.mark.parametrize(
    "expr",
    [
        "0 == none",
        "false == none",
        "true == 1",
        "false == 0",
        '"1" == 1',
        '"a" == "b"',
        "(1, 2) == (1, 2, 3)",
        "(1, 2) == (2, 1)",
        "(1, true) == (1, 1)",
        "1 == (1,)",
        "f32 == u8",
        "f32[3, 4] == u8[3, 4]",
        "f32[3, 4] == f32[3, 5]",
        "f32[3, 4] == f32[3]",
        "gaussian(0, 1) == gaussian(0, 2)",
        "xavier == msra",
        "x == none",
        "(x, x) == none",
        "N + 1 == N",
    ],
)
def test_constants_that_differ(expr: str) -> None:
    assert not value(expr)
    assert value(expr.replace("==", "!="))


@pytest.mark.parametrize(
    ("expr", "said"),
    [
        ("N == 4", "N == 4 is not known when compiling"),
        ("(N, 1) != (4, 1)", "N != 4 is not known when compiling"),
        ("f32[N] == f32[4]", "N == 4 is not known when compiling"),
        ("4 <= N", "4 <= N is not known when compiling"),
        ("N == 1.5", "the size N meets a fraction"),
        ("x == 3", "`==` does not join tensors"),
        ("x != x", "`!=` does not join tensors"),
        ("(x, x) == (x, x)", "`==` does not join tensors"),
        ("none < 3", "`<` compares numbers, not none"),
        ("true > false", "`>` compares numbers, not true"),
        ('"a" <= "b"', '`<=` compares numbers, not "a"'),
        ("(1, 2) < 3", "`<` compares numbers, not (1, 2)"),
    ],
)
def test_what_does_not_compare(expr: str, said: str) -> None:
    with pytest.raises(GraphError) as e:
        value(expr)
    (found,) = e.value.diagnostics
    assert found.message == said
    assert found.span.line == 1


def test_sizes_that_are_given_compare() -> None:
    text = "net n(x: f32[N, 4]) -> y { y = fc(x, 3, bias=N > 2) }"
    for batch in (2, 3):
        g = parse_net(text, "t.net", shapes={"x": (batch, 4)}, warn=lambda d: None)
        assert len(g.params) == batch - 1


@pytest.mark.parametrize("a", [False, True])
@pytest.mark.parametrize("b", [False, True])
@pytest.mark.parametrize("c", [False, True])
@pytest.mark.parametrize(
    "expr",
    [
        "a and b and c",
        "a or b or c",
        "a or b and c",
        "a and b or c",
        "(a or b) and c",
        "not a and b",
        "not a or not b and not c",
        "not (a and b) == c",
        "a == b and b != c",
        "not (not a)",
    ],
)
def test_logic_joins_as_in_python(expr: str, a: bool, b: bool, c: bool) -> None:
    said = {"a": str(a).lower(), "b": str(b).lower(), "c": str(c).lower()}
    text = "".join(said.get(letter, letter) for letter in expr.replace("and", "&"))
    assert value(text.replace("&", "and")) is eval(expr, {}, {"a": a, "b": b, "c": c})


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("false and nope", False),
        ("true or nope == 3", True),
        ("x != none or x", True),
        ("1 == 1 and (false and N == 3 or true)", True),
    ],
)
def test_what_does_not_matter_is_not_looked_at(expr: str, wanted: bool) -> None:
    assert value(expr) is wanted


def test_words_of_logic_are_names_in_backquotes_and_within_longer_names() -> None:
    text = "net n(`or`: f32[2], x.not: f32[2]) -> `and` { `and` = `or` + x.not  not_ = `and` }"
    assert list(parse_net(text).outputs) == ["and"]
