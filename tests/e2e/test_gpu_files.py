"""Nets for GPUs, compiled, saved, loaded and run where there is no GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import netc
from netc.cli.rebuild import SAME, compared, rebuild
from netc.errors import ArtifactError, GraphError, UnsupportedError, UsageError
from netc.ir.gpu_code import GpuImage, GpuKernel
from netc.runtime.artifact import Artifact, open_artifact
from netc.runtime.cuda_probe import Probe
from netc.runtime.driver import GpuOptions, NoGpuCode
from netc.runtime.gpus import GpuFacts
from netc.runtime.interpreter import InterpreterDriver
from netc.runtime.session import executable, save_artifact
from tests.passes.test_inline import spread
from tests.strategies import agree, feeds, graphs, wanted

pytest.importorskip("triton", reason="Triton compiles for GPUs")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TEXT = """
net small(data: f32[N, 3, 9, 9]) -> y {
  x = data |> conv(8, 3, name="c1") |> relu |> max_pool(2, name="p1")
  y = x |> conv(4, 3, pad=1, name="c2") |> relu |> fc(5, name="f") |> softmax
}
"""
X = np.random.default_rng(0).normal(size=(2, 3, 9, 9)).astype(np.float32)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are of machines without one."""
    for name in ("netc.runtime.cuda_probe.probe", "netc.runtime.gpus.probe"):
        monkeypatch.setattr(name, lambda *_: Probe(why="no NVIDIA driver is here"))
    for name in ("NETC_GPU", "NETC_DEVICES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def graph() -> netc.Graph:
    return netc.parse(TEXT, warn=lambda _: None)


def near(got: np.ndarray, want: np.ndarray, error: float = 1e-5) -> bool:
    """Within a part of the largest value; 1e-5 is a whole net's in float32."""
    return bool(np.abs(got - want).max() <= error * np.abs(want).max())


def test_lenet_is_compiled_without_a_gpu_and_reads_a_digit(tmp_path: Path) -> None:
    made = netc.compile(
        EXAMPLES / "lenet.net",
        "cuda",
        arch="sm_80",
        weights=EXAMPLES / "lenet.safetensors",
        labels=EXAMPLES / "digits.txt",
    )
    assert made.level == "cuda"
    made.save(tmp_path / "m.bin")
    seven = np.asarray(Image.open(EXAMPLES / "seven.png").convert("L"))[None, None]
    exe = netc.load(tmp_path / "m.bin", gpu="interpret")
    assert isinstance(made.model, Artifact)
    assert made.model.gpu is not None
    assert set(made.model.gpu.sections) == {"sm_80"}
    got = exe(data=seven)["prob"]
    alone = netc.load(tmp_path / "m.bin", on_gpu_loss="cpu")
    assert (exe.gpu, alone.gpu) == ("interpret", "")
    assert near(got, alone(data=seven)["prob"])
    assert exe.labels[int(got.argmax())] == "seven"


def test_without_a_gpu_a_run_says_so(graph: netc.Graph, tmp_path: Path) -> None:
    exe = netc.compile(graph, target="cuda", arch="ptx")
    exe.save(tmp_path / "m.bin")
    for act in (lambda: exe(data=X), lambda: netc.load(tmp_path / "m.bin")):
        with pytest.raises(UnsupportedError, match="no NVIDIA GPU is here: no NVIDIA driver") as e:
            act()
        assert "gpu='interpret'" in str(e.value)


def test_the_processor_takes_over_where_that_is_asked_for(
    graph: netc.Graph, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    want = netc.compile(graph)(data=X)["y"]
    exe = netc.compile(graph, target="cuda", gpu="cuda", arch="ptx", on_gpu_loss="cpu")
    assert near(exe(data=X)["y"], want)
    assert "runs on the processor: no NVIDIA GPU" in caplog.text
    exe.save(tmp_path / "m.bin")
    assert netc.load(tmp_path / "m.bin", gpu="interpret").level == "cuda"  # what was compiled
    exe = netc.compile(graph, target="cuda", arch="ptx")
    exe.save(tmp_path / "m.bin")
    for trust in (True, False):  # made from the file's net: it has no code for a processor
        loaded = netc.load(tmp_path / "m.bin", trust=trust, on_gpu_loss="cpu")
        assert (loaded.gpu, loaded.devices) == ("", ("cpu:0",))
        assert near(loaded(data=X)["y"], want)


def test_a_file_for_both(graph: netc.Graph, tmp_path: Path) -> None:
    want = netc.compile(graph)(data=X)["y"]
    made = netc.compile(graph, target="cpu,cuda", cpu=["x86-64-v2", "native"], arch="ptx")
    assert isinstance(made.model, Artifact)
    names = {level.name for level in made.model.levels}
    assert {"cuda", "x86-64-v2"} < names
    assert near(made(data=X)["y"], want)
    made.save(tmp_path / "m.bin")
    for trust in (True, False):
        loaded = netc.load(tmp_path / "m.bin", trust=trust)
        assert (loaded.gpu, loaded.level) == ("", max(names - {"cuda"}))
        assert near(loaded(data=X)["y"], want)
        loaded = netc.load(tmp_path / "m.bin", trust=trust, gpu="interpret")
        assert (loaded.gpu, loaded.level) == ("interpret", "cuda")
        assert near(loaded(data=X)["y"], want)
    with pytest.raises(UnsupportedError, match="no NVIDIA GPU"):
        netc.load(tmp_path / "m.bin", gpu="cuda")


def test_code_for_the_gpu_that_is_here_is_made_where_a_file_has_none(
    graph: netc.Graph,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The GPU is an interpreter that wants machine code for sm_89."""
    made = netc.compile(graph, target="cuda", gpu="interpret")
    want = made(data=X)["y"]
    made.save(tmp_path / "m.bin")

    def open_driver(image: GpuImage, devices: object, options: GpuOptions) -> InterpreterDriver:
        if "sm_89" not in image.sections:
            raise NoGpuCode("GPU kernel g0 does not run here")
        return InterpreterDriver(image, replace(options, gpu="interpret"))

    monkeypatch.setattr("netc.runtime.gpu_engine.open_driver", open_driver)
    with pytest.raises(NoGpuCode):
        executable(open_artifact(tmp_path / "m.bin").artifact())(data=X)
    monkeypatch.setattr("netc.runtime.gpus.probe", lambda *_: Probe(1, 13000))
    monkeypatch.setattr("netc.runtime.gpus.list_gpus", lambda *_: [GpuFacts("a", 1, (8, 9))])
    exe = netc.load(tmp_path / "m.bin")
    assert "recompiled: GPU kernel g0 does not run here" in caplog.text
    assert np.array_equal(exe(data=X)["y"], want)
    assert exe.save(tmp_path / "n.bin") == (tmp_path / "m.bin").stat().st_size


def test_mixed_and_several_devices(graph: netc.Graph) -> None:
    want = netc.compile(graph)(data=X)["y"]
    for devices, place in (
        (["cpu:0", "cuda:0"], {"c1": "cuda:0", "f": "cuda:0"}),
        (["cuda:0", "cpu:0"], {"p1": "cpu:0"}),
        (["cuda:0", "cuda:1"], {"c2": "cuda:1", "p1": "cuda:1"}),
        (["cuda:0", "cuda:1", "cpu:0"], {"c1": "cpu:0", "c2": "cuda:1"}),
    ):
        exe = netc.compile(graph, devices=devices, place=place, gpu="interpret")
        assert sorted(exe.devices) == sorted(devices)
        assert near(exe(data=X)["y"], want), place


FILTERED = """
net filtered(data: f32[N, 3, 12, 12]) -> y {
  x = data |> conv(16, 3, pad=1, name="c1") |> relu
  y = x |> conv(16, 3, pad=1, name="c2") |> relu |> global_avg_pool
}
"""


@pytest.mark.parametrize(
    "how",
    [
        {"devices": ["cuda:0", "cpu:0"], "place": {"c2": "cpu:0"}},
        {"target": "cpu,cuda", "gpu": "auto"},  # there is no GPU: the processor takes over
    ],
)
def test_what_a_processor_makes_at_load(how: dict[str, Any], tmp_path: Path) -> None:
    """Weights that the processor's part of a file, or its code for processors, makes of others."""
    graph, x = netc.parse(FILTERED, warn=lambda _: None), np.tile(X[..., :4], (1, 1, 1, 3))
    x = np.concatenate([x, x[:, :, :3]], axis=2)
    want = netc.compile(graph)(data=x)["y"]
    exe = netc.compile(graph, **{"gpu": "interpret", **how})
    exe.save(tmp_path / "m.bin")
    for made in (exe, netc.load(tmp_path / "m.bin", gpu=how.get("gpu", "interpret"))):
        assert near(made(data=x)["y"], want)
        assert made.image.made.nbytes == 36 * 16 * 16 * 4


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(graphs(max_nodes=6), st.integers(0, 2**16), st.booleans())
def test_random_graphs_on_devices_by_chance(graph: netc.Graph, seed: int, optimize: bool) -> None:
    placed = spread(graph, seed)
    feed = feeds(graph)
    exe = netc.compile(placed, gpu="interpret", optimize=optimize, check=2)
    assert agree(exe(**feed), wanted(graph, feed), graph) == ""


def test_what_is_only_handed_through(graph: netc.Graph) -> None:
    text = "net a(x: f32[N, 3]) -> x, y { on cuda:0 { y = x |> abs } }"
    x = np.array([[-1.0, 0.0, 1.0]], np.float32)
    for target in ("cpu", "cuda"):
        exe = netc.compile(netc.parse(text), target=target, gpu="interpret")
        got = exe(x=x)
        assert np.array_equal(got["x"], x)
        assert np.array_equal(got["y"], np.abs(x))


def test_a_device_in_the_net(graph: netc.Graph, tmp_path: Path) -> None:
    text = "net a(x: f32[N, 3]) -> y {\n  z = x |> relu\n  on cuda:0 { y = z |> exp }\n}"
    x = np.array([[-1.0, 0.0, 1.0]], np.float32)
    for target, where in (("cpu", ("cpu:0", "cuda:0")), ("cuda", ("cuda:0",))):
        exe = netc.compile(netc.parse(text), target=target, gpu="interpret")
        assert exe.devices == where
        assert near(exe(x=x)["y"], np.exp(np.maximum(x, 0)))
        exe.save(tmp_path / "m.bin")
        again = netc.load(tmp_path / "m.bin", trust=False, gpu="interpret")
        assert again.devices == where
        assert near(again(x=x)["y"], np.exp(np.maximum(x, 0)))


def test_precision_by_layer(graph: netc.Graph) -> None:
    want = netc.interpret(graph, {"data": X})["y"]

    def error(**choice: Any) -> float:
        exe = netc.compile(graph, target="cuda", gpu="interpret", **choice)
        return float(np.abs(exe(data=X)["y"] - want).max())

    exact, low = error(precision="exact"), error(precision="low")
    mixed = error(precision="low", precisions={"c1": "exact", "c2": "exact", "f": "exact"})
    one = error(precisions={"c1": "low"})
    assert exact < 1e-6 < one < 1e-2  # bfloat16 has 8 bits of 24
    assert 1e-5 < low < 1e-2
    assert mixed < low


@pytest.mark.parametrize(
    "options",
    [
        {"target": "cuda", "precision": "fp16", "precisions": {"c1": "medium", "p1": "low"}},
        {"target": "cpu,cuda", "precision": "low", "cpu": ["x86-64-v2", "aarch64"]},
        {"target": "cpu,cuda", "optimize": False},
        {"devices": ["cpu:0", "cuda:0", "cuda:1"], "place": {"c1": "cuda:1", "f": "cuda:0"}},
    ],
)
def test_a_file_is_rebuilt_byte_by_byte(
    graph: netc.Graph, options: dict[str, Any], tmp_path: Path
) -> None:
    netc.compile(graph, gpu="interpret", **options).save(tmp_path / "m.bin")
    file = open_artifact(tmp_path / "m.bin")
    rows = compared(file, rebuild(file, True, lambda done, total: None), "")
    assert {said for _, _, said in rows} == {SAME}
    assert {"ir", "gpu", "weights"} < {name for name, _, _ in rows}


@pytest.mark.parametrize(
    ("kind", "options", "said", "help"),
    [
        (UsageError, {"precision": "hi"}, "no precision 'hi'", "exact, high, medium, low, fp16"),
        (UsageError, {"precisions": {"c1": "half"}}, "no precision 'half' for 'c1'", "exact"),
        (UsageError, {"precisions": "c1=low"}, "precisions go by layer", "mapping"),
        (GraphError, {"precisions": {"c12": "low"}}, "no layer 'c12'", "did you mean c2"),
        (UsageError, {"arch": "sm_91"}, "no GPU architecture 'sm_91'", "there are sm_80"),
        (UsageError, {"arch": ()}, "no GPU architecture is named", "there are sm_80"),
        (UnsupportedError, {"arch": "native"}, "and no NVIDIA driver is here", "there are sm_80"),
        (UsageError, {"gpu": "yes"}, "gpu is 'yes'", "auto, cuda, interpret fit"),
        (UsageError, {"on_gpu_loss": "go on"}, "on_gpu_loss is 'go on'", "error, cpu fit"),
        (UsageError, {"cache": 3}, "cache is 3", "a folder, or False"),
        (UsageError, {"cache": ""}, "cache is ''", "a folder, or False"),
        (UsageError, {"devices": ["cpu:0"]}, "the target is cuda, and the devices are cpu:0", ""),
        (UsageError, {"target": ()}, "no target is named", "cpu, cuda"),
        (UnsupportedError, {"target": "gpu"}, "no back end for 'gpu'", "cpu, cuda"),
        (UsageError, {"target": "cpu", "precision": "fp16"}, "fp16 is for GPUs", "target cuda"),
        (UsageError, {"target": "cpu", "arch": "sm_90"}, "an architecture is chosen", "cuda"),
        (
            UnsupportedError,
            {"target": "cpu,cuda", "place": {"c1": "cpu:0"}},
            "asks for the whole net on a GPU; %",
            "target cuda leaves it there",
        ),
    ],
)
def test_what_does_not_fit(
    graph: netc.Graph, kind: type[Exception], options: dict[str, Any], said: str, help: str
) -> None:
    with pytest.raises(kind) as e:
        netc.compile(graph, **{"target": "cuda", **options})
    assert said in str(e.value)
    assert help in str(e.value)


def test_the_environment(graph: netc.Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETC_GPU", "interpret")
    exe = netc.compile(graph, target="cuda")
    assert exe.gpu == "interpret"
    assert near(exe(data=X)["y"], netc.compile(graph)(data=X)["y"])
    monkeypatch.setenv("NETC_GPU", "emulate")
    with pytest.raises(UsageError, match="NETC_GPU is 'emulate'"):
        netc.compile(graph, target="cuda")
    monkeypatch.delenv("NETC_GPU")
    monkeypatch.setenv("NETC_DEVICES", "cpu:0,cpu:1")
    with pytest.raises(UsageError, match="the devices are cpu:0, cpu:1"):
        netc.compile(graph, target="cuda")


def test_without_triton(graph: netc.Graph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from importlib import util

    netc.compile(graph, target="cuda", arch="ptx").save(tmp_path / "m.bin")
    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda n, *p: None if n == "triton" else found(n, *p))
    with pytest.raises(UsageError, match="compiling for a GPU needs Triton") as e:
        netc.compile(graph, target="cuda")
    assert "pip install 'netc[cuda]'" in str(e.value)
    exe = netc.load(tmp_path / "m.bin", trust=False, on_gpu_loss="cpu")
    assert near(exe(data=X)["y"], netc.compile(graph)(data=X)["y"])


def spoiled(made: netc.Executable, change: Callable[[str], str]) -> Artifact:
    """The net with other kernel texts."""
    model = made.model
    assert isinstance(model, Artifact)
    assert model.gpu is not None
    kernels = {
        name: GpuKernel(replace(k.text, text=change(k.text.text)), k.codes)
        for name, k in model.gpu.kernels.items()
    }
    return replace(model, gpu=replace(model.gpu, kernels=kernels))


def test_texts_of_a_file_run_only_when_it_is_trusted(
    graph: netc.Graph, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mark = tmp_path / "ran"
    made = netc.compile(graph, target="cuda", gpu="interpret")
    hostile = spoiled(made, lambda text: f"import os\nos.mkdir({str(mark)!r})\n{text}")
    hostile.save(tmp_path / "m.bin")  # unsigned
    with caplog.at_level(logging.WARNING):
        exe = netc.load(tmp_path / "m.bin", gpu="interpret")
        assert "recompiled: the file is not signed" in caplog.text
    assert near(exe(data=X)["y"], netc.compile(graph)(data=X)["y"])
    assert not mark.exists()
    with pytest.raises(netc.NetcError):
        netc.load(tmp_path / "m.bin", gpu="interpret", trust=True)(data=X)
    assert mark.exists()


def test_options_noted_in_a_file_are_checked(graph: netc.Graph, tmp_path: Path) -> None:
    made = netc.compile(graph, target="cuda", gpu="interpret").model
    assert isinstance(made, Artifact)
    for notes in (
        {"precision": "exact"},
        {**made.notes, "precision": "lower"},
        {**made.notes, "precisions": {"c1": ["low"]}},
        {**made.notes, "targets": ["cuda", "__import__"]},
        {**made.notes, "optimize": 3},
    ):
        replace(made, notes=notes).save(tmp_path / "m.bin")
        with pytest.raises(ArtifactError, match="does not say how it was compiled"):
            netc.load(tmp_path / "m.bin", gpu="interpret", trust=False)


def test_no_gpu_is_asked_for_before_a_run(graph: netc.Graph, tmp_path: Path) -> None:
    """Machines that compile have none."""
    model = netc.compile(graph, target="cuda", gpu="interpret").model
    assert isinstance(model, Artifact)
    exe = executable(model, gpu="cuda")
    assert "; cuda, " in repr(exe)
    assert save_artifact(model, tmp_path / "m.bin") == (tmp_path / "m.bin").stat().st_size
    with pytest.raises(UnsupportedError, match="no NVIDIA GPU"):
        exe(data=X)
