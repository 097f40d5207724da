"""The order of steps, where threads must meet between them, and how long buffers live.

Steps that touch nothing of each other's need no barrier between them: the four branches of an
inception module are one group. A buffer lives from the group that first writes it to the group
that last reads it, so memory is shared between groups only, never within one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from netc.codegen.buffers import Place
from netc.codegen.operand import Call
from netc.ir.dims import Dim
from netc.ir.plan import Buffer, Step
from netc.ir.queues import COMPUTE, COPY, with_lifetimes, with_waits


@dataclass(frozen=True)
class Work:
    """One call with what it touches; `writes` name a buffer and a part of it."""

    call: Call
    name: str
    op: str
    reads: tuple[int, ...]
    writes: tuple[tuple[int, str], ...]
    flops: Dim = 0
    bytes: Dim = 0
    device: str = "cpu:0"
    copies: bool = False  # from another device
    by_image: bool = False  # see `Step`


def order_steps(
    places: Sequence[Place], work: Sequence[Work]
) -> tuple[tuple[Step, ...], tuple[Buffer, ...]]:
    """Steps with barriers where they are needed, and buffers with lifetimes in steps."""
    if len({w.device for w in work}) > 1 or any(w.copies for w in work):
        return _order_queues(places, work)
    groups = group(work)
    steps: list[Step] = []
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for members in groups:
        start, end = len(steps), len(steps) + len(members) - 1
        for w in members:
            for buffer in (*w.reads, *(b for b, _ in w.writes)):
                first.setdefault(buffer, start)
                last[buffer] = end
            steps.append(_step(w))
        steps[:-1] = [*steps[:start], *(replace(s, barrier=False) for s in steps[start:-1])]
    buffers = tuple(
        Buffer(p.space, p.size, first.get(i, 0), last.get(i, 0), p.device)
        for i, p in enumerate(places)
    )
    return tuple(steps), buffers


def _order_queues(
    places: Sequence[Place], work: Sequence[Work]
) -> tuple[tuple[Step, ...], tuple[Buffer, ...]]:
    """The same on several devices: barriers within each queue, waits between them."""
    queues: dict[tuple[str, bool], list[int]] = {}
    for i, w in enumerate(work):
        queues.setdefault((w.device, w.copies), []).append(i)
    meets: set[int] = set()
    for members in queues.values():
        at = -1
        for together in group([work[i] for i in members]):
            at += len(together)
            meets.add(members[at])
    steps = [
        replace(_step(w), barrier=i in meets, stream=COPY if w.copies else COMPUTE)
        for i, w in enumerate(work)
    ]
    done = with_waits(steps)
    buffers = [Buffer(p.space, p.size, device=p.device) for p in places]
    return done, with_lifetimes(buffers, done)


def _step(w: Work) -> Step:
    writes = tuple(dict.fromkeys(b for b, _ in w.writes))
    reads = tuple(dict.fromkeys(w.reads))
    args = w.call.symbol, w.call.args, w.name, w.op
    return Step(*args, reads, writes, w.flops, w.bytes, w.device, by_image=w.by_image)


def group(work: Sequence[Work]) -> list[list[Work]]:
    """Cut the order into runs of steps that are independent of each other."""
    groups: list[list[Work]] = []
    read: set[int] = set()
    written: set[tuple[int, str]] = set()
    for w in work:
        buffers = {b for b, _ in written}
        clash = any(b in buffers for b in w.reads) or any(
            b in read or part in written for part in w.writes for b in part[:1]
        )
        if clash or not groups:
            groups.append([])
            read, written = set(), set()
        groups[-1].append(w)
        read |= set(w.reads)
        written |= set(w.writes)
    return groups
