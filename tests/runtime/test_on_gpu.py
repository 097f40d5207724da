"""On a real GPU: launches, graphs, logical devices, and what fails. Kernels are compiled here."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from netc.errors import ResourceError, UnsupportedError
from netc.ir.gpu_code import GpuImage, KernelText, Variant
from netc.runtime.cuda_probe import probe
from netc.runtime.device_run import GpuExecutable
from netc.runtime.driver import GRAPHS, GpuOptions
from netc.runtime.gpus import list_gpus
from netc.runtime.limits import Limits
from netc.runtime.session import executable, load, save_artifact

from .gpu_handmade import (
    ADD_TEXT,
    INNER,
    PRODUCT_TEXT,
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
from .test_alone import ROOT

NO_GPU = probe().why
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(NO_GPU), reason=NO_GPU or "there is one")]


def compiled(cache: Path, *archs: str, **texts: KernelText) -> GpuImage:
    """Kernels for architectures; without any, for the GPU that is here."""
    from netc.codegen.triton.image import build_image

    return build_image(texts, archs or (list_gpus()[0].arch,), cache)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def add_image(cache: Path) -> GpuImage:
    return compiled(cache, g0=ADD_TEXT)


def ready(artifact: object, *options: object, **named: object) -> GpuExecutable:
    made = executable(artifact, *options, **named)  # type: ignore[arg-type]
    assert isinstance(made, GpuExecutable)
    return made


@pytest.mark.parametrize("graphs", GRAPHS)
def test_runs(add_image: GpuImage, tmp_path: Path, graphs: str) -> None:
    save_artifact(add_artifact(gpu=add_image), tmp_path / "m")
    exe = load(tmp_path / "m", 1, gpu=GpuOptions(graphs=graphs))
    assert exe.gpu == "cuda"
    for n in (3, 8, 0, 1, 8):
        x = feed(n)
        np.testing.assert_array_equal(exe(x)["out"], add_reference(**x))
    exe.poison()
    for _ in range(50):
        np.testing.assert_array_equal(exe(x)["out"], add_reference(**x))


def test_portable_code(cache: Path) -> None:
    exe = executable(add_artifact(gpu=compiled(cache, "ptx", g0=ADD_TEXT)), 1)
    x = feed(5)
    np.testing.assert_array_equal(exe(x)["out"], add_reference(**x))


def test_a_product_with_much_shared_memory(cache: Path) -> None:
    """A tile whose stages take more than the 48 KiB that need not be asked for."""
    constants = (("P", 128), ("Q", 128), ("R", 64))
    large = Variant((128, 128), constants, warps=8, stages=3)
    text = replace(PRODUCT_TEXT, variants=(*PRODUCT_TEXT.variants, large))
    for variants in (text.variants, (large,)):
        image = compiled(cache, g1=replace(text, variants=variants))
        if len(variants) == 1:
            (code,) = image.kernels["g1"].codes[0].values()
            assert code.shared > 48 << 10
        exe = executable(replace(product_artifact(), gpu=image), 1)
        data = np.random.default_rng(1).standard_normal((33, INNER)).astype(np.float32)
        wanted = data @ product_weights()
        np.testing.assert_allclose(exe(data=data)["out"], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("second", ["cuda:0", "cuda:1"])
def test_host_steps_and_logical_devices(add_image: GpuImage, second: str, threads: int) -> None:
    exe = executable(replace(mixed_artifact(second), gpu=add_image), threads)
    exe.poison()
    for n in (2, 5, 1, 5):
        data = feed(n)["data"]
        np.testing.assert_array_equal(exe(data=data)["out"], mixed_reference(data))


@pytest.mark.parametrize("graphs", GRAPHS)
def test_branches_that_meet_again(add_image: GpuImage, graphs: str) -> None:
    """Sixteen chains side by side, summed up: a missing edge of the graph would show."""
    exe = ready(wide_artifact(gpu=add_image), 1, gpu=GpuOptions(graphs=graphs))
    exe.poison()
    rng = np.random.default_rng(0)
    for _ in range(20):
        data = rng.integers(-8, 8, (8, 24)).astype(np.float32)
        np.testing.assert_array_equal(exe(data=data)["out"], wide_reference(data))


def test_times(add_image: GpuImage, tmp_path: Path) -> None:
    x = feed(8)
    for _ in range(2):
        exe = ready(add_artifact(gpu=add_image), 1, gpu_cache=tmp_path)
        runs = exe.gpu_times(x, repeat=5)
        assert len(runs) == 5
        assert all(1e-7 < seconds < 1e-2 for seconds in runs)
        kernels = exe.kernel_times(x, repeat=5)
        assert [k.name for k in kernels] == ["first", "second"]
        assert all(1e-7 < k.seconds < 1e-2 for k in kernels)
    assert (tmp_path / "variants.json").stat().st_size > 60
    outputs, spans, _ = exe.timed_steps(exe.accepted(x, {}))
    np.testing.assert_array_equal(outputs["out"], add_reference(**x))
    assert all(seconds > 0 for _, seconds in spans.values())


def test_another_architecture(cache: Path) -> None:
    mine = list_gpus()[0].arch
    other = "sm_120" if mine != "sm_120" else "sm_90"
    with pytest.raises(UnsupportedError, match=f"is {mine}, and the file has code for {other}"):
        executable(add_artifact(gpu=compiled(cache, other, g0=ADD_TEXT)), 1).start()


def test_out_of_memory(add_image: GpuImage) -> None:
    """More rows than the weights have; they are refused before any kernel runs."""
    artifact = wide_artifact(rows=1 << 24, gpu=add_image)  # 16 chains of 1.6 GB and more
    exe = executable(artifact, 1, Limits(memory=1 << 50))
    data = np.zeros((1 << 24, 24), np.float32)
    free = list_gpus()[0].memory
    if free > 60 << 30:
        exe = executable(wide_artifact(rows=1 << 24, chains=128, gpu=add_image), 1)
    with pytest.raises(ResourceError, match=r"needs .* and .* are free on"):
        exe(data=data)


FAULT = """
import sys
sys.path.insert(0, "tests")
import numpy as np
from dataclasses import replace
from netc.codegen.triton.image import build_image
from netc.errors import NetcError
from netc.ir.gpu_code import KernelText, Variant
from netc.runtime.driver import DeviceLost
from netc.runtime.gpus import list_gpus
from netc.runtime.session import executable
from runtime.gpu_handmade import ADD, ADD_TEXT, add_artifact
from runtime.handmade import feed
text = replace(ADD_TEXT, text=ADD.replace("tl.store(c + i", "tl.store(c + i + (1 << 40)"))
image = build_image({"g0": text}, [list_gpus()[0].arch])
exe = executable(add_artifact(gpu=image), 1)
for _ in range(2):
    try:
        exe(feed(1))
    except DeviceLost as error:
        print(error.diagnostics[0].message)
"""


def test_a_fault_is_an_error_and_the_gpu_is_lost_for_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULT],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *sys.path]))},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout.splitlines()
    assert len(said) == 2, done.stderr
    assert all(line.startswith("the GPU stopped: CUDA_ERROR_") for line in said)
