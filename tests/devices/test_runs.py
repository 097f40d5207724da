"""Runs on several devices equal those on one, bit for bit; what cannot run is refused."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import feeds, graphs

import netc
from netc.errors import GraphError, ResourceError, UsageError
from netc.ir.device import Device
from netc.ir.graph import Builder, Graph
from netc.ir.plan_check import problems
from netc.ir.types import f32
from netc.runtime import fleet
from netc.runtime.session import Executable

from .nets import BRANCHES, alternating, on_devices

X = np.random.default_rng(0).normal(size=(2, 3, 20, 20)).astype(np.float32)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return netc.compile(netc.parse(BRANCHES), threads=1)(data=X)["out"]


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("run", [1, 4])
def test_dealt_out(count: int, threads: int, run: int, expected: np.ndarray) -> None:
    exe = netc.compile(alternating(count, run), threads=threads)
    assert len(exe.devices) == count
    assert problems(exe.plan) == []
    for _ in range(20):
        assert np.array_equal(exe(data=X)["out"], expected)
    exe.poison()
    assert np.array_equal(exe(data=X)["out"], expected)
    assert np.array_equal(exe(data=X[:1])["out"], expected[:1])


def test_a_saved_plan_keeps_its_devices(tmp_path: Path, expected: np.ndarray) -> None:
    exe = netc.compile(alternating())
    exe.save(tmp_path / "m.bin")
    again = netc.load(tmp_path / "m.bin")
    assert again.devices == exe.devices == ("cpu:0", "cpu:1")
    assert again.plan == exe.plan
    assert np.array_equal(again(data=X)["out"], expected)
    untrusted = netc.load(tmp_path / "m.bin", trust=False)
    assert untrusted.plan == exe.plan
    assert np.array_equal(untrusted(data=X)["out"], expected)


def test_threads_call_in_turns(expected: np.ndarray) -> None:
    made = [netc.compile(alternating(n), threads=2) for n in (1, 2, 3)]
    wrong = []

    def work(exe: Executable) -> None:
        for _ in range(30):
            if not np.array_equal(exe(data=X)["out"], expected):
                wrong.append(exe)

    workers = [threading.Thread(target=work, args=(exe,)) for exe in made for _ in range(2)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


def test_without_threads_the_caller_does_it_all(
    monkeypatch: pytest.MonkeyPatch, expected: np.ndarray
) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(fleet, "WorkerPool", refuse)
    monkeypatch.setattr(fleet.FLEET, "_counts", ())
    assert np.array_equal(netc.compile(alternating())(data=X)["out"], expected)


def test_a_call_while_its_own_thread_has_the_workers(expected: np.ndarray) -> None:
    """As a signal handler makes it, which cannot wait for the thread it interrupts."""
    exe = netc.compile(alternating(), threads=2)
    with fleet.FLEET._loan.taken() as mine:
        assert mine
        assert np.array_equal(exe(data=X)["out"], expected)
    assert np.array_equal(exe(data=X)["out"], expected)


def test_a_signal_that_never_comes_ends_the_run(expected: np.ndarray) -> None:
    exe = netc.compile(alternating())
    arrays = exe.accepted({"data": X}, {})
    binding = exe._bound(arrays)
    team = exe.team(binding)
    job = next(n for n, d in enumerate(team.devices) if d == "cpu:0")
    nop = [i for i, s in enumerate(team.indices[job]) if s == -1]
    team._words[32 // 8] = 200_000_000  # nanoseconds one wait may take
    kept = team._steps[job].copy()
    for i in nop:  # the same wait twice in place of a signal: nobody tells cpu:1
        if team._steps[job][2 * i] == exe.image.symbol("netc_signal") | 1:
            team._steps[job][2 * i] = exe.image.symbol("netc_await") | 1
    with pytest.raises(ResourceError, match=r"waited more than 0\.2 s"):
        exe(data=X)
    team._steps[job][:] = kept
    assert np.array_equal(exe(data=X)["out"], expected)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(2, 8), st.data())
def test_random_graphs_at_random_places(g: Graph, count: int, data: st.DataObject) -> None:
    check_random(g, count, data)


@pytest.mark.long
@settings(max_examples=3000, deadline=None)
@given(graphs(), st.integers(2, 8), st.data())
def test_many_random_graphs(g: Graph, count: int, data: st.DataObject) -> None:
    check_random(g, count, data)


def check_random(g: Graph, count: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    where = rng.integers(0, count, len(g.nodes))
    placed = on_devices(g, lambda i, _: Device("cpu", int(where[i])))
    one = netc.compile(on_devices(g, lambda *_: None), optimize=False, threads=1)
    many = netc.compile(placed, optimize=False, threads=int(rng.integers(1, 4)))
    assert problems(many.plan) == []
    feed = feeds(g, 0)
    left, right = one(feed), many(feed)
    for name, array in left.items():
        assert np.array_equal(right[name], array, equal_nan=True), name


def test_what_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    g = netc.parse(BRANCHES)
    with pytest.raises(UsageError, match="no device 'gpu'"):
        netc.compile(g, devices=["gpu"])
    with pytest.raises(UsageError, match="one twice"):
        netc.compile(g, devices="cpu:0,cpu:0")
    with pytest.raises(GraphError, match="is on cpu:2, which is not there"):
        netc.compile(alternating(3), devices=["cpu:0", "cpu:1"])
    monkeypatch.setenv("NETC_DEVICES", "cpu:0,cpu:1")
    assert netc.compile(g).devices == ("cpu:0",)
    with pytest.raises(GraphError, match="cpu:2, which is not there"):
        netc.compile(alternating(3))
    monkeypatch.setenv("NETC_DEVICES", "cpu:0,what")
    with pytest.raises(UsageError, match="NETC_DEVICES: no device 'what'"):
        netc.compile(g)
    monkeypatch.setenv("NETC_DEVICES", "cpu:0,cpu")
    with pytest.raises(UsageError, match="NETC_DEVICES names one twice: cpu:0, cpu:0"):
        netc.compile(g)


def test_an_input_on_a_device_that_computes_nothing() -> None:
    b = Builder()
    with b.on(Device("cpu", 1)):
        x = b.input("x", f32["N", 3, 5])
    with b.on(Device("cpu", 0)):
        g = b.graph("g", {"y": b.tanh(b.relu(x))})
    exe = netc.compile(g, threads=2)
    assert exe.devices == ("cpu:0",)
    assert [s.stream for s in exe.plan.steps][:1] == ["copy"]
    assert problems(exe.plan) == []
    feed = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    assert np.allclose(exe(x=feed)["y"], np.tanh(np.maximum(feed, 0)), rtol=1e-6)


def test_rows_of_one_number_are_gathered() -> None:
    """A concat of vectors has no channels."""
    b = Builder()
    y = b.reduce_sum(b.relu(b.input("x", f32[4, 3])), axes=(1,))
    exe = netc.compile(b.graph("g", {"y": y}), replicate=["cpu:0", "cpu:1"])
    assert exe(x=np.ones((4, 3), np.float32))["y"].tolist() == [3.0] * 4


def test_shares_of_cores() -> None:
    assert fleet.thread_counts(7, 3) == (3, 2, 2)
    assert fleet.thread_counts(1, 3) == (1, 1, 1)
    assert fleet.shares_of([1000, 1]) == [(), ()]


def test_googlenet_by_annotation() -> None:
    g = netc.read(Path(__file__).resolve().parents[2] / "examples/googlenet.net")
    half = len(g.nodes) // 2
    split = on_devices(g, lambda i, _: Device("cpu", int(i > half)))
    one, two = netc.compile(g, threads=1), netc.compile(split, threads=2)
    assert problems(two.plan) == []
    shape = [d if isinstance(d, int) else 1 for d in one.plan.inputs[0].type.shape]
    x = {n: np.random.default_rng(1).normal(size=shape).astype(np.float32) for n in one.inputs}
    left, right = one(x), two(x)
    assert all(np.array_equal(right[name], array) for name, array in left.items())
