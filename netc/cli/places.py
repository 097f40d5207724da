"""--place, --placement, --devices and --strategy: where nodes run, as a user says it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from netc.cli.options import EXISTING
from netc.errors import UsageError, clean

if TYPE_CHECKING:
    from netc.ir.graph import Graph
    from netc.passes.partition.placement import Placement

F = TypeVar("F", bound=Callable[..., Any])
MAX_PLACES = 1 << 22  # bytes of a placement file

_OPTIONS = (
    click.option("--devices", help="Devices to use, such as cpu:0,cpu:1."),
    click.option("--place", multiple=True, metavar="LAYER=DEVICE", help="May be repeated."),
    click.option("--placement", type=EXISTING, help="A file of lines `layer = device`."),
    click.option("--strategy", help="annotated, greedy, min_cut, stages or milp, over --devices."),
)


def place_options(command: F) -> F:
    """The options of commands that place a net."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def arranged(
    graph: Graph,
    devices: str | None,
    place: Sequence[str],
    placement: Path | None,
    strategy: str | None,
) -> tuple[Graph, Placement | None]:
    """The graph with its nodes where the options put them, and what a strategy says of that."""
    from netc import api
    from netc.frontend.files import decoded, display, mapped
    from netc.passes.partition.choose import parse_places

    places: dict[str, str] = {}
    if placement is not None:
        text = mapped(placement)
        if len(text) > MAX_PLACES:
            raise UsageError(f"{clean(placement.name)} has more than {MAX_PLACES >> 20} MiB")
        places = parse_places(decoded(text, display(placement), UsageError), placement.name)
    for said in place:
        places |= parse_places(said, "--place")
    return api.arranged(graph, devices, places, strategy)
