"""Products of two values against NumPy's, one thread each, in turns: python -m benchmarks.products

A row is one product, x and y as `matmul` takes them. NumPy's library is OpenBLAS where its wheels
are PyPI's.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

import netc
from netc.ir.graph import Builder
from netc.ir.types import f32

ALONE = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")
Shape = tuple[int, ...]
SECONDS = 0.6  # for each product
PRODUCTS: tuple[tuple[str, Shape, Shape, str], ...] = (
    ("scores, 197 words", (12, 197, 64), (12, 197, 64), "transpose_y"),
    ("values, 197 words", (12, 197, 197), (12, 197, 64), ""),
    ("scores, 512 words", (12, 512, 64), (12, 512, 64), "transpose_y"),
    ("square", (512, 512), (512, 512), ""),
    ("square, turned", (512, 512), (512, 512), "transpose_x"),
    ("large", (1024, 1024), (1024, 1024), ""),
    ("one row", (1, 4096), (4096, 4096), ""),
    ("one row, turned", (1, 4096), (4096, 4096), "transpose_y"),
    ("eight rows", (8, 4096), (4096, 4096), ""),
    ("one word asks 2048", (8, 1, 128), (8, 2048, 128), "transpose_y"),
    ("one column", (4096, 64), (64, 1), ""),
    ("many small", (2048, 16, 16), (2048, 16, 16), ""),
    ("many tiny", (10000, 4, 4), (10000, 4, 4), ""),
)


def measured(x: Shape, y: Shape, turned: str) -> tuple[float, float, float]:
    """Seconds of netc and of NumPy, medians, and the operations."""
    build = Builder()
    factors = build.input("a", f32[x]), build.input("b", f32[y])
    z = build.matmul(*factors, **({turned: True} if turned else {}))
    exe = netc.compile(build.graph("product", {"z": z}), threads=1)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in (x, y))
    first = a.swapaxes(-1, -2) if turned == "transpose_x" else a
    second = b.swapaxes(-1, -2) if turned == "transpose_y" else b
    ours, theirs = exe(a=a, b=b)["z"], first @ second
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    calls = (lambda: exe(a=a, b=b), lambda: first @ second)
    taken: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        for call, times in zip(calls, taken, strict=True):
            times.append(_seconds(call))
    return (*(statistics.median(times) for times in taken), 2.0 * ours.size * first.shape[-1])


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    """Print the table; NumPy reads how many threads it may have when it is imported."""
    if not os.environ.keys() >= ALONE.keys():
        os.execve(sys.executable, [sys.executable, "-m", __spec__.name], {**os.environ, **ALONE})
    print(f"{'product':20} {'netc':>10} {'NumPy':>10}  netc ÷ NumPy   GFLOP/s")
    for name, x, y, turned in PRODUCTS:
        ours, theirs, count = measured(x, y, turned)
        said = f"{ours * 1e6:7.0f} µs {theirs * 1e6:7.0f} µs {ours / theirs:13.2f}"
        print(f"{name:20} {said} {count / ours / 1e9:9.1f}")


if __name__ == "__main__":
    main()
