"""Real nets on GPU kernels, run by Triton's interpreter, against the outputs that Caffe gave."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import netc
from tests.e2e.test_models import MODELS, ROOT, check

pytestmark = [
    pytest.mark.skipif(ROOT is None, reason="the shared folder with real nets is not here"),
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="Triton is not installed"
    ),
]
# Of the largest output: Caffe's own float32 against products of three tf32; one rounding of every
# value kept to 8 bits, through about ten layers.
BOUNDS = {"high": 1e-4, "low": 5e-2}


def compiled(stem: str, tmp_path: Path, precision: str) -> netc.Executable:
    """A net of MTCNN, compiled for a GPU, saved and loaded for the interpreter."""
    base = MODELS / "mtcnn" / stem
    graph = netc.from_caffe(base.with_suffix(".prototxt"), base.with_suffix(".caffemodel"))
    netc.compile(graph, target="cuda", gpu="interpret", precision=precision).save(
        tmp_path / "model.bin"
    )
    return netc.load(tmp_path / "model.bin", gpu="interpret")


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("net", ["det2", "det3"])
def test_mtcnn(net: str, precision: str, tmp_path: Path) -> None:
    exe = compiled(net, tmp_path, precision)
    exe.poison()
    check(exe, MODELS / f"mtcnn/{net}_golden.npz", BOUNDS[precision])


def test_one_file_takes_any_image_size(tmp_path: Path) -> None:
    exe = compiled("det1", tmp_path, "high")
    graph = netc.from_caffe(MODELS / "mtcnn/det1.prototxt", MODELS / "mtcnn/det1.caffemodel")
    rng = np.random.default_rng(0)
    for size in ((2, 3, 30, 25), (1, 3, 12, 12)):
        x = rng.standard_normal(size).astype(np.float32)
        want = netc.interpret(graph, {"data": x})
        for name, got in exe(data=x).items():
            np.testing.assert_allclose(got, want[name], atol=1e-5 * np.abs(want[name]).max())
