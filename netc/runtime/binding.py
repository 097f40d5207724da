"""A plan bound to sizes: arena, tables, argument blocks, and one job ready to be called.

Binding evaluates every size of the plan once. What changes from call to call is only the
addresses of the caller's arrays, which are patched into their slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from netc.ir.native_abi import NO_BARRIER, STEP_BYTES, Job
from netc.ir.plan import ALIGN
from netc.runtime import host
from netc.runtime.arguments import Arguments, Words
from netc.runtime.flat_plan import BUFFERS, FlatPlan, Ints
from netc.runtime.image import Image
from netc.runtime.layout import Layout, layout_in_turns, named_sizes, plan_layout
from netc.runtime.limits import Limits
from netc.runtime.memory import Bytes, address, aligned, require_memory
from netc.runtime.ports import value_of
from netc.runtime.tables import Offsets, TableSet
from netc.runtime.turns import ALL, Stretch, batch_of, turns_of

_WORD = 8
_STEPS, _NSTEPS = Job.STEPS // _WORD, Job.NSTEPS // _WORD
_THREADS, _POOL = Job.NTHREADS // _WORD, Job.POOL // _WORD
_TIMES, _CANCEL = Job.TIMES // _WORD, Job.CANCEL // _WORD
_FLOPS_PER_SECOND = 2e10  # of a slow core
_EACH = -1  # in place of a step's number: the threads' own jobs


class Steps:
    """A job and its native steps; `rows` has the plan's step of each, `_EACH` for other jobs.

    One of several threads that do such steps at once does `part` of them.
    """

    def __init__(self, native: Words, rows: Ints, part: float = 1.0) -> None:
        self.native, self.rows, self.part = native, rows, part
        self.job = aligned(Job.SIZE, "job").view(np.int64)
        self.job[:] = 0
        self.job[_STEPS], self.job[_NSTEPS], self.job[_THREADS] = address(native), len(rows), 1
        job: Any = self.job  # a buffer, which NumPy's types do not say
        self.words = memoryview(job)  # stores a word in 40 ns


@dataclass(eq=False)
class Binding:
    """One job, ready to run: patch the addresses, call, done.

    Of steps in turns each thread has a job of its own.
    """

    known: dict[str, int]
    layout: Layout
    arena: Bytes
    main: Steps
    own: list[Steps]
    blocks: Words
    tables: Offsets
    outputs: list[tuple[int, ...]]  # shapes
    patches: dict[int, list[tuple[int, int]]]  # buffer -> slots and the offsets in them
    seconds: float  # how long a run takes: a guess, then the last one
    held: list[Words] = field(default_factory=list)
    team: Any = None  # the jobs of several devices, once there was a run on them

    def __post_init__(self) -> None:
        blocks: Any = self.blocks
        self.slots = memoryview(blocks)
        self.words = self.main.words
        self.job_address = address(self.main.job)
        self.is_empty = all(0 in shape for shape in self.outputs)

    @property
    def steps(self) -> Words:
        """The native steps."""
        return self.main.native

    def prepare(self, threads: int, pool: int) -> None:
        """Let the job run on this many threads of the pool at this address."""
        self.words[_THREADS], self.words[_POOL], self.words[_CANCEL] = threads, pool, 0
        for steps in self.own:
            steps.words[_CANCEL] = 0

    def cancel(self) -> None:
        """Let a running job end after its present step."""
        for steps in (self.main, *self.own):
            steps.words[_CANCEL] = 1

    def clocks(self) -> list[Words]:
        """Room for the times of each job."""
        return [np.zeros(len(steps.rows) + 1, np.int64) for steps in (self.main, *self.own)]

    def rows(self) -> list[tuple[list[int], float]]:
        """Of each job the plan's step of its own ones, or a number below 0, and its part of all."""
        return [(steps.rows.tolist(), steps.part) for steps in (self.main, *self.own)]

    def timed(self, clocks: Sequence[Words] | None) -> None:
        """Let each job note the cycle counter before each step and at its end."""
        for i, steps in enumerate((self.main, *self.own)):
            steps.words[_TIMES] = 0 if clocks is None else address(clocks[i])

    def only(self, first: int, count: int) -> None:
        """Let the job run these steps of the plan and no others."""
        self.words[_STEPS] = address(self.steps) + first * STEP_BYTES
        self.words[_NSTEPS] = count

    def word(self, buffer: int) -> int:
        """The first eight bytes of an arena buffer, as a number."""
        at = self.layout.offsets[buffer]
        return int(self.arena[at : at + _WORD].view(np.int64)[0])

    def patch(self, buffer: int, where: int) -> None:
        """Let the slots of a caller's buffer point at `where`."""
        for slot, offset in self.patches.get(buffer, ()):
            self.slots[slot] = where + offset


class Binder:
    """Binds one image's plan; the arena is shared by its bindings and grows with the largest.

    A large batch may be `in_turns` on so many threads; 0 is for those who look at single steps.
    """

    def __init__(
        self,
        image: Image,
        limits: Limits,
        separate: bool = False,
        allocate: Callable[[int, str], Bytes] = aligned,
        in_turns: int = 0,
    ) -> None:
        self.image, self.limits, self.separate = image, limits, separate
        self.allocate, self.in_turns = allocate, in_turns
        self.arena: Bytes = aligned(0, "arena")

    def layout(self, known: Mapping[str, int]) -> Layout:
        """Where buffers would lie for these sizes."""
        plan = self.image.plan
        whole = plan_layout(plan, known, self.separate)
        batch = batch_of(plan, known, self.in_turns)
        if batch is None:
            return whole
        turns = turns_of(plan, batch, host.cache_size(), self.in_turns)
        made = layout_in_turns(plan, known, batch, turns) if turns else whole
        return made if made.arena <= whole.arena else whole

    def bind(self, known: Mapping[str, int], layout: Layout) -> Binding:
        """Prepare a job. A larger arena than before makes earlier bindings void."""
        plan = self.image.plan
        args = Arguments(plan, known, layout)
        if layout.arena > len(self.arena):
            self.arena = aligned(0, "arena")  # free the old one first
            self._require(plan, layout, args.tables)
            self.arena = self.allocate(layout.arena, "arena")
        filled = args.tables.fill()
        bases = self._bases(layout, address(filled))
        slots, firsts, many = _places(plan.columns.counts[args.rows])
        blocks = aligned(many * _WORD, "arguments").view(np.int64)
        blocks[:] = 0
        blocks[slots] = bases[args.bases] + args.offsets
        kernels = bases[plan.symbol_base :][plan.columns.kernels[args.rows]]
        meets = plan.columns.barriers[args.rows].astype(bool)
        if len(args.stretches) > 1:
            meets[np.cumsum([s.end - s.first for s in args.stretches]) - 1] = True
        kernels |= np.where(meets, 0, NO_BARRIER)
        native = np.stack([kernels, firsts * _WORD + address(blocks)], axis=1)
        main, own, held = self._jobs(args.stretches, native, args.rows)
        return Binding(
            known=dict(known),
            layout=layout,
            arena=self.arena,
            main=main,
            own=own,
            blocks=blocks,
            tables=filled,
            outputs=[tuple(value_of(d, known) for d in p.type.shape) for p in plan.outputs],
            patches=_patches(plan, slots, args),
            seconds=args.flops / _FLOPS_PER_SECOND,
            held=held,
        )

    def _jobs(
        self, parts: Sequence[Stretch], native: Words, rows: Ints
    ) -> tuple[Steps, list[Steps], list[Words]]:
        """The job of all threads, those of single threads, and memory to be held for them."""
        steps: list[Words] = []
        numbers: list[Ints] = []
        own: list[Steps] = []
        held: list[Words] = []
        at = 0
        for _, group in groupby(parts, lambda p: (p.first, p.thread != ALL)):
            threads = [list(turns) for _, turns in groupby(group, lambda p: p.thread)]
            jobs = []
            for turns in threads:
                start, at = at, at + sum(p.end - p.first for p in turns)
                jobs.append(Steps(native[start:at], rows[start:at], 1 / len(threads)))
            if threads[0][0].thread != ALL:
                own += jobs
                held.append(np.array([len(jobs), *(address(j.job) for j in jobs)], np.int64))
                each = [[self.image.symbol("netc_each"), address(held[-1])]]
                jobs = [Steps(np.array(each, np.int64), np.array([_EACH], np.int64))]
            steps += [job.native for job in jobs]
            numbers += [job.rows for job in jobs]
        return Steps(np.concatenate(steps).reshape(-1), np.concatenate(numbers)), own, held

    def _bases(self, layout: Layout, tables: int) -> Words:
        """The address behind each base: nothing, weights, buffers, tables, symbols, the made."""
        assert self.image.is_ready
        image, arena = self.image, address(self.arena)
        inside = layout.offsets
        buffers = [arena + inside[i] if i in inside else 0 for i in range(len(layout.sizes))]
        functions = [image.symbol(name) for name in image.plan.columns.symbols]
        starts = [tables] * len(image.plan.columns.tables)
        weights, made = address(image.weights), address(image.made)
        return np.array([0, weights, *buffers, *starts, *functions, made], np.int64)

    def _require(self, plan: FlatPlan, layout: Layout, tables: TableSet) -> None:
        sizes = [layout.taken.get(i, size) for i, size in enumerate(layout.sizes)]
        outside = sum(size for i, size in enumerate(sizes) if i not in layout.offsets)
        weights, offsets = len(self.image.weights) + len(self.image.made), tables.size * 4
        held = weights + sum(sizes[port.buffer] for port in plan.inputs)

        def parts() -> list[tuple[str, int]]:
            return [("weights", weights), ("tables", offsets), *named_sizes(plan, sizes)]

        require_memory(layout.arena + outside + weights + offsets, parts, self.limits, held)


def _places(counts: Ints) -> tuple[Ints, Ints, int]:
    """The slot of each argument, the first slot of each step, and how many slots there are.

    Each step's block begins at a cache line.
    """
    line = ALIGN // _WORD
    lengths = -(-counts // line) * line
    starts = np.cumsum(lengths) - lengths
    before = np.cumsum(counts) - counts
    slots = np.arange(int(counts.sum())) + np.repeat(starts - before, counts)
    return slots, starts, int(lengths.sum())


def _patches(plan: FlatPlan, slots: Ints, args: Arguments) -> dict[int, list[tuple[int, int]]]:
    """Per buffer of the caller: the slots that hold its address, and the offsets from it."""
    patches = {}
    for port in (*plan.inputs, *plan.outputs):
        found = np.flatnonzero(args.bases == BUFFERS + port.buffer)
        where = zip(slots[found].tolist(), args.offsets[found].tolist(), strict=True)
        patches[port.buffer] = list(where)
    return patches


assert STEP_BYTES == 2 * _WORD
