"""`netc devices --probe`, and compiling for several devices from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import netc
from netc.cli import probe
from netc.cli.app import main
from netc.ir.machine import Machine

from .nets import BRANCHES

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


def test_compile_for_two_devices(tmp_path: Path) -> None:
    text = BRANCHES.replace("max_pool(3, stride=1, pad=1)", "max_pool(3, stride=1, pad=1) @ cpu:1")
    source = tmp_path / "b.net"
    source.write_text(text)
    args = ["compile", str(source), "-o", str(tmp_path / "b.bin"), "--devices"]
    done = CliRunner().invoke(main, [*args, "cpu:0,cpu:1"])
    assert done.exit_code == 0, done.output
    assert netc.load(tmp_path / "b.bin").devices == ("cpu:0", "cpu:1")
    assert CliRunner().invoke(main, [*args, "cpu:0"]).exit_code == 4
