"""What Caffe itself computed, against the import and the reference interpreter."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.frontend.caffe import from_caffe
from netc.ir.graph import Graph
from netc.ir.interpret import interpret

from .files import read

TOLERANCE = 1e-4  # of max(1, max|b|) for layers: what the goldens' README calls agreement


def part(blobs: Any, kind: str) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays whose keys start with `kind|`."""
    return {k.split("|", 1)[1]: blobs[k] for k in blobs.files if k.startswith(f"{kind}|")}


def agree(graph: Graph, feed: Mapping[str, Any], wanted: Mapping[str, Any], dtype: Any) -> None:
    out = interpret(graph.with_outputs([*wanted]), feed, dtype)
    for name, b in wanted.items():
        a = out[name]
        assert a.shape == b.shape, name
        limit = TOLERANCE * max(1.0, float(np.abs(b).max(initial=0)))
        assert np.abs(a - b).max(initial=0) <= limit, name


def test_all_cases(shared: Path) -> None:
    """Every blob of every case, in float64 and float32; outputs and inputs as Caffe names them."""
    folders = sorted((shared / "caffe" / "goldens").iterdir())
    assert len(folders) >= 200
    for folder in folders:
        case = json.loads((folder / "case.json").read_text())
        blobs = np.load(folder / "blobs.npz")
        weights = folder / "net.caffemodel"
        graph = read(folder / "net.prototxt", weights, phase=case["phase"].lower())
        assert list(graph.outputs) == sorted(case["outputs"]), folder.name
        assert {n.name for n in graph.inputs} == part(blobs, "in").keys(), folder.name
        for dtype in (np.float64, np.float32):
            agree(graph, part(blobs, "in"), part(blobs, "out"), dtype)


SHAPES = {
    "caffe__mnist_autoencoder": {"data": (100, 1, 28, 28)},
    "caffe__mnist_siamese_train_test": {"pair_data": (100, 2, 28, 28)},
}


def test_every_public_net_imports(shared: Path) -> None:
    paths = sorted((shared / "nets").glob("*.prototxt"))
    assert len(paths) == 29
    for path in paths:
        graph = read(path, shapes=SHAPES.get(path.stem))
        assert all(node.types for node in graph.nodes)


FREE = {  # nets whose height and width may vary
    "MTCNN_face_detection_alignment__det1",
    "MobileNet-Caffe__mobilenet_v2_deploy",
    "SqueezeNet__deploy",
    "Ultra-Light-Fast-Generic-Face-Detector-1MB__RFB-320",
    "caffe-model__rcnn_deploy_rfcn_coco_air101-merge",
    "caffe-vdsr__VDSR_net_deploy",
    "hed__deploy",
    "py-faster-rcnn__test",
}


def test_sizes_vary_where_the_net_allows_it(shared: Path) -> None:
    for path in sorted((shared / "nets").glob("*.prototxt")):
        if path.stem == "caffe__linreg":
            continue
        graph = read(path, shapes=SHAPES.get(path.stem))
        symbols = {s for n in graph.inputs for s in n.types[0].symbols}
        assert symbols == ({"N", "H", "W"} if path.stem in FREE else {"N"}), path.stem


def seeded(shared: Path) -> Any:
    """The module that makes weights and inputs by rule."""
    spec = importlib.util.spec_from_file_location("seeded", shared / "nets" / "seeded.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SMALL = (
    "MTCNN_face_detection_alignment__det1",
    "MTCNN_face_detection_alignment__det2",
    "MTCNN_face_detection_alignment__det3",
    "SqueezeNet__deploy",
    "caffe-tensorflow__lenet",
    "caffe-vdsr__VDSR_net_deploy",
    "caffe__cifar10_quick",
    "caffe__discriminator",
)


def whole_net(shared: Path, name: str) -> None:
    rule, folder = seeded(shared), shared / "nets"
    case = json.loads((folder / "goldens" / f"{name}.json").read_text())
    blobs = np.load(folder / "goldens" / f"{name}.npz")
    weights = rule.caffemodel(case["parameters"])
    graph = read(folder / f"{name}.prototxt", weights, phase=case["phase"].lower())
    feed = {blob: rule.feed(blob, shape) for blob, shape in case["inputs"].items()}
    wanted, sampled = part(blobs, "out"), part(blobs, "idx")
    out = interpret(graph.with_outputs([*wanted]), feed, np.float32)
    for blob, b in wanted.items():
        a = out[blob].reshape(-1)
        a = a[sampled[blob]] if blob in sampled else a
        assert np.abs(a - b.reshape(-1)).max() <= 1e-4 * np.abs(b).max(), blob


@pytest.mark.parametrize("name", SMALL)
def test_whole_nets(shared: Path, name: str) -> None:
    whole_net(shared, name)


@pytest.mark.long
def test_all_whole_nets(shared: Path) -> None:
    paths = sorted((shared / "nets" / "goldens").glob("*.json"))
    assert len(paths) == 16
    for path in paths:
        whole_net(shared, path.stem)


@pytest.mark.parametrize(
    ("folder", "net", "golden"),
    [
        ("lenet", "lenet", "golden"),
        ("mtcnn", "det1", "det1_golden"),
        ("mtcnn", "det2", "det2_golden"),
        ("mtcnn", "det3", "det3_golden"),
        ("rfb320", "rfb", "golden"),
        ("vdsr", "vdsr", "golden"),
    ],
)
def test_real_weights(shared: Path, folder: str, net: str, golden: str) -> None:
    home = shared / "models" / folder
    blobs = np.load(home / f"{golden}.npz")
    graph = from_caffe(home / f"{net}.prototxt", home / f"{net}.caffemodel", warn=lambda d: None)
    agree(graph, part(blobs, "in"), part(blobs, "out"), np.float32)
