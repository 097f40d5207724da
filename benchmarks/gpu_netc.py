"""netc's side of the GPU benchmark: a net built, run, timed, and its kernels one by one."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import zoo
from benchmarks.gpu_timing import Blocker, turn

Measure = Callable[..., float]


class NetcEngine:
    """One net at one precision on cuda:0, or in the interpreter where `dry`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._dry, self._arch = options["dry"], options["arch"]
        self._folder, self._tuning = Path(options["folder"]), options["tuning"]
        self._cache = Path(options["cache"]) if options["cache"] else None
        self._tuned = Path(options["tuned"])
        self._graphs: dict[str, Any] = {}
        self._net: zoo.Net | None = None
        self._executable: Any = None
        self._blocker: Any = None
        self._measured: dict[str, dict[int, float]] = {}  # seconds by variant, by the tuner's key
        self._records: list[dict[int, float]] = []  # those of each launch

    def build(self, net: str, precision: str) -> dict[str, Any]:
        """Compile only, which fills the cache; says how much there was to compile."""
        self._artifact, self._lowered = None, None
        from netc.compiler import Options, emit, lower
        from netc.ir.device import Device

        start = time.perf_counter()
        if net not in self._graphs:
            self._graphs[net] = zoo.read(net).graph
        options = Options(
            devices=(Device("cuda", 0),),
            archs=() if self._dry else (self._arch,),
            precision=precision,
            cache=self._cache,
        )
        self._lowered = lower(self._graphs[net], options)
        self._artifact = emit(self._lowered.graph, self._lowered.order, options)
        kernels = self._artifact.gpu.kernels.values() if self._artifact.gpu else ()
        return {
            "seconds": time.perf_counter() - start,
            "kernels": len(kernels),
            "variants": sum(len(k.text.variants) for k in kernels),
        }

    def load(self, net: str, precision: str) -> dict[str, Any]:
        """Compile a net and bring it to the GPU."""
        from netc.runtime.driver import GpuOptions
        from netc.runtime.session import executable

        self._executable, self._net, self._name = None, None, net
        gc.collect()
        built = self.build(net, precision)
        self._watch_tuning()
        driver = "interpret" if self._dry else "cuda"
        gpu = GpuOptions(driver, cache=self._tuned, tuning=self._tuning)
        start = time.perf_counter()
        self._executable = executable(self._artifact, gpu=gpu)
        return built | {"load": time.perf_counter() - start}

    def bind(self, batch: int, out: str) -> dict[str, Any]:
        """The first run of a batch size, its outputs written to a file."""
        start = time.perf_counter()
        self._records.clear()
        self._net = zoo.fed(self._name, self._graphs[self._name], batch)
        begun = time.perf_counter()
        outputs = self._executable(self._net.feed)
        seconds = time.perf_counter() - begun
        np.savez(self._folder / out, *outputs.values())
        self._ready()
        return {"seconds": time.perf_counter() - start, "first": seconds}

    def _ready(self) -> None:
        """What a turn starts: replays of the net on its stream."""
        assert self._net is not None
        engine = self._executable._engine  # timing is the engine's, and no user's business
        bound = engine.bound(self._executable.accepted(self._net.feed, {}))
        block: Callable[[], None] = int  # does nothing
        if not self._dry:
            queue = engine.driver.queue(0, "compute")
            self._blocker = self._blocker or Blocker(queue.device())
            block = partial(self._blocker.block, queue.stream)

        def times(repeat: int) -> list[float]:
            block()
            made: list[float] = engine.replay_times(bound, repeat)
            return made

        self._times = times

    def time(self, seconds: float) -> dict[str, Any]:
        """One turn."""
        return turn(self._times, seconds, 1 if self._dry else 100)

    def kernels(self, repeat: int) -> dict[str, Any]:
        """Every launch alone, with what is known of it."""
        from benchmarks.gpu_kernels import rows, variants

        assert self._net is not None
        times = self._executable.kernel_times(self._net.feed, repeat=repeat)
        made = rows(
            times, self._executable, self._lowered.graph, self._net.sizes, self._artifact.gpu
        )
        if len(self._records) == len(made):
            for row, record in zip(made, self._records, strict=True):
                row["us_of"] = {variant: seconds * 1e6 for variant, seconds in record.items()}
        used = {row["kernel"] for row in made}
        held = self._artifact.gpu.kernels
        return {"rows": made, "variants": {name: variants(held[name]) for name in used}}

    def _watch_tuning(self) -> None:
        """Note what every variant took when it was measured, launch by launch."""
        from netc.runtime import cuda, tuning

        records, known = self._records, self._measured

        class Watched(tuning.Tuner):
            """A tuner whose measurements are kept."""

            def choose(self, key: str, candidates: Sequence[int], measure: Measure) -> int:
                """The fastest, as ever."""
                taken = known.setdefault(key, {})

                def noted(variant: int, *more: float) -> float:
                    taken[variant] = measure(variant, *more)
                    return taken[variant]

                records.append(taken)
                return super().choose(key, candidates, noted)

        cuda.Tuner = Watched  # type: ignore[misc]
