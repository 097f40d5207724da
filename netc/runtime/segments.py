"""A plan on GPUs cut into pieces that are asked for as one: launches, copies, host steps.

A piece is on one queue of a driver, or on the host, which runs its pieces itself. Pieces are
asked for in their order; a piece is after others that are on other queues. What the plan's
queues and waits order stays ordered; the rest may overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from netc.errors import ArtifactError, clean
from netc.ir.device import Device
from netc.ir.plan import Buffer, BufferArg, Step

MEMCPY = "memcpy"  # the kernel of a step that moves bytes: target, source, how many
CUDA = "cuda"

DriverQueue: TypeAlias = tuple[int, str]  # number of the device, stream


@dataclass
class Segment:
    """Steps of one piece: on the host (`queue` is None), launches, or copies."""

    queue: DriverQueue | None
    copies: bool
    steps: list[int] = field(default_factory=list)
    after: set[int] = field(default_factory=set)  # pieces of other queues


def cuda_index(device: str) -> int | None:
    """The number of a cuda device, or None for others."""
    parsed = Device.parse(device)
    return parsed.index if parsed.kind == CUDA else None


def is_gpu_step(step: Step) -> bool:
    """Whether a driver does a step, and not the host's code."""
    return step.kernel == MEMCPY or cuda_index(step.device) is not None


def cut(steps: Sequence[Step], buffers: Sequence[Buffer]) -> list[Segment]:
    """The pieces of a plan, in the order in which they are asked for.

    A piece ends with what another device waits for, so that it need not wait for more.
    """
    segments: list[Segment] = []
    home: list[int] = []  # of each step
    latest: dict[tuple[str, str], int] = {}  # of each queue of the plan
    queues = [_driver_queue(step, buffers) for step in steps]
    ends = _ends(steps, queues)
    for i, step in enumerate(steps):
        queue, copies = queues[i], step.kernel == MEMCPY
        waited = {home[w] for w in step.waits}
        own = (step.device, step.stream)
        last = latest.get(own)
        if (
            last is not None
            and _fits(segments[last], queue, copies)
            and segments[last].steps[-1] not in ends
            and max(waited | {last}) == last
        ):
            place = last
        else:
            place = len(segments)
            segments.append(Segment(queue, copies))
            waited |= set() if last is None else {last}
        segments[place].steps.append(i)
        segments[place].after |= {w for w in waited - {place} if segments[w].queue != queue}
        home.append(place)
        latest[own] = place
    return segments


def _ends(steps: Sequence[Step], queues: Sequence[DriverQueue | None]) -> set[int]:
    """The steps that another device waits for. The host does where it computes with the value."""
    read = {w for step, queue in zip(steps, queues, strict=True) if queue is None
            for w in step.waits}  # fmt: skip
    ends = set()
    for j, step in enumerate(steps):
        reader = queues[j]
        for w in step.waits:
            maker = queues[w]
            if maker is None or reader is None:
                apart = maker != reader
            else:
                apart = maker[0] != reader[0] or (reader[1] == "back" and j in read)
            if apart:
                ends.add(w)
    return ends


def _fits(segment: Segment, queue: DriverQueue | None, copies: bool) -> bool:
    return segment.queue == queue and segment.copies == copies


def _driver_queue(step: Step, buffers: Sequence[Buffer]) -> DriverQueue | None:
    """Where a step runs. Copies to and from a device have a queue each, so that they overlap."""
    index = cuda_index(step.device)
    if step.kernel != MEMCPY:
        return None if index is None else (index, "compute")
    if index is not None:
        return index, "copy"
    if len(step.args) != 3 or not isinstance(step.args[1], BufferArg):
        raise ArtifactError(f"step {clean(step.name)} is no copy")
    source = cuda_index(buffers[step.args[1].buffer].device)
    if source is None:
        raise ArtifactError(f"step {clean(step.name)} copies from host to host")
    return source, "back"
