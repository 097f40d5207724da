"""--replicate, --split and --pipeline on the command line, and in Python."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netc
from netc.compiler import lower
from netc.errors import NetcError, UsageError
from netc.ir.device import Device
from netc.ir.graph import Graph
from netc.ir.machine import DeviceSpec, Link, Machine
from netc.ir.op import Array
from netc.runtime.artifact import open_artifact
from tests.cli.command import quiet, run

TEXT = """
block tail(x) { return x |> conv(4, 1, name="c3") |> relu }
net two(data: f32[N, 4, 9, 9]) -> prob {
  x = data |> conv(8, 3, name="c1") |> relu |> max_pool(2, stride=2, name="p1")
  t = x |> conv(8, 3, name="c2") |> relu |> tail
  prob = t |> fc(5, name="fc") |> softmax
}
"""
TWO = ["cpu:0", "cpu:1"]
GPUS = ["cuda:0", "cuda:1"]
triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("NETC_DEVICES", raising=False)
    path = tmp_path / "two.net"
    path.write_text(TEXT)
    return path


def graph(text: str = TEXT) -> Graph:
    """With a batch of 4."""
    return netc.parse(text.replace("[N,", "[4,"), "two.net", warn=quiet)


def data() -> Array:
    return np.random.default_rng(0).normal(size=(4, 4, 9, 9)).astype(np.float32)


def compiled(**options: Any) -> Array:
    return netc.compile(graph(), **options)(data=data())["prob"]


def devices_of(model: Path) -> set[str]:
    file = open_artifact(model)
    return {s.device for info in file.levels for s in file.level(info.name).plan.steps}


@pytest.mark.parametrize(
    ("words", "exact"),
    [
        (("--replicate", "cpu:0,cpu:1"), True),
        (("--split", "c1,fc=cpu:0,cpu:1"), True),
        (("--split", "c1=cpu:0,cpu:1:output", "--split", "c2 = cpu:0, cpu:1:input"), False),
        (("--pipeline", "cpu:0,cpu:1", "--micro-batches", 4), True),
        (("--pipeline", "cpu:0,cpu:1"), True),
        (("--replicate", "cpu:0,cpu:1", "--devices", "cpu:2,cpu:1,cpu:0"), True),
        (("--split", "c1=cpu:0,cpu:1", "--place", "fc=cpu:1"), True),
        (("--replicate", "sim:0,sim:1"), True),
        (("--split", "c1=cpu:0,cpu:1", "--pipeline", "cpu:0,cpu:1"), True),
    ],
)
def test_a_sharded_file_gives_what_one_device_gives(
    net: Path, words: tuple[object, ...], exact: bool
) -> None:
    model = net.with_suffix(".bin")
    shown = run("compile", net, "--shape", "data=4,4,9,9", *words)
    assert shown.startswith("0\n"), shown
    kind = "sim" if "sim:0,sim:1" in words else "cpu"
    assert devices_of(model) == {f"{kind}:0", f"{kind}:1"}
    got, want = netc.load(model, trust=True)(data=data())["prob"], compiled()
    assert np.array_equal(got, want) if exact else np.abs(got - want).max() < 1e-6


@pytest.mark.parametrize(
    ("options", "exact"),
    [
        ({"replicate": TWO}, True),
        ({"replicate": "cpu:0,cpu:1", "devices": TWO}, True),
        ({"replicate": ["cpu:1"]}, True),  # nothing is shared, and it runs there
        ({"split": {"c1": TWO, "fc": TWO}}, True),
        ({"split": {"c1": "cpu:0,cpu:1", "c2": (TWO, "input")}}, False),
        ({"split": {"c2": "cpu:0,cpu:1:input"}}, False),
        ({"split": {"c2": ("cpu:0", "cpu:1")}, "place": {"c1": "cpu:2"}}, True),
        ({"pipeline": TWO, "micro_batches": 2, "place": {"c2": "cpu:1"}}, True),
        ({"split": {"c1": ["cpu:0", "cpu:1"], "c2": ["cpu:2", "cpu:3", "cpu:1"]}}, True),
        ({"pipeline": TWO, "split": {"c2": ["cpu:1", "cpu:2"], "fc": (TWO, "input")}}, False),
    ],
)
def test_from_python(options: dict[str, Any], exact: bool) -> None:
    got, want = compiled(**options), compiled()
    assert np.array_equal(got, want) if exact else np.abs(got - want).max() < 1e-6


def test_a_layer_is_a_path_too() -> None:
    """The block that makes t has one convolution, t/c3, which is split."""
    assert np.array_equal(compiled(split={"t": TWO}), compiled(split={"t/c3": TWO}))
    assert np.array_equal(compiled(split={"t": TWO}), compiled())


@triton
@pytest.mark.parametrize(
    ("options", "exact"),
    [
        ({"replicate": GPUS}, True),
        ({"split": {"c1": GPUS}}, True),
        ({"pipeline": GPUS, "micro_batches": 2}, True),
        ({"replicate": ["cpu:0", "cuda:0"]}, False),  # which sum in orders of their own
    ],
)
def test_on_gpus(options: dict[str, Any], exact: bool) -> None:
    one = compiled(target="cuda", gpu="interpret", precision="exact")
    got = compiled(gpu="interpret", precision="exact", **options)
    assert np.array_equal(got, one) if exact else np.abs(got - one).max() < 1e-6


@triton
def test_precisions_of_layers_are_those_of_their_shares(tmp_path: Path) -> None:
    """fc is gathered under its own name, and its shares are what multiplies."""
    options = {"target": "cuda", "gpu": "interpret", "precision": "low", "outputs": ["fc"]}
    for sharding in ({"replicate": GPUS}, {"split": {"fc": GPUS}}):
        exe = netc.compile(graph(), precisions={"fc": "exact"}, **options, **sharding)
        exe.save(tmp_path / "m.bin")
        said = open_artifact(tmp_path / "m.bin").notes["precisions"]
        assert {"fc.0", "fc.1"} <= {k for k, p in said.items() if p == "exact"}, said


def test_explain_shows_the_shares(net: Path) -> None:
    words = ("--shape", "data=4,4,9,9", "--rules")
    shown = run("explain", net, *words, "--replicate", "cpu:0,cpu:1")
    assert "c1.0" in shown
    assert "over cpu:0, cpu:1" in shown
    shown = run("explain", net, *words, "--pipeline", "cpu:0,cpu:1")
    assert "2 micro-batches" in shown


def test_inspect_and_draw_show_a_sharded_net(net: Path) -> None:
    words = ("--shape", "data=4,4,9,9", "--replicate", "cpu:0,cpu:1")
    shown = run("inspect", net, "--ops", *words)
    assert "devices cpu:0, cpu:1" in shown
    assert "c1.1" in shown
    svg = net.with_suffix(".svg")
    assert run("draw", net, "--devices", *words).startswith("0\n")
    assert "c1.1" in svg.read_text()
    assert "cpu:1" in svg.read_text()
    run("draw", net, "--shape", "data=4,4,9,9", "--place", "c2=cpu:3", "--devices")
    assert "cpu:3" in svg.read_text()
    assert "there is no layer 'c9' to split" in run("inspect", net, "--split", "c9=cpu:0,cpu:1")


SAYING = """
net two(data: f32[4, 4, 9, 9]) -> prob {
  replicate over cpu:0, cpu:1 {
    x = data |> conv(8, 3, name="c1") |> relu |> max_pool(2, stride=2, name="p1")
    t = x |> conv(8, 3, name="c2") |> relu |> conv(4, 1, name="c3") |> relu
  }
  split channels over cpu:0, cpu:1 { prob = t |> fc(5, name="fc") |> softmax }
}
"""


@pytest.fixture
def saying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("NETC_DEVICES", raising=False)
    path = tmp_path / "saying.net"
    path.write_text(SAYING)
    return path


def test_a_net_that_says_how_it_is_sharded(saying: Path) -> None:
    model, plain = saying.with_suffix(".bin"), saying.with_name("plain.net")
    plain.write_text(SAYING.replace("replicate over cpu:0, cpu:1", "on cpu:0")
                     .replace("split channels over cpu:0, cpu:1", "on cpu:0"))  # fmt: skip
    assert run("compile", saying).startswith("0\n")
    assert devices_of(model) == {"cpu:0", "cpu:1"}
    want = netc.compile(plain)(data=data())["prob"]
    assert np.array_equal(netc.load(model, trust=True)(data=data())["prob"], want)
    as_written = [netc.compile(f, optimize=False)(data=data())["prob"] for f in (saying, plain)]
    assert np.array_equal(*as_written)
    assert run("verify", model).startswith("0\n")


def test_what_a_net_says_is_shown_as_written_and_as_done(saying: Path) -> None:
    shown = run("dump", saying)
    assert "%c1 = conv(%data, %c1.w, %c1.b) : f32[4,8,7,7] @ replicate(cpu:0, cpu:1)" in shown
    assert "%prob = softmax(%fc) : f32[4,5] @ split(cpu:0, cpu:1)" in shown
    assert "%c1.1 = conv(" in run("dump", saying, "--after", "shard")
    assert "%c1.1 = conv(" in run("opt", saying, "-p", "shard")
    shown = run("inspect", saying)
    assert "devices cpu:0, cpu:1\n  sharded replicate(cpu:0, cpu:1)\n  sharded split(" in shown
    shown = run("explain", saying, "--rules")
    assert "over cpu:0, cpu:1" in shown
    assert "by output over cpu:0, cpu:1" in shown
    svg = saying.with_suffix(".svg")
    run("draw", saying, "--devices")
    assert "replicate(cpu:0, cpu:1)" in svg.read_text()
    run("draw", saying, "--devices", "--after", "shard")
    assert "c1.1" in svg.read_text()
    assert run("bisect", saying).startswith("0\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--devices", "cpu:0,cpu:2"), "the sharding names cpu:1, which is not there"),
        (("--strategy", "greedy", "--devices", "cpu:0,cpu:1"), "a strategy and a sharding both"),
        (("--target", "cuda"), "the target is cuda, and the devices are cpu:0, cpu:1"),
        (("--place", "c2=cpu:1"), "saying.net:5:14: error: %c2 is placed on cpu:1, but replicate"),
        (("--place", "fc=cpu:1"), "%fc is placed on cpu:1, but is split over cpu:0, cpu:1"),
        (
            ("--replicate", "cpu:0,cpu:1"),
            "%c1 is replicate(cpu:0, cpu:1) by the net, and replicate",
        ),
        (("--pipeline", "cpu:0,cpu:1"), "by the net, and pipeline(cpu:0, cpu:1, micro_batches=2)"),
        (("--split", "fc=cpu:0,cpu:1"), "%fc is split(cpu:0, cpu:1) by the net, and split(cpu:0"),
    ],
)
def test_what_contradicts_what_a_net_says(
    saying: Path, words: tuple[object, ...], said: str
) -> None:
    shown = run("compile", saying, *words)
    assert said in shown
    assert "Traceback" not in shown


def test_place_says_where_the_rest_is(saying: Path) -> None:
    assert run("compile", saying, "--place", "prob=cpu:2").startswith("0\n")
    assert devices_of(saying.with_suffix(".bin")) == {"cpu:0", "cpu:1", "cpu:2"}


def test_a_file_for_any_batch(net: Path) -> None:
    """No shape is given: each run's batch is shared by the devices, one image too."""
    out = net.with_suffix(".bin")
    assert run("compile", net, *REPLICATE, "-o", out).startswith("0\n")
    exe, one = netc.load(out), netc.compile(net)
    assert exe.devices == ("cpu:0", "cpu:1")
    for batch in (1, 4, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 4, 9, 9)).astype(np.float32)
        assert all(np.array_equal(one(data=x)[k], y) for k, y in exe(data=x).items())


BATCH = ("--shape", "data=4,4,9,9")
REPLICATE = ("--replicate", "cpu:0,cpu:1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--shape", "data=3,4,9,9", *REPLICATE), "the batch of %data is 3, which 2 replicas"),
        ((*BATCH, "--pipeline", "cpu:0,cpu:1", "--micro-batches", 3), "3 micro-batches cannot"),
        ((*BATCH, "--place", "c2=cpu:1", *REPLICATE), "%c2 is placed on cpu:1, but replicate"),
        (("--place", "c1=cpu:1", "--split", "c1=cpu:0,cpu:1"), "%c1 is placed on cpu:1, but is"),
        (("--split", "c9=cpu:0,cpu:1"), "there is no layer 'c9' to split"),
        (("--split", "p1=cpu:0,cpu:1"), "two.net:4:48: error: %p1 is max_pool"),
        (("--split", "c1"), "--split 'c1' is not LAYERS=DEVICES"),
        (("--split", "c1=cpu:0,cpu:1:rows"), "no device 'cpu:1:rows'"),
        (("--split", "c1=cpu:0,cpu:1", "--split", "c1=cpu:0"), "--split has c1 over cpu:0,cpu:1"),
        (("--split", "fc=cpu,cpu:1,cpu:2,cpu:3,cpu:4,cpu:5"), "5 output channels for 6 devices"),
        (("--replicate", "cpu:0,gpu:1"), "no device 'gpu:1'"),
        (("--replicate", "cpu:0,cpu:0"), "replicate names a device twice: cpu:0, cpu:0"),
        ((*REPLICATE, "--devices", "cpu:0"), "the sharding names cpu:1, which is not there"),
        ((*REPLICATE, "--target", "cuda"), "the target is cuda, and the devices are cpu:0, cpu:1"),
        ((*REPLICATE, "--pipeline", "cpu:0,cpu:1"), "not by replicate and pipeline"),
        ((*REPLICATE, "--split", "c1=cpu:0,cpu:1"), "not by replicate and split"),
        ((*REPLICATE, "--strategy", "greedy"), "a strategy and a sharding both say"),
        ((*REPLICATE, "--micro-batches", 2), "micro-batches are of a pipeline"),
        (("--pipeline", "cpu:0,cpu:1", "--micro-batches", 0), "micro-batches are 0"),
        (("--pipeline", "cpu:0,cpu:1", *BATCH, "--place", "c2=cpu:2"), "%c2 is placed on cpu:2"),
    ],
)
def test_what_does_not_fit(net: Path, words: tuple[object, ...], said: str) -> None:
    shown = run("compile", net, *words)
    assert said in shown
    assert "Traceback" not in shown
    assert not net.with_suffix(".bin").exists()


def test_devices_of_the_process(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETC_DEVICES", "cpu:0,cpu:1")
    assert run("compile", net, *BATCH, *REPLICATE).startswith("0\n")
    shown = run("compile", net, *BATCH, "--replicate", "cpu:0,cpu:2")
    assert "the sharding names cpu:2, which is not there" in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"replicate": []}, "replicate names no device"),
        ({"replicate": 2}, "replicate is a name or several, not 2"),
        ({"split": ["c1"]}, "split goes by layer"),
        ({"split": {}}, "split names no layer"),
        ({"split": {"c1": (TWO, "rows")}}, "no way to split 'c1': 'rows'"),
        ({"split": {"c1": ([], "input")}}, "split of 'c1' names no device"),
        ({"split": {"c1": 3}}, "split of 'c1' is a name or several, not 3"),
        ({"pipeline": TWO, "micro_batches": "four"}, "micro-batches are 'four'"),
        ({"micro_batches": 2}, "micro-batches are of a pipeline"),
    ],
)
def test_from_python_what_does_not_fit(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        netc.compile(graph(), **options)


def test_two_names_are_two_devices() -> None:
    with pytest.raises(NetcError, match="no device 'tpu'"):
        netc.compile(graph(), split={"c1": ("cpu", "tpu")})


def test_a_net_that_had_its_passes_is_not_sharded() -> None:
    with pytest.raises(NetcError, match="has had its passes"):
        netc.compile(lower(graph()).graph, replicate=TWO)


def test_a_path_is_split_where_it_has_channels() -> None:
    text = TEXT.replace("p1", "pools/p1")
    with pytest.raises(NetcError, match="no node of layer 'pools' has channels to split"):
        netc.compile(graph(text), split={"pools": TWO})
    with pytest.raises(NetcError, match="%t/c3 is split by output and by input"):
        netc.compile(graph(), split={"t": TWO, "t/c3": (TWO, "input")})


def test_a_machine_table_decides_what_a_strategy_does(tmp_path: Path) -> None:
    """Where the second processor is a hundred times faster, everything goes there."""
    slow = DeviceSpec(memory=1 << 33, flops=1e9, bandwidth=1e8, launch=1e-6)
    fast = DeviceSpec(memory=1 << 33, flops=1e11, bandwidth=1e10, launch=1e-8)
    table = Machine("two", {Device("cpu"): slow, Device("cpu", 1): fast}, between=Link(1e9, 1e-6))
    (tmp_path / "machine.json").write_text(table.show())
    text = "net t(x: f32[1,3,16,16]) -> y { y = x |> conv(8, 3) |> relu }"
    graph = netc.parse(text, warn=lambda *_: None)
    options: Any = {"devices": ["cpu:0", "cpu:1"], "strategy": "greedy"}
    exe = netc.compile(graph, machine=tmp_path / "machine.json", **options)
    assert exe.devices == ("cpu:1",)
    with pytest.raises(NetcError, match="has no cpu:0"):
        netc.compile(graph, machine="eight gpus", **options)
    for wrong, why in ((3, "no machine table"), (tmp_path / "none.json", "none.json")):
        with pytest.raises(NetcError, match=why):
            netc.compile(graph, machine=wrong, **options)
