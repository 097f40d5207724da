"""A compiled net that runs: `exe(data=x)` gives a dict of fresh arrays."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np

from netc.errors import ArtifactError, NetcError, ResourceError, UsageError, clean
from netc.ir.plan import Plan
from netc.runtime import host
from netc.runtime.artifact import (
    HOSTS,
    Artifact,
    ArtifactFile,
    Level,
    open_artifact,
    read_artifact,
)
from netc.runtime.binding import Binder, Binding
from netc.runtime.driver import GpuOptions
from netc.runtime.faults import fault
from netc.runtime.fleet import FLEET, thread_counts
from netc.runtime.image import Image
from netc.runtime.interrupts import call_apart, on_main_thread
from netc.runtime.keys import make_key
from netc.runtime.limits import DEFAULT, Limits
from netc.runtime.logical import check_runnable, on_gpu
from netc.runtime.memory import Bytes, address, aligned, aligned_copy, poison
from netc.runtime.pool import WorkerPool
from netc.runtime.ports import Array, TensorSpec, collect, intakes, match_sizes, spec_of
from netc.runtime.team import Team
from netc.runtime.trust import Recompile, hosts_level, judge, level_of, usable
from netc.runtime.workers import WORKERS

_LONG_RUN = 0.05  # seconds; a longer run leaves the main thread free to see an interrupt

Watch: TypeAlias = Callable[[Binding], AbstractContextManager[object]]  # a run is within it
Commands: TypeAlias = Mapping[str, str | Sequence[str]]  # host -> what starts its worker


@dataclass(frozen=True)
class HostOptions:
    """How a net on several hosts is run: their commands, and whose code is trusted."""

    commands: Commands | None = None
    trusted: bool = True
    recompile: Recompile | None = None


class Executable:
    """A net ready to run. Any thread may call it; calls take turns."""

    def __init__(
        self,
        model: Artifact | ArtifactFile,
        level: Level,
        threads: int | str | None = None,
        limits: Limits = DEFAULT,
    ) -> None:
        self.threads = host.thread_count(threads)
        self.model = model
        self.devices = self._devices_of(level.plan)
        self._level, self._limits = level, limits
        self._load_code(level, aligned_copy(model.weights, "weights"))
        self._bindings: OrderedDict[tuple[tuple[int, ...], ...], Binding] = OrderedDict()
        self._poisoned = False
        self._takes, self._gives = intakes(level.plan.inputs), intakes(level.plan.outputs)
        self._lock = threading.Lock()
        self._owner = 0  # the thread whose run is in progress
        _EXECUTABLES.add(self)

    def _devices_of(self, plan: Plan) -> tuple[str, ...]:
        return check_runnable(plan)

    def _load_code(self, level: Level, weights: Bytes) -> None:
        self.image = Image(level, weights)
        threads = self.threads if len(self.devices) == 1 else 0
        self._binder = Binder(self.image, self._limits, in_turns=threads)

    def start(self) -> None:
        """Do now what the first run would do once: make weights, take devices."""
        with self._lock:
            self._set_up()

    def _set_up(self) -> None:
        """Make the weights that the file does not hold, where they are not there yet."""
        image = self.image
        if image.is_ready:
            return
        assert image.setup is not None
        binder = Binder(image.setup, self._limits)
        binding = binder.bind({}, binder.layout({}))
        made = aligned(image.plan.made_size, "weights", present=False)
        (port,) = image.setup.plan.outputs
        binding.patch(port.buffer, address(made))
        self._on_threads(binding)
        image.made = made

    def __repr__(self) -> str:
        ins = ", ".join(f"{name}: {spec}" for name, spec in self.inputs.items())
        outs = ", ".join(f"{name}: {spec}" for name, spec in self.outputs.items())
        return f"Executable({ins} -> {outs}; {self.level}, {self.threads} threads)"

    def __reduce__(self) -> NoReturn:
        help = "save it to a file, and load that where it is to run"
        raise UsageError("an executable is not pickled: it is bound to this process", help=help)

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        """What a call takes, by name."""
        return {port.name: spec_of(port.type) for port in self.plan.inputs}

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        """What a call gives, by name."""
        return {port.name: spec_of(port.type) for port in self.plan.outputs}

    @property
    def plan(self) -> Plan:
        """The steps and buffers of the code in use."""
        return self._level.plan

    @property
    def level(self) -> str:
        """The kind of processor the code in use is for."""
        return self._level.name

    @property
    def gpu(self) -> str:
        """The driver of the GPUs in use; nothing where there are none."""
        return ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, where the net has some."""
        return tuple(self.model.labels)

    def poison(self, on: bool = True) -> None:
        """From now on fill the arena with NaN before each run, or stop doing so."""
        self._poisoned = on

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write `model.bin`, signed with this user's key; returns its size in bytes."""
        model = self.model
        return save_artifact(model.artifact() if isinstance(model, ArtifactFile) else model, path)

    def __call__(self, feed: Mapping[str, Any] | None = None, /, **named: Any) -> dict[str, Array]:
        """Run once. Inputs go by name, as keywords or in one mapping; outputs are new arrays."""
        return self.run(self.accepted(feed, named))

    def accepted(self, feed: Mapping[str, Any] | None, named: Mapping[str, Any]) -> list[Array]:
        """The inputs' arrays, in the plan's order, each of its port's element type."""
        return collect(self._takes, feed, named)

    def run(self, arrays: Sequence[Array], watch: Watch | None = None) -> dict[str, Array]:
        """One run on accepted arrays; no other begins before `watch` is left."""
        me = threading.get_ident()
        if self._owner == me and self._lock.locked():
            raise UsageError("this executable is running: it cannot be called from within its run")
        with self._lock:
            try:
                self._owner = me
                return self._run_once(arrays, watch)
            finally:
                self._owner = 0

    def _run_once(self, arrays: Sequence[Array], watch: Watch | None) -> dict[str, Array]:
        binding = self._bound(arrays)
        outputs = self._point(binding, arrays)
        if self._poisoned:
            poison(self._binder.arena)
        if watch is None:
            self._execute(binding)
        else:
            with watch(binding):
                self._execute(binding)
        return self._named(outputs, binding.word)

    def after_fork(self) -> None:
        """Begin with no run in progress; in the child of a fork, whose other threads are gone.

        A run of one of them has left its job half done: units of work are taken that no thread
        here does. So jobs are made anew.
        """
        if self._lock.locked():
            self._bindings.clear()
        self._lock = threading.Lock()
        self._owner = 0

    def _bound(self, arrays: Sequence[Array]) -> Binding:
        """The job for these shapes: prepared once, the last few kept."""
        key = tuple([array.shape for array in arrays])
        binding = self._bindings.get(key)
        if binding is None:
            known = match_sizes(self.plan, arrays)
            self._set_up()
            layout = self._binder.layout(known)
            if layout.arena > len(self._binder.arena):
                self._bindings.clear()  # their arena is about to be replaced
            binding = self._bindings[key] = self._binder.bind(known, layout)
            if len(self._bindings) > self._limits.bindings:
                self._bindings.popitem(last=False)
        self._bindings.move_to_end(key)
        return binding

    def _point(self, binding: Binding, arrays: Sequence[Array]) -> dict[int, Array]:
        """Let the job read the caller's arrays and write new ones, by buffer."""
        for take, array in zip(self._takes, arrays, strict=True):
            binding.patch(take.buffer, address(array))
        outputs = self._new_outputs(binding.outputs)
        for buffer, made in outputs.items():
            binding.patch(buffer, address(made))
        return outputs

    def _new_outputs(self, shapes: Sequence[tuple[int, ...]]) -> dict[int, Array]:
        """The arrays that a run fills, by buffer."""
        outputs = {}
        for give, shape in zip(self._gives, shapes, strict=True):
            try:
                outputs[give.buffer] = np.empty(shape, give.dtype)
            except MemoryError as error:
                raise ResourceError(f"no memory for output {clean(give.name)}") from error
        return outputs

    def _execute(self, binding: Binding) -> None:
        if binding.is_empty:
            return
        fault("run.begin")
        if len(self.devices) > 1 and self._execute_team(binding):
            pass
        elif len(self.devices) > 1:
            self._call(binding, None)
        else:
            self._on_threads(binding)
        fault("run.end")

    def _on_threads(self, binding: Binding) -> None:
        """A job on the processor's threads."""
        if self.threads == 1:
            self._call(binding, None)
        else:
            WORKERS.run(self.threads, self.image.loop, lambda pool: self._call(binding, pool))

    def _execute_team(self, binding: Binding) -> bool:
        """A run on several devices; False where one thread must do it all."""
        if any(not device.startswith("cpu:") for device in self.devices):
            return False
        team = self.team(binding)
        counts = thread_counts(self.threads, len(self.devices))
        run = self.image.run
        done = FLEET.run(counts, self.image.loop, team, lambda: self._launch(run, team, binding))
        team.check()
        return done

    def team(self, binding: Binding) -> Team:
        """The jobs of a binding's devices, made once."""
        if binding.team is None:
            binding.team = Team(self.image, binding, self._limits.wait)
        made: Team = binding.team
        return made

    def _call(self, binding: Binding, pool: WorkerPool | None) -> None:
        """The one native call of a run."""
        if pool is None:
            binding.prepare(1, 0)
            self._launch(self.image.run, binding, binding)
        else:
            binding.prepare(self.threads, pool.address)
            self._launch(WORKERS.beside(self.image.run), binding, binding)

    def _launch(self, run: Callable[[int], int], job: Binding | Team, binding: Binding) -> None:
        start = time.perf_counter()
        if binding.seconds > _LONG_RUN and on_main_thread():
            call_apart(run, job)
        else:
            run(job.job_address)
        binding.seconds = time.perf_counter() - start

    def _named(self, outputs: Mapping[int, Array], word: Callable[[int], int]) -> dict[str, Array]:
        """Outputs by name; each owns its memory, also where two names have one value."""
        named: dict[str, Array] = {}
        given: set[int] = set()
        for give in self._gives:
            made = outputs[give.buffer]
            if give.port.count is not None:
                made = made[: word(give.port.count)].copy()
            elif give.buffer in given:
                made = made.copy()
            given.add(give.buffer)
            named[give.name] = made
        return named


def load(
    path: str | os.PathLike[str],
    threads: int | str | None = None,
    trust: bool | None = None,
    sha256: str | None = None,
    recompile: Recompile | None = None,
    limits: Limits = DEFAULT,
    gpu: GpuOptions | str = "auto",
    on_gpu_loss: str = "error",
    gpu_cache: Path | None = None,
    hosts: Commands | None = None,
) -> Executable:
    """A saved net, every byte of it checked, ready to run.

    Native code is used where it is trusted (see `netc.runtime.trust`) and fits this processor;
    otherwise `recompile` makes it again from the model, or an error names the ways out.

    What is on cuda devices runs where `gpu` says: "cuda", "interpret" (slow, for tests), or
    "auto" for cuda, or for the processor where there is no GPU and the file has code for it.
    Without a usable GPU `on_gpu_loss` is "error", or "cpu" for CPU code. `gpu_cache` is a folder
    to keep in which variants of kernels were fastest.

    A net on several hosts reaches each by its command in `hosts`, or in NETC_HOSTS.
    """
    file = open_artifact(path, limits)
    options = gpu_options(gpu, on_gpu_loss, gpu_cache)
    if file.on_hosts:
        said = HostOptions(hosts, judge(file, trust, sha256).trusted, recompile)
        made = ready(file, hosts_level(file), threads, limits, options, said)
    elif hosts is not None:
        raise UsageError("hosts are given, and the net is on this one alone")
    else:
        made = ready(*usable(file, trust, sha256, recompile), threads, limits, options)
    made.start()
    return made


def load_part(
    data: Bytes,
    trusted: bool,
    threads: int | str | None,
    gpu: GpuOptions,
    recompile: Recompile | None = None,
) -> Executable:
    """A part of a net that another host has sent, ready to run here."""
    file = read_artifact(data.data, "a part of the net")
    if file.on_hosts:
        raise ArtifactError("a part of a net is itself on several hosts")
    made = ready(*usable(file, trusted, None, recompile), threads, DEFAULT, gpu)
    made.start()
    return made


def executable(
    made: Artifact,
    threads: int | str | None = None,
    limits: Limits = DEFAULT,
    gpu: GpuOptions | str = "auto",
    on_gpu_loss: str = "error",
    gpu_cache: Path | None = None,
    hosts: Commands | None = None,
) -> Executable:
    """A net just compiled, ready to run; for `gpu` and the rest see `load`.

    No GPU is asked for, and no host reached, before the first run, so that machines without one
    compile for it too.
    """
    options = gpu_options(gpu, on_gpu_loss, gpu_cache)
    if hosts is not None and not made.parts:
        raise UsageError("hosts are given, and the net is on this one alone")
    return ready(made, level_of(made), threads, limits, options, HostOptions(hosts))


def gpu_options(gpu: GpuOptions | str, on_loss: str, cache: Path | None) -> GpuOptions:
    """What is said of GPUs, in one."""
    return gpu if isinstance(gpu, GpuOptions) else GpuOptions(gpu, on_loss, cache)


def ready(
    model: Artifact | ArtifactFile,
    level: Level,
    threads: int | str | None,
    limits: Limits,
    gpu: GpuOptions,
    hosts: HostOptions = HostOptions(),
) -> Executable:
    """The executable of a level of a model, by where it runs."""
    if level.name == HOSTS:
        from netc.runtime.remote_run import HostsExecutable

        return HostsExecutable(model, level, threads, limits, gpu, hosts)
    if not on_gpu(level.plan):
        return Executable(model, level, threads, limits)
    from netc.runtime.device_run import GpuExecutable

    return GpuExecutable(model, level, threads, limits, gpu)


def save_artifact(made: Artifact, path: str | os.PathLike[str]) -> int:
    """Write a `model.bin`, signed with this user's key where there can be one; returns its size."""
    try:
        key = make_key()
    except NetcError as error:
        import logging

        why = error.diagnostics[0].message
        logging.getLogger("netc").warning("the file is not signed: %s", why)
        key = None
    return made.save(path, key)


_EXECUTABLES: weakref.WeakSet[Executable] = weakref.WeakSet()


def _after_fork() -> None:
    for made in list(_EXECUTABLES):
        made.after_fork()


os.register_at_fork(after_in_child=_after_fork)
