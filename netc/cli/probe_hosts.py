"""What other hosts can do, measured by their workers, and how far they are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from netc.cli.probe import best
from netc.cli.probe_nets import compiled
from netc.errors import ResourceError, clean
from netc.ir.device import Device
from netc.ir.graph import Builder, Value
from netc.ir.machine import Link, Machine
from netc.runtime.limits import DEFAULT
from netc.runtime.remote import Host, command_of

_TRIPS = 4  # there and back, of a small value
_FLOATS = 1 << 22  # of a large one


def with_hosts(
    here: Machine,
    names: Sequence[Device],
    commands: Mapping[str, str],
    done: Callable[[str], None] = lambda _: None,
) -> Machine:
    """The table of this host and others: each measures itself, and how far it is from here.

    `names` are devices to measure; of a host that has none among them, all that it has. What goes
    between two other hosts goes by way of this one. `done` hears what is measured.
    """
    tables: dict[str, Machine] = {"": here}
    ways: dict[str, Link] = {}
    for host, command in commands.items():
        done(f"measuring {clean(host)}")
        wanted = [str(replace(d, host="")) for d in names if d.host == host]
        tables[host] = _measured(host, command, wanted)
        ways[host] = _way(host, command)
    specs = {replace(d, host=host): spec for host, table in tables.items()
             for d, spec in table.specs.items()}  # fmt: skip
    links: dict[tuple[Device, Device], Link] = {}
    for a, b in itertools.permutations(specs, 2):
        if a.host == b.host:
            links[a, b] = tables[a.host].link(replace(a, host=""), replace(b, host=""))
        else:
            links[a, b] = _joined([ways[host] for host in (a.host, b.host) if host])
    return replace(here, name="several hosts", specs=specs, links=links, between=None)


def _measured(name: str, command: str, devices: Sequence[str]) -> Machine:
    """What a host says of its devices."""
    host = Host(name, command_of(name, command), DEFAULT)
    try:
        host.greet()
        host.ask("probe", {"do": "probe", "devices": list(devices)})
        _, head, _ = host.hear()
    finally:
        host.close()
    if not isinstance(head.get("machine"), str):
        raise ResourceError(f"host {clean(name)} does not say what it has")
    return Machine.parse(head["machine"], f"the table of {clean(name)}")


def _way(host: str, command: str) -> Link:
    """From here to a host, or back: a small value and a large one, by nets that are on both."""
    small = _seconds(host, command, _TRIPS, 16) / (2 * _TRIPS)
    large = _seconds(host, command, 1, _FLOATS) / 2
    return Link(4.0 * _FLOATS / max(1e-9, large - small), max(1e-9, small))


def _joined(ways: Sequence[Link]) -> Link:
    """One way after another."""
    return Link(1 / sum(1 / way.bandwidth for way in ways), sum(way.latency for way in ways))


def _seconds(host: str, command: str, count: int, floats: int) -> float:
    """Of a net whose value goes to a host and back so many times."""
    shape, places = (16, floats // 16), [Device("cpu", 0, host), Device("cpu")]

    def trips(b: Builder, x: Value) -> Value:
        for place in places * count:
            with b.on(place):
                x = b.relu(x)
        return x

    devices, hosts = [str(place) for place in places], {host: command}
    return best(compiled(trips, shape, devices=devices, optimize=False, hosts=hosts), *shape)
