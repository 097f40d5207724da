"""--place, --placement and --strategy on the command line, and in Python."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import netc
from netc.codegen.accept import no_kernel
from netc.errors import GraphError, UnsupportedError, UsageError
from netc.ir.device import Device
from netc.ir.graph import Builder, Graph
from netc.ir.machine import CPU, DeviceSpec, Link, Machine
from netc.ir.types import f32
from netc.passes.partition.choose import placement_of
from tests.cli.command import quiet, run

TEXT = """
net two(data: f32[1, 4, 9, 9]) -> y {
  x = data |> conv(8, 3, name="c1") |> relu
  y = x |> conv(8, 3, name="c2") |> relu
}
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "two.net"
    path.write_text(TEXT)
    return path


def test_layers_go_where_they_are_sent(net: Path, tmp_path: Path) -> None:
    places = tmp_path / "places.txt"
    places.write_text("c1 = cpu:0  # first\nc2 = cpu:1\n")
    shown = run("explain", net, "--placement", places)
    assert "cpu:0" in shown
    assert "cpu:1" in shown
    assert "copy" in shown
    assert "cpu:1" not in run("explain", net, "--placement", places, "--place", "c2=cpu:0")


def test_a_strategy_takes_the_devices_of_the_process(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("explain", net, "--place", "c2=cpu:1", "--strategy", "greedy")
    assert "a strategy needs devices" in run(*words)
    monkeypatch.setenv("NETC_DEVICES", "cpu:0,cpu:1")
    assert "greedy: predicted" in run(*words)


def test_explain_says_why(net: Path) -> None:
    shown = run("explain", net, "--devices", "cpu:0,cpu:1", "--strategy", "stages")
    assert "stage 1 of 2" in shown.replace("\n", " ")
    assert "predicted" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--place", "c9=cpu:1"), "there is no layer 'c9' to place"),
        (("--place", "c1"), "--place:1: 'c1' is not `layer = device`"),
        (("--place", "c1=gpu:0"), "no device 'gpu:0'"),
        (("--strategy", "greedy"), "a strategy needs devices"),
        (("--strategy", "best", "--devices", "cpu:0,cpu:1"), "there is no strategy 'best'"),
    ],
)
def test_what_does_not_fit(net: Path, words: tuple[str, ...], said: str) -> None:
    assert said in run("compile", net, *words)
    assert not net.with_suffix(".bin").exists()


@pytest.mark.parametrize("strategy", ["annotated", "greedy", "min_cut", "stages", "milp"])
def test_from_python(strategy: str) -> None:
    graph = netc.parse(TEXT, warn=quiet)
    feed = {"data": np.random.default_rng(0).normal(size=(1, 4, 9, 9)).astype(np.float32)}
    placed = netc.compile(
        graph, devices=["cpu:0", "cpu:1"], strategy=strategy, place={"c2": "cpu:1"}
    )
    assert np.array_equal(placed(**feed)["y"], netc.compile(graph)(**feed)["y"])


def test_from_python_what_does_not_fit() -> None:
    graph = netc.parse(TEXT, warn=quiet)
    with pytest.raises(UsageError, match="a strategy needs devices"):
        netc.compile(graph, strategy="greedy")
    with pytest.raises(UnsupportedError, match="no back end for 'tpu'"):
        netc.compile(graph, target="tpu")


def test_explain_measures(net: Path, tmp_path: Path) -> None:
    """A row for each step with both times, and the whole run; by a table where one is given."""
    table = tmp_path / "machine.json"
    table.write_text(Machine.uniform(["cpu:0", "cpu:1"], name="mine").show())
    words = ("--place", "c2=cpu:1", "--machine", table, "--measure")
    shown = run("explain", net, *words)
    assert "predicted ms" in shown
    assert re.search(r"c2 .* cpu:1 +[\d.]+ +[\d.]+ +[\d.]+", shown)
    assert re.search(r"predicted by mine: [\d.]+ ms a run; measured: [\d.]+ ms; ratio", shown)


def test_explain_predicts_for_what_is_not_here(net: Path, tmp_path: Path) -> None:
    """Two GPUs of a table: how long, who is busy, and a trace with a track for each stream."""
    trace, gpus = tmp_path / "trace.json", "cuda:0,cuda:1"
    net.write_text(TEXT.replace("f32[1,", "f32[2,"))
    words = ("--target", "cuda", "--replicate", gpus)
    shown = run("explain", net, *words, "--machine", "eight gpus", "--trace", trace)
    assert "predicted by eight gpus: " in shown
    assert re.search(r"cuda:1 compute: \d+ steps, busy \d+%", shown)
    assert re.search(r"cuda:1 copy: 1 steps, busy \d+%, .* copied", shown)
    events = json.loads(trace.read_text())["traceEvents"]
    tracks = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert tracks == {f"cuda:{i} {stream}" for i in (0, 1) for stream in ("compute", "copy")}


def computed_weights() -> Graph:
    b = Builder()
    x, w = b.input("x", f32[1, 8, 6, 6]), b.input("w", f32[8, 8, 3, 3])
    return b.graph("g", {"y": b.relu(b.conv(b.relu(x), b.tanh(w), name="dyn"), name="after")})


def test_weights_that_a_run_computes_are_refused_on_processors() -> None:
    why = "%dyn reads %tanh, which a run computes: a processor's conv takes parameters"
    with pytest.raises(UnsupportedError, match=why):
        netc.compile(computed_weights())
    with pytest.raises(GraphError, match="no device takes %dyn") as e:
        netc.compile(computed_weights(), devices=["cpu:0", "cpu:1"], strategy="greedy")
    assert why in e.value.diagnostics[0].help


@pytest.mark.parametrize("strategy", ["greedy", "stages", "min_cut", "milp", "annotated"])
def test_a_strategy_goes_where_there_is_a_kernel(strategy: str) -> None:
    """However slow the GPU is said to be."""
    slow = DeviceSpec(memory=1 << 33, flops=1e6, bandwidth=1e6, launch=1e-3)
    cpu, gpu = Device("cpu"), Device("cuda")
    machine = Machine("m", {cpu: CPU, gpu: slow}, between=Link(1e6, 1e-3))
    graph = computed_weights()
    where = placement_of(graph, machine, strategy, no_kernel).devices
    assert where["dyn"] == gpu


@pytest.mark.parametrize(
    "words",
    [("--place", "c2=cpu:1"), ("--replicate", "cpu:1,cpu:0"), ("--split", "c2=cpu:0,cpu:1")],
)
def test_a_share_that_a_device_has_no_memory_for(
    net: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    net.write_text(TEXT.replace("f32[1,", "f32[2,"))
    cpus = [Device("cpu", i) for i in range(2)]
    small = DeviceSpec(memory=1000, flops=1e9, bandwidth=1e9, launch=1e-7)
    table = tmp_path / "machine.json"
    table.write_text(Machine("m", {cpus[0]: CPU, cpus[1]: small}, between=Link(1e9, 1e-6)).show())
    shown = run("compile", net, *words, "--machine", table)
    said = r"^two.net:\d:\d+: error: cpu:1 has 1.0 KiB of memory, and its share"
    assert shown.startswith("4\n")
    assert re.search(said, shown, re.MULTILINE)
    assert "a smaller batch would fit" in shown
    assert not net.with_suffix(".bin").exists()
    stages = ("--pipeline", "cpu:0,cpu:1", "--machine", table)
    assert run("compile", net, *stages).startswith("0\n")  # all stages are where there is memory
    table.write_text(Machine.uniform(cpus).show())
    assert run("compile", net, *words, "--machine", table).startswith("0\n")


def test_places_that_no_link_joins(net: Path, tmp_path: Path) -> None:
    """With places by hand, beside a strategy, and with stages of a pipeline."""
    net.write_text(TEXT.replace("f32[1,", "f32[2,"))
    table = tmp_path / "machine.json"
    table.write_text(Machine("apart", {Device("cpu", i): CPU for i in range(2)}).show())
    places = ("--place", "c1=cpu:0", "--place", "c2=cpu:1", "--machine", table)
    pipeline = ("--pipeline", "cpu:0,cpu:1")
    strategy = ("--devices", "cpu:0,cpu:1", "--strategy", "greedy")
    for words in ((), pipeline, strategy):
        shown = run("compile", net, *places, *words)
        assert shown.startswith("4\n")
        assert "on cpu:1 reads %" in shown
        assert "there is no link from cpu:0 to cpu:1" in shown
    assert run("compile", net, *pipeline, "--machine", table).startswith("0\n")  # all is on one
