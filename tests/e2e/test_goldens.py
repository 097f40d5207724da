"""Caffe's own results for single layers and small nets, through compile, save, load and run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import netc
from tests.conftest import shared_or_none

ROOT = shared_or_none()
CASES = sorted(p.name for p in (ROOT / "caffe/goldens").iterdir()) if ROOT else []


def agree(got: np.ndarray, want: np.ndarray) -> None:
    """The rule of the goldens: max|a − b| ≤ 1e-4 · max(1, max|b|)."""
    assert got.shape == want.shape
    if want.size:
        bound = 1e-4 * max(1.0, float(np.abs(want).max()))
        assert float(np.abs(got - want).max()) <= bound


@pytest.mark.skipif(not CASES, reason="the shared folder with Caffe's goldens is not here")
@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "as-written"])
@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, optimize: bool, tmp_path: Path) -> None:
    assert ROOT is not None
    folder = ROOT / "caffe/goldens" / name
    case = json.loads((folder / "case.json").read_text())
    blobs = np.load(folder / "blobs.npz")
    feed = {k[3:]: blobs[k] for k in blobs if k.startswith("in|")}
    want = {k[4:]: blobs[k] for k in blobs if k.startswith("out|")}
    graph = netc.from_caffe(
        folder / "net.prototxt", folder / "net.caffemodel", phase=case["phase"].lower()
    )
    wanted = [n for n in want if n in graph.outputs or n in graph.by_name]
    assert set(case["outputs"]) <= set(wanted)
    exe = netc.compile(graph, outputs=wanted, optimize=optimize)
    exe.save(tmp_path / "model.bin")
    for threads in (1, 2):
        run = netc.load(tmp_path / "model.bin", threads=threads)
        run.poison()
        out = run({k: v for k, v in feed.items() if k in run.inputs})
        for blob in wanted:
            agree(out[blob], want[blob])
