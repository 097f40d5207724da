"""Caffe's own results for single layers and small nets, where the shared folder is."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

import netc
from netc.ir.graph import Graph
from netc.ir.op import Array
from tests.conftest import shared_or_none

ROOT = shared_or_none()
NAMES = sorted(p.name for p in (ROOT / "caffe/goldens").iterdir()) if ROOT else []
MISSING = "the shared folder with Caffe's goldens is not here"


@dataclass(frozen=True)
class Golden:
    """A net that gives every blob Caffe computed, its inputs, and those blobs."""

    graph: Graph
    feed: dict[str, Array]
    want: dict[str, Array]


def golden(name: str) -> Golden:
    """One of NAMES."""
    assert ROOT is not None
    folder = ROOT / "caffe/goldens" / name
    case = json.loads((folder / "case.json").read_text())
    blobs = np.load(folder / "blobs.npz")
    net, weights = folder / "net.prototxt", folder / "net.caffemodel"
    graph = netc.from_caffe(net, weights, phase=case["phase"].lower())
    want = {k[4:]: blobs[k] for k in blobs if k.startswith("out|")}
    known = [n for n in want if n in graph.outputs or n in graph.by_name]
    assert set(case["outputs"]) <= set(known)
    graph = graph.with_outputs(known)
    feed = {n.name: blobs[f"in|{n.name}"] for n in graph.inputs}
    return Golden(graph, feed, {n: want[n] for n in known})


def bound(want: Array) -> float:
    """The rule of the goldens: max|a − b| ≤ 1e-4 · max(1, max|b|)."""
    return 1e-4 * max(1.0, float(np.abs(want).max(initial=0.0)))


def agree(got: Array, want: Array) -> None:
    """Assert that rule."""
    assert got.shape == want.shape
    assert float(np.abs(got - want).max(initial=0.0)) <= bound(want)
