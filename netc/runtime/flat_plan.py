"""A plan as columns of numbers: what a file holds, and what binding computes with.

All sizes stand in one list (`netc.runtime.sizes`); everything else names one by its place. Every
argument of every step is a base plus a size: the base is nothing, the weights, a buffer, a table,
a function of the image or what `setup` made. So the argument blocks of a whole plan are
`bases[base] + sizes[offset]`, two look-ups by NumPy. Steps as objects are made when someone asks
for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netc.errors import ArtifactError, clean
from netc.ir.dims import Dim
from netc.ir.plan import (
    Affine,
    Arg,
    Buffer,
    BufferArg,
    CodeArg,
    Condition,
    IntArg,
    MadeArg,
    Plan,
    Port,
    Step,
    TableArg,
    WeightArg,
)
from netc.runtime.sizes import SizeList, Sizes

Ints: TypeAlias = npt.NDArray[np.int64]
Part: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], int]  # of a table, in places of sizes

NOTHING, WEIGHTS, BUFFERS = 0, 1, 2  # bases; then tables, symbols, what is made


@dataclass(frozen=True, eq=False)
class Columns:
    """The steps of a plan, one list per field, and the arguments of all steps in a row."""

    sizes: Sizes
    buffers: Ints  # bytes of each buffer, places in `sizes`
    tables: tuple[tuple[Part, ...], ...]
    symbols: tuple[str, ...]
    kernels: Ints  # places in `symbols`
    counts: Ints  # arguments of each step
    bases: Ints  # of each argument
    offsets: Ints  # of each argument, places in `sizes`
    flops: Ints  # places in `sizes`
    bytes: Ints
    barriers: Ints  # 1 or 0
    names: tuple[str, ...]
    ops: tuple[str, ...]
    devices: tuple[str, ...]
    reads: tuple[tuple[int, ...], ...]
    writes: tuple[tuple[int, ...], ...]
    streams: tuple[str, ...]
    waits: tuple[tuple[int, ...], ...]
    by_image: Ints  # 1 or 0


class FlatPlan(Plan):
    """A plan with columns in place of steps. Equal to the plan it was made from."""

    columns: Columns

    def __init__(
        self,
        inputs: tuple[Port, ...],
        outputs: tuple[Port, ...],
        buffers: tuple[Buffer, ...],
        conditions: tuple[Condition, ...],
        columns: Columns,
        setup: Plan | None = None,
        batch: str = "",
    ) -> None:
        vars(self).update(inputs=inputs, outputs=outputs, buffers=buffers)
        vars(self).update(conditions=conditions, columns=columns)
        vars(self).update(setup=setup, batch=batch)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The steps as objects."""
        return tuple(_steps(self))

    @cached_property
    def users(self) -> dict[int, list[int]]:
        """The steps that read or write each buffer, by their numbers."""
        users: dict[int, list[int]] = {}
        c = self.columns
        for i, (reads, writes) in enumerate(zip(c.reads, c.writes, strict=True)):
            for b in {*reads, *writes}:
                users.setdefault(b, []).append(i)
        return users

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and _fields(self) == _fields(other)

    def __hash__(self) -> int:
        return hash(_fields(self))

    def numbers(self, known: Mapping[str, int]) -> Ints:
        """What all sizes of the columns stand for. Raises GraphError and ResourceError."""
        return ints(self.columns.sizes.numbers(known))

    @property
    def table_base(self) -> int:
        """The base of the first table."""
        return BUFFERS + len(self.buffers)

    @property
    def symbol_base(self) -> int:
        """The base of the first symbol."""
        return self.table_base + len(self.columns.tables)

    @property
    def made_base(self) -> int:
        """The base of what `setup` made, the last one."""
        return self.symbol_base + len(self.columns.symbols)


def _fields(plan: Plan) -> tuple[object, ...]:
    ports = plan.inputs, plan.outputs
    return *ports, plan.buffers, plan.steps, plan.conditions, plan.setup, plan.batch


# --------------------------------------------------------------------- from steps to columns


class Numbering:
    """Things by their place in a list, each once."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._places: dict[Any, int] = {}

    def of(self, item: Any) -> int:
        """The place of an item, a new one where it was not met before."""
        place = self._places.setdefault(item, len(self.items))
        if place == len(self.items):
            self.items.append(item)
        return place


def flatten(plan: Plan) -> FlatPlan:
    """The same plan as columns."""
    if isinstance(plan, FlatPlan):
        return plan
    sizes, tables, symbols = SizeList(), Numbering(), Numbering()
    buffers = ints([sizes.of(buffer.size) for buffer in plan.buffers])
    for arg in (arg for step in plan.steps for arg in step.args):
        if isinstance(arg, TableArg):
            tables.of(arg)
        elif isinstance(arg, CodeArg):
            symbols.of(arg.symbol)
    for step in plan.steps:
        symbols.of(step.kernel)
    table = BUFFERS + len(plan.buffers)
    symbol = table + len(tables.items)
    setup = symbol + len(symbols.items)

    def pair(arg: Arg) -> tuple[int, int]:
        match arg:
            case BufferArg(buffer, offset):
                if not 0 <= buffer < len(plan.buffers):
                    raise ArtifactError(f"a step of the plan uses buffer {clean(buffer)}")
                return BUFFERS + buffer, sizes.of(offset)
            case WeightArg(offset):
                return WEIGHTS, sizes.of(offset)
            case MadeArg(offset):
                return setup, sizes.of(offset)
            case IntArg(value):
                return NOTHING, sizes.of(value)
            case TableArg():
                return table + tables.of(arg), sizes.of(0)
            case CodeArg(name):
                return symbol + symbols.of(name), sizes.of(0)

    pairs = [pair(arg) for step in plan.steps for arg in step.args]
    steps = plan.steps
    columns = Columns(
        kernels=ints([symbols.of(step.kernel) for step in steps]),
        counts=ints([len(step.args) for step in steps]),
        bases=ints([base for base, _ in pairs]),
        offsets=ints([offset for _, offset in pairs]),
        flops=ints([sizes.of(step.flops) for step in steps]),
        bytes=ints([sizes.of(step.bytes) for step in steps]),
        barriers=ints([int(step.barrier) for step in steps]),
        names=tuple(step.name for step in steps),
        ops=tuple(step.op for step in steps),
        devices=tuple(step.device for step in steps),
        reads=tuple(step.reads for step in steps),
        writes=tuple(step.writes for step in steps),
        streams=tuple(step.stream for step in steps),
        waits=tuple(step.waits for step in steps),
        by_image=ints([int(step.by_image) for step in steps]),
        tables=tuple(tuple(_part(part, sizes) for part in t.parts) for t in tables.items),
        symbols=tuple(symbols.items),
        sizes=sizes.sizes,
        buffers=buffers,
    )
    made = plan.inputs, plan.outputs, plan.buffers, plan.conditions, columns
    return FlatPlan(*made, plan.setup, plan.batch)


def ints(values: Sequence[int]) -> Ints:
    """A column."""
    return np.array(values, np.int64)


def _part(part: Affine, sizes: SizeList) -> Part:
    if len(part.dims) != len(part.strides):
        raise ArtifactError(f"a table has {len(part.dims)} axes, {len(part.strides)} strides")
    dims = tuple(sizes.of(d) for d in part.dims)
    return dims, tuple(sizes.of(s) for s in part.strides), sizes.of(part.base)


def _steps(plan: FlatPlan) -> list[Step]:
    """The inverse: each row of the columns as a step."""
    c, at, steps = plan.columns, 0, []
    for i, count in enumerate(c.counts.tolist()):
        pairs = zip(c.bases[at : at + count], c.offsets[at : at + count], strict=True)
        step = Step(
            kernel=c.symbols[c.kernels[i]],
            args=tuple(_argument(plan, int(base), c.sizes[offset]) for base, offset in pairs),
            name=c.names[i],
            op=c.ops[i],
            reads=c.reads[i],
            writes=c.writes[i],
            flops=c.sizes[c.flops[i]],
            bytes=c.sizes[c.bytes[i]],
            device=c.devices[i],
            barrier=bool(c.barriers[i]),
            stream=c.streams[i],
            waits=c.waits[i],
            by_image=bool(c.by_image[i]),
        )
        steps.append(step)
        at += count
    return steps


def _argument(plan: FlatPlan, base: int, size: Dim) -> Arg:
    c = plan.columns
    if base == NOTHING:
        return IntArg(size)
    if base == WEIGHTS:
        assert isinstance(size, int)
        return WeightArg(size)
    if base < plan.table_base:
        return BufferArg(base - BUFFERS, size)
    if base == plan.made_base:
        assert isinstance(size, int)
        return MadeArg(size)
    if base >= plan.symbol_base:
        return CodeArg(c.symbols[base - plan.symbol_base])
    parts = []
    for dims, strides, start in c.tables[base - plan.table_base]:
        lengths, steps = tuple(c.sizes[d] for d in dims), tuple(c.sizes[s] for s in strides)
        parts.append(Affine(lengths, steps, c.sizes[start]))
    return TableArg(tuple(parts))
