"""What this processor can do at most, measured in-process: FMA peak and read bandwidth.

Figures of kernels are fractions of these, taken in the same run, so a busy or a slow machine
does not pass for a bad kernel.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

import numpy as np

from netc.codegen.cpu.emit import Function, Module, Val, vec
from netc.codegen.cpu.image import link
from netc.codegen.cpu.target import LEVELS, Target, compile_module, native
from netc.runtime.code import CodeMapping, load_image

_CHAINS = 24  # independent sums: more than latency × width of any processor in sight
_STREAMS = 8
_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def _fma_kernel(module: Module) -> Function:
    """args: turns, sink. Chains of fused multiply-adds on registers."""
    f = module.kernel()
    lanes, chains = module.target.lanes, min(_CHAINS, module.target.registers - 4)
    args = f.args[0]
    sink = f.slot(args, 1, "ptr")
    x = f.load(vec(lanes), sink)
    with f.loop(0, f.slot(args, 0), carry=[x] * chains) as turn:
        turn.next([f.fma(x, x, v) for v in turn.values])
    for i, value in enumerate(turn.results):
        f.store(value, f.gep(sink, i * module.target.vector_bytes))
    f.ret()
    return f


def _read_kernel(module: Module) -> Function:
    """args: bytes, sink, source. Every byte once, into a few sums."""
    f = module.kernel()
    args, size = f.args[0], module.target.vector_bytes
    sink, source = f.slot(args, 1, "ptr"), f.slot(args, 2, "ptr")
    zero = f.f32(0.0, module.target.lanes)
    with f.loop(0, f.slot(args, 0), _STREAMS * size, carry=[zero] * _STREAMS) as turn:
        sums: list[Val] = []
        for i, value in enumerate(turn.values):
            at = f.gep(f.gep(source, turn.index), i * size)
            sums.append(f.fadd(value, f.load(value.type, at)))
        turn.next(sums)
    for i, value in enumerate(turn.results):
        f.store(value, f.gep(sink, i * size))
    f.ret()
    return f


class Peak:
    """Compiled meters for one processor level."""

    def __init__(self, target: Target) -> None:
        module = Module(target)
        kernels = _fma_kernel(module), _read_kernel(module)
        image = link(compile_module(module.text(), target))
        self.target = target
        self._mapping: CodeMapping = load_image(image.code)
        self._fma, self._read = (
            _KERNEL(self._mapping.entry(image.symbols[k.name])) for k in kernels
        )
        self._sink = np.zeros(1024, np.float32)

    def gflops(self, turns: int = 200_000) -> float:
        """Multiply-adds a second, counted as two, in 10⁹; best of a few."""
        args = np.array([turns, self._sink.ctypes.data], np.int64)
        seconds = best_of(7, lambda: self._fma(args.ctypes.data, 0, 1))
        chains = min(_CHAINS, self.target.registers - 4)
        return 2 * turns * chains * self.target.lanes / seconds / 1e9

    def read(self, megabytes: float) -> float:
        """10⁹ bytes a second read from an array of this size, already touched."""
        source = np.ones(int(megabytes * (1 << 18)), np.float32)
        values = [source.nbytes, self._sink.ctypes.data, source.ctypes.data]
        args = np.array(values, np.int64)
        seconds = best_of(7, lambda: self._read(args.ctypes.data, 0, 1))
        return source.nbytes / seconds / 1e9


def best_of(times: int, call: Callable[[], None]) -> float:
    """The least thread CPU time of several calls, in seconds."""
    return min(samples(times, call))


def samples(times: int, call: Callable[[], None]) -> list[float]:
    """Thread CPU times of several calls after one to warm up, in seconds."""
    call()
    found = []
    for _ in range(times):
        start = time.thread_time_ns()
        call()
        found.append((time.thread_time_ns() - start) / 1e9)
    return found


def main() -> None:
    """Print the peaks of every level the host can run."""
    host = set(native().features)
    for target in LEVELS.values():
        if target.is_x86 and host >= set(target.features):
            print(f"{target.name:10} {Peak(target).gflops():8.1f} GFLOP/s")
    meter = Peak(native())
    for megabytes in (0.03, 0.5, 16, 150):
        print(f"read {megabytes:6} MB {meter.read(megabytes):8.1f} GB/s")


if __name__ == "__main__":
    main()
