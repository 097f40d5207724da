"""README's commands and links are true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from netc.cli import main
from netc.cli.app import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.S)


def test_two_commands_on_the_first_screen() -> None:
    assert len(BLOCKS) == 2
    first, second = BLOCKS
    assert first.count("netc compile") == first.count("netc run") == 1
    assert "pytest" in second
    assert README.index(second) < README.index("## A net on one screen")


def test_the_first_command_reads_the_digit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    words = [shlex.split(part) for part in BLOCKS[0].replace("&&", "\n").splitlines()]
    steps = [w[1:] for w in words if w and w[0].endswith("/netc")]
    assert [step[0] for step in steps] == ["compile", "run"]
    output = ""
    for step in steps:
        here = [str(tmp_path / w) if w == "lenet.bin" else w for w in step]
        result = CliRunner().invoke(main, here)
        assert result.exit_code == 0, result.output
        output = result.output
    best = output.splitlines()[1]
    assert re.match(r"\s+(seven|7)\s+(9\d|100)\.\d\d %", best), output


def test_links_lead_somewhere() -> None:
    for name in ("README.md", "docs/CONTRIBUTING.md", "docs/ARCHITECTURE.md", "docs/DEVICES.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert ((ROOT / name).parent / target).exists(), f"{name} links to {target}"


def test_the_table_has_every_command() -> None:
    assert all(f"`netc {name} " in README or f"`netc {name}`" in README for name in COMMANDS)
