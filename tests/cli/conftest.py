"""A small net as every kind of file, and the command line in this process or another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from netc.cli import main

NET = """\
net small(data: f32[N, 1, 8, 8]) -> prob {
  x = data |> conv(4, 3, pad=1) |> relu |> max_pool(2, stride=2)
  prob = x |> fc(3) |> softmax
}
"""
PROTOTXT = """\
name: "small"
input: "data" input_shape { dim: 1 dim: 1 dim: 8 dim: 8 }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "prob" type: "Softmax" bottom: "c" top: "prob" }
"""

Invoke = Callable[..., Result]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the key of these tests lives, and the small net compiled with it."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "small.net").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        _at_home(patch, folder)
        words = ["compile", str(folder / "small.net"), "-o", str(folder / "small.bin")]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
    return folder


def _at_home(patch: pytest.MonkeyPatch, home: Path) -> None:
    patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    patch.setenv("HOME", str(home))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """A folder with the net, a prototxt and inputs, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    _at_home(monkeypatch, home)
    monkeypatch.delenv("NETC_DEBUG", raising=False)
    (tmp_path / "small.net").write_text(NET)
    (tmp_path / "small.prototxt").write_text(PROTOTXT)
    (tmp_path / "labels.txt").write_text("cat\ndog\nowl\n")
    x = np.random.default_rng(0).random((2, 1, 8, 8), np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", data=x)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "x.png")
    return tmp_path


@pytest.fixture
def netc(folder: Path) -> Invoke:
    """Run a command line in this process."""

    def invoke(*words: str | Path, code: int = 0) -> Result:
        result = CliRunner().invoke(main, [str(w) for w in words])
        assert result.exit_code == code, result.output
        return result

    return invoke


@pytest.fixture
def model(folder: Path, home: Path) -> Path:
    """The net, compiled."""
    return Path(shutil.copy(home / "small.bin", folder / "small.bin"))


@pytest.fixture
def shell(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command line in a process of its own."""

    def run(*words: str | bytes, **more: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from netc.cli import main; main()", *words]
        environment = os.environ | dict(more.pop("env", {}))  # type: ignore[arg-type]
        given = {"capture_output": True, "text": True, "timeout": 120, "env": environment} | more
        return subprocess.run(command, check=False, **given)  # type: ignore[call-overload]

    return run
