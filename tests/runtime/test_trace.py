"""Times per step, the trace, and the watched run."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import netc
from netc.errors import VerifyError
from netc.ir.plan import BufferArg, IntArg, Step
from netc.runtime import faults
from netc.runtime.audit import audited
from netc.runtime.binding import Binding
from netc.runtime.team import Team
from netc.runtime.trace import mean_times, timed, trace_json

from .handmade import affine, feed, make_executable, make_plan, reference

DEVICES = ["cpu:0", "cpu:1"]


class Late(Exception):
    """What ends a run."""


@pytest.mark.parametrize("threads", [1, 2])
def test_every_step_has_its_time(threads: int) -> None:
    exe = make_executable(make_plan(sleep=10_000_000), threads)
    x = feed(4)
    out, steps = timed(exe, exe.accepted(x, {}))
    np.testing.assert_array_equal(out["out"], reference(**x))
    assert [s.name for s in steps] == [s.name for s in exe.plan.steps]
    assert all(s.seconds > 0 for s in steps)
    vain = [s.seconds for s in steps if s.op == "sleepy"]
    assert sum(vain) > 0.5 * sum(s.seconds for s in steps)
    assert steps[0].flops == 2 * 4 * 24
    mean = mean_times(exe, exe.accepted(x, {}), runs=3)
    assert mean[1].start == pytest.approx(mean[0].seconds)
    exe(x)  # the counter is no longer read


@pytest.mark.parametrize(("job", "where"), [(Binding, {}), (Team, {"replicate": DEVICES})])
@pytest.mark.parametrize("fails", [False, True])
def test_another_caller_never_sees_the_clocks(
    job: type, where: dict[str, Any], fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are there within the run only: set, and taken away, before another one begins."""
    exe = netc.compile(netc.parse("net s(data: f32[N, 3]) -> y { y = data |> relu }"), **where)
    set_to: list[bool] = []
    real = job.timed

    def noting(self: Any, clocks: Any) -> None:
        assert exe._lock.locked()
        set_to.append(clocks is not None)
        real(self, clocks)

    monkeypatch.setattr(job, "timed", noting)
    act = faults.raising(Late()) if fails else lambda: None
    with faults.armed("run.end", act), pytest.raises(Late) if fails else nullcontext():
        timed(exe, [np.ones((2, 3), np.float32)])
    assert set_to == [True, False]


def test_the_trace_is_what_perfetto_reads() -> None:
    exe = make_executable()
    _, steps = timed(exe, exe.accepted(feed(1), {}))
    steps = [replace(steps[0], name='evil "name"\u202e</script>'), *steps[1:]]
    text = trace_json([steps, steps])
    events = json.loads(text)["traceEvents"]
    assert text.isascii()
    spans = [e for e in events if e["ph"] == "X"]
    assert len(spans) == 2 * (1 + len(steps))
    assert all(e["dur"] >= 0 and e["ts"] >= 0 for e in spans)


def test_a_watched_run_gives_the_same() -> None:
    exe = make_executable()
    for n in (1, 3, 0):
        x = feed(n)
        out = audited(exe, exe.accepted(x, {}))
        np.testing.assert_array_equal(out["out"], reference(**x))


@pytest.mark.parametrize("buffer", [0, 2, 4])
def test_a_watched_run_finds_a_stray_write(buffer: int) -> None:
    plan = make_plan()
    stray = Step("stray", (BufferArg(buffer),), "culprit", "stray", (), (buffer,))
    steps = (*plan.steps[:1], stray, *plan.steps[1:])
    exe = make_executable(replace(plan, steps=steps))
    with pytest.raises(VerifyError, match=r"step 1, culprit .* wrote outside"):
        audited(exe, exe.accepted(feed(2), {}))


def test_a_watched_run_finds_a_write_to_what_is_read() -> None:
    plan = make_plan()
    lies = replace(affine("culprit", 1, 2, 24), writes=())
    exe = make_executable(replace(plan, steps=(*plan.steps[:1], lies, *plan.steps[1:])))
    with pytest.raises(VerifyError, match=r"culprit .* changed buffer 2"):
        audited(exe, exe.accepted(feed(2), {}))


def test_a_watched_run_finds_what_nothing_wrote() -> None:
    plan = make_plan()
    idle = Step("sleepy", (IntArg(1),), "idle", "sleepy", (), ())
    exe = make_executable(replace(plan, steps=(idle, *plan.steps[1:])))
    out = audited(exe, exe.accepted(feed(2), {}))["out"]
    assert np.isnan(out).all()
