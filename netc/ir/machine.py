"""What a machine can do: its devices, the links between them, and the time that work takes.

A step takes max(flops / peak, bytes / bandwidth) + launch seconds, a transfer latency +
bytes / bandwidth. What a run touches is read from the cache where all of it fits there. Tables
come from `netc devices --probe`, from a file, or are ready made here; a net can be compiled for a
machine that is not at hand.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from netc.errors import GraphError, UsageError, clean
from netc.ir.device import Device
from netc.ir.dims import evaluate

if TYPE_CHECKING:
    from netc.ir.graph import Node

MAX_DEVICES = 1024
_GIB = 1 << 30
# What a table may say, far beyond any machine: bytes and rates, and seconds.
_AMOUNTS = 1.0, 1e22
_TIMES = 1e-15, 1e6


@dataclass(frozen=True)
class DeviceSpec:
    """One device: bytes of memory, FLOP/s, bytes/s of memory traffic, seconds a step costs.

    `cache` is the bytes that stay in a cache from run to run, `cache_bandwidth` its traffic.
    """

    memory: int
    flops: float
    bandwidth: float
    launch: float
    cache: int = 0
    cache_bandwidth: float = 0.0

    def seconds(self, flops: float, moved: float, touched: float = math.inf) -> float:
        """The time of a step of this many operations and bytes, in a run that touches so many."""
        cached = self.cache_bandwidth > 0 and touched <= self.cache
        bandwidth = self.cache_bandwidth if cached else self.bandwidth
        return max(flops / self.flops, moved / bandwidth) + self.launch


@dataclass(frozen=True)
class Link:
    """A one-way connection: bytes/s, and seconds until the first byte is there."""

    bandwidth: float
    latency: float

    def seconds(self, size: float) -> float:
        """The time of a transfer of this many bytes."""
        return self.latency + size / self.bandwidth


CPU = DeviceSpec(memory=8 * _GIB, flops=5e10, bandwidth=1e10, launch=2e-7)
MEMORY_LINK = Link(bandwidth=5e9, latency=1e-6)
GPU = DeviceSpec(memory=80 * _GIB, flops=6e13, bandwidth=3e12, launch=4e-6)
# An H200 as `benchmarks.gpu` measured it: float32 products made of three tf32, a large copy, and a
# small kernel after another one; its link to the host is PCIe 5.
H200 = DeviceSpec(memory=139 * _GIB, flops=1.4e14, bandwidth=4.2e12, launch=2e-6)
PCIE = Link(bandwidth=5e10, latency=1e-5)
NVLINK = Link(bandwidth=4e11, latency=5e-6)
ETHERNET = Link(bandwidth=1.25e10, latency=2e-5)  # 100 GbE
WORKER = Link(bandwidth=6e8, latency=2e-4)  # to a host's worker, over ssh


@dataclass(frozen=True)
class Machine:
    """Devices by their specs, and links by (from, to); `between` holds where none is listed.

    A run takes `call` seconds beside its steps.
    """

    name: str
    specs: Mapping[Device, DeviceSpec]
    links: Mapping[tuple[Device, Device], Link] = field(default_factory=dict)
    between: Link | None = None
    call: float = 0.0

    def __post_init__(self) -> None:
        for name in ("specs", "links"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        if not self.specs:
            raise UsageError(f"machine {clean(self.name)} has no device")

    @property
    def devices(self) -> tuple[Device, ...]:
        """Every device, as listed."""
        return tuple(self.specs)

    def spec(self, device: Device) -> DeviceSpec:
        """What a device can do. Raises UsageError where the machine has none such."""
        if device not in self.specs:
            fits = f"it has {', '.join(map(str, self.devices))}"
            raise UsageError(f"machine {clean(self.name)} has no {device}", help=fits)
        return self.specs[device]

    def link(self, a: Device, b: Device) -> Link:
        """The connection from `a` to `b`; within a device a copy in its own memory."""
        here, _ = self.spec(a), self.spec(b)
        if a == b:
            return Link(here.bandwidth / 2, here.launch)
        found = self.links.get((a, b), self.between)
        if found is None:
            raise UsageError(f"machine {clean(self.name)} has no link from {a} to {b}")
        return found

    def seconds(
        self,
        node: Node,
        device: Device,
        sizes: Mapping[str, int],
        touched: float = math.inf,
    ) -> float:
        """The time of a node there, in a run that touches so many bytes; views take none."""
        from netc.ir.cost import cost_on

        c, spec = cost_on(node, device.kind), self.spec(device)
        flops, moved = evaluate(c.flops, sizes), evaluate(c.read + c.written, sizes)
        return spec.seconds(flops, moved, touched) if flops or moved else 0.0

    def transfer(self, bytes: float, a: Device, b: Device) -> float:
        """The time to bring this many bytes from `a` to `b`; nothing within a device."""
        return 0.0 if a == b else self.link(a, b).seconds(bytes)

    @staticmethod
    def uniform(
        devices: Sequence[Device | str],
        spec: DeviceSpec = CPU,
        link: Link = MEMORY_LINK,
        name: str = "uniform",
    ) -> Machine:
        """Equal devices with equal links between all of them."""
        return Machine(name, dict.fromkeys(map(_device, devices), spec), between=link)

    @staticmethod
    def typical(devices: Sequence[Device | str]) -> Machine:
        """Devices by their kinds, as one machine of ours was measured."""
        listed = [_device(d) for d in devices]
        specs = {d: H200 if d.kind == "cuda" else CPU for d in listed}
        links = {(a, b): _typical_link(a, b) for a, b in itertools.permutations(listed, 2)}
        return Machine("typical", specs, links)

    def only(self, devices: Sequence[Device | str]) -> Machine:
        """The machine with these of its devices. Raises UsageError for one that it has not."""
        listed = [_device(d) for d in devices]
        specs = {d: self.spec(d) for d in listed}
        links = {(a, b): link for (a, b), link in self.links.items() if a in specs and b in specs}
        return replace(self, specs=specs, links=links)

    @staticmethod
    def parse(text: str, name: str = "machine.json") -> Machine:
        """The machine in a JSON text, as `show` writes it. Raises UsageError."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{clean(name)} is no JSON: {clean(error)}") from None
        return _Reading(name).machine(value)

    def show(self) -> str:
        """The machine as JSON."""
        value: dict[str, Any] = {"name": self.name}
        value["devices"] = {str(d): asdict(s) for d, s in self.specs.items()}
        value["links"] = [
            {"from": str(a), "to": str(b), **asdict(link)} for (a, b), link in self.links.items()
        ]
        if self.between is not None:
            value["between"] = asdict(self.between)
        if self.call:
            value["call"] = self.call
        return json.dumps(value, indent=1) + "\n"


def _typical_link(a: Device, b: Device) -> Link:
    if a.host != b.host:
        return WORKER
    kinds = {a.kind, b.kind}
    if "cuda" not in kinds:
        return MEMORY_LINK
    return NVLINK if kinds == {"cuda"} else PCIE


def _device(device: Device | str) -> Device:
    return device if isinstance(device, Device) else Device.parse(device)


class _Reading:
    """One table being read; every error says where in it."""

    def __init__(self, name: str) -> None:
        self.name = clean(name)

    def machine(self, value: Any) -> Machine:
        """All of it."""
        table = self.table(value, "the whole", {"devices"}, {"name", "links", "between", "call"})
        listed = self.table(table["devices"], "devices", set(), None)
        if not 0 < len(listed) <= MAX_DEVICES:
            raise self.wrong("devices", f"has {len(listed)} entries; 1 to {MAX_DEVICES} fit")
        specs = {self.device(d): self.spec(s, f"devices.{clean(d)}") for d, s in listed.items()}
        links = {}
        given = table.get("links", [])
        if not isinstance(given, list):
            raise self.wrong("links", "is not a list")
        for i, entry in enumerate(given):
            a, b, link = self.edge(entry, f"links[{i}]")
            if a not in specs or b not in specs:
                raise self.wrong(f"links[{i}]", f"joins {a} and {b}, which are not both listed")
            links[a, b] = link
        between = self.link(table["between"], "between") if "between" in table else None
        call = self.number(table["call"], "call", _TIMES) if "call" in table else 0.0
        return Machine(str(table.get("name", self.name)), specs, links, between, call)

    def wrong(self, where: str, why: str) -> UsageError:
        """The error to raise."""
        return UsageError(f"{self.name}: {where} {why}")

    def table(
        self, value: Any, where: str, needed: set[str], more: set[str] | None
    ) -> dict[str, Any]:
        """A mapping with these keys; any keys where `more` is None."""
        if not isinstance(value, dict):
            raise self.wrong(where, "is not a mapping")
        missing = sorted(needed - set(value))
        unknown = sorted(set(value) - needed - more) if more is not None else []
        if missing:
            raise self.wrong(where, f"lacks {', '.join(missing)}")
        if unknown:
            fits = ", ".join(sorted(needed | (more or set())))
            raise self.wrong(where, f"has {clean(unknown[0])}; {fits} fit")
        return value

    def device(self, text: str) -> Device:
        """A device's name."""
        try:
            return Device.parse(text)
        except GraphError as error:
            raise self.wrong("devices", error.diagnostics[0].message) from None

    def number(self, value: Any, where: str, fits: tuple[float, float] = _AMOUNTS) -> float:
        """A number that some machine may have."""
        least, most = fits
        if type(value) not in (int, float) or not least <= value <= most:
            said = f"is {clean(repr(value))}; a number from {least:g} to {most:g} fits"
            raise self.wrong(where, said)
        return float(value)

    def spec(self, value: Any, where: str) -> DeviceSpec:
        """What a device can do."""
        needed = {f.name for f in fields(DeviceSpec) if f.default is MISSING}
        table = self.table(value, where, needed, {f.name for f in fields(DeviceSpec)})
        given = {name: x for name, x in table.items() if x != 0 or name in needed}  # no cache
        got: dict[str, Any] = {
            n: self.number(x, f"{where}.{n}", _TIMES if n == "launch" else _AMOUNTS)
            for n, x in given.items()
        }
        whole = {n: int(x) for n, x in got.items() if n in ("memory", "cache")}
        return DeviceSpec(**got | whole)

    def link(self, value: Any, where: str) -> Link:
        """A connection."""
        table = self.table(value, where, {"bandwidth", "latency"}, set())
        return Link(
            self.number(table["bandwidth"], f"{where}.bandwidth"),
            self.number(table["latency"], f"{where}.latency", _TIMES),
        )

    def edge(self, value: Any, where: str) -> tuple[Device, Device, Link]:
        """A connection and what it joins."""
        table = dict(self.table(value, where, {"from", "to", "bandwidth", "latency"}, set()))
        ends = table.pop("from"), table.pop("to")
        if not all(isinstance(end, str) for end in ends):
            raise self.wrong(where, "joins what is no device's name")
        return self.device(ends[0]), self.device(ends[1]), self.link(table, where)


def two_cpus() -> Machine:
    """Two halves of one processor."""
    return Machine.uniform(("cpu:0", "cpu:1"), name="two cpus")


def eight_gpus() -> Machine:
    """One host with eight GPUs, all joined by NVLink."""
    devices = [Device("cuda", i) for i in range(8)]
    return Machine.uniform(devices, GPU, NVLINK, "eight gpus")


def two_hosts() -> Machine:
    """Two hosts with four GPUs each, NVLink within and 100 GbE between them."""
    devices = [Device("cuda", i, host) for host in ("node0", "node1") for i in range(4)]
    near = [(a, b) for a, b in itertools.permutations(devices, 2) if a.host == b.host]
    return Machine("two hosts", dict.fromkeys(devices, GPU), dict.fromkeys(near, NVLINK), ETHERNET)


READY = MappingProxyType({m.name: m for m in (two_cpus(), eight_gpus(), two_hosts())})
