"""What this machine has: memory and processors, all as the process may use them."""

from __future__ import annotations

import functools
import os
import resource
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from netc.errors import UsageError, clean
from netc.runtime.limits import DEFAULT

_CGROUP = Path("/sys/fs/cgroup")
_CPU = Path("/sys/devices/system/cpu")


def _text(path: Path) -> str:
    """The text of a small kernel file, or nothing where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """The folders, from the process's own up to the root, that may limit `controller`."""
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = _CGROUP / controllers if controllers else _CGROUP
        here = top / name.lstrip("/")
        yield from (p for p in (here, *here.parents) if p == top or top in p.parents)


def _cgroup_memory() -> Iterator[int]:
    """Bytes still allowed by each control group above the process (version 2, then 1)."""
    names = (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    for folder in _cgroup_folders("memory"):
        for limit_name, used_name, cache_name in names:
            limit, used = _number(folder / limit_name), _number(folder / used_name)
            if limit is None or used is None or limit >= 1 << 60:
                continue
            stat = dict(line.split(None, 1) for line in _text(folder / "memory.stat").splitlines())
            yield max(0, limit - used + int(stat.get(cache_name, 0)))


def _free_memory() -> Iterator[int]:
    for line in _text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024
    yield from _cgroup_memory()
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        pages = _text(Path("/proc/self/statm")).split()
        yield max(0, soft - (int(pages[0]) * resource.getpagesize() if pages else 0))


def available_memory() -> int:
    """Bytes this process can still take: the machine's, its control groups' and its own limit."""
    return min(_free_memory(), default=1 << 62)


def _siblings(cpu: int) -> str:
    """The set of processors that share a core with `cpu`, as the kernel spells it."""
    return _text(_CPU / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu)


def usable_cpus() -> tuple[int, ...]:
    """The processors this process may run on: one of every core first, then their siblings."""
    allowed = sorted(os.sched_getaffinity(0))
    first = {_siblings(cpu): cpu for cpu in reversed(allowed)}
    cores = sorted(first.values())
    return (*cores, *(cpu for cpu in allowed if cpu not in set(cores)))


def cache_size() -> int:
    """Bytes of the largest cache of a processor this process may run on; 0 where unknown."""
    try:
        return _cache_of(min(os.sched_getaffinity(0)))
    except OSError:  # no more open files, say: the next call may know
        return 0


@functools.cache
def _cache_of(cpu: int) -> int:
    """Bytes of a processor's largest cache. Raises OSError where its files cannot be read."""
    sizes = (_CPU / f"cpu{cpu}/cache").glob("index*/size")
    said = [path.read_text(encoding="ascii").strip().removesuffix("K") for path in sizes]
    return max((int(text) << 10 for text in said if text.isdigit()), default=0)


@contextmanager
def on_processors(some: Set[int], allowed: Set[int]) -> Iterator[None]:
    """This thread is on `some` of those it is allowed, where there are any; then on all again.

    A sandbox may forbid it: only speed is lost.
    """
    with suppress(OSError):
        os.sched_setaffinity(0, some & allowed or allowed)
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, allowed)


def core_count() -> int:
    """Distinct cores among the processors this process may run on."""
    return len({_siblings(cpu) for cpu in os.sched_getaffinity(0)})


def _cpu_quota() -> Iterator[float]:
    """Processors' worth of time that each control group grants."""
    for folder in _cgroup_folders("cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)
        granted = _number(folder / "cpu.cfs_quota_us")
        length = _number(folder / "cpu.cfs_period_us")
        if granted and length:
            yield granted / length


@functools.cache
def _default_threads() -> int:
    return max(1, int(min(core_count(), *_cpu_quota(), DEFAULT.threads)))


def thread_count(threads: int | str | None) -> int:
    """How many threads a run uses: as asked, as NETC_NUM_THREADS says, or one per usable core."""
    name = "threads"
    if threads is None:
        name, threads = "NETC_NUM_THREADS", os.environ.get("NETC_NUM_THREADS", "")
        if not threads:
            return _default_threads()
    try:
        count = int(threads)
    except (TypeError, ValueError):
        count = 0
    if isinstance(threads, bool | float) or not 1 <= count <= DEFAULT.threads:
        fits = f"a whole number from 1 to {DEFAULT.threads} fits"
        raise UsageError(f"{name} is {clean(repr(threads))}", help=fits)
    return count
