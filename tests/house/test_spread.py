"""Work on several threads: all of it once, whatever happens."""

from __future__ import annotations

import os
import threading

import pytest

from netc.spread import spread


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_each_number_once(count: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    seen: list[int] = []
    spread(seen.append, count, threads)
    assert sorted(seen) == list(range(count))


def test_several_threads_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)))
    meet = threading.Barrier(3, timeout=60)  # broken if fewer come

    def work(_: int) -> None:
        meet.wait()

    spread(work, 3)


def test_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    seen: list[int] = []
    spread(seen.append, 10)
    assert seen == list(range(10))


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_ends_it(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    seen: list[int] = []

    def work(i: int) -> None:
        seen.append(i)
        if i == 3:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        spread(work, 1 << 20, threads)
    assert len(seen) < 1 << 20
    assert not [t for t in threading.enumerate() if t.name == "netc-spread"]
