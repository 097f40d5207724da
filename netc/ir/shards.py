"""How a node is shared by devices: `replicate(cpu:0, cpu:1)`, `split(cuda:0, cuda:1, by=input)`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from netc.errors import NOWHERE, GraphError, Span, clean
from netc.ir.device import Device

Way: TypeAlias = Literal["replicate", "split", "pipeline"]
By: TypeAlias = Literal["output", "input"]
WAYS: tuple[Way, ...] = get_args(Way)
BY: tuple[By, ...] = get_args(By)
MAX_MICRO_BATCHES = 1024


@dataclass(frozen=True)
class Shard:
    """The batch in shares, the channels in shares, or stages and micro-batches, over devices."""

    way: Way
    devices: tuple[Device, ...]
    by: By = "output"  # of a split
    micro_batches: int | None = None  # of a pipeline; as many as devices where it is not said

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise GraphError(f"no way to shard {clean(self.way)!r}", help=f"{_or(WAYS)} fits")
        if not self.devices:
            raise GraphError(f"{self.way} names no device", help="such as cpu:0, cpu:1")
        if len(set(self.devices)) < len(self.devices):
            message = f"{self.way} names a device twice: {listed(self.devices)}"
            raise GraphError(message, help="name each once")
        if self.by not in BY or (self.by != "output" and self.way != "split"):
            message = f"no {self.way} by {clean(self.by)}"
            raise GraphError(message, help=f"channels are split by {_or(BY)}")
        if self.way == "pipeline":
            count = len(self.devices) if self.micro_batches is None else self.micro_batches
            if type(count) is not int or not 1 <= count <= MAX_MICRO_BATCHES:
                fits = f"a number from 1 to {MAX_MICRO_BATCHES} fits"
                raise GraphError(f"micro-batches are {clean(repr(count))}", help=fits)
            object.__setattr__(self, "micro_batches", count)
        elif self.micro_batches is not None:
            raise GraphError("micro-batches are of a pipeline", help=f"{self.way} has none")

    def __str__(self) -> str:
        more = f", by={self.by}" if self.by != "output" else ""
        more += f", micro_batches={self.micro_batches}" if self.way == "pipeline" else ""
        return f"{self.way}({listed(self.devices)}{more})"

    @staticmethod
    def parse(text: str) -> Shard:
        """The sharding that a text such as `split(cpu:0, cpu:1, by=input)` stands for."""
        way, _, rest = text.strip().removesuffix(")").partition("(")
        items = [item.strip() for item in rest.split(",") if item.strip()]
        said = dict(item.split("=", 1) for item in items if "=" in item)
        devices = tuple(Device.parse(item) for item in items if "=" not in item)
        count, by = said.pop("micro_batches", None), said.pop("by", "output")
        if said:
            raise GraphError(f"{clean(way)} has no {clean(next(iter(said)))}")
        number = int(count) if count and re.fullmatch(r"[0-9]{1,9}", count) else count
        return Shard(way, devices, by, number)  # type: ignore[arg-type]


def _or(words: Sequence[str]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1]))


def listed(devices: Iterable[Device]) -> str:
    """The devices, for a sentence."""
    return ", ".join(map(str, devices))


def within(outer: Sequence[Shard], shard: Shard, span: Span = NOWHERE) -> tuple[Shard, ...]:
    """The shardings of what is sharded so inside others. Raises GraphError where none can be.

    A split stands within a pipeline or around one; nothing else goes together.
    """
    for each in outer:
        if "replicate" in (each.way, shard.way) or each.way == shard.way:
            fits = "a split and a pipeline go together; the rest stands side by side"
            raise GraphError(f"{shard.way} within {each}", span, fits)
    return (*outer, shard)


def contradiction(shards: Iterable[Shard], device: Device | None) -> str:
    """Why nodes that are sharded so cannot be placed on a device; nothing where they can."""
    for each in shards if device is not None else ():
        if each.way == "replicate":
            return f"replicate runs it on each of {listed(each.devices)}"
        if each.way == "pipeline" and device not in each.devices:
            return f"its pipeline is over {listed(each.devices)}"
    return ""
