"""An executable whose parts run on several hosts, this one among them or not.

Its plan has a step for each call of a part; buffers are what parts read and give.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence

import numpy as np

from netc.errors import ResourceError, UsageError, clean
from netc.ir.plan import Plan
from netc.ir.queues import devices_of
from netc.runtime.artifact import Artifact, ArtifactFile, Level
from netc.runtime.driver import GpuOptions
from netc.runtime.faults import fault
from netc.runtime.limits import Limits
from netc.runtime.memory import Bytes
from netc.runtime.ports import Array, match_sizes, value_of
from netc.runtime.remote import Host, commands_of, example
from netc.runtime.remote_calls import Route, Run, Spans
from netc.runtime.remote_worker import called
from netc.runtime.session import Executable, HostOptions, Watch, ready
from netc.runtime.trust import level_of, usable


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
        self._pid = os.getpid()
        super().__init__(model, level, threads, limits)
        weakref.finalize(self, _close, self._hosts)

    def _load_code(self, level: Level, weights: Bytes) -> None:
        self._route = Route.of(level.plan, len(self.model.parts))
        self._commands = commands_of(self._options.commands)
        self._wanted: dict[str, dict[int, None]] = {}  # the parts of each host
        for call in self._route.calls:
            self._wanted.setdefault(call.host, {})[call.part] = None

    def _devices_of(self, plan: Plan) -> tuple[str, ...]:
        return devices_of(plan)

    def after_fork(self) -> None:
        """The workers are the parent's."""
        super().after_fork()
        for host in self._hosts.values():
            host.forget()
        self._hosts.clear()

    def start(self) -> None:
        """Reach the hosts now and send them their parts, as the first run would."""
        with self._lock:
            self._reach()

    def _reach(self) -> None:
        """Every host there, with its parts; all at once where several are not."""
        if os.getpid() != self._pid:
            help = "load the net again in the new process"
            raise UsageError("this process was forked after the net was loaded", help=help)
        self._leave_unfit()
        for part in self._wanted.get("", {}):
            if part not in self._local:
                self._local[part] = self._part_here(part)
        new = [name for name in self._wanted if name and name not in self._hosts]
        self._check_commands(new)
        try:
            for name in new:
                self._hosts[name] = Host(name, self._commands[name], self._limits)
            for name in new:
                self._hosts[name].greet()
            for name in new:
                for part in self._wanted[name]:
                    self._send_part(name, part)
            for name in new:
                while self._hosts[name].asked:
                    self._hosts[name].hear()
                self._hosts[name].has_parts = True
        except BaseException:
            self._leave_unfit()
            raise

    def _check_commands(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._commands:
                what = f"nothing says how to reach host {clean(name)}"
                raise UsageError(what, help=example(name))

    def _part_here(self, number: int) -> Executable:
        """A part that this process runs."""
        part = self.model.parts[number]
        if isinstance(part, Artifact):
            return ready(part, level_of(part), self.threads, self._limits, self._gpu)
        model, level = usable(part, self._options.trusted, None, self._options.recompile)
        return ready(model, level, self.threads, self._limits, self._gpu)

    def _send_part(self, name: str, number: int) -> None:
        part = self.model.parts[number]
        if isinstance(part, ArtifactFile):
            data = np.frombuffer(part.container.data, np.uint8)
        else:
            data = np.frombuffer(b"".join(part.pieces()), np.uint8)
        head = {"do": "load", "part": number, "trusted": self._options.trusted}
        self._hosts[name].ask(number, head, [data])

    def _leave_unfit(self) -> None:
        """End the workers that are lost, owe answers or have not all of their parts.

        What is run next starts others. Where this is interrupted, the next run goes on with it.
        """
        unfit = [host for host in self._hosts.values() if not host.is_idle]
        for host in unfit:
            host.hang_up()
        for host in unfit:
            host.close()
            del self._hosts[host.name]

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
        run = Run(self._route, self._hosts, self._compute, self._poisoned)
        inputs = {take.buffer: array for take, array in zip(self._takes, arrays, strict=True)}
        try:
            run.finish(known, inputs, self._limits.wait)
        except BaseException:
            self._leave_unfit()
            run.settle()
            raise
        self._check_results(run.values, known)
        fault("run.end")
        return self._named(run.values, lambda _: 0), run.spans, known

    def _check_results(self, values: Mapping[int, Array], known: Mapping[str, int]) -> None:
        """Raise ResourceError where a host has given what the net does not."""
        for give in self._gives:
            shape = tuple(value_of(d, known) for d in give.port.type.shape)
            made = values[give.buffer]
            if made.shape != shape or made.dtype != give.dtype:
                got = f"{made.dtype} of shape {made.shape}"
                raise ResourceError(f"a host gave {got} for {clean(give.name)}: {give.port.type}")

    def _compute(self, part: int, arrays: Sequence[Array]) -> list[Array]:
        """What a part of this host gives."""
        return called(self._local[part], arrays, self._poisoned)


def _close(hosts: dict[str, Host]) -> None:
    for host in list(hosts.values()):
        host.close()
