"""Code for every level this machine can run gives right numbers; other code is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import netc
from netc.codegen.cpu.target import runnable
from netc.compiler import Options, build
from netc.errors import UnsupportedCPU
from netc.ir.graph import Graph
from netc.processor import architecture
from netc.runtime.session import executable
from netc.runtime.session import load as load_without_compiler
from tests.e2e.test_random_graphs import RANDOM
from tests.strategies import agree, feeds, graphs, wanted

HERE = [target.name for target in runnable() if not target.quads]
FOREIGN = "aarch64" if architecture() == "x86_64" else "x86-64-v2"
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("level", HERE)
def test_random_graphs(level: str) -> None:
    @settings(RANDOM, max_examples=25)
    @given(graph=graphs(), seed=st.integers(0, 99))
    def agrees(graph: Graph, seed: int) -> None:
        exe = executable(build(graph, Options(cpu=(level,))), 2)
        assert exe.level == level
        exe.poison()
        feed = feeds(graph, seed, None)
        got = exe(feed)
        assert not agree(got, wanted(graph, feed), graph)

    agrees()


@pytest.mark.parametrize("level", HERE)
def test_a_file_with_one_level(level: str, tmp_path: Path) -> None:
    graph = netc.read(EXAMPLES / "lenet.net", weights=EXAMPLES / "lenet.safetensors")
    netc.compile(graph, cpu=["native", level]).save(tmp_path / "both.bin")
    build(graph, Options(cpu=(level,))).save(tmp_path / "one.bin")
    x = np.random.default_rng(0).integers(0, 255, (3, 1, 28, 28)).astype(np.uint8)
    want = netc.interpret(graph, {"data": x})["prob"]
    for name in ("both.bin", "one.bin"):
        exe = netc.load(tmp_path / name, trust=True)
        np.testing.assert_allclose(exe(data=x)["prob"], want, atol=1e-5)
    assert exe.level == level


def test_a_file_for_other_processors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    graph = netc.parse("net a(x: f32[N, 3]) -> y { y = x |> relu }")
    build(graph, Options(cpu=(FOREIGN,))).save(tmp_path / "foreign.bin")
    with pytest.raises(UnsupportedCPU, match=r"(?s)no code fits.*compile the net for this"):
        load_without_compiler(tmp_path / "foreign.bin", trust=True)
    with caplog.at_level(logging.WARNING, "netc"):
        exe = netc.load(tmp_path / "foreign.bin", trust=True)
    assert "recompiled" in caplog.text
    assert (exe(x=np.full((1, 3), -1, np.float32))["y"] == 0).all()
    with pytest.raises(UnsupportedCPU):
        netc.compile(graph, cpu=FOREIGN)
