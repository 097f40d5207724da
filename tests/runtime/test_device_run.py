"""Plans with steps on GPUs, in the interpreter: what a call gives, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.errors import UnsupportedError
from netc.runtime.session import executable, load, save_artifact

from .gpu_handmade import (
    INNER,
    add_artifact,
    add_reference,
    mixed_artifact,
    mixed_reference,
    product_artifact,
    product_weights,
    wide_artifact,
    wide_reference,
)
from .handmade import feed


def test_saved_loaded_run(tmp_path: Path) -> None:
    save_artifact(add_artifact(), tmp_path / "m")
    exe = load(tmp_path / "m", 1, gpu="interpret")
    assert exe.gpu == "interpret"
    assert exe.level == "cuda"
    for n in (2, 8, 0, 1, 8):
        x = feed(n)
        np.testing.assert_array_equal(exe(x)["out"], add_reference(**x))
    exe.poison()
    np.testing.assert_array_equal(exe(x)["out"], add_reference(**x))


def test_a_product() -> None:
    exe = executable(product_artifact(), 1, gpu="interpret")
    data = np.random.default_rng(1).standard_normal((33, INNER)).astype(np.float32)
    np.testing.assert_allclose(exe(data=data)["out"], data @ product_weights(), rtol=0, atol=1e-5)


def test_chains_side_by_side() -> None:
    exe = executable(wide_artifact(), 1, gpu="interpret")
    data = np.random.default_rng(0).integers(-8, 8, (2, 24)).astype(np.float32)
    np.testing.assert_array_equal(exe(data=data)["out"], wide_reference(data))


@pytest.mark.parametrize("second", ["cuda:0", "cuda:1"])
@pytest.mark.parametrize("threads", [1, 2])
def test_steps_of_the_host_between(tmp_path: Path, second: str, threads: int) -> None:
    save_artifact(mixed_artifact(second), tmp_path / "m")
    exe = load(tmp_path / "m", threads, gpu="interpret")
    exe.poison()
    for n in (2, 5, 1):
        data = feed(n)["data"]
        np.testing.assert_array_equal(exe(data=data)["out"], mixed_reference(data))


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netc.runtime.cuda_probe.LIBRARY", "libnothing.so.1")
    with pytest.raises(UnsupportedError, match=r"(?s)no NVIDIA GPU is here.*help: .*interpret"):
        executable(add_artifact(), 1).start()
