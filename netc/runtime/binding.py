"""A plan bound to sizes: arena, tables, argument blocks, and one job ready to be called.

Binding evaluates every size of the plan once. What changes from call to call is only the
addresses of the caller's arrays, which are patched into their slots.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netc.errors import ArtifactError, ResourceError, clean
from netc.ir.native_abi import NO_BARRIER, STEP_BYTES, Job
from netc.ir.plan import ALIGN, Plan, Space, allocate, check_arena
from netc.runtime.artifact import Level
from netc.runtime.code import CodeMapping, load_image
from netc.runtime.flat_plan import BUFFERS, WEIGHTS, FlatPlan, Ints, Part, flatten
from netc.runtime.limits import Limits
from netc.runtime.memory import PAGE, Bytes, address, aligned, require_memory
from netc.runtime.pool import RunLoop
from netc.runtime.ports import value_of
from netc.runtime.tables import Numbers, Offsets, TableSet

Words: TypeAlias = npt.NDArray[np.int64]

_WORD = 8
_STEPS, _NSTEPS = Job.STEPS // _WORD, Job.NSTEPS // _WORD
_THREADS, _POOL = Job.NTHREADS // _WORD, Job.POOL // _WORD
_TIMES, _CANCEL = Job.TIMES // _WORD, Job.CANCEL // _WORD
_FLOPS_PER_SECOND = 2e10  # of a slow core
_RUN = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)


class Image:
    """A level's code in memory, and the plan's reach into code and weights, checked once.

    Where the plan has a setup, whoever runs it puts what it makes into `made`.
    """

    def __init__(self, level: Level, weights: Bytes) -> None:
        self.plan = flatten(level.plan)
        self.weights, self.made = weights, aligned(0, "weights")
        self.code: CodeMapping = load_image(level.code)
        self.symbols = {name: self.code.entry(at) for name, at in level.symbols.items()}
        for name in ("netc_run", "netc_worker", "netc_quit"):
            self.symbol(name)
        self.loop = RunLoop.of(self.code, level.symbols)
        self.run: Callable[[int], int] = _RUN(self.loop.run)
        check_plan(self.plan, self)
        self.setup = None if self.plan.setup is None else self._with(flatten(self.plan.setup))

    def _with(self, plan: FlatPlan) -> Image:
        """The same code and weights for another plan."""
        other = copy(self)
        other.plan, other.setup = plan, None
        check_plan(plan, other)
        return other

    @property
    def is_ready(self) -> bool:
        """Whether the weights that the setup makes are there."""
        return len(self.made) == self.plan.made_size

    def symbol(self, name: str) -> int:
        """The address of a function of the image."""
        if name not in self.symbols:
            raise ArtifactError(f"the plan calls {clean(name)}, which the code does not have")
        return self.symbols[name]


def check_plan(plan: FlatPlan, image: Image) -> None:
    """Refuse a plan that names what is not there."""
    for i, buffer in enumerate(plan.buffers):
        if not 0 <= buffer.first <= buffer.last <= max(0, len(plan.columns.names) - 1):
            raise ArtifactError(f"the plan's buffer {i} lives from no step to no step")
    for ports, space in ((plan.inputs, Space.INPUT), (plan.outputs, Space.OUTPUT)):
        held = {i for i, buffer in enumerate(plan.buffers) if buffer.space is space}
        if {port.buffer for port in ports} != held:
            raise ArtifactError(f"the plan's {space.value}s and buffers differ")
    arena = {i for i, buffer in enumerate(plan.buffers) if buffer.space is Space.ARENA}
    for port in plan.outputs:
        if port.count is not None and port.count not in arena:
            raise ArtifactError(f"output {clean(port.name)} has its count in buffer {port.count}")
    for name in plan.columns.symbols:
        image.symbol(name)
    c = plan.columns
    for base, size in ((WEIGHTS, len(image.weights)), (plan.made_base, plan.made_size)):
        for place in {int(i) for i in c.offsets[c.bases == base]}:
            offset = c.sizes[place]
            if not isinstance(offset, int) or not 0 <= offset <= size:
                raise ArtifactError("the plan reads beyond the weights")


@dataclass(frozen=True)
class Layout:
    """Where the arena's buffers lie, and how many bytes each buffer of the plan has."""

    sizes: list[int]
    offsets: dict[int, int]
    arena: int


@dataclass(eq=False)
class Binding:
    """One job, ready to run: patch the addresses, call, done."""

    known: dict[str, int]
    layout: Layout
    arena: Bytes
    job: Words
    steps: Words
    blocks: Words
    tables: Offsets
    outputs: list[tuple[int, ...]]  # shapes
    patches: dict[int, list[tuple[int, int]]]  # buffer -> slots and the offsets in them
    seconds: float  # how long a run takes: a guess, then the last one
    team: Any = None  # the jobs of several devices, once there was a run on them

    def __post_init__(self) -> None:
        blocks: Any = self.blocks  # buffers, which NumPy's types do not say
        job: Any = self.job
        self.slots = memoryview(blocks)  # stores a word in 40 ns
        self.words = memoryview(job)
        self.job_address = address(self.job)
        self.is_empty = all(0 in shape for shape in self.outputs)

    def prepare(self, threads: int, pool: int) -> None:
        """Let the job run on this many threads of the pool at this address."""
        self.words[_THREADS], self.words[_POOL], self.words[_CANCEL] = threads, pool, 0

    def cancel(self) -> None:
        """Let a running job end after its present step."""
        self.words[_CANCEL] = 1

    def timed(self, times: Words | None) -> None:
        """Let the job note the cycle counter before each step and at its end."""
        self.words[_TIMES] = 0 if times is None else address(times)

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


def plan_layout(plan: Plan, known: Mapping[str, int], separate: bool = False) -> Layout:
    """Sizes and arena offsets for these sizes of the symbols.

    With `separate` no two buffers share bytes: for runs that are watched.
    """
    sizes = [value_of(buffer.size, known) for buffer in plan.buffers]
    for i, size in enumerate(sizes):
        if not 0 <= size < 1 << 48:
            raise ResourceError(f"buffer {i} of the plan would have {size} bytes")
    homes: dict[str, list[int]] = {}
    for i, buffer in enumerate(plan.buffers):
        if buffer.space is Space.ARENA:
            homes.setdefault(buffer.device, []).append(i)
    offsets: dict[int, int] = {}
    total = 0
    for inside in homes.values():
        found, size = _region(plan, inside, sizes, separate)
        offsets |= {i: total + at for i, at in zip(inside, found, strict=True)}
        total += -(-size // PAGE) * PAGE if len(homes) > 1 else size
    return Layout(sizes, offsets, max(total, ALIGN) + ALIGN)


def _region(
    plan: Plan, inside: Sequence[int], sizes: Sequence[int], separate: bool
) -> tuple[list[int], int]:
    """Offsets of one device's buffers in its part of the arena, and the length of that."""
    end = max([buffer.last for buffer in plan.buffers], default=0)
    lives = [(plan.buffers[i].first, plan.buffers[i].last) for i in inside]
    if separate:
        lives = [(0, end)] * len(inside)
    return place_region([sizes[i] for i in inside], lives)


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


class Binder:
    """Binds one image's plan; the arena is shared by its bindings and grows with the largest."""

    def __init__(
        self,
        image: Image,
        limits: Limits,
        separate: bool = False,
        allocate: Callable[[int, str], Bytes] = aligned,
    ) -> None:
        self.image, self.limits, self.separate = image, limits, separate
        self.allocate = allocate
        self.arena: Bytes = aligned(0, "arena")

    def layout(self, known: Mapping[str, int]) -> Layout:
        """Where buffers would lie for these sizes."""
        return plan_layout(self.image.plan, known, self.separate)

    def bind(self, known: Mapping[str, int], layout: Layout) -> Binding:
        """Prepare a job. A larger arena than before makes earlier bindings void."""
        plan = self.image.plan
        columns = plan.columns
        sizes = [value_of(size, known) for size in columns.sizes]
        tables = TableSet([_parts(table, sizes) for table in columns.tables])
        if layout.arena > len(self.arena):
            self.arena = aligned(0, "arena")  # free the old one first
            self._require(plan, layout, tables)
            self.arena = self.allocate(layout.arena, "arena")
        filled = tables.fill()
        bases = self._bases(layout, tables, address(filled))
        values = _words(sizes)
        slots, starts, count = _places(columns.counts)
        blocks = aligned(count * _WORD, "arguments").view(np.int64)
        blocks[:] = 0
        blocks[slots] = bases[columns.bases] + values[columns.offsets]
        steps = np.zeros(2 * len(starts), np.int64)
        steps[0::2] = bases[plan.symbol_base :][columns.kernels]
        steps[0::2] |= np.where(columns.barriers, 0, NO_BARRIER)
        steps[1::2] = starts * _WORD + address(blocks)
        job = aligned(Job.SIZE, "job").view(np.int64)
        job[:] = 0
        job[_STEPS], job[_NSTEPS] = address(steps), len(starts)
        return Binding(
            known=dict(known),
            layout=layout,
            arena=self.arena,
            job=job,
            steps=steps,
            blocks=blocks,
            tables=filled,
            outputs=[tuple(value_of(d, known) for d in p.type.shape) for p in plan.outputs],
            patches=_patches(plan, slots, values),
            seconds=float(values[columns.flops].sum()) / _FLOPS_PER_SECOND,
        )

    def _bases(self, layout: Layout, tables: TableSet, first_table: int) -> Words:
        """The address behind each base: nothing, weights, buffers, tables, symbols, the made."""
        assert self.image.is_ready
        image, arena = self.image, address(self.arena)
        inside = layout.offsets
        buffers = [arena + inside[i] if i in inside else 0 for i in range(len(layout.sizes))]
        functions = [image.symbol(name) for name in image.plan.columns.symbols]
        starts = [first_table + 4 * at for at in tables.starts]
        weights, made = address(image.weights), address(image.made)
        return np.array([0, weights, *buffers, *starts, *functions, made], np.int64)

    def _require(self, plan: FlatPlan, layout: Layout, tables: TableSet) -> None:
        outside = sum(s for i, s in enumerate(layout.sizes) if i not in layout.offsets)
        made, offsets = len(self.image.made), tables.size * 4
        weights = len(self.image.weights) + made

        def parts() -> list[tuple[str, int]]:
            named = named_sizes(plan, layout.sizes)
            return [("weights", weights), ("tables", offsets), *named]

        require_memory(layout.arena + outside + weights + offsets, parts, self.limits, made)


def _words(sizes: Sequence[int]) -> Words:
    try:
        return np.array(sizes, np.int64)
    except OverflowError:
        raise ResourceError("a size of this run exceeds 64 bits") from None


def _parts(table: Sequence[Part], sizes: Sequence[int]) -> tuple[Numbers, ...]:
    """A table's parts with numbers for sizes: dims, strides, base."""
    return tuple(
        (tuple([sizes[d] for d in dims]), tuple([sizes[s] for s in strides]), sizes[base])
        for dims, strides, base in table
    )


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


def _patches(plan: FlatPlan, slots: Ints, values: Words) -> dict[int, list[tuple[int, int]]]:
    """Per buffer of the caller: the slots that hold its address, and the offsets from it."""
    columns, patches = plan.columns, {}
    for port in (*plan.inputs, *plan.outputs):
        found = np.flatnonzero(columns.bases == BUFFERS + port.buffer)
        offsets = values[columns.offsets[found]]
        patches[port.buffer] = list(zip(slots[found].tolist(), offsets.tolist(), strict=True))
    return patches


assert STEP_BYTES == 2 * _WORD
