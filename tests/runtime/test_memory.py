"""Little memory: an error that is a MemoryError, before the memory is taken; the process lives."""

from __future__ import annotations

import functools
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from netc import processor
from netc.errors import NetcError, ResourceError
from netc.runtime import host
from netc.runtime.limits import Limits
from netc.runtime.memory import address, aligned, aligned_copy, require_memory, size_text
from netc.runtime.session import executable, save_artifact

from .handmade import feed, make_artifact

TESTS = Path(__file__).resolve().parents[1]

SWEEP = """
import resource, sys
from runtime.handmade import *
from netc.errors import NetcError
from netc.runtime.session import load
x, small = feed(1 << 17), feed(2)
load(sys.argv[1], 1)(small)
def used():
    return int(open("/proc/self/statm").read().split()[0]) * 4096
failed = passed = 0
for extra in range(2, 162, 4):
    resource.setrlimit(resource.RLIMIT_AS, (used() + (extra << 20), -1))
    try:
        load(sys.argv[1], 2)(x)
        passed += 1
    except (NetcError, MemoryError):
        failed += 1
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
assert np.array_equal(load(sys.argv[1], 1)(small)["out"], reference(**small))
print(failed, passed)
"""


def test_limits_of_address_space(tmp_path: Path) -> None:
    weights = np.zeros(4 << 20, np.float32)
    weights[:2] = 2.0, -0.5
    save_artifact(make_artifact(weights=weights.tobytes()), tmp_path / "m")
    env = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = [sys.executable, "-c", SWEEP, str(tmp_path / "m")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    failed, passed = map(int, done.stdout.split())
    assert failed + passed == 40
    assert failed >= 5
    assert passed >= 5


def test_what_is_asked_is_compared_with_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "available_memory", lambda: 1000)
    require_memory(800, list, Limits())
    with pytest.raises(ResourceError, match=r"801 bytes and may take 800 .*biggest: b 500 bytes"):
        require_memory(801, lambda: [("a", 301), ("b", 500)], Limits())
    with pytest.raises(MemoryError):
        require_memory(11, list, Limits(memory=10))


def test_what_is_in_memory_is_not_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and inputs: 4 and 3.7 MiB. A run takes 7.4 MiB more."""
    exe, x = executable(make_artifact(weights=bytes(4 << 20)), 1), feed(20_000)
    monkeypatch.setattr(host, "available_memory", lambda: 9 << 20)
    with pytest.raises(ResourceError, match=r"needs 15\.0 MiB and may take 14\.9 MiB"):
        exe(x)
    monkeypatch.setattr(host, "available_memory", lambda: 10 << 20)
    assert exe(x)["out"].shape == (20_000, 24)


def test_a_run_larger_than_the_machine_is_refused_at_once() -> None:
    exe = executable(make_artifact(), 1)
    x = np.broadcast_to(np.float32(0), (1 << 34, 24))  # a virtual array: 1.5 TiB
    with pytest.raises(NetcError, match=r"needs .* TiB|no memory"):
        exe(data=x, extra=x)
    assert exe(feed(2))["out"].shape == (2, 24)


def test_the_machine_has_memory_and_processors() -> None:
    assert 1 << 20 < host.available_memory() < 1 << 60
    assert 1 <= host.core_count() <= len(host.usable_cpus()) == len(os.sched_getaffinity(0))
    assert set(host.usable_cpus()) == os.sched_getaffinity(0)
    assert processor.cpu_features()
    assert processor.architecture() in ("x86_64", "aarch64")


def test_the_size_of_a_cache_is_read_once_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_CPU", tmp_path)
    monkeypatch.setattr(host, "_cache_of", functools.cache(host._cache_of.__wrapped__))
    folder = tmp_path / f"cpu{min(os.sched_getaffinity(0))}" / "cache"
    for i, size in enumerate(("32K", "2048K", "none")):
        (folder / f"index{i}").mkdir(parents=True)
        (folder / f"index{i}" / "size").write_text(f"{size}\n")
    with limited_files():
        assert host.cache_size() == 0
    assert host.cache_size() == 2 << 20
    (folder / "index1" / "size").write_text("1024K\n")
    assert host.cache_size() == 2 << 20


@contextmanager
def limited_files() -> Iterator[None]:
    """No more files can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def cgroup(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    """A made-up tree of control groups in place of the machine's."""
    monkeypatch.setattr(host, "_CGROUP", folder)
    real = host._text
    told = {"/proc/self/cgroup": lines}
    monkeypatch.setattr(host, "_text", lambda path: told.get(str(path)) or real(path))


def test_limits_of_control_groups_version_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "a" / "memory.max").write_text("5000000\n")
    (tmp_path / "a" / "memory.current").write_text("2000000\n")
    (tmp_path / "a" / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    (inner / "memory.max").write_text("max\n")
    (inner / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("max 100000\n")
    cgroup(tmp_path, monkeypatch, "0::/a/b")
    assert host.available_memory() == 3500000
    assert list(host._cpu_quota()) == [1.5]


def test_limits_of_control_groups_version_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, cpu = tmp_path / "memory" / "job", tmp_path / "cpu,cpuacct"
    memory.mkdir(parents=True)
    cpu.mkdir()
    (memory / "memory.limit_in_bytes").write_text("4000000\n")
    (memory / "memory.usage_in_bytes").write_text("1000000\n")
    (cpu / "cpu.cfs_quota_us").write_text("200000\n")
    (cpu / "cpu.cfs_period_us").write_text("100000\n")
    cgroup(tmp_path, monkeypatch, "5:memory:/job\n4:cpu,cpuacct:/\n")
    assert host.available_memory() == 3000000
    assert list(host._cpu_quota()) == [2.0]


def test_aligned_memory() -> None:
    for size in (0, 1, 63, 64, 4097, 1 << 20):
        part = aligned(size, "it")
        assert len(part) == size
        assert address(part) % 64 == 0 or not size
    whole = aligned(256, "it")
    whole[:] = np.arange(256)
    assert address(aligned_copy(memoryview(whole), "it")) == address(whole)
    moved = aligned_copy(memoryview(whole)[3:], "it")
    assert address(moved) % 64 == 0
    assert moved.tolist() == list(range(3, 256))
    assert len(aligned_copy(b"", "it")) == 0


def test_sizes_as_people_read_them() -> None:
    texts = [size_text(n) for n in (0, 1023, 1024, 5 << 20, 3 << 30, 7 << 40, 5 << 50)]
    assert texts == [
        "0 bytes",
        "1023 bytes",
        "1.0 KiB",
        "5.0 MiB",
        "3.0 GiB",
        "7.0 TiB",
        "5120.0 TiB",
    ]
