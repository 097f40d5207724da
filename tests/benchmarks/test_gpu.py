"""The GPU benchmark's judgement and tables; the whole of it without a GPU on one small net."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_compiled import Compiled
from benchmarks.gpu_fleet import Clock, Failed, TimeIsUp, Worker, descendants
from benchmarks.gpu_tables import geomean, line, print_summary, ratio, verdict

ROOT = Path(__file__).resolve().parents[2]


def row(netc: float = 2e-3, error: float = 1e-3, **peers: float) -> dict[str, Any]:
    """A result at medium precision; times in seconds."""
    engines = {e: {"median": t} for e, t in {"netc": netc, **peers}.items()}
    errors = {"netc": error, "eager": 1e-2}
    return {"net": "lenet", "batch": 16, "precision": "medium", "engines": engines,
            "errors": errors}  # fmt: skip


def test_the_ratio_is_to_the_better_peer() -> None:
    assert ratio(row(eager=4e-3, compile=1e-3)) == 2.0
    assert ratio(row(eager=4e-3)) == 0.5
    assert ratio(row()) is None


@pytest.mark.parametrize(
    ("error", "expected"), [(0.029, "ok"), (0.031, "WRONG"), (math.nan, "WRONG"), (None, "–")]
)
def test_netc_may_err_three_times_as_much_as_torch(error: float, expected: str) -> None:
    assert verdict(row(error=error)) == expected


def test_geometric_means_leave_out_what_is_not_known() -> None:
    assert geomean([2.0, None, 8.0]) == pytest.approx(4.0)
    assert geomean([None]) is None


def test_a_summary_tells_times_ratios_and_what_failed() -> None:
    failed = row(eager=4e-3)
    failed["engines"]["compile"] = {"error": "not finished in 150 s"}
    out = io.StringIO()
    print_summary([failed, row(eager=1e-3, compile=2e-3)], {"gpu": "one"}, out)
    text = out.getvalue()
    assert line(failed) in text
    assert "not timed: compile on lenet b16 medium: not finished in 150 s" in text
    assert "medium        16     2     1.000      1.000    1.000" in text


def worker(folder: Path, seconds: float, engine: str = "netc") -> Worker:
    options = {"dry": True, "folder": str(folder), "arch": "sm_90", "cache": "", "tuning": 1.0,
               "tuned": str(folder), "jobs": 2, "kept": ""}  # fmt: skip
    return Worker(engine, options, Clock(time.monotonic() + seconds))


def test_an_error_is_told_and_the_worker_goes_on(tmp_path: Path) -> None:
    made = worker(tmp_path, 60)
    for _ in range(2):
        with pytest.raises(Failed, match="'finest' is not a valid Precision"):
            made.ask(30, "load", net="lenet", precision="finest")
    assert made.process is not None
    assert len(made.traces) == 2
    made.end()


def test_a_worker_that_ends_leaves_its_last_words(tmp_path: Path) -> None:
    made = worker(tmp_path, 60)
    with pytest.raises(Failed, match=r"its process ended.*no net called nonesuch"):
        made.ask(30, "load", net="nonesuch", precision="high")
    assert made.process is None


def test_a_worker_that_is_late_is_ended(tmp_path: Path) -> None:
    made = worker(tmp_path, 60)
    with pytest.raises(Failed, match="not finished in 0 s"):
        made.ask(0.01, "load", net="lenet", precision="high")
    assert made.process is None


def test_no_request_is_made_when_the_time_is_up(tmp_path: Path) -> None:
    made = worker(tmp_path, 0)
    made.send(1, "load", net="lenet", precision="high")
    with pytest.raises(TimeIsUp):
        made.receive()
    made.end()


@pytest.mark.long
def test_the_whole_of_it_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "out.json"
    words = ["--dry", "--precisions", "medium", "--kernels", "-o", str(out)]
    command = [sys.executable, "-m", "benchmarks.gpu", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(out.read_text())
    assert [verdict(r) for r in found["results"]] == ["ok", "ok"]
    assert all(set(r["engines"]) == {"netc", "eager", "compile"} for r in found["results"])
    assert "conv 5x5" in done.stdout


class FakeWorker:
    """Answers its two requests when it is looked at for the third and the fourth time."""

    def __init__(self, log: list[tuple[str, int]], number: int) -> None:
        self.log, self.number, self.looks, self.never = log, number, 0, False

    def send(self, limit: float, do: str, **request: Any) -> None:
        if do == "load":
            self.looks, self.never = 0, request["net"] == "never"
            self.log.append((request["net"], self.number))

    def answered(self) -> bool:
        self.looks += 1
        return self.looks > 2 and not self.never

    def receive(self) -> Any:
        return {}

    def halt(self, number: signal.Signals = signal.SIGSTOP) -> None:
        self.log.append((number.name, self.number))

    def end(self) -> None:
        self.log.append(("end", self.number))


def compiled(nets: list[tuple[str, str, int]], limit: float) -> tuple[list[Any], list[Any]]:
    """What is given out, and all that the processes are told."""
    log: list[tuple[str, int]] = []
    workers = {n: FakeWorker(log, n) for n in range(1, 4)}
    given = []
    for number, config, why in Compiled(nets, 3, limit, 60).answers(
        lambda n: workers[n],  # type: ignore[arg-type,return-value]
        Clock(time.monotonic() + 60),
    ):
        given.append((config[0], why))
        log.append(("timed", number))
    return given, log


def test_what_still_compiles_is_halted_while_a_net_is_timed() -> None:
    given, log = compiled([(name, "low", 1) for name in "abcd"], 60)
    assert sorted(given) == [(name, "") for name in "abcd"]
    assert log[:3] == [("a", 1), ("b", 2), ("c", 3)]
    at = log.index(("timed", 1))
    assert log[at - 2 : at] == [("SIGSTOP", 2), ("SIGSTOP", 3)]
    assert log[at + 1 : at + 4] == [("end", 1), ("SIGCONT", 2), ("SIGCONT", 3)]


def test_few_nets_of_large_batches_compile_at_once() -> None:
    _, log = compiled([(name, "low", 128) for name in "abc"], 60)
    assert log.index(("c", 1)) > log.index(("timed", 1))


def test_a_net_that_does_not_get_ready_gives_its_place_up() -> None:
    given, _ = compiled([("never", "low", 1), *((name, "low", 1) for name in "abc")], 0.5)
    assert ("never", "not finished in 1 s") in given or ("never", "not finished in 0 s") in given
    assert len(given) == 4


def test_all_that_a_process_started_is_found() -> None:
    text = "import subprocess, sys; subprocess.run(['sleep', '60'], start_new_session=True)"
    with subprocess.Popen([sys.executable, "-c", text]) as process:
        end = time.monotonic() + 20
        while len(descendants(process.pid)) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        found = descendants(process.pid)
        for pid in found:
            os.kill(pid, signal.SIGKILL)
    assert len(found) == 2
