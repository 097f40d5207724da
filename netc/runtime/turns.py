"""A large batch in turns: each thread does some steps for a few images, then for the next few.

What a step leaves for the next then stays in the thread's cache, no thread waits for another, and
memory is needed for the images of one turn. In exchange every turn reads the weights again. Steps
are in turns where the bytes that need not come from memory are more than those that come again; a
plan may have several such stretches of steps, each with its own number of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from netc.ir.plan import Space
from netc.runtime.flat_plan import BUFFERS, FlatPlan, Ints

COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # images of a turn
ALL = -1  # threads
_LEAST_GAIN = 1 << 20  # bytes
_CALL = 1 << 13  # bytes that memory gives while a step begins
_ROOM = 1 / 32  # of the bytes that an image moves
_USUAL = 8 << 20  # bytes of a cache, where the system does not say
_OTHERS = 8  # the largest cache has others' data, and what is read for the last time


@dataclass(frozen=True)
class Stretch:
    """Steps `first` to `end`, not included, for `count` images from number `before` on.

    The `thread` does them alone, or all threads together.
    """

    first: int
    end: int
    before: int
    count: int
    thread: int = ALL

    @property
    def kind(self) -> tuple[int, int, int]:
        """What it has in common with stretches that do the same for other images."""
        return self.first, self.end, self.count


@dataclass(frozen=True)
class Turns:
    """Steps `first` to `end`, not included, for at most `count` images at a time on each thread."""

    first: int
    end: int
    count: int
    threads: int

    def stretches(self, images: int) -> Iterator[Stretch]:
        """The turns of every thread, all about alike; what is left, all threads do together."""
        each = images // self.threads
        turns = -(-each // self.count)
        for thread in range(self.threads):
            edges = [each * (thread * turns + i) // turns for i in range(turns + 1)]
            for before, after in pairwise(edges):
                yield Stretch(self.first, self.end, before, after - before, thread)
        done = each * self.threads
        if done < images:
            yield Stretch(self.first, self.end, done, images - done)


@dataclass(frozen=True)
class Batch:
    """What a plan's batch is: of each buffer the bytes of one image, of each step those it moves.

    A buffer is `rigid` where its images do not follow one another; it is all in a turn or in none.
    """

    images: int
    per_image: Ints  # bytes of buffers
    rigid: frozenset[int]
    moved: Ints  # bytes of steps for each image
    fixed: Ints  # bytes of steps for any number of them: weights


def batch_of(plan: FlatPlan, known: Mapping[str, int], threads: int) -> Batch | None:
    """The batch of a plan for these sizes; None where it is not to be cut for so many threads."""
    images = known.get(plan.batch, 0)
    if not 0 < threads < images:
        return None
    one, two, three = (sizes_for(plan, known, count) for count in (1, 2, 3))
    c = plan.columns
    sizes = [numbers[c.buffers] for numbers in (one, two, three)]
    each = sizes[1] - sizes[0]
    linear = (sizes[0] == each) & (sizes[2] == 3 * each)
    moves = one[c.offsets] != two[c.offsets]
    in_buffers = (c.bases >= BUFFERS) & (c.bases < plan.table_base)
    rigid = {*np.flatnonzero(~linear & (each != 0)).tolist()}
    rigid |= {int(b) - BUFFERS for b in c.bases[in_buffers & moves]}
    written = {b for i in np.flatnonzero(c.by_image) for b in c.writes[i]}
    rigid |= {b for b in written if each[b] == 0}
    moved = two[c.bytes] - one[c.bytes]
    return Batch(images, each, frozenset(rigid), moved, one[c.bytes] - moved)


def sizes_for(plan: FlatPlan, known: Mapping[str, int], images: int) -> Ints:
    """The numbers that the plan's sizes stand for, for so many images. Raises ResourceError."""
    return plan.numbers({**known, plan.batch: images} if plan.batch else known)


def turns_of(plan: FlatPlan, batch: Batch, cache: int, threads: int) -> tuple[Turns, ...]:
    """The steps that are in turns, in their order, on a processor with a cache of so many bytes."""
    users = plan.users
    allowed = plan.columns.by_image.astype(bool)
    cuts = np.ones(len(allowed) + 1, bool)  # where turns may begin and end
    for b in batch.rigid & set(users):
        if plan.buffers[b].space is not Space.ARENA:
            allowed[users[b]] = False
        cuts[users[b][0] + 1 : users[b][-1] + 1] = False
    for uses in users.values():
        if len(uses) > 1 and not plan.columns.reads[uses[0]]:  # zeros, around what is written next
            cuts[uses[0] + 1 : uses[1] + 1] = False
    gains = {c: np.where(allowed, _gains(batch, c, cache, threads), -np.inf)
             for c in COUNTS if c * threads < batch.images}  # fmt: skip
    found = _best(gains, cuts, 0, len(allowed))
    return tuple(Turns(*turns, threads) for turns in found)


def _gains(batch: Batch, count: int, cache: int, threads: int) -> np.ndarray:
    """Of each step, the bytes that need not come from memory in turns of so many images.

    A part of the cache is taken to serve; what is up to twice as large stays there in part. That
    fewer images need room is worth a little too, where even those of a turn do not stay.
    """
    part = (cache or _USUAL) / _OTHERS
    whole, turn = (n * batch.moved / part for n in (batch.images, count * threads))
    kept = np.clip(2 - turn, 0, 1) - np.clip(2 - whole, 0, 1)
    kept += _ROOM * (1 - count * threads / batch.images) * (whole > 2)
    again = -(-batch.images // (count * threads)) - 1
    return kept * batch.images * batch.moved - again * (batch.fixed + _CALL)


def _best(
    gains: Mapping[int, np.ndarray], cuts: np.ndarray, first: int, end: int
) -> list[tuple[int, int, int]]:
    """Between two steps the turns that save most, and what there is at both sides of them.

    A stretch is its first step, the one behind its last, and the images of a turn.
    """
    found, most = (0, 0, 0), float(_LEAST_GAIN)
    for count, gain in gains.items():
        for start, stop in _runs(gain[first:end]):
            total = np.concatenate([[0.0], np.cumsum(gain[first + start : first + stop])])
            may = cuts[first + start : first + stop + 1]
            least = np.minimum.accumulate(np.where(may, total, np.inf))
            saved = np.where(may, total - least, -np.inf)
            last = int(np.argmax(saved))
            if saved[last] > most:
                most = float(saved[last])
                begin = int(np.flatnonzero(may & (total == least[last]))[0])
                found = first + start + begin, first + start + last, count
    if not found[2]:
        return []
    before = _best(gains, cuts, first, found[0])
    return [*before, found, *_best(gains, cuts, found[1], end)]


def _runs(gain: np.ndarray) -> list[tuple[int, int]]:
    """The runs of steps that may be in turns."""
    may = np.concatenate([[False], np.isfinite(gain), [False]])
    edges = np.flatnonzero(may[1:] != may[:-1])
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def inside(plan: FlatPlan, turns: Turns) -> list[int]:
    """The buffers of the arena that are used within turns only."""
    arena = ((b, steps) for b, steps in plan.users.items()
             if plan.buffers[b].space is Space.ARENA)  # fmt: skip
    return [b for b, steps in arena if turns.first <= steps[0] and steps[-1] < turns.end]


def lives(plan: FlatPlan, turns: Sequence[Turns]) -> list[tuple[int, int]]:
    """From which step to which each buffer lives: through all turns where not only within."""
    found, users = [(b.first, b.last) for b in plan.buffers], plan.users
    for t in turns:
        for b in users.keys() - set(inside(plan, t)):
            if any(t.first <= i < t.end for i in users[b]):
                first, last = found[b]
                found[b] = min(first, t.first), max(last, t.end - 1)
    return found


def stretches(plan: FlatPlan, images: int, turns: Sequence[Turns]) -> list[Stretch]:
    """All steps: those in turns, and what lies between at once."""
    made, at = [], 0
    for t in turns:
        made += [Stretch(at, t.first, 0, images)] * (at < t.first)
        made += t.stretches(images)
        at = t.end
    end = len(plan.columns.names)
    return [*made, *[Stretch(at, end, 0, images)] * (at < end)]
