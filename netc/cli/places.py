"""--place, --strategy, --replicate and others: where nodes run, as a user says it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from netc.cli.options import EXISTING
from netc.errors import UsageError, clean

if TYPE_CHECKING:
    from netc.api import Arranged
    from netc.compiler import Options
    from netc.ir.graph import Graph
    from netc.ir.machine import Machine
    from netc.passes.shardings import Sharding

F = TypeVar("F", bound=Callable[..., Any])
MAX_PLACES = 1 << 22  # bytes of a placement file

_DEVICES = click.option("--devices", help="Devices to use, such as cpu:0,cpu:1.")
_OPTIONS = (
    click.option("--place", multiple=True, metavar="LAYER=DEVICE", help="May be repeated."),
    click.option("--placement", type=EXISTING, help="A file of lines `layer = device`."),
    click.option("--strategy", help="annotated, greedy, min_cut, stages or milp, over --devices."),
    click.option("--replicate", metavar="DEVICES", help="Share the batch: cpu:0,cpu:1."),
    click.option(
        "--split",
        multiple=True,
        metavar="LAYERS=DEVICES[:output|:input]",
        help="Share the channels of layers: conv1,conv2=cpu:0,cpu:1. May be repeated.",
    ),
    click.option("--pipeline", metavar="DEVICES", help="Stages of the net, one a device."),
    click.option(
        "--micro-batches", type=int, help="Of a pipeline; as many as devices if not said."
    ),
    click.option(
        "--machine", help="A table of `netc devices --probe -o`, or `eight gpus`: what to plan for."
    ),
)


def place_options(command: F) -> F:
    """The options of commands that place a net."""
    return _DEVICES(place_options_only(command))


def place_options_only(command: F) -> F:
    """The same without --devices, for a command that means something else by it."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Places:
    """What the options say of where a net runs."""

    devices: str | None
    place: Sequence[str]
    placement: Path | None
    strategy: str | None
    sharding: Sharding | None
    machine: Machine | None

    @staticmethod
    def taken(options: dict[str, Any]) -> Places:
        """Those of `place_options`, taken out of all options."""
        from netc import choices

        names = ("devices", "place", "placement", "strategy")
        placing = {name: options.pop(name, None) for name in names}
        names = ("replicate", "split", "pipeline", "micro_batches")
        said = {name: options.pop(name) for name in names}
        said["split"] = _splits(said["split"])
        machine = choices.machine_of(options.pop("machine"))
        return Places(**placing, sharding=choices.sharding_of(**said), machine=machine)

    def shown(self, graph: Graph) -> Graph:
        """The graph arranged where options say something, else as it was written."""
        from netc import api

        said = (self.place, self.placement, self.strategy, self.sharding)
        if not any(said):
            return graph
        options = api.compile_options(True, "native", None, self.devices, "cpu", self.sharding)
        return self.arranged(graph, options).graph

    def arranged(self, graph: Graph, options: Options) -> Arranged:
        """The graph with its nodes where the options put them."""
        from netc import api
        from netc.frontend.files import decoded, display, mapped
        from netc.passes.partition.choose import parse_places

        places: dict[str, str] = {}
        if (file := self.placement) is not None:
            text = mapped(file)
            if len(text) > MAX_PLACES:
                raise UsageError(f"{clean(file.name)} has more than {MAX_PLACES >> 20} MiB")
            places = parse_places(decoded(text, display(file), UsageError), file.name)
        for said in self.place:
            places |= parse_places(said, "--place")
        ways = self.strategy, self.sharding, self.machine
        return api.arranged(graph, options, self.devices, places, *ways)


def _splits(said: Sequence[str]) -> dict[str, str] | None:
    """Layer -> devices and way, from texts such as `conv1,conv2=cpu:0,cpu:1:input`."""
    splits: dict[str, str] = {}
    for text in said:
        layers, equals, devices = (part.strip() for part in text.rpartition("="))
        names = [name.strip() for name in layers.split(",")]
        if not (equals and devices and all(names)):
            help = "such as conv1,conv2=cpu:0,cpu:1 or fc7=cpu:0,cpu:1:input"
            raise UsageError(f"--split {clean(text)!r} is not LAYERS=DEVICES", help=help)
        for name in names:
            if splits.setdefault(name, devices) != devices:
                both = f"over {clean(splits[name])} and over {clean(devices)}"
                raise UsageError(f"--split has {clean(name)} {both}", help="name it once")
    return splits or None
