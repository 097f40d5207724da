"""Files of nets on several hosts that are damaged, or made by hand: clean errors, each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import netc
from netc.cli.app import main
from netc.errors import ArtifactError, NetcError
from netc.ir.plan import BufferArg, IntArg, Step
from netc.runtime.artifact import Artifact, Level
from netc.runtime.session import save_artifact

from .workers import in_threads

NET = "net g(data: f32[2, 3]) -> y, z { y = relu(data) @ cpu:0@a \n z = tanh(data) }"
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def exe() -> netc.Executable:
    """A net on this host and another."""
    return netc.compile(netc.parse(NET), hosts={"a": "-"}, optimize=False)


def test_a_damaged_part(tmp_path: Path, exe: netc.Executable) -> None:
    path = tmp_path / "m.bin"
    exe.save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged: part"):
        netc.load(path, hosts={"a": "-"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: replace(s, kernel="part." + "9" * 5000), "calls no part"),
        (lambda s: replace(s, kernel="part.٣"), "calls no part"),
        (lambda s: replace(s, kernel="0"), "calls no part"),
        (lambda s: replace(s, kernel="part.-1"), "calls no part"),
        (lambda s: replace(s, device="cpu:0@"), "no device"),
        (lambda s: replace(s, reads=(), args=()), "takes 1 values, not 0|what it cannot"),
        (lambda s: replace(s, writes=()), "no part of the net gives|what it cannot"),
        (lambda s: replace(s, reads=s.writes, args=tuple(map(BufferArg, s.writes))), "cannot"),
        (lambda s: replace(s, writes=(*s.writes, *s.writes)), "what it cannot"),
        (lambda s: replace(s, args=(*s.args, IntArg(3))), "takes 1 values, not 2"),
        (lambda s: replace(s, args=(*s.args, IntArg(-3))), "told of sizes"),
        (lambda s: None, "no part of the net gives"),
    ],
)
def test_a_plan_made_by_hand(
    change: Callable[[Step], Step | None], said: str, tmp_path: Path, exe: netc.Executable
) -> None:
    """Signed, so that all of it is believed but for what is checked."""
    (level,) = exe.model.levels
    assert isinstance(level, Level)
    assert isinstance(exe.model, Artifact)
    steps = [s for step in level.plan.steps if (s := change(step)) is not None]
    plan = replace(level.plan, steps=tuple(steps))
    save_artifact(replace(exe.model, levels=[replace(level, plan=plan)]), tmp_path / "m.bin")
    with in_threads(), pytest.raises(NetcError, match=said):
        netc.load(tmp_path / "m.bin", hosts={"a": "-"})(data=np.ones((2, 3), np.float32))


def test_a_part_that_nothing_calls(tmp_path: Path, exe: netc.Executable) -> None:
    assert isinstance(exe.model, Artifact)
    parts = exe.model.parts
    save_artifact(replace(exe.model, parts=[*parts, parts[0]]), tmp_path / "m.bin")
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "m.bin")])
    assert shown.exit_code == 0, shown.output
    assert "part.2  called by nothing: " in shown.output
    assert "part.0  on a: y, " in shown.output
    x = np.ones((2, 3), np.float32)
    with in_threads():
        got = netc.load(tmp_path / "m.bin", hosts={"a": "-"})(data=x)
    assert np.array_equal(got["y"], x)
    verified = CliRunner().invoke(main, ["verify", str(tmp_path / "m.bin")])
    assert "byte for byte, but for what calls its parts" in verified.output
