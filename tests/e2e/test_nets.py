"""Whole public nets: they import, compile, and agree with Caffe at the sizes given."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netc
from tests.conftest import shared_or_none

ROOT = shared_or_none()
NETS = sorted((ROOT / "nets").glob("*.prototxt")) if ROOT else []
GOLDENS = sorted((ROOT / "nets/goldens").glob("*.json")) if ROOT else []
COMPILE_AT_LEAST = 21
pytestmark = pytest.mark.skipif(not NETS, reason="the shared folder with public nets is not here")


def seeded() -> Any:
    """The module that makes weights and inputs by rule."""
    assert ROOT is not None
    spec = importlib.util.spec_from_file_location("seeded", ROOT / "nets/seeded.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("about", GOLDENS, ids=lambda p: p.stem)
def test_whole_net(about: Path) -> None:
    case, blobs = json.loads(about.read_text()), np.load(about.with_suffix(".npz"))
    prototxt = about.parent.parent / f"{about.stem}.prototxt"
    weights = seeded().caffemodel(case["parameters"])
    graph = netc.from_caffe(prototxt, weights, phase=case["phase"].lower(), shapes=case["inputs"])
    exe = netc.compile(graph, outputs=list(case["outputs"]), threads=2)
    out = exe({name: seeded().feed(name, shape) for name, shape in case["inputs"].items()})
    for blob, shape in case["outputs"].items():
        got = out[blob]
        assert list(got.shape) == shape
        flat = got.reshape(-1)
        index = f"idx|{blob}"
        if index in blobs:
            flat = flat[blobs[index]]
        want = blobs[f"out|{blob}"].reshape(-1)
        bound = 1e-4 * max(float(np.abs(want).max()), 1e-30)
        assert float(np.abs(flat - want).max()) <= bound, blob


def test_most_nets_compile_and_the_rest_say_why() -> None:
    compiled, refused = [], {}
    for path in NETS:
        try:
            graph = netc.from_caffe(path)
        except netc.NetcError as error:
            refused[path.stem] = error
            continue
        assert all(t.shape is not None for n in graph.nodes for t in n.types)
        compiled.append(path.stem)
    assert len(compiled) >= COMPILE_AT_LEAST, {k: str(v) for k, v in refused.items()}
    for error in refused.values():
        assert all(d.span.line for d in error.diagnostics)
