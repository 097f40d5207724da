"""What a user writes is checked by a strict type checker, with no remark ignored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

ROOT = Path(__file__).resolve().parents[2]
NET = """
from typing import Annotated

import netc


@netc.net
def lenet(data: Annotated[netc.Tensor, netc.f32["N", 1, 28, 28]]) -> dict[str, netc.Tensor]:
    x = netc.max_pool(netc.conv(data, 20, kernel=5, init=netc.gaussian(std=0.1)), 2, stride=2)
    with netc.device("cpu:0"):
        a, b = netc.split(netc.relu(netc.fc(x, 500)), 2)
    return {"prob": netc.softmax(netc.fc(a * 2 + b, 10))}


graph: netc.Graph = netc.with_weights(lenet, {})
exe: netc.Executable = netc.compile(graph)
try:
    exe.save("lenet.bin")
except netc.NetcError as e:
    code: int = e.exit_code
"""


def checked(path: Path, text: str) -> str:
    """What mypy says of a file that imports netc."""
    path.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600).stdout


def test_a_net_in_python_is_well_typed(tmp_path: Path) -> None:
    assert checked(tmp_path / "user.py", NET).startswith("Success")


def test_the_types_of_what_is_public_are_known(tmp_path: Path) -> None:
    text = "import netc\n\nnetc.load(1)\nnetc.Graph().conv\n"
    said = checked(tmp_path / "user.py", text)
    assert 'to "load" has incompatible type "int"' in said
    assert '"Graph" has no attribute "conv"' in said
