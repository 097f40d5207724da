"""Every named fault point, failing, waiting and killing: a clear error, whole files, no hang."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from netc.errors import ArtifactError, NetcError
from netc.runtime import faults
from netc.runtime.session import load, save_artifact
from netc.runtime.workers import WORKERS

from .handmade import feed, make_artifact, reference

TESTS = Path(__file__).resolve().parents[1]


def whole_way(path: Path) -> None:
    """Through every point: key, save, load, two threads, run."""
    WORKERS.close()
    save_artifact(make_artifact(), path)
    x = feed(3)
    np.testing.assert_array_equal(load(path, 2)(x)["out"], reference(**x))


@pytest.mark.parametrize("point", sorted(faults.POINTS))
def test_failing(point: str, tmp_path: Path) -> None:
    error = OSError(errno.EIO, "Input/output error")
    seen: BaseException | None = None
    with faults.armed(point, faults.raising(error)):
        try:
            whole_way(tmp_path / "m")
        except (NetcError, OSError) as caught:
            seen = caught
    if point == "pool.start":
        assert seen is None, "one thread does the work"
    elif point.startswith("key"):
        assert isinstance(seen, ArtifactError), "the file is unsigned, and refused"
    else:
        assert isinstance(seen, NetcError) or seen is error
    assert not [p for p in tmp_path.iterdir() if p.name != "m"]
    whole_way(tmp_path / "m")


@pytest.mark.parametrize("point", sorted(faults.POINTS))
def test_waiting(point: str, tmp_path: Path) -> None:
    start = time.perf_counter()
    with faults.armed(point, faults.waiting(0.01)):
        whole_way(tmp_path / "m")
    assert time.perf_counter() - start < 30


KILLED = """
import sys
from pathlib import Path
from netc.runtime import faults
from runtime.test_faults import whole_way
with faults.armed(sys.argv[1], faults.killing):
    whole_way(Path(sys.argv[2]))
"""


@pytest.mark.parametrize("point", sorted(faults.POINTS))
def test_killing(point: str, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = [sys.executable, "-c", KILLED, point, str(tmp_path / "m")]
    assert subprocess.run(command, env=env, timeout=60, check=False).returncode == -9
    if (tmp_path / "m").exists():
        x = feed(3)
        np.testing.assert_array_equal(load(tmp_path / "m", 1)(x)["out"], reference(**x))
    whole_way(tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_an_unknown_point() -> None:
    with pytest.raises(KeyError), faults.armed("nowhere", faults.killing):
        pass
