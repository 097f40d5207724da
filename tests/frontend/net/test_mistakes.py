"""Wrong texts and exactly what is said of them: `mistakes.txt` holds both."""

from __future__ import annotations

from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.frontend.net.elaborate import parse_net
from netc.frontend.net.words import ELSEWHERE, words

TABLE = Path(__file__).with_name("mistakes.txt").read_text("utf-8")
CASES = [tuple(case.split("\n" + "-" * 80 + "\n")) for case in TABLE.split("\n" + "=" * 80 + "\n")]


@pytest.mark.parametrize(("text", "said"), CASES, ids=[c[1].split("\n")[0] for c in CASES])
def test_mistake(text: str, said: str) -> None:
    with pytest.raises(NetcError) as e:
        parse_net(text + "\n", "t.net")
    assert str(e.value) == said.rstrip("\n")


def test_there_are_enough() -> None:
    assert len(CASES) >= 60


def test_all_mistakes_of_a_file_are_told_at_once() -> None:
    text = """
    block b(x) { return cnov(x, 3) }
    net n(x: f32[N, 3, 8, 8]) -> y, z {
      a = conv(x, 4, 3, strid=2)
      c = relu(a)
      d = x |> b |> relu
      y = conv(x, 4)
    }
    """
    with pytest.raises(NetcError) as e:
        parse_net(text, "t.net")
    lines = [d.span.line for d in e.value.diagnostics]
    assert lines == [4, 2, 7, 3], str(e.value)


def test_all_mistakes_of_grammar_are_told_at_once() -> None:
    text = """
    net n(x: f32[N, 3, 8, 8]) -> y {
      a = conv(x, 4 3)
      b = relu(a;
               slope=1)
      repeat = 5
      c = relu(x
        |> |> tanh)
      y = x |> 3
    }
    """
    with pytest.raises(NetcError) as e:
        parse_net(text, "t.net")
    assert [d.span.line for d in e.value.diagnostics] == [3, 4, 6, 8, 9], str(e.value)


@pytest.mark.parametrize(("there", "here"), ELSEWHERE.items())
def test_what_other_frameworks_call_an_op_is_one_here(there: str, here: str) -> None:
    assert there not in words()
    assert here.partition("(")[0] in words()
