"""An executable whose plan has steps on GPUs."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from netc.errors import ArtifactError, NetcError, UnsupportedError, UsageError
from netc.ir.dims import evaluate
from netc.runtime.artifact import Artifact, ArtifactFile, Level, LevelInfo
from netc.runtime.binding import Binding
from netc.runtime.driver import DeviceLost, GpuOptions, NoGpuCode
from netc.runtime.faults import fault
from netc.runtime.gpu_engine import Engine, Spans
from netc.runtime.gpu_plan import GpuPlan
from netc.runtime.image import Image
from netc.runtime.limits import Limits
from netc.runtime.logical import check_runnable, on_gpu
from netc.runtime.memory import Bytes, aligned_copy
from netc.runtime.ports import Array, intakes
from netc.runtime.session import Executable, Watch
from netc.runtime.trust import all_fitting, level_of


@dataclass(frozen=True)
class KernelTime:
    """One launch of a plan, timed alone on its device's clock."""

    name: str
    op: str
    kernel: str
    device: str
    seconds: float
    flops: int
    bytes: int
    variant: int  # the place among the kernel's variants


class GpuExecutable(Executable):
    """A net on GPUs, called like any other; the first run, or `start`, asks for the GPUs."""

    def __init__(
        self,
        model: Artifact | ArtifactFile,
        level: Level,
        threads: int | str | None,
        limits: Limits,
        options: GpuOptions,
    ) -> None:
        self._options = options
        self._code = model  # whose code is in use; `model` is what is saved
        self._open: Callable[[], Engine] | None = None  # None once the processor took over
        self._engine: Engine | None = None
        super().__init__(model, level, threads, limits)

    @property
    def gpu(self) -> str:
        """The driver in use; nothing once the GPU was lost and the processor took over."""
        if self._open is None:
            return ""
        return "interpret" if self._options.gpu == "interpret" else "cuda"

    def _load_code(self, level: Level, weights: Bytes) -> None:
        image = self._code.gpu
        if image is None:
            raise ArtifactError("the plan runs on a GPU, and the file has no GPU kernels")
        plan = GpuPlan(level.plan, image, len(weights))
        host = None
        if plan.host is not None:
            host = self.image = Image(replace(level, plan=plan.host), weights)
        run_host = _weakly(self, GpuExecutable._run_host)
        options, limits = self._options, self._limits
        self._open = lambda: Engine(plan, weights, host, run_host, options, limits)

    def start(self) -> None:
        """Take the GPUs now, as the first run would; raises what it would."""
        with self._lock:
            self._started()

    def _started(self) -> Engine | None:
        """The engine, made where there is none yet; None where the processor took over."""
        if self._engine is None and self._open is not None:
            try:
                self._engine = self._opened(self._open)
            except (UnsupportedError, DeviceLost) as error:
                self._take_over(error)
            else:
                weakref.finalize(self, self._engine.close).atexit = False
        if self._engine is not None and self._engine.plan.host is not None:
            self._set_up()
        return self._engine

    def _opened(self, open: Callable[[], Engine]) -> Engine:
        """The engine; where the file has no code for the GPU here, of code made for it."""
        try:
            return open()
        except NoGpuCode as error:
            model = _made(self._options.remake, self._code, error)
            logging.getLogger("netc").warning("recompiled: %s", error.diagnostics[0].message)
        level = level_of(model)
        self._adopt(model, level)
        self._load_code(level, aligned_copy(model.weights, "weights"))
        assert self._open is not None
        return self._open()

    def _adopt(self, model: Artifact | ArtifactFile, level: Level) -> None:
        """Run by another model's code from now on."""
        self._code, self._level = model, level
        self.devices = check_runnable(level.plan)
        self._takes, self._gives = intakes(level.plan.inputs), intakes(level.plan.outputs)

    def _run_host(self, binding: Binding, first: int, count: int) -> None:
        """Steps of the plan's host part, on the processor's threads."""
        binding.only(first, count)
        self._on_threads(binding)

    def _run_once(self, arrays: Sequence[Array], watch: Watch | None) -> dict[str, Array]:
        engine = self._started()
        try:
            if engine is not None:
                return self._run_engine(engine, arrays, None)
        except DeviceLost as error:
            self._take_over(error)
        return super()._run_once(arrays, watch)

    def _run_engine(
        self, engine: Engine, arrays: Sequence[Array], spans: Spans | None
    ) -> dict[str, Array]:
        bound = engine.bound(arrays)
        outputs = self._new_outputs(bound.outputs)
        fault("run.begin")
        if not bound.is_empty:
            engine.run(bound, arrays, outputs, self._poisoned, spans)
        fault("run.end")
        return self._named(outputs, lambda buffer: engine.word(bound, buffer))

    def _take_over(self, error: UnsupportedError | DeviceLost) -> None:
        """Go on with CPU code, for good, where the options say so and there is some.

        A model made for both runs on the processor where there never was a GPU.
        """
        options, model, level = self._options, self._code, None
        fallen = options.on_loss == "cpu"
        if fallen or (options.gpu == "auto" and self._engine is None):
            level = cpu_level(model)
        if level is None and fallen:
            model = _made(options.spare, model, error)
            level = cpu_level(model)
        if level is None:
            raise error
        warn(error)
        self._engine = self._open = None
        self._adopt(model, level)
        super()._load_code(level, aligned_copy(model.weights, "weights"))

    def timed_steps(
        self, arrays: Sequence[Array]
    ) -> tuple[dict[str, Array], Spans, dict[str, int]]:
        """One run step by step: its outputs, when each step began, how long it took; the sizes."""
        with self._lock:
            engine, spans = self._on_gpu(), Spans()
            bound = engine.bound(arrays)
            outputs = self._run_engine(engine, arrays, spans)
            rows = range(len(self.plan.steps))
            return outputs, {i: spans.get(i, (0.0, 0.0)) for i in rows}, bound.known

    def gpu_times(
        self, feed: Mapping[str, Any] | None = None, /, repeat: int = 20, **named: Any
    ) -> list[float]:
        """The GPUs' seconds of each of so many runs: of kernels, not of copies to and fro."""
        arrays = self.accepted(feed, named)
        with self._lock:
            engine = self._on_gpu()
            self._run_engine(engine, arrays, None)
            return engine.replay_times(engine.bound(arrays), repeat)

    def kernel_times(
        self, feed: Mapping[str, Any] | None = None, /, repeat: int = 20, **named: Any
    ) -> list[KernelTime]:
        """Each kernel of a run, timed alone."""
        arrays = self.accepted(feed, named)
        with self._lock:
            engine = self._on_gpu()
            self._run_engine(engine, arrays, None)
            bound = engine.bound(arrays)
            times = engine.launch_times(bound, repeat)
        steps = self.plan.steps
        return [
            KernelTime(
                name=steps[i].name,
                op=steps[i].op,
                kernel=steps[i].kernel,
                device=steps[i].device,
                seconds=seconds,
                flops=evaluate(steps[i].flops, bound.known),
                bytes=evaluate(steps[i].bytes, bound.known),
                variant=variant,
            )
            for i, (seconds, variant) in sorted(times.items())
        ]

    def _on_gpu(self) -> Engine:
        engine = self._started()
        if engine is None:
            raise UnsupportedError("there is no GPU: the net runs on the processor")
        return engine


def _weakly(
    owner: GpuExecutable, method: Callable[[GpuExecutable, Binding, int, int], None]
) -> Callable[[Binding, int, int], None]:
    """A method that does not keep its object."""
    reference = weakref.ref(owner)

    def call(binding: Binding, first: int, count: int) -> None:
        held = reference()
        assert held is not None
        method(held, binding, first, count)

    return call


def _made(
    make: Callable[[Any], Any] | None, model: Artifact | ArtifactFile, error: NetcError
) -> Artifact:
    """A model compiled again; the error that made it necessary, where that cannot be done."""
    if make is None:
        raise error
    try:
        made: Artifact = make(model)
    except (ImportError, UsageError):  # no compiler, or not all of it
        raise error from None
    return made


def cpu_level(model: Artifact | ArtifactFile) -> Level | None:
    """The best level of a model that needs no GPU."""
    infos: Sequence[LevelInfo] = model.levels
    for info in all_fitting(infos):
        level = model.level(info.name) if isinstance(model, ArtifactFile) else info
        assert isinstance(level, Level)
        if not on_gpu(level.plan):
            return level
    return None


def warn(error: UnsupportedError | DeviceLost) -> None:
    """Say once that the processor takes over."""
    why = error.diagnostics[0].message
    logging.getLogger("netc").warning("the net runs on the processor: %s", why)
