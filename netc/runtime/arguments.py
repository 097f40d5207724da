"""The arguments of a plan's steps for given sizes: of each a base, and how far from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from netc.runtime.flat_plan import BUFFERS, FlatPlan, Part
from netc.runtime.layout import Layout
from netc.runtime.tables import Numbers, TableSet
from netc.runtime.turns import Stretch, sizes_for

Words: TypeAlias = npt.NDArray[np.int64]


class Arguments:
    """Those of all stretches of a layout in a row: `rows` has the plan's step of each of theirs.

    `bases` are places among those of the plan, `offsets` bytes. An offset of a table is that from
    the first of `tables`.
    """

    def __init__(self, plan: FlatPlan, known: Mapping[str, int], layout: Layout) -> None:
        images = known.get(plan.batch, 0)
        whole = Stretch(0, len(plan.columns.names), 0, images)
        shifted = layout.stretches or [(whole, {})]
        self.stretches = [stretch for stretch, _ in shifted]
        counts = {images, *(stretch.count for stretch in self.stretches)}
        sizes = {count: sizes_for(plan, known, count) for count in counts}
        kinds = {s.kind: _Kind(plan, s, sizes[s.count]) for s in self.stretches}
        self.tables = TableSet([table for kind in kinds.values() for table in kind.tables])
        starts = iter(self.tables.starts)
        for kind in kinds.values():
            kind.place(starts)
        self.bases = np.concatenate([kinds[s.kind].bases for s in self.stretches])
        self.offsets = np.concatenate([kinds[s.kind].shifted(by) for s, by in shifted])
        self.rows = np.concatenate([np.arange(s.first, s.end) for s in self.stretches])
        self.flops = int(sizes[images][plan.columns.flops].sum())


class _Kind:
    """The arguments of some steps for some number of images, whichever those are."""

    def __init__(self, plan: FlatPlan, stretch: Stretch, sizes: Words) -> None:
        columns, ends = plan.columns, np.concatenate([[0], np.cumsum(plan.columns.counts)])
        mine = slice(int(ends[stretch.first]), int(ends[stretch.end]))
        self.bases = columns.bases[mine]
        self._offsets = sizes[columns.offsets[mine]]
        self._none = np.zeros(plan.made_base + 1, np.int64)
        tables = (self.bases >= plan.table_base) & (self.bases < plan.symbol_base)
        self._used = sorted(set(self.bases[tables].tolist()))  # np.unique would import numpy.ma
        numbers = sizes.tolist()
        used = (columns.tables[base - plan.table_base] for base in self._used)
        self.tables = [_parts(table, numbers) for table in used]

    def place(self, starts: Iterator[int]) -> None:
        """Let its tables begin at the next of these elements."""
        begin = self._none.copy()
        for base in self._used:
            begin[base] = 4 * next(starts)
        self._offsets = self._offsets + begin[self.bases]

    def shifted(self, by: Mapping[int, int]) -> Words:
        """The offsets, those in buffers so many bytes later."""
        shifts = self._none.copy()
        for buffer, shift in by.items():
            shifts[BUFFERS + buffer] = shift
        made: Words = self._offsets + shifts[self.bases]
        return made


def _parts(table: Sequence[Part], sizes: Sequence[int]) -> tuple[Numbers, ...]:
    """A table's parts with numbers for sizes: dims, strides, base."""
    return tuple(
        (tuple([sizes[d] for d in dims]), tuple([sizes[s] for s in strides]), sizes[base])
        for dims, strides, base in table
    )
