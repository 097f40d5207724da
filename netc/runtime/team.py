"""One run on several devices: a job each, signals and waits between them, one call for all.

The steps of a device's streams run in the plan's order on that device's workers. Before a step
with waits stand native steps that wait for the events of other devices; after a step that is
waited for stands the one that signals. An outer job of one step starts the job of each device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from netc.errors import ResourceError
from netc.ir.native_abi import LATE, NO_BARRIER, Job
from netc.ir.native_abi import Team as Words
from netc.ir.queues import devices_of
from netc.runtime.arguments import Words as Words64
from netc.runtime.binding import Binding
from netc.runtime.flat_plan import FlatPlan
from netc.runtime.image import Image
from netc.runtime.memory import address
from netc.runtime.pool import aligned_words, syscall_address

_WORD = 8
_SPINS = 2000
_LINE = 64  # bytes


class Team:
    """The jobs of a binding's devices; as a job itself it can be run, timed and cancelled."""

    def __init__(self, image: Image, binding: Binding, limit: float) -> None:
        plan = image.plan
        self.binding = binding
        self.devices = devices_of(plan)
        self.indices: list[list[int]] = []  # per device, each native step's step of the plan, or -1
        self._events = _awaited(plan)
        self._blocks: list[Words64] = []
        size = Words.EVENTS + Words.EVENT_SIZE * len(self._events)
        self._words = _words([0] * (size // _WORD))
        self._words[Words.SYSCALL // _WORD] = syscall_address()
        self._words[Words.SPINS // _WORD] = _SPINS
        self._words[Words.LIMIT // _WORD] = int(limit * 1e9)
        self._jobs = [_words([0] * (Job.SIZE // _WORD)) for _ in self.devices]
        self._steps = [self._device_steps(image, n) for n in range(len(self.devices))]
        for job, steps, indices in zip(self._jobs, self._steps, self.indices, strict=True):
            job[Job.STEPS // _WORD], job[Job.NSTEPS // _WORD] = address(steps), len(indices)
        self._outer = self._lead(image)
        self.job_address = address(self._outer)

    def _device_steps(self, image: Image, number: int) -> Words64:
        """The native steps of a device: its own of the plan, signals and waits."""
        columns, device = image.plan.columns, self.devices[number]
        await_, signal = image.symbol("netc_await"), image.symbol("netc_signal")
        pairs: list[tuple[int, int]] = []
        indices: list[int] = []

        def between(kernel: int, event: int) -> None:
            pairs.append((kernel | NO_BARRIER, self._block(number, event)))
            indices.append(-1)

        for i in [i for i, where in enumerate(columns.devices) if where == device]:
            for w in [w for w in columns.waits[i] if columns.devices[w] != device]:
                between(await_, self._events[w])
            pairs.append((int(self.binding.steps[2 * i]), int(self.binding.steps[2 * i + 1])))
            indices.append(i)
            if i in self._events:
                between(signal, self._events[i])
        self.indices.append(indices)
        return _words(np.array(pairs, np.int64).reshape(-1))

    def _block(self, number: int, event: int) -> int:
        """The address of the arguments of a device's signal or wait."""
        at = address(self._words) + Words.EVENTS + Words.EVENT_SIZE * event
        block = _words([address(self._words), at, address(self._jobs[number])])
        self._blocks.append(block)
        return address(block)

    def _lead(self, image: Image) -> Words64:
        """The outer job: one step that runs every device's job on a thread of its own."""
        self._addresses = np.array([address(job) for job in self._jobs], np.int64)
        self._step = np.array([image.symbol("netc_lead"), address(self._addresses)], np.int64)
        outer = _words([0] * (Job.SIZE // _WORD))
        outer[Job.STEPS // _WORD], outer[Job.NSTEPS // _WORD] = address(self._step), 1
        return outer

    def prepare(self, leaders: int, crews: Sequence[tuple[int, int]]) -> None:
        """Use the pool of leaders at an address; of each device, so many threads of its pool."""
        self._words[Words.RUN // _WORD] += 1
        self._words[Words.CANCEL // _WORD] = 0
        self._outer[Job.NTHREADS // _WORD], self._outer[Job.POOL // _WORD] = len(crews), leaders
        self._outer[Job.CANCEL // _WORD] = 0
        for job, (threads, pool) in zip(self._jobs, crews, strict=True):
            job[Job.NTHREADS // _WORD], job[Job.POOL // _WORD] = threads, pool
            job[Job.CANCEL // _WORD] = 0

    def cancel(self) -> None:
        """Let all jobs end after their present steps."""
        self._words[Words.CANCEL // _WORD] = 1
        for job in self._jobs:
            job[Job.CANCEL // _WORD] = 1

    def check(self) -> None:
        """Raise ResourceError when a device waited for another in vain."""
        if self._words[Words.CANCEL // _WORD] == LATE:
            limit = self._words[Words.LIMIT // _WORD] / 1e9
            devices = ", ".join(self.devices)
            raise ResourceError(f"a device waited more than {limit:g} s for another of {devices}")

    def timed(self, times: Sequence[Words64] | None) -> None:
        """Let each device's job note the cycle counter before each native step and at its end."""
        for n, job in enumerate(self._jobs):
            job[Job.TIMES // _WORD] = 0 if times is None else address(times[n])

    def rows(self) -> list[tuple[list[int], float]]:
        """Of each job the plan's step of its own ones, or −1, and its part of all."""
        return [(indices, 1.0) for indices in self.indices]

    def clocks(self) -> list[Words64]:
        """Room for the times of each device."""
        return [np.zeros(len(indices) + 1, np.int64) for indices in self.indices]


def _awaited(plan: FlatPlan) -> Mapping[int, int]:
    """Each step that another device waits for, and the number of its event."""
    c = plan.columns
    pairs = ((w, i) for i, waits in enumerate(c.waits) for w in waits)
    steps = sorted({w for w, i in pairs if c.devices[w] != c.devices[i]})
    return {step: event for event, step in enumerate(steps)}


def _words(values: Sequence[int] | Words64) -> Words64:
    """Words in lines of their own."""
    made = aligned_words(-(-len(values) * _WORD // _LINE) * _LINE, _LINE)
    made[: len(values)] = values
    return made
