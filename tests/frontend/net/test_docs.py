"""What docs/LANGUAGE.md shows is what the language takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from netc.frontend.net.elaborate import parse_net
from netc.frontend.net.layers import LAYERS
from netc.frontend.net.mistakes import KEYWORDS
from netc.ir.formula import FUNCTIONS
from netc.ir.ops.sources import KINDS

TEXT = (Path(__file__).parents[3] / "docs" / "LANGUAGE.md").read_text("utf-8")
NETS = re.findall(r"```net\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("text", NETS, ids=[re.findall(r"net (\w+)\(", t)[0] for t in NETS])
def test_it_parses(text: str) -> None:
    assert parse_net(text, warn=lambda d: None).outputs


def test_nothing_is_left_out() -> None:
    words = {f.__name__.rstrip("_") for f in LAYERS} | {*KEYWORDS, *KINDS, *FUNCTIONS}
    assert [w for w in sorted(words) if not re.search(rf"\b{w}\b", TEXT)] == []


def test_the_python_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)\nexe = ", TEXT, re.DOTALL)
    found: dict[str, object] = {}
    exec(compile(code, "LANGUAGE.md", "exec"), found)
    assert list(found["lenet"].outputs) == ["prob"]  # type: ignore[attr-defined]
