"""torch's side of the GPU benchmark: eager and compiled nets in a CUDA graph, and the reference.

Both lie channels last, take their input from the GPU and leave their outputs there. Eager has
cuDNN choose its algorithms by measuring; compiled is torch.compile with max-autotune.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import zoo
from benchmarks.gpu_compiled import at_once
from benchmarks.gpu_timing import torch_rates, torch_times, turn, wall_times
from benchmarks.torch_net import folded, tensors, torch_module
from netc.ir.graph import Graph

DTYPES = {"low": torch.bfloat16, "fp16": torch.float16}  # float32 for the others
WARM_UP = 3
_OTHERS = 3  # processes beside those of torch.compile: netc, eager, reference
_PART = 16  # images of the reference at a time
_MUCH = 2e12  # operations; a reference of more is in float32, without tf32


class TorchEngine:
    """One net at one precision; compiled by torch where `compiles`."""

    def __init__(self, options: Mapping[str, Any], compiles: bool) -> None:
        self._dry, self._folder = options["dry"], Path(options["folder"])
        self._compiles = compiles
        self._kept = Path(options["kept"]) if options["kept"] else None
        self._jobs = options["jobs"]
        self._device = "cpu" if self._dry else "cuda"
        self._graphs: dict[str, Graph] = {}
        self._run: Callable[[], Any] | None = None
        self._held: Any = None
        if not self._dry:
            torch.backends.cudnn.benchmark = True
        if compiles:
            logging.getLogger("torch._inductor").setLevel(logging.ERROR)

    def load(self, net: str, precision: str) -> dict[str, Any]:
        """Read and fold a net, and choose how products are computed."""
        start = time.perf_counter()
        self._drop()
        self._name, self._precision = net, precision
        self._graph(net)
        self._dtype = DTYPES.get(precision, torch.float32)
        torch.backends.cuda.matmul.allow_tf32 = precision == "medium"
        torch.backends.cudnn.allow_tf32 = precision == "medium"
        return {"seconds": time.perf_counter() - start}

    def _drop(self) -> None:
        """Give memory back."""
        self._run = self._held = None
        gc.collect()
        if not self._dry:
            torch.cuda.empty_cache()

    def bind(self, batch: int, out: str) -> dict[str, Any]:
        """Make a batch size ready to be replayed; write the outputs to a file."""
        start = time.perf_counter()
        self._drop()
        net = zoo.fed(self._name, self._graphs[self._name], batch)
        module: Any = torch_module(net.graph, net.sizes, self._dtype, self._device)
        xs = tensors([*net.feed.values()], self._dtype, self._device)
        if self._compiles:
            self._prepare(batch)
            how = {"backend": "eager"} if self._dry else {"mode": "max-autotune-no-cudagraphs"}
            module = torch.compile(module, dynamic=False, **how)
        with torch.inference_mode():
            ys = self._captured(partial(module, xs))
        np.savez(self._folder / out, *(y.float().cpu().numpy() for y in ys))
        return {"seconds": time.perf_counter() - start}

    def _prepare(self, batch: int) -> None:
        """Where torch keeps what it compiles and measures, and how much memory it may take.

        A folder for each: torch writes all measurements of a folder into one file, and of two
        processes the last one wins. Without a limit cuDNN's trials take the whole card.
        """
        if self._kept:
            folder = self._kept / f"{self._name}.{self._precision}.{batch}"
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
        if not self._dry:
            processes = at_once(self._jobs, batch) + _OTHERS
            torch.cuda.set_per_process_memory_fraction(1 / processes)

    def _captured(self, call: Callable[[], Any]) -> Any:
        """The outputs of a call; `_run` repeats it into the same memory."""
        if self._dry:
            self._run = torch.inference_mode()(call)
            return call()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            ys = call()
        graph.replay()
        torch.cuda.synchronize()
        self._run, self._held = graph.replay, (call, ys)
        return ys

    def time(self, seconds: float) -> dict[str, Any]:
        """One turn."""
        assert self._run is not None
        if self._dry:
            return turn(partial(wall_times, self._run), seconds, 1)
        return turn(partial(torch_times, torch, self._run), seconds)

    def reference(self, net: str, batch: int, out: str) -> dict[str, Any]:
        """The outputs in float64 (in float32 where that is too much), written to a file."""
        start = time.perf_counter()
        self._drop()
        whole = zoo.fed(net, self._graph(net), batch)
        dtype = torch.float64 if whole.flops < _MUCH else torch.float32
        torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        parts = []
        for first in range(0, batch, _PART):
            arrays = [x[first : first + _PART] for x in whole.feed.values()]
            sizes = whole.sizes | ({"N": len(arrays[0])} if "N" in whole.sizes else {})
            module = torch_module(whole.graph, sizes, dtype, self._device)
            with torch.inference_mode():
                ys = module(tensors(arrays, dtype, self._device))
            parts.append([y.cpu().numpy() for y in ys])
        columns = (np.concatenate(column) for column in zip(*parts, strict=True))
        np.savez(self._folder / out, *columns)
        return {"seconds": time.perf_counter() - start, "dtype": str(dtype)}

    def _graph(self, net: str) -> Graph:
        if net not in self._graphs:
            self._graphs[net] = folded(zoo.read(net).graph)
        return self._graphs[net]

    def facts(self) -> dict[str, Any]:
        """What the machine is, and what it reaches."""
        import triton

        found: dict[str, Any] = {"torch": torch.__version__, "triton": triton.__version__}
        if self._dry:
            return found | {"gpu": "none: a dry run, its times mean nothing", "rates": {}}
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "processors": properties.multi_processor_count}
        found |= {"memory": properties.total_memory, "cuda": torch.version.cuda}
        found |= {"cudnn": torch.backends.cudnn.version(), "driver": _driver()}
        rates = torch_rates(torch)
        torch.cuda.empty_cache()
        return found | {"rates": rates}


def _driver() -> str:
    """The version of the GPU's driver, and its clocks."""
    query = "--query-gpu=driver_version,clocks.sm,clocks.mem,clocks.max.sm"
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip()
