"""`netc devices --probe`, and compiling for several devices from the command line."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import netc
from netc.cli import probe, probe_gpu
from netc.cli.app import main
from netc.ir.device import Device
from netc.ir.machine import MEMORY_LINK, Machine
from netc.runtime import cuda_probe

from .nets import BRANCHES
from .workers import in_threads

pytestmark = pytest.mark.filterwarnings("ignore")


def test_probe_writes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETC_DEVICES", "cpu:0,cpu:1")
    monkeypatch.setattr(probe, "_SECONDS", 0.01)
    out = tmp_path / "machine.json"
    done = CliRunner().invoke(main, ["devices", "--probe", "-o", str(out)])
    assert done.exit_code == 0, done.output
    machine = Machine.parse(out.read_text())
    assert [str(d) for d in machine.devices] == ["cpu:0", "cpu:1"]
    spec, link = machine.spec(machine.devices[0]), machine.between
    assert spec.flops > 1e9
    assert spec.bandwidth > 1e8
    assert 0 < spec.launch < 1e-3
    assert link is not None
    assert link.bandwidth > 1e7
    assert 0 < link.latency < 1e-1


def test_probe_of_what_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETC_DEVICES", "sim:0")
    assert CliRunner().invoke(main, ["devices", "--probe"]).exit_code == 2
    assert CliRunner().invoke(main, ["devices", "-o", "x.json"]).exit_code == 2


@pytest.mark.parametrize("named", ["gpu", "cpu:-1", "cpu:0,cpu:0", "cpu:0,"])
def test_devices_that_are_none(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETC_DEVICES", named)
    done = CliRunner().invoke(main, ["devices"])
    assert done.exit_code == 2, done.output
    assert "NETC_DEVICES" in done.output


def test_compile_for_two_devices(tmp_path: Path) -> None:
    text = BRANCHES.replace("max_pool(3, stride=1, pad=1)", "max_pool(3, stride=1, pad=1) @ cpu:1")
    source = tmp_path / "b.net"
    source.write_text(text)
    args = ["compile", str(source), "-o", str(tmp_path / "b.bin"), "--devices"]
    done = CliRunner().invoke(main, [*args, "cpu:0,cpu:1"])
    assert done.exit_code == 0, done.output
    assert netc.load(tmp_path / "b.bin").devices == ("cpu:0", "cpu:1")
    assert CliRunner().invoke(main, [*args, "cpu:0"]).exit_code == 4


def test_probe_of_gpus_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it measures there says nothing of a GPU; that it measures everything is what counts."""
    pytest.importorskip("triton")
    small = probe_gpu.Sizes(images=1, floats=4096, copied=4096, chain=2)
    monkeypatch.setattr(probe, "_SECONDS", 0.01)
    for name in ("measured", "measured_link"):
        real = getattr(probe_gpu, name)
        monkeypatch.setattr(probe_gpu, name, functools.partial(real, sizes=small))
    cpu, gpu = Device("cpu"), Device("cuda")
    machine = probe.probe([cpu, gpu], gpu="interpret")
    assert machine.devices == (cpu, gpu)
    assert machine.spec(gpu).flops > 0 < machine.spec(gpu).bandwidth
    assert set(machine.links) == {(cpu, gpu), (gpu, cpu)}
    assert Machine.parse(machine.show()).specs == machine.specs


def test_probe_of_a_gpu_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETC_DEVICES", "cuda:0")
    if cuda_probe.probe().count == 0:
        done = CliRunner().invoke(main, ["devices", "--probe"])
        assert done.exit_code == 5, done.output
        assert "no NVIDIA" in done.output


def test_probe_of_other_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETC_DEVICES", "cpu:0,cpu:0@a,cpu:1@a")
    monkeypatch.setattr(probe, "_SECONDS", 0.01)
    out = tmp_path / "machine.json"
    command = ["devices", "--probe", "--host", "a=-", "--host", "b=-", "-o", str(out)]
    with in_threads():
        done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    machine = Machine.parse(out.read_text())
    assert [str(d) for d in machine.devices] == ["cpu:0", "cpu:0@a", "cpu:1@a", "cpu:0@b"]
    here, a, other, b = machine.devices
    assert machine.link(a, other) == MEMORY_LINK  # as the worker says
    near, far = machine.link(here, a), machine.link(a, b)
    assert 0 < near.latency < far.latency
    assert near.bandwidth > far.bandwidth > 0


def test_probe_of_hosts_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0.01)
    for words, said in (
        (["--host", "a=true"], "--host is for --probe"),
        (["--probe", "--host", "a=true"], "host a is lost"),
        (["--probe", "--host", "a"], "is no NAME=COMMAND"),
    ):
        done = CliRunner().invoke(main, ["devices", *words])
        assert done.exit_code in (2, 9)
        assert said in done.output
    monkeypatch.setenv("NETC_DEVICES", "cpu:0,cpu:0@b")
    done = CliRunner().invoke(main, ["devices", "--probe", "--host", "a=true"])
    assert "--probe measures what is here" in done.output


def test_hosts_are_far_where_nothing_is_said() -> None:
    machine = Machine.typical(["cpu:0", "cpu:1", "cpu:0@a", "cuda:0@a"])
    here, beside, there, gpu = machine.devices
    assert machine.link(here, there).latency > 10 * machine.link(here, beside).latency
    assert machine.link(here, gpu) == machine.link(here, there)
    assert machine.link(there, gpu) != machine.link(here, gpu)


@pytest.mark.parametrize("strategy", ["greedy", "stages", "min_cut"])
def test_inputs_have_a_way_to_other_hosts(strategy: str, tmp_path: Path) -> None:
    """A small net stays where its caller is, unless another host is much faster."""
    net, names = netc.parse(BRANCHES), ["cpu:0", "cpu:0@a"]
    usual = Machine.typical(names)
    here, there = usual.devices
    faster = replace(usual.spec(there), flops=2e11, bandwidth=4e10)
    slower = replace(usual.spec(here), flops=1e8, bandwidth=1e8)
    for spec, other, used in ((slower, faster, there), (usual.spec(here), faster, here)):
        table = tmp_path / "machine.json"
        table.write_text(replace(usual, specs={here: spec, there: other}).show())
        exe = netc.compile(net, devices=names, strategy=strategy, machine=table)
        assert exe.devices == (str(used),)
