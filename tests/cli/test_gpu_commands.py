"""GPUs on the command line, where there is none."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from click.testing import Result

from netc.errors import UsageError
from netc.ir.device import Device
from netc.ir.machine import Machine
from netc.runtime.artifact import open_artifact
from netc.runtime.cuda_probe import Probe
from netc.runtime.gpus import GpuFacts
from netc.runtime.session import save_artifact

Invoke = Callable[..., Result]

pytest.importorskip("triton", reason="Triton compiles for GPUs")

TINY = """\
net tiny(data: f32[N, 4, 8, 8]) -> prob {
  x = data |> max_pool(2, stride=2, name="p") |> relu
  prob = x |> softmax
}
"""


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are of machines without one."""
    for name in ("netc.runtime.cuda_probe.probe", "netc.runtime.gpus.probe"):
        monkeypatch.setattr(name, lambda *_: Probe(why="no NVIDIA driver is here"))
    for name in ("NETC_GPU", "NETC_DEVICES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tiny(folder: Path) -> Path:
    (folder / "tiny.net").write_text(TINY)
    np.save(folder / "t.npy", np.random.default_rng(0).random((2, 4, 8, 8), np.float32))
    return folder / "tiny.net"


def test_from_a_net_to_a_verified_file(netc: Invoke, tiny: Path) -> None:
    shown = netc(
        "compile", tiny, "--target", "cpu,cuda", "--arch", "sm_80,ptx", "-v", "-o", "m.bin"
    ).output
    for word in ("max_pool+relu", "softmax", "sm_80", "ptx", "registers", "spills", "triton"):
        assert word in shown
    assert re.search(r"sm_80: 2 kernels, \d+ variants, [\d.]+ kB\n", shown)
    assert re.search(r"compiled by triton \S+ in [\d.]+ s\n", shown)
    assert re.search(r"m.bin: [\d.]+ kB, 4 nodes, code for cuda, (x86|aarch)", shown)
    file = open_artifact("m.bin")
    assert file.notes["targets"] == ["cpu", "cuda"]
    shown = netc("verify", "m.bin").output
    assert "is the same, byte for byte\n" in shown
    assert "gpu.sm_80" in shown
    shown = netc("inspect", "m.bin").output
    assert "precision high" in shown
    assert "on cuda:0 of memory a run" in shown
    assert "max_pool+relu" in shown
    assert "cuda:0" in netc("draw", "m.bin", "--devices").output + Path("m.svg").read_text()


@pytest.fixture
def gpu_model(netc: Invoke, tiny: Path) -> Path:
    """The net for both, its GPU kernels as PTX."""
    netc("compile", tiny, "--target", "cpu,cuda", "--arch", "ptx", "-o", "m.bin")
    return tiny.with_name("m.bin")


def test_runs_and_times(netc: Invoke, gpu_model: Path) -> None:
    netc("run", gpu_model, "--input", "data=t.npy", "--output", "cpu.npz")
    netc("run", gpu_model, "--gpu", "interpret", "--input", "data=t.npy", "--output", "gpu.npz")
    cpu, gpu = (np.load(f"{name}.npz")["prob"] for name in ("cpu", "gpu"))
    assert np.abs(cpu - gpu).max() < 1e-6
    words = ("time", gpu_model, "--seconds", "0.01")
    assert "max_pool+relu" in netc(*words, "--gpu", "interpret").output
    assert "Triton's interpreter, not of a GPU" in netc(*words, "--gpu", "interpret").output
    assert "interpreter" not in netc(*words).output
    assert "x86" in netc(*words, "--gpu", "cuda", "--on-gpu-loss", "cpu").output
    netc("run", gpu_model, "--gpu", "interpret", "-i", "data=t.npy", "--trace", "t.json")
    assert "cuda:0 compute" in Path("t.json").read_text()


def test_the_environment(
    netc: Invoke, gpu_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NETC_GPU", "interpret")
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path / "kept"))
    shown = netc("time", gpu_model, "--seconds", "0.01").output
    assert "interpreter" in shown
    netc("compile", "tiny.net", "--target", "cuda", "--arch", "ptx", "-o", "n.bin")
    assert list((tmp_path / "kept" / "gpu").iterdir())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--target", "gpu"), 5, "no back end for 'gpu'"),
        (("--target", "cuda", "--arch", "sm_91"), 2, "no GPU architecture 'sm_91'"),
        (("--target", "cuda", "--arch", "native"), 5, "arch native is that of the GPU here"),
        (("--target", "cuda", "--precision", "hi"), 2, "no precision 'hi'"),
        (("--target", "cuda", "--precision", "p=hi"), 2, "no precision 'hi' for 'p'"),
        (("--target", "cuda", "--precision", "q=low"), 4, "there is no layer 'q' to compute"),
        (("--target", "cuda", "--precision", "low,high"), 2, "both low and high of the whole net"),
        (("--target", "cuda", "--precision", "p=low,p=high"), 2, "p has precision low already"),
        (("--target", "cuda", "--devices", "cpu:0"), 2, "the target is cuda, and the devices"),
        (("--precision", "medium"), 2, "precision medium is for GPUs, and nothing is on one"),
        (("--arch", "sm_90"), 2, "an architecture is chosen for GPUs"),
        (("--target", "cpu,cuda", "--place", "p=cpu:0"), 5, "asks for the whole net on a GPU"),
    ],
)
def test_what_does_not_fit(
    netc: Invoke, tiny: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    shown = netc("compile", tiny, *words, code=code).output
    assert said in shown
    assert "help:" in shown or "to compute" in shown or "already" in shown
    assert not tiny.with_suffix(".bin").exists()


def test_a_typing_mistake_in_a_run(netc: Invoke, gpu_model: Path) -> None:
    shown = netc("run", gpu_model, "--gpu", "on", "-i", "data=t.npy", code=2).output
    assert "gpu is 'on'" in shown
    assert "auto, cuda, interpret fit" in shown
    shown = netc("time", gpu_model, "--on-gpu-loss", "gpu", code=2).output
    assert "on_gpu_loss is 'gpu'" in shown
    shown = netc("run", gpu_model, "--gpu", "cuda", "-i", "data=t.npy", code=5).output
    assert "no NVIDIA GPU is here" in shown


def test_a_gpu_is_asked_for_and_the_file_is_for_processors(netc: Invoke, tiny: Path) -> None:
    netc("compile", tiny, "-o", "cpu.bin")
    shown = netc("run", "cpu.bin", "--gpu", "cuda", "-i", "data=t.npy", code=2).output
    assert "cpu.bin has nothing for a GPU to run" in shown
    netc("run", "cpu.bin", "--gpu", "cuda", "--on-gpu-loss", "cpu", "-i", "data=t.npy")


def test_verify_with_another_triton(
    netc: Invoke, gpu_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "netc.codegen.triton.image.compiler_version"
    monkeypatch.setattr(said, lambda: "triton 99.0")
    shown = netc("verify", gpu_model).output
    assert "not compared" in shown
    assert ", here is triton 99.0" in shown
    made = open_artifact(gpu_model).artifact()
    assert made.gpu is not None
    (name, first), *rest = made.gpu.kernels.items()
    text = replace(first.text, text=first.text.text + "# changed\n")
    kernels = {name: replace(first, text=text), **dict(rest)}
    save_artifact(replace(made, gpu=replace(made.gpu, kernels=kernels)), "changed.bin")
    assert "differs in gpu" in netc("verify", "changed.bin", code=8).output


def test_devices(netc: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "none: no NVIDIA driver is here" in netc("devices").output
    found = GpuFacts("NVIDIA H200", 150 << 30, (9, 0)), GpuFacts("GPU X", 8 << 30, (13, 1))
    monkeypatch.setattr("netc.runtime.cuda_probe.probe", lambda *_: Probe(2, 13010))
    monkeypatch.setattr("netc.runtime.gpus.list_gpus", lambda *_: found)
    shown = netc("devices").output
    assert "NVIDIA H200, compute 9.0, driver for CUDA 13.1" in shown
    assert "runs sm_90" in shown
    assert "runs PTX" in shown
    assert "cuda:1" in shown


def test_all_gpus_are_measured(netc: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has to be named; without Triton processors are measured alone, and that is said."""
    cpu, gpus = Device("cpu"), (Device("cuda", 0), Device("cuda", 1))
    asked: list[list[Device]] = []

    def measured(devices: list[Device]) -> Machine:
        asked.append(devices)
        return Machine.uniform(devices)

    monkeypatch.setattr("netc.cli.probe.probe", measured)
    netc("devices", "--probe")
    monkeypatch.setattr("netc.runtime.cuda_probe.probe", lambda *_: Probe(2, 13010))
    assert "cuda:1" in netc("devices", "--probe").output
    missing = "netc.codegen.triton.image.compiler_version"
    monkeypatch.setattr(missing, Mock(side_effect=UsageError("Triton is away")))
    assert "GPUs are not measured: Triton is away" in netc("devices", "--probe").output
    assert asked == [[cpu], [cpu, *gpus], [cpu]]


def test_stops_of_a_compilation(netc: Invoke, tiny: Path) -> None:
    assert "@ cuda:0" in netc("dump", tiny, "--target", "cuda", "--after", "fuse").output
    shown = netc("bisect", tiny, "--target", "cuda", "--gpu", "interpret").output
    assert "nor does the compiled code" in shown
    assert "no back end for 'tpu'" in netc("dump", tiny, "--target", "tpu", "--list", code=5).output


def test_explain(netc: Invoke, tiny: Path) -> None:
    assert "cuda:0" in netc("explain", tiny, "--target", "cuda").output
    shown = netc("explain", tiny, "--target", "cuda", "--precision", "medium").output
    assert re.search(r"cuda:0 +medium", shown)
    shown = netc("explain", tiny, "--devices", "cpu:0,cuda:0", "--place", "p=cuda:0").output
    assert "cuda:0" in shown
    assert "cpu:0" in shown
