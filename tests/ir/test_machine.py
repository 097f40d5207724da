"""Machine tables: what they say, and what they refuse."""

from __future__ import annotations

import json

import pytest

from netc.errors import UsageError
from netc.ir.device import Device
from netc.ir.graph import Builder
from netc.ir.machine import CPU, READY, DeviceSpec, Link, Machine, eight_gpus, two_cpus, two_hosts
from netc.ir.types import DType, TensorType

A, B = Device("cpu"), Device("cpu", 1)


@pytest.mark.parametrize("name", sorted(READY))
def test_a_table_reads_back_as_it_was_written(name: str) -> None:
    machine = READY[name]
    assert Machine.parse(machine.show()) == machine


def test_links_depend_on_the_hosts() -> None:
    m = two_hosts()
    near = m.link(Device("cuda", 0, "node0"), Device("cuda", 3, "node0"))
    far = m.link(Device("cuda", 0, "node0"), Device("cuda", 0, "node1"))
    assert near.bandwidth > 10 * far.bandwidth
    assert len(eight_gpus().devices) == 8


def test_time_of_nodes_and_transfers() -> None:
    b = Builder()
    x = b.input("x", TensorType(DType.F32, (4, 8)))
    y = b.relu(x)
    m = two_cpus()
    assert m.seconds(x.node, A, {}) == 0
    assert m.seconds(y.node, A, {}) == pytest.approx(2 * 128 / CPU.bandwidth + CPU.launch)
    assert m.transfer(1000, A, A) == 0
    assert m.transfer(1000, A, B) == pytest.approx(m.link(A, B).latency + 1000 / 5e9)


def test_what_is_not_there_is_named() -> None:
    m = Machine("m", {A: CPU, B: CPU}, {(A, B): Link(1.0, 1.0)})
    with pytest.raises(UsageError, match="has no cuda:0"):
        m.spec(Device("cuda"))
    with pytest.raises(UsageError, match="no link from cpu:1 to cpu:0"):
        m.link(B, A)


SPEC = {"memory": 1, "flops": 1.0, "bandwidth": 1.0, "launch": 1.0}


def _table(**changes: object) -> str:
    return json.dumps({"devices": {"cpu:0": SPEC}} | changes)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "the whole is not a mapping"),
        ("{}", "lacks devices"),
        (_table(devices={}), "devices has 0 entries"),
        (_table(devices={"gpu": {}}), "no device 'gpu'"),
        (_table(devices={"cpu": {}}), "lacks bandwidth, flops"),
        (_table(speed=1), "has speed; between, call, devices, links, name fit"),
        (_table(between={"bandwidth": 0, "latency": 1}), "between.bandwidth is 0; a number from 1"),
        (_table(between={"bandwidth": True, "latency": 1}), "between.bandwidth is True"),
        (_table(links=[{"from": "cpu:0", "to": "cpu:1", "bandwidth": 1, "latency": 1}]), "joins"),
        (_table(links=[{"from": 1, "to": 2, "bandwidth": 1, "latency": 1}]), "no device's name"),
        (_table(links={}), "links is not a list"),
        (_table(between={"bandwidth": float("nan"), "latency": 1}), "is nan"),
        (_table(between={"bandwidth": 10**400, "latency": 1}), "bandwidth is 1000"),
        (_table(between={"bandwidth": 1e-300, "latency": 1}), "bandwidth is 1e-300; a number"),
        (_table(between={"bandwidth": 1, "latency": 1e308}), "latency is 1e.308; a number"),
        (_table(devices={"cpu": SPEC | {"launch": 1e308}}), "launch is 1e.308; a number"),
        (_table(devices={"cpu": SPEC | {"flops": 10**400}}), "cpu.flops is 1000"),
        (_table(devices={"cpu": SPEC | {"memory": 10**30}}), "cpu.memory is 1000"),
        (_table(call=10**400), "call is 1000"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_with_the_place(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Machine.parse(text)


def test_a_typical_machine_knows_its_devices_by_their_kinds() -> None:
    m = Machine.typical(("cpu:0", "cuda:0", "cuda:1"))
    cpu, gpu, other = m.devices
    assert m.spec(gpu).flops > 100 * m.spec(cpu).flops
    assert m.transfer(1e9, gpu, other) < m.transfer(1e9, cpu, gpu) < 1.0
    assert m.link(cpu, gpu) == m.link(gpu, cpu)


def test_what_fits_the_cache_is_read_from_there() -> None:
    spec = DeviceSpec(1 << 30, 1e9, 1e9, 0.0, cache=1000, cache_bandwidth=4e9)
    assert spec.seconds(0, 400, touched=1000) == pytest.approx(1e-7)
    assert spec.seconds(0, 400, touched=1001) == spec.seconds(0, 400) == pytest.approx(4e-7)
    none = DeviceSpec(1 << 30, 1e9, 1e9, 0.0)
    assert none.seconds(0, 400, touched=0) == pytest.approx(4e-7)


def test_a_table_without_a_cache_is_read_as_one_with() -> None:
    old = Machine.parse(_table())
    assert old.spec(A).cache == 0
    assert old.call == 0
    full = Machine("m", {A: DeviceSpec(1, 1.0, 1.0, 1.0, 5, 2.0)}, call=1e-6)
    again = Machine.parse(full.show())
    assert again.specs == full.specs
    assert again.call == full.call
    assert Machine.parse(old.show()).specs == old.specs
