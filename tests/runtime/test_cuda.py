"""The driver of NVIDIA GPUs on a cuda.core that has none: what is asked of it, in what order."""

from __future__ import annotations

import ctypes
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from netc.errors import ArtifactError, ResourceError, UnsupportedError
from netc.ir.gpu_code import Code, GpuImage, GpuKernel
from netc.runtime.artifact import Artifact
from netc.runtime.driver import DeviceLost, GpuOptions
from netc.runtime.session import executable

from .fake_cuda import CUDAError, FakeCuda, install
from .gpu_handmade import (
    ADD_TEXT,
    add_artifact,
    add_plan,
    add_reference,
    bounce_plan,
    mixed_artifact,
    mixed_reference,
    wide_artifact,
    wide_reference,
)
from .handmade import feed, make_level


def floats(address: int, count: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_float * count).from_address(int(address)), np.float32)


def add(programs: int, c: int, a: int, b: int, n: np.int32, *scratch: int) -> None:
    assert scratch == (0, 0)
    np.add(floats(a, int(n)), floats(b, int(n)), out=floats(c, int(n)))


def image(arch: str = "sm_90", shared: int = 0) -> GpuImage:
    """ADD_TEXT with "machine code" for both variants."""
    prefix = b".version 8.0\n.target sm_80\n//" if arch == "ptx" else b""
    parts = [prefix + b"small", prefix + b"large"]
    sizes = [len(parts[0]), len(parts[1])]
    codes = tuple({arch: Code(sum(sizes[:i]), sizes[i], f"kernel{i}", 4, shared)} for i in range(2))
    return GpuImage({"g0": GpuKernel(ADD_TEXT, codes)}, {arch: b"".join(parts)}, "triton 3.6.0")


def fake_gpu(**more: object) -> FakeCuda:
    fake = FakeCuda(**more)  # type: ignore[arg-type]
    fake.kernels = {b"small": add, b"large": add}
    fake.arguments = {b"small": 6, b"large": 6}
    return fake


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    made = fake_gpu()
    install(monkeypatch, made)
    return made


def check(artifact: Artifact, options: GpuOptions | str = "auto") -> None:
    exe = executable(artifact, 1, gpu=options)
    assert exe.gpu == "cuda"
    for n in (3, 8, 0, 3):
        x = feed(n)
        np.testing.assert_array_equal(exe(x)["out"], add_reference(**x))
    exe.poison()
    np.testing.assert_array_equal(exe(x)["out"], add_reference(**x))


@pytest.mark.parametrize("graphs", ["nodes", "capture", "launches"])
def test_runs(fake: FakeCuda, graphs: str) -> None:
    check(add_artifact(gpu=image()), GpuOptions(graphs=graphs))
    assert ("definition" in fake.log) == (graphs == "nodes")
    assert ("builder" in fake.log) == (graphs == "capture")


def test_a_run_allocates_nothing(fake: FakeCuda) -> None:
    exe = executable(add_artifact(gpu=image()), 1)
    x = feed(4)
    exe(x)
    fake.log.clear()
    exe(x)
    assert fake.log == ["copy", "copy", "graph", "run small", "run small", "copy", "sync"]


def test_memory_goes_back(fake: FakeCuda) -> None:
    before = fake.free
    exe = executable(add_artifact(gpu=image()), 1)
    exe(feed(2))
    exe(feed(8))
    assert fake.free < before
    del exe
    assert fake.free == before


def test_no_graph_api_is_no_trouble(fake: FakeCuda, caplog: pytest.LogCaptureFixture) -> None:
    fake.fails = {"definition": "no such thing", "builder": "nor this"}
    with caplog.at_level(logging.WARNING, "netc"):
        check(add_artifact(gpu=image()))
    assert caplog.text.count("no CUDA graph by nodes") == 1
    assert caplog.text.count("no CUDA graph by capture") == 1


@pytest.mark.parametrize(("large", "chosen"), [(2e-5, 0), (5e-6, 1)])
def test_the_fastest_variant_is_measured_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, large: float, chosen: int
) -> None:
    for turn in range(2):
        fake = fake_gpu()
        install(monkeypatch, fake)
        fake.seconds = {b"small": 1e-5, b"large": large}
        exe = executable(add_artifact(gpu=image()), 1, gpu_cache=tmp_path)
        x = feed(8)
        times = exe.kernel_times(x, repeat=3)  # type: ignore[attr-defined]
        assert [t.variant for t in times] == [chosen] * 2
        assert [t.name for t in times] == ["first", "second"]
        assert times[0].seconds == pytest.approx((1e-5, large)[chosen])
        assert exe.gpu_times(x, repeat=2) == pytest.approx(  # type: ignore[attr-defined]
            [2 * (1e-5, large)[chosen]] * 2
        )
        other = b"large" if chosen == 0 else b"small"
        assert (f"run {other.decode()}" in fake.log) == (turn == 0)


@pytest.mark.parametrize("seed", range(5))
def test_a_host_that_asks_late_does_not_make_kernels_look_slow(fake: FakeCuda, seed: int) -> None:
    fake.chance.seed(seed)
    fake.late, fake.seconds = 2.5e-5, {b"small": 6e-6, b"large": 1.5e-6}
    exe = executable(add_artifact(gpu=image()), 1)
    times = exe.kernel_times(feed(8), repeat=3)  # type: ignore[attr-defined]
    assert [t.variant for t in times] == [1, 1]
    assert [t.seconds for t in times] == pytest.approx([1.5e-6] * 2, rel=0.2)


def test_a_damaged_cache_is_as_good_as_none(fake: FakeCuda, tmp_path: Path) -> None:
    for text in ("{", "[]", '{"Fake GPU|13000": 3}', '{"Fake GPU|13000": {"a": "b"}}', "[" * 9999):
        (tmp_path / "variants.json").write_text(text)
        exe = executable(add_artifact(gpu=image()), 1, gpu_cache=tmp_path)
        x = feed(2)
        np.testing.assert_array_equal(exe(x)["out"], add_reference(**x))


def test_a_variant_that_does_not_start_is_not_taken(fake: FakeCuda) -> None:
    fake.fails = {"kernel0": "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many registers"}
    check(add_artifact(gpu=image()))


def test_host_steps_and_two_logical_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus in (1, 2):
        fake = fake_gpu(gpus=gpus)
        install(monkeypatch, fake)
        exe = executable(replace(mixed_artifact(), gpu=image()), 2)
        for n in (2, 5, 1):
            data = feed(n)["data"]
            np.testing.assert_array_equal(exe(data=data)["out"], mixed_reference(data))


@pytest.mark.parametrize("seed", range(5))
def test_branches_that_meet_again(fake: FakeCuda, seed: int) -> None:
    """The graph runs in any order that its edges allow; a missing one would show."""
    fake.chance.seed(seed)
    exe = executable(wide_artifact(gpu=image()), 1)
    exe.poison()
    data = np.random.default_rng(seed).integers(-8, 8, (8, 24)).astype(np.float32)
    np.testing.assert_array_equal(exe(data=data)["out"], wide_reference(data))


def test_shared_memory_is_asked_for(fake: FakeCuda) -> None:
    check(add_artifact(gpu=image(shared=100 << 10)))
    assert fake.shared == {"kernel0": 100 << 10, "kernel1": 100 << 10}
    with pytest.raises(UnsupportedError, match="does not run here"):
        executable(add_artifact(gpu=image(shared=230 << 10)), 1).start()


# ------------------------------------------------------------------------------ which code runs


@pytest.mark.parametrize(
    ("capability", "version", "arch", "runs"),
    [
        ((9, 0), 13000, "sm_90", True),
        ((9, 0), 13000, "sm_80", False),
        ((9, 0), 12040, "sm_90", False),
        ((9, 0), 12040, "ptx", True),
        ((8, 6), 13000, "sm_80", True),
        ((8, 9), 13000, "sm_86", True),
        ((8, 0), 13000, "sm_86", False),
        ((10, 0), 13000, "sm_90", False),
        ((12, 1), 13000, "sm_120", False),
        ((12, 0), 13000, "ptx", True),
        ((7, 5), 13000, "ptx", False),
    ],
)
def test_code_by_capability(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    version: int,
    arch: str,
    runs: bool,
) -> None:
    install(monkeypatch, fake_gpu(capability=capability), version)
    artifact = add_artifact(gpu=image(arch))
    if runs:
        check(artifact)
        return
    says = f"Fake GPU is sm_{capability[0]}{capability[1]}, and the file has code for {arch}"
    with pytest.raises(UnsupportedError, match=says):
        executable(artifact, 1).start()


def test_code_the_driver_refuses_gives_way_to_ptx(fake: FakeCuda) -> None:
    cubins, portable = image(), image("ptx")
    codes = tuple(
        {**a, **b}
        for a, b in zip(cubins.kernels["g0"].codes, portable.kernels["g0"].codes, strict=True)
    )
    both = GpuImage(
        {"g0": GpuKernel(ADD_TEXT, codes)}, {**cubins.sections, **portable.sections}, ""
    )
    fake.fails = {f"cubin {name}": "CUDA_ERROR_NO_BINARY_FOR_GPU" for name in ("small", "large")}
    check(add_artifact(gpu=both))
    assert "ptx" in fake.log


@pytest.mark.parametrize("version", [11080, 0])
def test_a_driver_too_old(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    install(monkeypatch, fake_gpu(), version)
    with pytest.raises(UnsupportedError, match="driver is too old"):
        executable(add_artifact(gpu=image()), 1).start()


def test_a_kernel_of_other_arguments(fake: FakeCuda) -> None:
    fake.arguments = {b"small": 7, b"large": 7}
    with pytest.raises(ArtifactError, match=r"7 arguments where 4 are described"):
        executable(add_artifact(gpu=image()), 1)(feed(1))


# ---------------------------------------------------------------------------------- what fails


def test_out_of_memory_says_what_was_needed_and_what_is_free(fake: FakeCuda) -> None:
    fake.free = 3000
    exe = executable(add_artifact(gpu=image()), 1)
    with pytest.raises(ResourceError, match=r"biggest: .*needs .*, and 2.9 KiB are free on Fake"):
        exe(feed(8))
    fake.free = 1 << 30
    x = feed(8)
    np.testing.assert_array_equal(exe(x)["out"], add_reference(**x))


@pytest.mark.parametrize("allowed", [0, 1])
def test_host_memory_that_cannot_grow_is_not_used_any_more(
    monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    fake = fake_gpu()
    install(monkeypatch, fake)
    exe = executable(add_artifact(bounce_plan(), gpu=image()), 1)
    small, large = feed(2)["data"], feed(8)["data"]
    np.testing.assert_array_equal(exe(data=small)["out"], small * 4)
    ask, asked = fake.ask, iter(range(9))

    def out_of_memory(what: str) -> None:
        if what == "pin" and next(asked) == allowed:
            raise CUDAError("CUDA_ERROR_OUT_OF_MEMORY: The API call failed")
        ask(what)

    monkeypatch.setattr(fake, "ask", out_of_memory)
    with pytest.raises(ResourceError, match="no GPU memory to pin"):
        exe(data=large)
    for x in (small, large):
        np.testing.assert_array_equal(exe(data=x)["out"], x * 4)


def test_a_fault_loses_the_gpu_for_the_process(fake: FakeCuda) -> None:
    exe = executable(add_artifact(gpu=image()), 1)
    exe(feed(2))
    fake.stuck = "CUDA_ERROR_ILLEGAL_ADDRESS: a kernel read what is not there"
    with pytest.raises(DeviceLost, match="the GPU stopped: CUDA_ERROR_ILLEGAL_ADDRESS"):
        exe(feed(2))
    fake.stuck = ""
    for again in (lambda: exe(feed(2)), lambda: executable(add_artifact(gpu=image()), 1).start()):
        with pytest.raises(DeviceLost, match="the GPU stopped"):
            again()


def with_cpu_level() -> Artifact:
    """Levels for a GPU and for the processor; the latter's net has other weights in its place."""
    from .handmade import make_plan

    artifact = add_artifact(add_plan(), gpu=image())
    return replace(artifact, levels=[*artifact.levels, make_level(make_plan())])


def test_the_processor_takes_over(
    monkeypatch: pytest.MonkeyPatch, fake: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    exe = executable(with_cpu_level(), 1, on_gpu_loss="cpu")
    x = feed(2)
    np.testing.assert_array_equal(exe(x)["out"], add_reference(**x))
    fake.stuck = "CUDA_ERROR_LAUNCH_FAILED: why"
    assert exe(x)["out"].shape == (2, 24)
    assert exe.gpu == ""
    assert exe.level != "cuda"
    assert caplog.text.count("the net runs on the processor: the GPU stopped") == 1
    install(monkeypatch, FakeCuda(gpus=0))
    exe = executable(with_cpu_level(), 1, on_gpu_loss="cpu")
    exe.start()
    assert exe.gpu == ""
    for artifact, gpu in ((with_cpu_level(), "cuda"), (add_artifact(gpu=image()), "auto")):
        with pytest.raises(UnsupportedError, match="no NVIDIA GPU is here"):
            executable(artifact, 1, gpu=gpu).start()
