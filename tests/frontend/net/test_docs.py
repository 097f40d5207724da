"""What docs/LANGUAGE.md shows is what the language takes."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

import netc
from netc.frontend.net.elaborate import parse_net
from netc.frontend.net.layers import LAYERS
from netc.frontend.net.mistakes import KEYWORDS
from netc.ir.formula import FUNCTIONS
from netc.ir.ops.sources import KINDS

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "LANGUAGE.md").read_text("utf-8")
NETS = re.findall(r"```net\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("text", NETS, ids=[re.findall(r"net (\w+)\(", t)[0] for t in NETS])
def test_it_parses(text: str) -> None:
    assert parse_net(text, warn=lambda d: None).outputs


def test_nothing_is_left_out() -> None:
    words = {f.__name__.rstrip("_") for f in LAYERS} | {*KEYWORDS, *KINDS, *FUNCTIONS}
    assert [w for w in sorted(words) if not re.search(rf"\b{w}\b", TEXT)] == []


def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the trained weights fit it: those of `examples/`, where it is run. Nothing is compiled,
    since it asks for a GPU."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    weighted = partial(netc.with_weights, strict=True)
    monkeypatch.setattr(netc, "with_weights", weighted)
    monkeypatch.setattr(netc, "compile", lambda graph: graph)
    monkeypatch.chdir(ROOT / "examples")
    found: dict[str, netc.Graph] = {}
    exec(compile(code, "LANGUAGE.md", "exec"), found)
    assert list(found["exe"].outputs) == ["prob"]
    assert set(found["exe"].weights) == {n.name for n in found["lenet"].params}
