"""The virtual clock: what a plan would take on a machine that is not here."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import netc
from netc.errors import ResourceError, UsageError, VerifyError
from netc.ir.device import Device
from netc.ir.graph import Builder
from netc.ir.machine import CPU, READY, Link, Machine
from netc.ir.plan import Plan
from netc.ir.queues import devices_of, homes_of
from netc.ir.types import f32
from netc.runtime.sim import races, simulate
from netc.runtime.trace import mean_times, simulated, timed, trace_json

from .nets import BRANCHES, alternating, on_devices
from .test_plan_check import dropped_waits, plan_of, short_lives

N = {"N": 2}
pytestmark = pytest.mark.filterwarnings("ignore")


def test_steps_follow_their_queues_and_waits() -> None:
    plan = plan_of(3, 2)
    line = simulate(plan, N, READY["eight gpus"])
    free: dict[tuple[str, str], float] = {}
    for e in line.events:
        assert e.start >= free.get((e.device, e.stream), 0.0)
        assert all(e.start >= line.events[w].end for w in plan.steps[e.step].waits)
        free[e.device, e.stream] = e.end
    assert line.seconds == max(free.values())
    assert sum(line.busy().values()) == pytest.approx(sum(e.seconds for e in line.events))
    assert simulate(plan, N, READY["eight gpus"]) == line


def test_slow_links_and_devices_show() -> None:
    plan, devices = plan_of(2, 3), ["cpu:0", "cpu:1"]
    fast = simulate(plan, N, Machine.uniform(devices)).seconds
    slow_link = Machine.uniform(devices, link=Link(1e6, 0.1))
    assert simulate(plan, N, slow_link).seconds > fast + 0.1
    slow = Machine.uniform(devices, replace(CPU, flops=CPU.flops / 100))
    assert simulate(plan, N, slow).seconds > 2 * fast


def test_what_does_not_fit_is_refused() -> None:
    plan = plan_of(3, 2)
    with pytest.raises(ResourceError, match="has 1,000 bytes and the run needs"):
        simulate(plan, N, Machine.uniform(["sim:0", "sim:1", "sim:2"], replace(CPU, memory=1000)))
    with pytest.raises(UsageError, match="is for 3 devices"):
        simulate(plan, N, READY["two cpus"])


def test_a_device_that_only_holds_an_input_is_one_of_the_machine() -> None:
    b, far = Builder(), Device("cpu", 2)
    with b.on(far):
        x = b.input("x", f32[2, 4])
    with b.on(Device("cpu", 1)):
        y = b.relu(x)
    plan = netc.compile(b.graph("g", {"y": y, "z": b.tanh(y)})).plan
    assert str(far) in homes_of(plan)
    assert str(far) not in devices_of(plan)
    assert simulate(plan, {}, READY["eight gpus"]).seconds > 0
    assert simulate(plan, {}, Machine.uniform(homes_of(plan))).seconds > 0


def test_real_addresses_show_races() -> None:
    found = total = 0
    for size in ((2, 1), (3, 1), (3, 2), (4, 2)):
        plan: Plan = plan_of(*size)
        assert list(races(plan, N)) == []
        for mutant in dropped_waits(plan):
            assert list(races(mutant, N)), "a wait that is dropped is a race"
        for mutant in short_lives(plan):
            total += 1
            found += bool(list(races(mutant, N)))
    assert total > 20
    assert found  # a life too short is a race where another buffer comes to lie there


def test_a_race_ends_a_simulation() -> None:
    mutant = next(dropped_waits(plan_of(2, 1)))
    with pytest.raises(VerifyError, match="race for the bytes"):
        simulate(mutant, N, READY["two cpus"])


def test_sim_devices_compute_the_same() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 20, 20)).astype(np.float32)
    g = netc.parse(BRANCHES)
    exe = netc.compile(on_devices(g, lambda i, _: Device("sim", i % 8)))
    assert len(exe.devices) == 8
    assert np.array_equal(exe(data=x)["out"], netc.compile(g)(data=x)["out"])
    steps = simulated(exe.plan, N, READY["eight gpus"], 0)
    events = json.loads(trace_json([steps]))["traceEvents"]
    names = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {"sim:0 compute", "sim:7 copy"} <= names


def test_real_runs_have_a_track_for_each_device() -> None:
    x = np.zeros((2, 3, 20, 20), np.float32)
    exe = netc.compile(alternating(2, 2), threads=2)
    arrays = exe.accepted({"data": x}, {})
    out, steps = timed(exe, arrays)
    assert np.array_equal(out["out"], exe(data=x)["out"])
    assert [s.name for s in steps] == [s.name for s in exe.plan.steps]
    assert all(s.seconds >= 0 for s in steps)
    for step, made in zip(exe.plan.steps, steps, strict=True):
        for w in step.waits:  # a step begins after those that it waits for have ended
            assert made.start >= 0.9 * (steps[w].start + steps[w].seconds)
    tracks = {e["tid"] for e in json.loads(trace_json([steps]))["traceEvents"] if e["ph"] == "X"}
    assert tracks == {0, 1, 2, 3}
    assert len(mean_times(exe, arrays, runs=2)) == len(steps)
