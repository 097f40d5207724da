"""The order of steps, where threads must meet between them, and how long buffers live.

Steps that touch nothing of each other's need no barrier between them: the four branches of an
inception module are one group. A buffer lives from the group that first writes it to the group
that last reads it, so memory is shared between groups only, never within one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from netc.codegen.cpu.buffers import Place
from netc.codegen.cpu.lowering import Call
from netc.ir.dims import Dim
from netc.ir.plan import Buffer, Step


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


def order_steps(
    places: Sequence[Place], work: Sequence[Work]
) -> tuple[tuple[Step, ...], tuple[Buffer, ...]]:
    """Steps with barriers where they are needed, and buffers with lifetimes in steps."""
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
        Buffer(p.space, p.size, first.get(i, 0), last.get(i, 0)) for i, p in enumerate(places)
    )
    return tuple(steps), buffers


def _step(w: Work) -> Step:
    writes = tuple(dict.fromkeys(b for b, _ in w.writes))
    reads = tuple(dict.fromkeys(w.reads))
    return Step(w.call.symbol, w.call.args, w.name, w.op, reads, writes, w.flops, w.bytes)


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
