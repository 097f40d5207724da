"""A run that is watched: step by step, every buffer apart, with canaries between them.

It finds kernels that write outside their buffers, that write to a buffer the plan says they only
read, and that read what nothing wrote. Slow: for tests and for NETC_CHECK=3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from netc.errors import VerifyError, clean
from netc.ir.plan import ALIGN, Plan
from netc.runtime.binding import Binder, Binding
from netc.runtime.limits import DEFAULT
from netc.runtime.memory import Bytes, address, aligned, poison
from netc.runtime.ports import Array, match_sizes
from netc.runtime.session import Executable

_CANARY = 0xA5  # 0xA5A5A5A5 is −2.87e−16 as float32


def audited(exe: Executable, arrays: Sequence[Array]) -> dict[str, Array]:
    """One run on accepted arrays, on one thread. Raises VerifyError naming the step at fault."""
    exe.start()
    binder = Binder(exe.image, DEFAULT, separate=True)
    known = match_sizes(exe.plan, arrays)
    binding = binder.bind(known, binder.layout(known))
    watch = _Watch(exe.plan, binding, binder.arena, arrays)
    for i, step in enumerate(exe.plan.steps):
        before = {b: watch.digest(b) for b in watch.views if b not in step.writes}
        binding.only(i, 1)
        binding.prepare(1, 0)
        exe.image.run(binding.job_address)
        watch.check_canaries(f"step {i}, {clean(step.name)} ({clean(step.op)})")
        for b, digest in before.items():
            if watch.digest(b) != digest:
                name = f"step {i}, {clean(step.name)} ({clean(step.op)})"
                raise VerifyError(f"{name} changed buffer {b}, which it does not write")
    return watch.outputs()


class _Watch:
    """The buffers of a run, each between two canaries."""

    def __init__(self, plan: Plan, binding: Binding, arena: Bytes, arrays: Sequence[Array]) -> None:
        self.plan, self.binding = plan, binding
        self.views: dict[int, Bytes] = {}
        self.guards: list[Bytes] = []
        self.arena = arena
        arena[:] = _CANARY
        for i, at in binding.layout.offsets.items():
            size = binding.layout.sizes[i]
            self.views[i] = arena[at : at + size]
            poison(self.views[i])
        self.guards += list(self._between())
        for port, array in zip(plan.inputs, arrays, strict=True):
            self._outside(port.buffer, array.nbytes)[:] = np.frombuffer(array.tobytes(), np.uint8)
        for port, shape in zip(plan.outputs, binding.outputs, strict=True):
            size = port.type.dtype.size * int(np.prod(shape, dtype=np.int64))
            poison(self._outside(port.buffer, size))

    def _between(self) -> Iterator[Bytes]:
        """The parts of the arena that belong to no buffer."""
        end = 0
        for i in sorted(self.views, key=lambda i: self.binding.layout.offsets[i]):
            at = self.binding.layout.offsets[i]
            yield self.arena[end:at]
            end = at + self.binding.layout.sizes[i]
        yield self.arena[end:]

    def _outside(self, buffer: int, size: int) -> Bytes:
        """An input or output with canaries right at its ends; the job is pointed at it."""
        if buffer in self.views:
            return self.views[buffer]
        whole = aligned(size + 2 * ALIGN, "a watched array")
        whole[:] = _CANARY
        self.guards += [whole[:ALIGN], whole[ALIGN + size :]]
        view = self.views[buffer] = whole[ALIGN : ALIGN + size]
        self.binding.patch(buffer, address(whole) + ALIGN)
        return view

    def digest(self, buffer: int) -> int:
        """A number that changes with the buffer's bytes."""
        return hash(self.views[buffer].tobytes())

    def check_canaries(self, step: str) -> None:
        """Raise where a guard has changed."""
        if any((guard != _CANARY).any() for guard in self.guards):
            raise VerifyError(f"{step} wrote outside its buffers")

    def outputs(self) -> dict[str, Array]:
        """The outputs by name, copied."""
        named = {}
        for port, shape in zip(self.plan.outputs, self.binding.outputs, strict=True):
            view = self.views[port.buffer].view(port.type.dtype.numpy).reshape(shape)
            if port.count is not None:
                view = view[: self.binding.word(port.count)]
            named[port.name] = view.copy()
        return named
