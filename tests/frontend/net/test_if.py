"""`if`: which branch is taken, what is known after it, and how it ends a block."""

from __future__ import annotations

import re

import pytest

from netc.errors import GraphError, NetcError, ParseError
from netc.frontend.net.elaborate import parse_net
from netc.ir.graph import Graph

CHOICE = """
if k == 1 { y = relu(x) }
else if k == 2 or k == 3 { y = tanh(x) let k = 10 * k }
else if k > 3 { if k > 4 { y = exp(x) } else { y = abs(x) } }
else { y = sigmoid(x) }
"""


def read(text: str, **options: object) -> Graph:
    return parse_net(text, "t.net", warn=lambda d: None, **options)


def net(body: str) -> str:
    return f"net n(x: f32[N, 4, H, 8]) -> y {{ {body} }}"


def ops(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes if n.op.name not in ("input", "param")]


def said(text: str) -> list[tuple[str, str]]:
    """Each mistake of a text, with its help."""
    with pytest.raises(NetcError) as e:
        read(text)
    assert all(d.span.line for d in e.value.diagnostics)
    return [(d.message, d.help) for d in e.value.diagnostics]


@pytest.mark.parametrize(
    ("k", "op"), [(0, "sigmoid"), (1, "relu"), (2, "tanh"), (3, "tanh"), (4, "abs"), (5, "exp")]
)
def test_the_first_branch_whose_condition_holds_is_taken(k: int, op: str) -> None:
    assert ops(read(f"let k = {k}\n{net(CHOICE)}")) == [op]


def test_no_branch_may_be_taken() -> None:
    assert ops(read(net("y = relu(x) if false { y = tanh(y) } else if 1 > 2 { y = exp(y) }"))) == [
        "relu"
    ]


def test_conditions_behind_the_one_that_holds_are_not_looked_at() -> None:
    assert ops(read(net("if true { y = relu(x) } else if nope(x) == 3 { }"))) == ["relu"]


def test_constants_bound_in_the_branch_are_known_after_it() -> None:
    body = 'let a = 2 if a == 2 { let a = 3 let b = a + 1 } y = conv(x, a, 1, name="c{b}")'
    g = read(net(body))
    assert [str(n.types[0]) for n in g.params] == ["f32[3,4,1,1]", "f32[3]"]
    assert g.params[0].name == "c4.w"


def test_it_asks_for_each_turn_of_a_repeat() -> None:
    body = "y = x repeat 4 as i { if i % 2 == 0 { y = relu(y) } else { y = tanh(y) } }"
    assert ops(read(net(body))) == ["relu", "tanh", "relu", "tanh"]


def test_sizes_that_are_known_decide() -> None:
    body = "if size(x, 2) > 16 and H > 16 { y = relu(x) } else { y = tanh(x) }"
    for height, op in ((16, "tanh"), (17, "relu")):
        assert ops(read(net(body), shapes={"x": ("N", 4, height, 8)})) == [op]
    with pytest.raises(GraphError, match="H > 16 is not known when compiling"):
        read(net(body))


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("unit(x)", ["relu"]),
        ("unit(x, none)", ["relu"]),
        ("unit(x, x)", ["add", "relu"]),
        ("unit(x, skip=tanh(x))", ["tanh", "add", "relu"]),
        ("unit(x, 3)", ["affine", "relu"]),
    ],
)
def test_a_tensor_may_be_given_or_not(call: str, wanted: list[str]) -> None:
    block = "block unit(x, skip=none) { if skip != none { x = x + skip } return relu(x) }\n"
    assert ops(read(block + net(f"y = {call}"))) == wanted


@pytest.mark.parametrize(("given", "names"), [("", ["y/fc.w", "y/fc.b"]), (", w", ["w"])])
def test_none_stands_for_what_an_op_is_not_given(given: str, names: list[str]) -> None:
    block = """
    block unit(x, w=none, axes=none, name=none) {
      if w == none { let bias = true } else { let bias = false }
      return fc(x, 3, w=w, b=none, bias=bias, name=name)
    }
    net n(x: f32[N, 4]) -> y { WEIGHTS y = unit(xGIVEN) }
    """
    weights = "w = param(f32[3, 4])" if given else ""
    g = read(block.replace("WEIGHTS", weights).replace("GIVEN", given))
    assert [n.name for n in g.params] == names


@pytest.mark.parametrize(("given", "layers"), [("", ["f", "y/fc"]), (", f", ["f"])])
def test_a_layer_to_share_may_be_given_or_not(given: str, layers: list[str]) -> None:
    block = "block unit(x, layer=none) { return fc(x, 4, params=layer) }\n"
    g = read(block + f"net n(x: f32[N, 4]) -> y {{ f = fc(x, 4) y = unit(f{given}) }}")
    assert [n.name for n in g.params] == [f"{name}.{p}" for name in layers for p in "wb"]


RETURNS = """
block unit(x, k) {
  if k == 1 { return relu(x) }
  x = tanh(x)
  if k == 2 { on cpu { x = exp(x) } return x } else if k == 3 { if k > 2 { return abs(x) } }
  else if k == 4 { x = x + 1 }
  return sigmoid(x)
}
"""


@pytest.mark.parametrize(
    ("k", "wanted"),
    [
        (1, ["relu"]),
        (2, ["tanh", "exp"]),
        (3, ["tanh", "abs"]),
        (4, ["tanh", "affine", "sigmoid"]),
        (5, ["tanh", "sigmoid"]),
    ],
)
def test_a_return_in_a_branch_ends_the_block(k: int, wanted: list[str]) -> None:
    assert ops(read(RETURNS + net(f"y = unit(x, {k})"))) == wanted


def test_the_path_that_is_taken_has_a_return() -> None:
    block = "block unit(x, k) { if k { return relu(x) } else { x = tanh(x) } }\n"
    assert ops(read(block + net("y = unit(x, true)"))) == ["relu"]
    ((message, help),) = said(block + net("y = unit(x, false)"))
    assert message == "block `unit` does not end with `return`"
    assert help.startswith("in the branches of `if` that were taken there is none")
    assert "block `unit` is called at t.net:2" in help


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ("if k { return x } x = relu(x)", ["block `unit` does not end with `return`"]),
        ("if k { x = relu(x) } else { }", ["block `unit` does not end with `return`"]),
        ("if k { return x x = relu(x) } return x", ["`return` ends a block"]),
        ("repeat 2 { if k { return x } } return x", ["`return` ends a block"]),
        ("if k { on cpu { return x } } return x", ["`return` ends a block"]),
    ],
)
def test_where_a_return_does_not_stand(body: str, messages: list[str]) -> None:
    text = f"block unit(x, k=true) {{ {body} }}\n{net('y = relu(x)')}"
    assert [message for message, _ in said(text)] == messages


def test_a_net_has_no_return_in_a_branch_either() -> None:
    for taken in ("true", "false"):
        messages = said(net(f"if {taken} {{ return x }} y = relu(x)"))
        assert messages == [("a net has no `return`", "what a net gives is named after `->`")]


MISSED = "it is bound in a branch of `if` that was not taken, at t.net:1:"


@pytest.mark.parametrize(
    "body",
    [
        "if false { z = relu(x) } y = tanh(z)",
        "if true { } else { z = relu(x) } y = tanh(z)",
        "if false { } else if false { a, z = split(x, 2) } y = tanh(z)",
        "if false { on cpu { if true { z = relu(x) } } } y = tanh(z)",
        "if false { let z = 3 } y = conv(x, z, 1)",
        'if false { let z = 3 } y = tanh(x, name="{z}")',
        "if false { y = relu(x) }",
    ],
)
def test_a_name_of_a_branch_that_was_not_taken(body: str) -> None:
    ((_, help),) = said(net(body))
    assert help.startswith(MISSED)
    column = int(help.removeprefix(MISSED))
    assert re.match(r"[zy]\b", net(body)[column - 1 :])


def test_a_name_that_is_bound_all_the_same_is_no_mistake() -> None:
    assert ops(read(net("z = tanh(x) if false { z = relu(x) } y = exp(z)"))) == ["tanh", "exp"]
    body = "repeat 2 as i { if i == 1 { z = relu(x) } } y = exp(z)"
    assert ops(read(net(body))) == ["relu", "exp"]


def test_mistakes_in_a_branch_are_told_when_it_is_taken() -> None:
    text = "if {} {{ y = cnov(x, 3) z = x + nope }} else {{ y = relu(x) }}"
    assert ops(read(net(text.format("false")))) == ["relu"]
    messages = [message for message, _ in said(net(text.format("true")))]
    assert messages == ["there is no op or block `cnov`", "nothing is named `nope` here"]
    with pytest.raises(ParseError, match="unexpected `x`"):
        read(net("y = relu(x) if false { y = relu(x x) }"))


def test_what_a_wrong_condition_leaves_open_says_nothing_more() -> None:
    block = "block unit(x) { if x { return x } else { y = relu(x) } return y }\n"
    body = "if nope { y = relu(x) let k = 3 } else { z = tanh(x) } a = conv(z, k, 1) + unit(x)"
    messages = [message for message, _ in said(block + net(body))]
    assert messages == [
        "nothing is named `nope` here",
    ]
    (message,) = [message for message, _ in said(block + net("y = tanh(unit(x))"))]
    assert message == "`if` takes a truth value, not a tensor f32[N,4,H,8]"


def test_all_mistakes_around_an_if_that_does_not_parse_are_told() -> None:
    text = """
    net n(x: f32[N, 4]) -> y {
      if x > {
        x = relu(x)
      } else {
        x = tanh(x)
      }
      if true { x = relu(x x) } else {
        x = tanh(x x)
      }
      y = relu(x x)
    }
    """
    with pytest.raises(ParseError) as e:
        read(text)
    assert [d.span.line for d in e.value.diagnostics] == [3, 8, 9, 11]


def test_its_words_are_names_in_backquotes() -> None:
    g = read("net n(`if`: f32[2], if.b: f32[2]) -> `else` { `else` = `if` + if.b iffy = `else` }")
    assert list(g.outputs) == ["else"]
