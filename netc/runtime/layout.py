"""Where the buffers of a plan lie for given sizes, whole or in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from netc.errors import ArtifactError, ResourceError, clean
from netc.ir.plan import ALIGN, Plan, Space, allocate, check_arena
from netc.runtime.flat_plan import FlatPlan
from netc.runtime.memory import PAGE
from netc.runtime.turns import ALL, Batch, Stretch, Turns, inside, lives, stretches


@dataclass(frozen=True)
class Layout:
    """Where the arena's buffers lie, and how many bytes each buffer of the plan has.

    Where some steps are in turns: all stretches of steps, each with how far from there its images
    lie in buffers; and of each buffer within turns the bytes `taken` at once.
    """

    sizes: list[int]
    offsets: dict[int, int]
    arena: int
    stretches: Sequence[tuple[Stretch, Mapping[int, int]]] = ()
    taken: Mapping[int, int] = field(default_factory=dict)


def plan_layout(plan: FlatPlan, known: Mapping[str, int], separate: bool = False) -> Layout:
    """Sizes and arena offsets for these sizes of the symbols.

    With `separate` no two buffers share bytes: for runs that are watched.
    """
    sizes = buffer_sizes(plan, known)
    end = max([buffer.last for buffer in plan.buffers], default=0)
    spans = [(0, end) if separate else (b.first, b.last) for b in plan.buffers]
    return Layout(sizes, *_arena(plan, sizes, spans))


def layout_in_turns(
    plan: FlatPlan, known: Mapping[str, int], batch: Batch, turns: Sequence[Turns]
) -> Layout:
    """The same where some steps are in turns."""
    sizes, spans = buffer_sizes(plan, known), lives(plan, turns)
    rooms = [_room(plan, known, batch, t, spans) for t in turns]
    within = {b for room in rooms for b in room.offsets}
    outside = [b for b, buffer in enumerate(plan.buffers)
               if buffer.space is Space.ARENA and b not in within]  # fmt: skip
    placed = [
        *((sizes[b], spans[b]) for b in outside),
        *((room.size, (t.first, t.end - 1)) for room, t in zip(rooms, turns, strict=True)),
    ]
    found, total = place_region([size for size, _ in placed], [span for _, span in placed])
    offsets = dict(zip(outside, found, strict=False))
    for room, start in zip(rooms, found[len(outside) :], strict=True):
        offsets |= {b: start + at for b, at in room.offsets.items()}
    apart = {b: int(n) for b, n in enumerate(batch.per_image) if n and b not in within}
    room_at = {t.first: room for t, room in zip(turns, rooms, strict=True)}
    parts = []
    for part in stretches(plan, batch.images, turns):
        shifts = {b: part.before * size for b, size in apart.items()}
        if part.first in room_at:
            shifts |= room_at[part.first].shifts(part)
        parts.append((part, shifts))
    taken = {b: size for room in rooms for b, size in room.taken.items()}
    return Layout(sizes, offsets, max(total, ALIGN) + ALIGN, parts, taken)


@dataclass(frozen=True)
class _Room:
    """What steps in turns have to themselves: a part for each thread, or all for what is left."""

    offsets: dict[int, int]  # of a thread's buffers in its part
    part: int
    rest: dict[int, int]  # of the buffers for what is left
    size: int
    taken: dict[int, int]  # bytes of each buffer, of all threads

    def shifts(self, stretch: Stretch) -> dict[int, int]:
        """How far from the first thread's place a stretch has its buffers."""
        if stretch.thread != ALL:
            return dict.fromkeys(self.offsets, stretch.thread * self.part)
        return {b: self.rest[b] - at for b, at in self.offsets.items()}


def _room(
    plan: FlatPlan,
    known: Mapping[str, int],
    batch: Batch,
    turns: Turns,
    spans: Sequence[tuple[int, int]],
) -> _Room:
    mine = inside(plan, turns)
    made = []
    for count in (turns.count, batch.images % turns.threads):
        sizes = buffer_sizes(plan, {**known, plan.batch: count}, mine)
        found, total = place_region(sizes, [spans[b] for b in mine])
        made.append((dict(zip(mine, found, strict=True)), -(-total // PAGE) * PAGE, sizes))
    (offsets, part, each), (rest, least, left) = made
    both = zip(mine, each, left, strict=True)
    taken = {b: max(size * turns.threads, other) for b, size, other in both}
    return _Room(offsets, part, rest, max(part * turns.threads, least), taken)


def buffer_sizes(
    plan: FlatPlan, known: Mapping[str, int], which: Sequence[int] | None = None
) -> list[int]:
    """The bytes of some buffers, or of all."""
    buffers = range(len(plan.buffers)) if which is None else which
    sizes: list[int] = plan.numbers(known)[plan.columns.buffers[buffers]].tolist()
    for i, size in zip(buffers, sizes, strict=True):
        if not 0 <= size < 1 << 48:
            raise ResourceError(f"buffer {i} of the plan would have {size} bytes")
    return sizes


def _arena(
    plan: Plan, sizes: Sequence[int], spans: Sequence[tuple[int, int]]
) -> tuple[dict[int, int], int]:
    """Offsets of the arena's buffers, each device's in a region of its own, and its length."""
    inside = [i for i, buffer in enumerate(plan.buffers) if buffer.space is Space.ARENA]
    offsets, total = place_regions(plan, inside, sizes, spans)
    return offsets, max(total, ALIGN) + ALIGN


def place_regions(
    plan: Plan, which: Sequence[int], sizes: Sequence[int], spans: Sequence[tuple[int, int]]
) -> tuple[dict[int, int], int]:
    """Offsets of some buffers, those of each device in a region of its own, and the length.

    Only of one device's buffers do the spans say when their bytes are free for others. `sizes` and
    `spans` are of all buffers.
    """
    homes: dict[str, list[int]] = {}
    for i in which:
        homes.setdefault(plan.buffers[i].device, []).append(i)
    offsets: dict[int, int] = {}
    total = 0
    for mine in homes.values():
        found, size = place_region([sizes[i] for i in mine], [spans[i] for i in mine])
        offsets |= {i: total + at for i, at in zip(mine, found, strict=True)}
        total += -(-size // PAGE) * PAGE if len(homes) > 1 else size
    return offsets, total


def place_region(sizes: Sequence[int], lives: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Offsets of buffers in one region of memory, and its length. Raises ArtifactError."""
    offsets, total = allocate(sizes, lives)
    wrong = check_arena(offsets, sizes, lives)
    if wrong:
        raise ArtifactError(f"the plan's memory does not fit together: {wrong}")
    return offsets, total


def named_sizes(plan: FlatPlan, sizes: Sequence[int]) -> list[tuple[str, int]]:
    """The bytes of each buffer, called by the step that fills it."""
    columns = plan.columns
    names = {i: name for name, w in zip(columns.names, columns.writes, strict=True) for i in w}
    names |= {port.buffer: port.name for port in (*plan.inputs, *plan.outputs)}
    return [(clean(names.get(i, f"buffer {i}")), size) for i, size in enumerate(sizes)]
