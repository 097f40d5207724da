"""A level's code in memory, and whether its plan names what is there."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from copy import copy

from netc.errors import ArtifactError, clean
from netc.ir.plan import Space
from netc.runtime.artifact import Level
from netc.runtime.code import CodeMapping, load_image
from netc.runtime.flat_plan import WEIGHTS, FlatPlan, flatten
from netc.runtime.memory import Bytes, aligned
from netc.runtime.pool import RunLoop

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
