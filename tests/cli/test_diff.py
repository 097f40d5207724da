"""netc diff: two models of one net, value by value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from hypothesis import HealthCheck, given, settings

import netc as package
from netc.cli.values import Model, gap, run
from netc.compiler import Options, lower
from netc.ir.interpret import interpret
from netc.runtime.driver import GpuOptions
from tests.strategies import feeds, graphs

Invoke = Callable[..., Result]
CHAIN = """\
net chain(data: f32[N, 4, 6, 6]) -> prob {
  x = data |> conv(8, 3, name="c1") |> relu(name="r1")
  x = x |> conv(8, 3, name="c2") |> relu(name="r2")
  prob = x |> fc(5, name="f") |> softmax
}
"""


def rows(text: str) -> Mapping[str, list[str]]:
    """The table's cells by value."""
    lines = [line.split() for line in text.splitlines() if "f32[" in line]
    return {name: cells for name, *cells in lines}


@pytest.fixture
def chain(folder: Path) -> Path:
    (folder / "chain.net").write_text(CHAIN)
    return folder / "chain.net"


def test_equal_models(netc: Invoke, chain: Path) -> None:
    netc("compile", chain, "-o", "a.bin")
    netc("compile", chain, "--no-optimize", "-o", "b.bin")
    shown = netc("diff", "a.bin", "a.bin", "--batch", "3").output
    assert "a.bin and a.bin give the same in all 4 values" in shown
    assert all(cells[1] == "0.0e+00" and cells[-1] != "grows" for cells in rows(shown).values())
    shown = netc("diff", "a.bin", "b.bin").output
    assert list(rows(shown)) == ["r1", "r2", "f", "prob"]
    assert all(float(cells[2]) < 1e-6 for cells in rows(shown).values())


def test_where_an_error_begins(netc: Invoke, chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton compiles for GPUs")
    monkeypatch.setenv("NETC_GPU", "interpret")
    for name, *words in (("high", "high"), ("low", "high", "c2=low")):
        given = [w for p in words for w in ("--precision", p)]
        netc("compile", chain, "--target", "cuda", "--arch", "ptx", *given, "-o", f"{name}.bin")
    netc("compile", chain, "-o", "cpu.bin")
    np.save("x.npy", np.random.default_rng(1).normal(size=(2, 4, 6, 6)).astype(np.float32))
    for first in ("high", "cpu"):
        shown = netc("diff", f"{first}.bin", "low.bin", "--input", "data=x.npy").output
        found = rows(shown)
        assert [name for name, cells in found.items() if cells[-1] == "grows"] == ["r2"]
        assert "it first grows in r2" in shown
        assert float(found["r1"][2]) < 1e-6 < 1e-4 < float(found["r2"][2]) < 1e-2
        assert float(found["r2"][3]) < 1e-6  # the first model's own error
        assert 1e-4 < float(found["r2"][4]) < 1e-2


def test_what_does_not_fit(netc: Invoke, chain: Path, model: Path) -> None:
    netc("compile", chain, "-o", "a.bin")
    shown = netc("diff", "a.bin", model, code=2).output
    assert "the inputs differ: data: f32[N,4,6,6] and data: f32[N,1,8,8]" in shown
    assert "no input 'x'" in netc("diff", "a.bin", "a.bin", "-i", "x=x.npy", code=7).output
    assert "is not a model.bin" in netc("diff", "a.bin", chain, code=8).output


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(graphs(max_nodes=6))
def test_every_value_of_random_graphs(graph: package.Graph) -> None:
    """Observed values are those of the reference; the model's own results do not change."""
    model = Model(lower(graph, Options()).graph, Options())
    feed, values = feeds(graph), model.values()
    got = run(model, list(values), feed, GpuOptions())
    for name, y in package.compile(graph)(**feed).items():
        assert np.array_equal(got[name], y, equal_nan=True), name
    for name, y in interpret(replace(model.graph, outputs=values), feed).items():
        assert np.allclose(got[name], y, 1e-3, 1e-3 * float(np.abs(y).max(initial=0))), name


def test_gap() -> None:
    nan, inf = float("nan"), float("inf")
    assert gap(np.array([1.0, nan, inf]), np.array([2.0, nan, inf])) == (1.0, 0.5)
    assert gap(np.array([nan]), np.array([1.0])) == (inf, inf)
    assert gap(np.array([]), np.array([])) == (0.0, 0.0)
    assert gap(np.array([1.0]), np.array([0.0])) == (1.0, inf)
