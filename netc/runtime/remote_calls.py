"""The calls of parts on hosts: what each waits for, and one run of them all.

A part is asked for as soon as its host has, or is sent, what it reads. What only its host reads
stays there; all else goes by way of this process.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from netc.errors import ArtifactError, GraphError, ResourceError, clean
from netc.ir.device import Device
from netc.ir.dims import Dim
from netc.ir.plan import PART, BufferArg, IntArg, Plan, Step
from netc.runtime.ports import Array, value_of
from netc.runtime.remote import Host, heard_of
from netc.runtime.remote_worker import shape_only

Spans: TypeAlias = dict[int, tuple[float, float]]  # of steps: when each began, how long it took
Answer: TypeAlias = tuple[float, list[Array]]  # the seconds that a part took, what it gave


@dataclass(frozen=True)
class Call:
    """A step of such a plan: a part, where it runs, what it reads and gives."""

    part: int
    host: str
    reads: tuple[int, ...]
    gives: tuple[int, ...]
    sizes: tuple[Dim, ...] | None  # what a last input without elements tells the part

    @staticmethod
    def of(step: Step, parts: int) -> Call:
        """The call that a step is. Raises ArtifactError where it is none."""
        numbers = {f"{PART}{number}": number for number in range(parts)}
        reads = tuple(a.buffer for a in step.args if isinstance(a, BufferArg))
        sizes = tuple(a.value for a in step.args if isinstance(a, IntArg))
        try:
            host = Device.parse(step.device).host
        except GraphError as error:
            raise ArtifactError(error.diagnostics[0].message) from None
        if step.kernel not in numbers or reads != step.reads:
            raise ArtifactError(f"step {clean(step.name)} calls no part of the net")
        return Call(numbers[step.kernel], host, reads, step.writes, sizes or None)


@dataclass(frozen=True)
class Route:
    """The calls of a plan, and what is the same in every run of it.

    `wanted` are buffers that come to this host: outputs, and what is read on another host than
    gives it. `readers` says how many calls of a host read a buffer.
    """

    calls: tuple[Call, ...]
    wanted: frozenset[int]
    readers: Counter[tuple[str, int]]

    @staticmethod
    def of(plan: Plan, parts: int) -> Route:
        """The route of a plan, each of whose calls reads what is there. Raises ArtifactError."""
        known = {port.buffer for port in plan.inputs}
        calls = tuple(Call.of(step, parts) for step in plan.steps)
        maker: dict[int, str] = {}
        for call in calls:
            given = set(call.gives)
            if not known.issuperset(call.reads) or known & given or len(given) < len(call.gives):
                raise ArtifactError(f"a call of part {call.part} reads or gives what it cannot")
            known |= given
            maker |= dict.fromkeys(given, call.host)
        if any(p.buffer not in maker or p.count is not None for p in plan.outputs):
            raise ArtifactError("no part of the net gives one of its outputs")
        crossing = {b for c in calls for b in c.reads if maker.get(b, c.host) != c.host}
        wanted = frozenset(crossing | {port.buffer for port in plan.outputs})
        return Route(calls, wanted, Counter((c.host, b) for c in calls for b in set(c.reads)))


class Work:
    """Something that is done apart, by a thread of its own, and a pipe that tells when it is."""

    def __init__(self, do: Callable[[], Answer]) -> None:
        self._made: Answer | None = None
        self._error: BaseException | None = None
        try:
            self._told, self._tells = os.pipe()
        except OSError as error:
            raise ResourceError(f"no pipe for a part of the net: {error.strerror}") from None
        try:
            threading.Thread(target=self._run, args=(do,), name="netc-part", daemon=True).start()
        except RuntimeError:  # no thread starts
            self._run(do)

    def _run(self, do: Callable[[], Answer]) -> None:
        try:
            self._made = do()
        except BaseException as error:
            self._error = error
        os.close(self._tells)

    def fileno(self) -> int:
        """What can be waited for until it is done."""
        return self._told

    def result(self) -> Answer:
        """What came of it, once it is done. To be asked once."""
        os.read(self._told, 1)
        os.close(self._told)
        if self._error is not None:
            raise self._error
        assert self._made is not None
        return self._made


class Run:
    """One run: what has been asked, what is here, what each host holds."""

    def __init__(
        self,
        route: Route,
        hosts: Mapping[str, Host],
        compute: Callable[[int, Sequence[Array]], list[Array]],
        poisoned: bool = False,
    ) -> None:
        """`compute` does a part of this host on what it reads."""
        self._calls, self._wanted, self._hosts = route.calls, route.wanted, hosts
        self._compute, self._poisoned = compute, poisoned
        self._waiting = list(range(len(route.calls)))
        self._mine: deque[int] = deque()  # calls of this host that may begin
        self._running: tuple[int, Work] | None = None
        self._held: dict[str, set[int]] = {}  # by each other host that was asked, so far
        self._readers = Counter(route.readers)  # to come
        self._known: Mapping[str, int] = {}
        self._began = time.perf_counter()
        self.values: dict[int, Array] = {}  # of buffers that are here
        self.spans: Spans = {}

    def finish(
        self, known: Mapping[str, int], inputs: Mapping[int, Array], patience: float
    ) -> None:
        """Ask for all parts, and wait for them. Raises what any of them does.

        `inputs` are the arrays of input buffers.
        """
        self._known = known
        self.values.update(inputs)
        while self._waiting or self._mine or self._pending():
            self._ask()
            pending = self._pending()
            if self._mine and not pending:
                step = self._mine.popleft()
                self._take(step, *self._work(step)())  # nothing could be heard meanwhile
            elif pending:
                self._hear(pending, patience)
            else:
                raise ArtifactError("the net's parts wait for one another")

    def settle(self) -> None:
        """Wait for what cannot be called off: a part that runs here."""
        if self._running is not None:
            with suppress(Exception):
                self._running[1].result()

    def _pending(self) -> list[Host | Work]:
        """Whom there is to wait for."""
        asked: list[Host | Work] = [host for host in self._hosts.values() if host.asked]
        return asked if self._running is None else [*asked, self._running[1]]

    def _ask(self) -> None:
        """Ask for all that may begin."""
        for step in [s for s in self._waiting if self._is_ready(self._calls[s])]:
            self._waiting.remove(step)
            if self._calls[step].host:
                self._ask_for(step)
            else:
                self._mine.append(step)
        if self._mine and self._running is None and self._pending():
            step = self._mine.popleft()
            self._running = step, Work(self._work(step))

    def _is_ready(self, call: Call) -> bool:
        """Whether all that a part reads is here, or where it runs."""
        held = self._held.get(call.host, ())
        return all(b in self.values or b in held for b in call.reads)

    def _ask_for(self, step: int) -> None:
        """Ask another host for a part."""
        call = self._calls[step]
        fresh = call.host not in self._held
        held = self._held.setdefault(call.host, set())
        new = [b for b in dict.fromkeys(call.reads) if b not in held]
        self._readers.subtract((call.host, b) for b in set(call.reads))
        held.update(new, call.gives)
        done = [b for b in {*call.reads, *call.gives} if self._readers[call.host, b] <= 0]
        head = {
            "do": "run",
            "part": call.part,
            "fresh": fresh,
            "new": new,
            "reads": call.reads,
            "sizes": self._sizes(call),
            "gives": call.gives,
            "send": self._sent(call),
            "drop": sorted(done),
            "poisoned": self._poisoned,
        }
        self._hosts[call.host].ask(step, head, [self.values[b] for b in new])

    def _work(self, step: int) -> Callable[[], Answer]:
        """What a part of this host does."""
        call, sizes = self._calls[step], self._sizes(self._calls[step])
        given = [self.values[b] for b in call.reads]
        given += [] if sizes is None else [shape_only(sizes)]

        def work() -> Answer:
            start = time.perf_counter()
            made = self._compute(call.part, given)
            return time.perf_counter() - start, made

        return work

    def _sizes(self, call: Call) -> list[int] | None:
        return None if call.sizes is None else [value_of(d, self._known) for d in call.sizes]

    def _sent(self, call: Call) -> list[int]:
        """What of a part's results comes here."""
        return [b for b in call.gives if b in self._wanted]

    def _hear(self, pending: Sequence[Host | Work], patience: float) -> None:
        """Wait for the next that is done, and take what it gave."""
        early = [host for host in pending if isinstance(host, Host) and host.has_more]
        done: list[Host | Work] = [*early] or heard_of(pending, patience)
        if not done:
            raise ResourceError(f"no host has answered for {patience:g} s")
        for each in done:
            if isinstance(each, Host):
                step, head, arrays = each.hear()
                seconds = head.get("seconds")
                self._take(step, seconds if isinstance(seconds, float) else 0.0, arrays)
            elif self._running is not None:
                (step, work), self._running = self._running, None
                self._take(step, *work.result())

    def _take(self, step: int, seconds: float, arrays: Sequence[Array]) -> None:
        """What a part gave."""
        call = self._calls[step]
        start = max(0.0, time.perf_counter() - self._began - seconds)
        self.spans[step] = start, seconds
        given = self._sent(call) if call.host else call.gives
        if len(arrays) != len(given):
            raise ResourceError(f"part {call.part} gave {len(arrays)} values, not {len(given)}")
        self.values.update(zip(given, arrays, strict=True))
