"""An executable whose parts run on several hosts, this one among them or not.

Its plan has a step for each call of a part; buffers are what parts read and give. A part is
called as soon as its host has, or is sent, what it reads; what a host alone reads stays there.
All else goes by way of this process.
"""

from __future__ import annotations

import os
import time
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.errors import ArtifactError, NetcError, ResourceError, UsageError, clean
from netc.ir.device import Device
from netc.ir.dims import Dim
from netc.ir.plan import PART, BufferArg, IntArg, Plan, Step
from netc.ir.queues import devices_of
from netc.runtime.artifact import Artifact, ArtifactFile, Level
from netc.runtime.driver import GpuOptions
from netc.runtime.faults import fault
from netc.runtime.hosts import Host, commands_of
from netc.runtime.limits import Limits
from netc.runtime.memory import Bytes
from netc.runtime.ports import Array, match_sizes, value_of
from netc.runtime.session import Executable, HostOptions, Watch, ready
from netc.runtime.trust import usable
from netc.runtime.worker import shape_only

Spans = dict[int, tuple[float, float]]  # of steps: when each began, and how long it took


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
        number = step.kernel.removeprefix(PART)
        reads = tuple(a.buffer for a in step.args if isinstance(a, BufferArg))
        sizes = tuple(a.value for a in step.args if isinstance(a, IntArg))
        if not (number.isdecimal() and int(number) < parts) or reads != step.reads:
            raise ArtifactError(f"step {clean(step.name)} calls no part of the net")
        return Call(int(number), Device.parse(step.device).host, reads, step.writes, sizes or None)


class HostsExecutable(Executable):
    """A net on several hosts, called like any other; the first run, or `start`, reaches them."""

    def __init__(
        self,
        model: Artifact | ArtifactFile,
        level: Level,
        threads: int | str | None,
        limits: Limits,
        gpu: GpuOptions,
        hosts: HostOptions,
    ) -> None:
        self._gpu, self._options = gpu, hosts
        self._hosts: dict[str, Host] = {}
        self._local: dict[int, Executable] = {}
        self._here = ThreadPoolExecutor(1, "netc-part")
        self._pid = os.getpid()
        super().__init__(model, level, threads, limits)
        weakref.finalize(self, _close, self._hosts, self._here)

    def _load_code(self, level: Level, weights: Bytes) -> None:
        count = len(self.model.parts)
        self._calls = [Call.of(step, count) for step in level.plan.steps]
        self._commands = commands_of(self._options.commands)
        named = sorted({call.host for call in self._calls} - {""})
        for host in self._options.commands or {}:
            if host not in named:
                fits = f"it is on {', '.join(map(clean, named))}"
                raise UsageError(f"the net is on no host {clean(repr(host))}", help=fits)

    def _devices_of(self, plan: Plan) -> tuple[str, ...]:
        return devices_of(plan)

    def start(self) -> None:
        """Reach the hosts now and send them their parts, as the first run would."""
        with self._lock:
            self._reach()

    def _reach(self) -> None:
        """Every host there, with its parts; all at once where several are not."""
        if os.getpid() != self._pid:
            help = "load the net again in the new process"
            raise UsageError("this process was forked after the net was loaded", help=help)
        wanted: dict[str, dict[int, None]] = {}
        for call in self._calls:
            wanted.setdefault(call.host, {})[call.part] = None
        for part in wanted.pop("", {}):
            if part not in self._local:
                self._local[part] = self._part_here(part)
        self._check_commands(wanted)
        new = [name for name in wanted if name not in self._hosts]
        try:
            for name in new:
                self._hosts[name] = Host(name, self._commands[name], self._limits)
            for name in new:
                self._hosts[name].greet()
            asked = [self._send_part(name, part) for name in new for part in wanted[name]]
            for each in asked:
                self._answered(each)
        except BaseException:
            for name in new:
                self._leave(name)
            raise

    def _check_commands(self, wanted: Mapping[str, object]) -> None:
        for name in wanted:
            if name not in self._commands:
                how = f"{name}='ssh {name} netc worker'"
                raise UsageError(
                    f"nothing says how to reach host {clean(name)}",
                    help=f"--host {clean(how)}, or hosts= in Python, or NETC_HOSTS",
                )

    def _part_here(self, number: int) -> Executable:
        """A part that this process runs."""
        part = self.model.parts[number]
        if isinstance(part, Artifact):
            (level,) = part.levels[:1]
            return ready(part, level, self.threads, self._limits, self._gpu)
        model, level = usable(part, self._options.trusted, None, self._options.recompile)
        return ready(model, level, self.threads, self._limits, self._gpu)

    def _send_part(self, name: str, number: int) -> Future[Any]:
        part = self.model.parts[number]
        if isinstance(part, ArtifactFile):
            data = np.frombuffer(part.container.data, np.uint8)
        else:
            data = np.frombuffer(b"".join(part.pieces()), np.uint8)
        head = {"do": "load", "part": number, "trusted": self._options.trusted}
        return self._hosts[name].ask(head, [data])

    def _answered(self, future: Future[Any]) -> Any:
        """What a host answers, if it does."""
        try:
            return future.result(self._limits.wait)
        except TimeoutError:
            raise ResourceError(f"a host has not answered for {self._limits.wait:g} s") from None

    def _leave(self, name: str) -> None:
        """End a host's worker; the next run starts another."""
        host = self._hosts.pop(name, None)
        if host is not None:
            host.close()

    def _run_once(self, arrays: Sequence[Array], watch: Watch | None) -> dict[str, Array]:
        return self._run_parts(arrays)[0]

    def timed_steps(
        self, arrays: Sequence[Array]
    ) -> tuple[dict[str, Array], Spans, dict[str, int]]:
        """One run: its outputs, when each part began and how long it took; the sizes."""
        with self._lock:
            return self._run_parts(arrays)

    def _run_parts(self, arrays: Sequence[Array]) -> tuple[dict[str, Array], Spans, dict[str, int]]:
        known = match_sizes(self.plan, arrays)
        self._reach()
        fault("run.begin")
        run = _Run(self, known, arrays)
        try:
            run.finish(self._limits.wait)
        except BaseException:
            for name in [name for name, host in self._hosts.items() if not host.is_idle]:
                self._leave(name)
            run.settle()
            raise
        fault("run.end")
        return self._named(run.here, lambda _: 0), run.spans, known

    def ask(self, call: Call, head: dict[str, Any], arrays: Sequence[Array]) -> Future[Any]:
        """Let a part run on another host."""
        return self._hosts[call.host].ask(head, arrays)

    def run_here(self, call: Call, arrays: Sequence[Array]) -> Future[Any]:
        """Let a part run in this process, one at a time; answered like a host would."""
        exe = self._local[call.part]

        def work() -> tuple[dict[str, Any], list[Array]]:
            start = time.perf_counter()
            made = list(exe.run(arrays).values())
            return {"seconds": time.perf_counter() - start}, made

        return self._here.submit(work)

    @property
    def calls(self) -> Sequence[Call]:
        """The calls of a run, makers first."""
        return self._calls


class _Run:
    """One run: what has been asked, what is here, what each host holds."""

    def __init__(
        self, exe: HostsExecutable, known: Mapping[str, int], arrays: Sequence[Array]
    ) -> None:
        self._exe, self._known, self._calls = exe, known, exe.calls
        ports = zip(exe.plan.inputs, arrays, strict=True)
        self.here: dict[int, Array] = {port.buffer: array for port, array in ports}
        self.spans: Spans = {}
        self._held: dict[str, set[int]] = {}  # by each other host that was asked, so far
        self._readers = Counter((c.host, b) for c in self._calls for b in set(c.reads))
        self._wanted = _wanted(exe.plan, self._calls)
        self._waiting = list(range(len(self._calls)))
        self._pending: dict[Future[Any], int] = {}
        self._began = time.perf_counter()

    def finish(self, patience: float) -> None:
        """Ask for all parts, and wait for them. Raises what any of them does."""
        while True:
            for step in [s for s in self._waiting if self._is_ready(self._calls[s])]:
                self._waiting.remove(step)
                self._pending[self._asked(self._calls[step])] = step
            if not self._pending:
                break
            done, _ = wait(self._pending, patience, FIRST_COMPLETED)
            if not done:
                raise ResourceError(f"no host has answered for {patience:g} s")
            for future in done:
                self._take(self._pending.pop(future), *future.result())
        if self._waiting:
            raise ArtifactError("the net's parts wait for one another")

    def settle(self) -> None:
        """Wait for what cannot be called off: a part that runs here."""
        for future in self._pending:
            with suppress(BaseException):
                future.result()

    def _is_ready(self, call: Call) -> bool:
        """Whether all that a part reads is here, or where it runs."""
        held = self._held.get(call.host, ())
        return all(b in self.here or b in held for b in call.reads)

    def _asked(self, call: Call) -> Future[Any]:
        """Ask for a part, once it is ready."""
        sizes = None
        if call.sizes is not None:
            sizes = [value_of(d, self._known) for d in call.sizes]
        if not call.host:
            given = [self.here[b] for b in call.reads]
            given += [] if sizes is None else [shape_only(sizes)]
            return self._exe.run_here(call, given)
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
            "sizes": sizes,
            "gives": call.gives,
            "send": self._sent(call),
            "drop": sorted(done),
        }
        return self._exe.ask(call, head, [self.here[b] for b in new])

    def _sent(self, call: Call) -> list[int]:
        """What of a part's results comes here."""
        return [b for b in call.gives if b in self._wanted]

    def _take(self, step: int, head: Mapping[str, Any], arrays: Sequence[Array]) -> None:
        """What a part gave."""
        call, seconds = self._calls[step], head["seconds"]
        start = max(0.0, time.perf_counter() - self._began - seconds)
        self.spans[step] = start, seconds
        given = self._sent(call) if call.host else call.gives
        if len(arrays) != len(given):
            raise NetcError(f"part {call.part} gave {len(arrays)} values, not {len(given)}")
        self.here.update(zip(given, arrays, strict=True))


def _wanted(plan: Plan, calls: Sequence[Call]) -> set[int]:
    """The buffers that come here: outputs, and what is read on another host than gives it."""
    maker = {b: call.host for call in calls for b in call.gives}
    crossing = {b for call in calls for b in call.reads if maker.get(b, call.host) != call.host}
    return crossing | {port.buffer for port in plan.outputs}


def _close(hosts: dict[str, Host], here: ThreadPoolExecutor) -> None:
    here.shutdown(wait=False)
    for host in list(hosts.values()):
        host.close()
