"""Runs of a plan on GPUs: memory made once, pieces asked for in order, results waited for.

Everything that a run of known sizes needs is kept: an arena per device, the weights there, a
staging place on the host for what the caller gives and gets, and the launches as replays.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from netc.errors import NetcError
from netc.runtime.binding import Binder, Binding
from netc.runtime.driver import (
    Block,
    Driver,
    Event,
    GpuOptions,
    Queue,
    Replay,
    Staging,
    open_driver,
)
from netc.runtime.gpu_plan import Copy, GpuPlan, Places, Where
from netc.runtime.image import Image
from netc.runtime.layout import named_sizes
from netc.runtime.limits import Limits
from netc.runtime.memory import Bytes, address, aligned, poison, require_memory, size_text
from netc.runtime.ports import Array, match_sizes, value_of
from netc.runtime.segments import Segment

_NAN_BYTE = 0xFF
_WEIGHT_STEP = 256  # bytes; the weights of a device begin at a multiple
_WORD = 8
_NAMED = 3  # buffers an error names

RunHost = Callable[[Binding, int, int], None]


@dataclass
class Piece:
    """A segment for known sizes: launches, copies, or runs of host steps (first, count)."""

    segment: Segment
    queue: Queue | None
    replay: Replay | None = None
    launched: list[int] = field(default_factory=list)  # the step of each launch
    copies: list[Copy] = field(default_factory=list)
    host: list[tuple[int, int]] = field(default_factory=list)
    awaited: bool = False


@dataclass(frozen=True)
class Staged:
    """What goes between a device and the host at the ends of a run."""

    buffer: int
    home: int
    offset: int  # in the staging memory
    size: int


@dataclass(eq=False)
class Bound:
    """Everything for one set of sizes."""

    known: dict[str, int]
    places: Places
    addresses: dict[int, int]  # of buffers; the caller's on the host change from run to run
    outputs: list[tuple[int, ...]]
    pieces: list[Piece]
    queues: list[Queue]
    given: list[Staged | None]  # of each input
    taken: list[Staged]  # outputs, and counts
    host: Binding | None

    @property
    def is_empty(self) -> bool:
        """Whether nothing comes out."""
        return all(0 in shape for shape in self.outputs)


Spans = dict[int, tuple[float, float]]  # of steps: when each began, and how long it took


class Engine:
    """A plan on its devices."""

    def __init__(
        self,
        plan: GpuPlan,
        weights: Bytes,
        host: Image | None,
        run_host: RunHost,
        options: GpuOptions,
        limits: Limits,
    ) -> None:
        self.plan, self._weights, self._limits = plan, weights, limits
        self._run_host = run_host
        self.driver: Driver = open_driver(plan.image, plan.devices, options)
        self._binder = Binder(host, limits, allocate=self._host_memory) if host else None
        self._host_arena: Bytes = aligned(0, "arena")
        self._arenas: dict[int, Block] = {}
        self._held: dict[int, Block] = {}  # the weights on each device
        self._staging: Staging | None = None
        self._kept: list[Staging] = []
        self._bound: OrderedDict[tuple[tuple[int, ...], ...], Bound] = OrderedDict()

    def close(self) -> None:
        """Give back what the devices hold."""
        self._bound.clear()
        self.driver.close()

    # ---- memory ---------------------------------------------------------------------------

    def _host_memory(self, size: int, what: str) -> Bytes:
        """The host's arena, which copies to devices are fast with."""
        if not size:
            return aligned(0, what)
        for old in self._kept:
            old.close()
        self._kept = []
        self._kept = [self.driver.staging(size)]
        return self._kept[0].bytes

    def _grow(self, places: Places, staged: int) -> None:
        """Make room for a binding; earlier ones are void where their memory moves."""
        for device in self.plan.devices:
            size, held = places.arenas[device], self._arenas.get(device)
            if held is None or held.size < size:
                self._bound.clear()
                if held is not None:
                    self._arenas.pop(device).close()
                what = f"the memory of a run on cuda:{device} ({self._biggest(places, device)})"
                self._arenas[device] = self.driver.allocate(device, size, what)
        if self._staging is None or len(self._staging.bytes) < staged:
            self._bound.clear()
            require_memory(staged, lambda: [("staging", staged)], self._limits)
            if self._staging is not None:
                self._staging.close()
            self._staging = None
            self._staging = self.driver.staging(staged)
        arena = len(self._binder.arena if self._binder else self._host_arena)
        if places.arenas[None] > arena:
            self._bound.clear()
            if self._binder is None:
                self._host_arena = aligned(0, "arena")  # the old one is given back
                self._host_arena = self._host_memory(places.arenas[None], "arena")
        for device in self.plan.devices:
            self._hold_weights(device)

    def _biggest(self, places: Places, device: int) -> str:
        named = named_sizes(self.plan.plan, places.sizes)
        mine = [x for x, home in zip(named, self.plan.homes, strict=True) if home == device]
        shown = sorted(mine, key=lambda pair: -pair[1])[:_NAMED]
        return "biggest: " + ", ".join(f"{name} {size_text(size)}" for name, size in shown)

    def _hold_weights(self, device: int) -> None:
        """Copy the weights that GPU steps use to a device, once."""
        first = self._first_weight
        size = len(self._weights) - first
        if device in self._held or size <= 0:
            return
        block = self.driver.allocate(device, size, f"the weights on cuda:{device}")
        queue = self.driver.queue(device, "compute")
        queue.copy(block.address, address(self._weights) + first, size)
        queue.wait()
        self._held[device] = block

    @property
    def _first_weight(self) -> int:
        return self.plan.first_weight // _WEIGHT_STEP * _WEIGHT_STEP

    # ---- binding --------------------------------------------------------------------------

    def bound(self, arrays: Sequence[Array]) -> Bound:
        """What these shapes need: prepared once, the last few kept."""
        self.driver.check()
        key = tuple([array.shape for array in arrays])
        made = self._bound.get(key)
        if made is None:
            made = self._bind(match_sizes(self.plan.plan, arrays))
            self._bound[key] = made
            if len(self._bound) > self._limits.bindings:
                self._bound.popitem(last=False)
        self._bound.move_to_end(key)
        return made

    def _bind(self, known: dict[str, int]) -> Bound:
        plan = self.plan
        places = plan.layout(known)
        given, taken, staged = self._staged(places)
        self._grow(places, staged)
        host = None
        if self._binder is not None:
            host = self._binder.bind(known, plan.host_layout(places))
        addresses = self._addresses(places)
        first = self._first_weight
        weights = {d: self._held[d].address - first if d in self._held else 0 for d in plan.devices}
        where = Where(known, addresses, weights, places.sizes)
        pieces = [self._piece(segment, where) for segment in plan.segments]
        for segment in plan.segments:
            for waited in segment.after:
                pieces[waited].awaited = True
        used = [piece.queue for piece in pieces if piece.queue is not None]
        homes = {s.home for s in (*given, *taken) if s is not None}
        ends = [self.driver.queue(home, "compute") for home in sorted(homes)]
        return Bound(
            known=known,
            places=places,
            addresses=addresses,
            outputs=[tuple(value_of(d, known) for d in p.type.shape) for p in plan.plan.outputs],
            pieces=pieces,
            queues=list(dict.fromkeys((*ends, *used))),
            given=given,
            taken=taken,
            host=host,
        )

    def _staged(self, places: Places) -> tuple[list[Staged | None], list[Staged], int]:
        """Where the caller's arrays lie in the staging memory, and its size."""
        end = 0

        def stage(buffer: int, size: int) -> Staged | None:
            nonlocal end
            home = self.plan.homes[buffer]
            if home is None:
                return None
            start, end = end, end + -(-size // _WEIGHT_STEP) * _WEIGHT_STEP
            return Staged(buffer, home, start, size)

        plan = self.plan.plan
        given = [stage(p.buffer, places.sizes[p.buffer]) for p in plan.inputs]
        wanted = {p.buffer: places.sizes[p.buffer] for p in plan.outputs}
        wanted |= {p.count: _WORD for p in plan.outputs if p.count is not None}
        taken = [stage(buffer, size) for buffer, size in wanted.items()]
        return given, [s for s in taken if s is not None], end

    def _addresses(self, places: Places) -> dict[int, int]:
        host = self._binder.arena if self._binder else self._host_arena
        starts: dict[int | None, int] = {d: b.address for d, b in self._arenas.items()}
        starts[None] = address(host)
        homes = self.plan.homes
        return {i: starts[homes[i]] + at for i, at in places.offsets.items()}

    def _piece(self, segment: Segment, where: Where) -> Piece:
        plan = self.plan
        if segment.queue is None:
            numbers = {step: n for n, step in enumerate(plan.host_steps)}
            return Piece(segment, None, host=_runs([numbers[i] for i in segment.steps]))
        queue = self.driver.queue(*segment.queue)
        if segment.copies:
            return Piece(segment, queue, copies=plan.copies(segment, where.known, where.sizes))
        made = plan.launches(segment, where)
        scratch = list(self._arenas.values())
        replay = queue.prepare([launch for _, launch in made], scratch) if made else None
        return Piece(segment, queue, replay=replay, launched=[i for i, _ in made])

    # ---- a run ----------------------------------------------------------------------------

    def run(
        self,
        bound: Bound,
        arrays: Sequence[Array],
        outputs: Mapping[int, Array],
        poisoned: bool = False,
        spans: Spans | None = None,
    ) -> None:
        """One run into `outputs`; with `spans` step by step, each timed."""
        try:
            self._begin(bound, arrays, outputs, poisoned)
            if spans is None:
                self._ask(bound)
            else:
                self._step_by_step(bound, spans)
            self._end(bound)
        except BaseException:
            for queue in bound.queues:
                with suppress(NetcError):  # the first error is the one to tell
                    queue.wait()
            raise
        for staged in bound.taken:
            if staged.buffer in outputs:
                _bytes(outputs[staged.buffer])[:] = self._part(staged)

    def word(self, bound: Bound, buffer: int) -> int:
        """The first eight bytes of an arena buffer after a run, as a number."""
        for staged in bound.taken:
            if staged.buffer == buffer:
                return int(self._part(staged).view(np.int64)[0])
        at = bound.places.offsets[buffer]
        host = self._binder.arena if self._binder else self._host_arena
        return int(host[at : at + _WORD].view(np.int64)[0])

    def _part(self, staged: Staged) -> Bytes:
        assert self._staging is not None
        return self._staging.bytes[staged.offset : staged.offset + staged.size]

    def _begin(
        self,
        bound: Bound,
        arrays: Sequence[Array],
        outputs: Mapping[int, Array],
        poisoned: bool,
    ) -> None:
        """Poison, then bring the inputs to where steps read them."""
        if poisoned:
            for device, block in self._arenas.items():
                self.driver.queue(device, "compute").fill(block, _NAN_BYTE)
                self.driver.queue(device, "compute").wait()
            poison(self._binder.arena if self._binder else self._host_arena)
        started: list[Queue] = []
        pairs = zip(self.plan.plan.inputs, bound.given, arrays, strict=True)
        for port, staged, array in pairs:
            if staged is None:
                self._point(bound, port.buffer, array)
            elif staged.size:
                self._part(staged)[:] = _bytes(array)
                queue = self.driver.queue(staged.home, "compute")
                assert self._staging is not None
                source = self._staging.address + staged.offset
                queue.copy(bound.addresses[staged.buffer], source, staged.size)
                started.append(queue)
        for buffer, made in outputs.items():
            if self.plan.homes[buffer] is None:
                self._point(bound, buffer, made)
        for queue in dict.fromkeys(started):
            _join([q for q in bound.queues if q is not queue], queue)

    def _point(self, bound: Bound, buffer: int, array: Array) -> None:
        """Let host steps and copies use the caller's array."""
        bound.addresses[buffer] = address(array)
        if bound.host is not None:
            bound.host.patch(buffer, address(array))

    def _ask(self, bound: Bound) -> None:
        """Ask for all pieces in order; the host's own are done on the way."""
        events: dict[int, Event] = {}
        for i, piece in enumerate(bound.pieces):
            for waited in piece.segment.after:
                if waited not in events:
                    continue
                if piece.queue is None:
                    events[waited].wait()
                else:
                    piece.queue.after(events[waited])
            if piece.queue is None:
                assert bound.host is not None
                for first, count in piece.host:
                    self._run_host(bound.host, first, count)
                continue
            if piece.replay is not None:
                piece.replay.start()
            for copy in piece.copies:
                self._copy(bound, piece.queue, copy)
            if piece.awaited:
                events[i] = piece.queue.record()

    def _copy(self, bound: Bound, queue: Queue, copy: Copy) -> None:
        target = bound.addresses[copy.target] + copy.target_offset
        queue.copy(target, bound.addresses[copy.source] + copy.source_offset, copy.size)

    def _end(self, bound: Bound) -> None:
        """Bring the outputs to the host, and wait for everything."""
        homes = dict.fromkeys(staged.home for staged in bound.taken)
        for home in homes:
            queue = self.driver.queue(home, "compute")
            for other in bound.queues:
                _join([queue] if other is not queue else [], other)
            for staged in bound.taken:
                if staged.home == home and staged.size:
                    assert self._staging is not None
                    target = self._staging.address + staged.offset
                    queue.copy(target, bound.addresses[staged.buffer], staged.size)
        for queue in bound.queues:
            queue.wait()

    # ---- times ----------------------------------------------------------------------------

    def _step_by_step(self, bound: Bound, spans: Spans) -> None:
        """Every step alone, on its device's clock, launches one after the other."""
        for queue in bound.queues:
            queue.wait()
        at = 0.0
        for piece in bound.pieces:
            for step, seconds in self._timed_steps(bound, piece):
                spans[step] = at, seconds
                at += seconds
        for i in range(len(self.plan.steps)):
            spans.setdefault(i, (at, 0.0))  # of no programs, or no bytes

    def _timed_steps(self, bound: Bound, piece: Piece) -> list[tuple[int, float]]:
        if piece.replay is not None:
            replay = piece.replay
            return [(step, replay.run_one(n)) for n, step in enumerate(piece.launched)]
        made = []
        for copy in piece.copies:
            start = time.perf_counter()
            assert piece.queue is not None
            self._copy(bound, piece.queue, copy)
            piece.queue.wait()
            made.append((copy.step, time.perf_counter() - start))
        numbers = [n for first, count in piece.host for n in range(first, first + count)]
        for n, step in zip(numbers, piece.segment.steps if piece.host else (), strict=True):
            assert bound.host is not None
            start = time.perf_counter()
            self._run_host(bound.host, n, 1)
            made.append((step, time.perf_counter() - start))
        return made

    def replay_times(self, bound: Bound, repeat: int) -> list[float]:
        """The seconds of each of so many replays of all launches; after a run of these sizes."""
        replays = [piece.replay for piece in bound.pieces if piece.replay is not None]
        runs = [replay.times(repeat) for replay in replays]
        return [sum(times) for times in zip(*runs, strict=True)] if runs else [0.0] * repeat

    def launch_times(self, bound: Bound, repeat: int) -> dict[int, tuple[float, int]]:
        """Of each step that was launched: its median seconds alone, and the variant in use."""
        found: dict[int, tuple[float, int]] = {}
        for piece in bound.pieces:
            if piece.replay is not None:
                times = piece.replay.kernel_times(repeat)
                rows = zip(piece.launched, times, piece.replay.variants, strict=True)
                found |= {step: (seconds, variant) for step, seconds, variant in rows}
        return found


def _join(queues: Sequence[Queue], earlier: Queue) -> None:
    """Let queues go on after what another was asked for."""
    if queues:
        event = earlier.record()
        for queue in queues:
            queue.after(event)


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Numbers in order, as (first, how many) of those that follow each other."""
    runs: list[tuple[int, int]] = []
    for n in numbers:
        if runs and runs[-1][0] + runs[-1][1] == n:
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((n, 1))
    return runs


def _bytes(array: Array) -> Bytes:
    """The bytes of a contiguous array."""
    return array.reshape(-1).view(np.uint8)
