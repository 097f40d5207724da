"""Caffe's own results for single layers and small nets, through compile, save, load and run."""

from __future__ import annotations

from pathlib import Path

import pytest

import netc
from tests.goldens import MISSING, NAMES, agree, golden


@pytest.mark.skipif(not NAMES, reason=MISSING)
@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "as-written"])
@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str, optimize: bool, tmp_path: Path) -> None:
    case = golden(name)
    netc.compile(case.graph, optimize=optimize).save(tmp_path / "model.bin")
    for threads in (1, 2):
        run = netc.load(tmp_path / "model.bin", threads=threads)
        run.poison()
        out = run({k: v for k, v in case.feed.items() if k in run.inputs})
        for blob, want in case.want.items():
            agree(out[blob], want)
