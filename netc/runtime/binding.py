"""A plan bound to sizes: arena, tables, argument blocks, and one job ready to be called.

Binding evaluates every size of the plan once. What changes from call to call is only the
addresses of the caller's arrays, which are patched into their slots.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netc.errors import ArtifactError, ResourceError, clean
from netc.ir.dims import Dim
from netc.ir.native_abi import NO_BARRIER, STEP_BYTES, Job
from netc.ir.plan import (
    ALIGN,
    Affine,
    Arg,
    Buffer,
    BufferArg,
    CodeArg,
    IntArg,
    Plan,
    Space,
    TableArg,
    WeightArg,
    allocate,
    check_arena,
)
from netc.runtime.artifact import Level
from netc.runtime.code import CodeMapping, load_image
from netc.runtime.limits import Limits
from netc.runtime.memory import Bytes, address, aligned, require_memory
from netc.runtime.pool import RunLoop
from netc.runtime.ports import value_of

Words: TypeAlias = npt.NDArray[np.int64]
Tables: TypeAlias = npt.NDArray[np.int32]

_WORD = 8
_STEPS, _NSTEPS = Job.STEPS // _WORD, Job.NSTEPS // _WORD
_THREADS, _POOL = Job.NTHREADS // _WORD, Job.POOL // _WORD
_TIMES, _CANCEL = Job.TIMES // _WORD, Job.CANCEL // _WORD
_FLOPS_PER_SECOND = 2e10  # of a slow core
_RUN = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
_MAX_AXES = 16  # of one part of a table
_INT32 = (-(1 << 31), (1 << 31) - 1)


class Image:
    """A level's code in memory, and the plan's reach into code and weights, checked once."""

    def __init__(self, level: Level, weights: Bytes) -> None:
        self.plan = level.plan
        self.weights = weights
        self.code: CodeMapping = load_image(level.code)
        self.symbols = {name: self.code.entry(at) for name, at in level.symbols.items()}
        for name in ("netc_run", "netc_worker", "netc_quit"):
            self.symbol(name)
        self.loop = RunLoop.of(self.code, level.symbols)
        self.run: Callable[[int], int] = _RUN(self.loop.run)
        check_plan(level.plan, self)

    def symbol(self, name: str) -> int:
        """The address of a function of the image."""
        if name not in self.symbols:
            raise ArtifactError(f"the plan calls {clean(name)}, which the code does not have")
        return self.symbols[name]


def check_plan(plan: Plan, image: Image) -> None:
    """Refuse a plan that names what is not there."""
    for i, buffer in enumerate(plan.buffers):
        if not 0 <= buffer.first <= buffer.last <= max(0, len(plan.steps) - 1):
            raise ArtifactError(f"the plan's buffer {i} lives from no step to no step")
    for ports, space in ((plan.inputs, Space.INPUT), (plan.outputs, Space.OUTPUT)):
        held = {i for i, buffer in enumerate(plan.buffers) if buffer.space is space}
        if {port.buffer for port in ports} != held:
            raise ArtifactError(f"the plan's {space.value}s and buffers differ")
    arena = {i for i, buffer in enumerate(plan.buffers) if buffer.space is Space.ARENA}
    for port in plan.outputs:
        if port.count is not None and port.count not in arena:
            raise ArtifactError(f"output {clean(port.name)} has its count in buffer {port.count}")
    for step in plan.steps:
        image.symbol(step.kernel)
        for arg in step.args:
            wrong = _wrong_argument(arg, plan, image)
            if wrong:
                raise ArtifactError(f"step {clean(step.name)} of the plan {wrong}")


def _wrong_argument(arg: Arg, plan: Plan, image: Image) -> str:
    """What an argument names that is not there, or nothing."""
    match arg:
        case BufferArg(buffer) if not 0 <= buffer < len(plan.buffers):
            return f"uses buffer {buffer}"
        case WeightArg(offset) if not 0 <= offset <= len(image.weights):
            return "reads beyond the weights"
        case TableArg(parts):
            for part in parts:
                if len(part.dims) != len(part.strides) or len(part.dims) > _MAX_AXES:
                    return f"has a table of {len(part.dims)} axes, {len(part.strides)} strides"
        case CodeArg(symbol) if symbol not in image.symbols:
            return f"calls {clean(symbol)}"
    return ""


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
    tables: Tables
    outputs: list[tuple[int, ...]]  # shapes
    patches: dict[int, list[tuple[int, int]]]  # buffer -> slots and the offsets in them
    seconds: float  # how long a run takes: a guess, then the last one

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
    inside = [i for i, buffer in enumerate(plan.buffers) if buffer.space is Space.ARENA]
    lives = [_life(plan.buffers[i], len(plan.steps), separate) for i in inside]
    offsets, total = allocate([sizes[i] for i in inside], lives)
    wrong = check_arena(offsets, [sizes[i] for i in inside], lives)
    if wrong:
        raise ArtifactError(f"the plan's memory does not fit together: {wrong}")
    return Layout(sizes, dict(zip(inside, offsets, strict=True)), total + ALIGN)


def _life(buffer: Buffer, steps: int, separate: bool) -> tuple[int, int]:
    return (0, steps) if separate else (buffer.first, buffer.last)


def named_sizes(plan: Plan, sizes: Sequence[int]) -> list[tuple[str, int]]:
    """The bytes of each buffer, called by the step that fills it."""
    names = {i: step.name for step in plan.steps for i in step.writes}
    ports = {port.buffer: port.name for port in (*plan.inputs, *plan.outputs)}
    return [
        (clean(ports.get(i) or names.get(i) or f"buffer {i}"), size) for i, size in enumerate(sizes)
    ]


class Binder:
    """Binds one image's plan; the arena is shared by its bindings and grows with the largest."""

    def __init__(self, image: Image, limits: Limits, separate: bool = False) -> None:
        self.image, self.limits, self.separate = image, limits, separate
        self.arena: Bytes = aligned(0, "arena")

    def layout(self, known: Mapping[str, int]) -> Layout:
        """Where buffers would lie for these sizes."""
        return plan_layout(self.image.plan, known, self.separate)

    def bind(self, known: Mapping[str, int], layout: Layout) -> Binding:
        """Prepare a job. A larger arena than before makes earlier bindings void."""
        plan, image = self.image.plan, self.image
        tables = _TableSet(known)
        for step in plan.steps:
            tables.add(step.args)
        if layout.arena > len(self.arena):
            self.arena = aligned(0, "arena")  # free the old one first
            self._require(plan, layout, tables)
            self.arena = aligned(layout.arena, "arena")
        filled = tables.fill()
        bases = address(self.arena), address(filled), address(image.weights)
        slots = _Slots(image, layout, known, tables, *bases)
        blocks, starts, patches = slots.of(plan)
        steps = np.zeros(2 * len(plan.steps), np.int64)
        steps[0::2] = [
            image.symbol(step.kernel) | (0 if step.barrier else NO_BARRIER) for step in plan.steps
        ]
        steps[1::2] = np.array(starts, np.int64) * _WORD + address(blocks)
        job = aligned(Job.SIZE, "job").view(np.int64)
        job[:] = 0
        job[_STEPS], job[_NSTEPS] = address(steps), len(plan.steps)
        guess = sum(value_of(step.flops, known) for step in plan.steps) / _FLOPS_PER_SECOND
        shapes = [tuple(value_of(d, known) for d in p.type.shape) for p in plan.outputs]
        return Binding(
            dict(known), layout, self.arena, job, steps, blocks, filled, shapes, patches, guess
        )

    def _require(self, plan: Plan, layout: Layout, tables: _TableSet) -> None:
        outside = sum(s for i, s in enumerate(layout.sizes) if i not in layout.offsets)
        total = layout.arena + outside + tables.size * 4 + len(self.image.weights)
        parts = [("weights", len(self.image.weights)), ("tables", tables.size * 4)]
        parts += named_sizes(plan, layout.sizes)
        require_memory(parts, total, self.limits)


class _TableSet:
    """The offset tables of a binding: equal ones are one."""

    def __init__(self, known: Mapping[str, int]) -> None:
        self.known = known
        self.places: dict[object, int] = {}  # parts, evaluated -> first element
        self.plain: dict[TableArg, int] = {}  # as in the plan -> the same
        self.size = 0

    def add(self, args: Sequence[Arg]) -> None:
        """Make room for the tables among these arguments."""
        for arg in args:
            if isinstance(arg, TableArg) and arg not in self.plain:
                key = tuple(self._evaluated(part) for part in arg.parts)
                if key not in self.places:
                    self.places[key] = self.size
                    count = sum(_count(dims) for dims, _, _ in key)
                    self.size += -(-count * 4 // ALIGN) * ALIGN // 4
                self.plain[arg] = self.places[key]

    def _evaluated(self, part: Affine) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        value: Callable[[Dim], int] = lambda d: value_of(d, self.known)  # noqa: E731
        dims = tuple(map(value, part.dims))
        return dims, tuple(map(value, part.strides)), value(part.base)

    def fill(self) -> Tables:
        """All tables, one after the other, each at a multiple of 64 bytes."""
        tables = aligned(self.size * 4, "tables").view(np.int32)
        for key, at in self.places.items():
            for dims, strides, base in key:  # type: ignore[attr-defined]
                count = _count(dims)
                _fill(tables[at : at + count], dims, strides, base)
                at += count
        return tables


def _count(dims: Sequence[int]) -> int:
    count = 1
    for d in dims:
        if d < 0:
            raise ArtifactError(f"a table of the plan has a size of {d}")
        count *= d
    return count


def _fill(out: Tables, dims: Sequence[int], strides: Sequence[int], base: int) -> None:
    """base + Σ index[i] · strides[i], row-major; every value must fit in 32 bits."""
    if not len(out):
        return
    reach = [(d - 1) * s for d, s in zip(dims, strides, strict=True)]
    low = base + sum(r for r in reach if r < 0)
    high = base + sum(r for r in reach if r > 0)
    if low < _INT32[0] or high > _INT32[1]:
        raise ResourceError(f"one image is too large: offsets of {high} exceed 32 bits")
    view = out.reshape(tuple(dims))
    view[...] = base
    for axis, (d, s) in enumerate(zip(dims, strides, strict=True)):
        shape = [1] * len(dims)
        shape[axis] = d
        view += (np.arange(d, dtype=np.int32) * np.int32(s if d > 1 else 0)).reshape(shape)


@dataclass
class _Slots:
    """Turns arguments into words."""

    image: Image
    layout: Layout
    known: Mapping[str, int]
    tables: _TableSet
    arena: int
    table_base: int
    weights: int

    def of(self, plan: Plan) -> tuple[Words, list[int], dict[int, list[tuple[int, int]]]]:
        """All argument blocks, where each step's begins, and the slots to patch at each call."""
        words: list[int] = []
        starts: list[int] = []
        patches: dict[int, list[tuple[int, int]]] = {}
        for step in plan.steps:
            starts.append(len(words))
            for arg in step.args:
                if isinstance(arg, BufferArg) and arg.buffer not in self.layout.offsets:
                    offset = value_of(arg.offset, self.known)
                    patches.setdefault(arg.buffer, []).append((len(words), offset))
                words.append(self.word(arg))
            words += [0] * (-len(words) % (ALIGN // _WORD))
        blocks = aligned(len(words) * _WORD, "arguments").view(np.int64)
        try:
            blocks[:] = words
        except OverflowError:
            raise ResourceError("a size of this run exceeds 64 bits") from None
        return blocks, starts, patches

    def word(self, arg: Arg) -> int:
        """One argument as eight bytes."""
        if type(arg) is IntArg:
            return value_of(arg.value, self.known)
        if type(arg) is BufferArg:
            at = self.layout.offsets.get(arg.buffer)
            return 0 if at is None else self.arena + at + value_of(arg.offset, self.known)
        if type(arg) is WeightArg:
            return self.weights + arg.offset
        if type(arg) is TableArg:
            return self.table_base + 4 * self.tables.plain[arg]
        assert type(arg) is CodeArg
        return self.image.symbol(arg.symbol)


assert STEP_BYTES == 2 * _WORD
