"""Single convolutions and inner products against this processor's own peak, one thread.

Run from the repository's root: `python -m benchmarks.convolutions [level]`. Times are of thread
CPU, bias and ReLU included; the peak is measured before each case.
"""

from __future__ import annotations

import sys

from benchmarks.peak import Peak, samples
from netc.codegen.cpu.target import LEVELS, Target, native
from tests.codegen.cpu.gemm_harness import Code, Conv, compile_epilogue

_SECONDS = 0.25  # of work in each case
_MEMORY = 150  # megabytes: beyond any cache this was run on


def cases() -> dict[str, Conv]:
    """Shapes of ResNet, GoogLeNet, VGG and AlexNet."""
    pad1, pad3 = {"pad": (1, 1)}, {"pad": (3, 3)}
    rows = {"rows": True}
    return {
        "3x3 64@56": Conv(1, 64, (56, 56), 64, (3, 3), **pad1),
        "3x3 128@28": Conv(1, 128, (28, 28), 128, (3, 3), **pad1),
        "3x3 256@14": Conv(1, 256, (14, 14), 256, (3, 3), **pad1),
        "3x3 512@7": Conv(1, 512, (7, 7), 512, (3, 3), **pad1),
        "3x3/2 128-256@28": Conv(1, 128, (28, 28), 256, (3, 3), (2, 2), **pad1),
        "5x5 32-96@28": Conv(1, 32, (28, 28), 96, (5, 5), pad=(2, 2)),
        "1x1 256-64@56": Conv(1, 256, (56, 56), 64, (1, 1)),
        "1x1 64-256@56": Conv(1, 64, (56, 56), 256, (1, 1)),
        "1x1 512-128@28": Conv(1, 512, (28, 28), 128, (1, 1)),
        "1x1 1024-256@14": Conv(1, 1024, (14, 14), 256, (1, 1)),
        "1x1 832-128@7": Conv(1, 832, (7, 7), 128, (1, 1)),
        "1x1 2048-512@7": Conv(1, 2048, (7, 7), 512, (1, 1)),
        "7x7/2 3-64@224": Conv(1, 3, (224, 224), 64, (7, 7), (2, 2), **pad3, planar=True),
        "11x11/4 3-96@227": Conv(1, 3, (227, 227), 96, (11, 11), (4, 4), planar=True),
        "3x3/2 3-64@227": Conv(1, 3, (227, 227), 64, (3, 3), (2, 2), planar=True),
        "fc 9216-4096": Conv(1, 256, (6, 6), 4096, (6, 6), **rows),
        "fc 9216-4096 x16": Conv(16, 256, (6, 6), 4096, (6, 6), **rows, together=16),
        "fc 9216-4096 x64": Conv(64, 256, (6, 6), 4096, (6, 6), **rows, together=64),
    }


def measure(code: Code, case: Conv, target: Target) -> tuple[float, float]:
    """Seconds, best and median."""
    args = case.bind(target)
    first = min(samples(3, lambda: code(args)))
    times = max(5, min(400, int(_SECONDS / first)))
    found = sorted(samples(times, lambda: code(args)))
    return found[0], found[len(found) // 2]


def main() -> None:
    """Print the table."""
    target = LEVELS[sys.argv[1]] if len(sys.argv) > 1 else native()
    meter = Peak(target)
    codes: dict[bool, Code] = {}
    print(f"{target.name:20}{'best':>6}{'median':>8}   of the FMA peak")
    for name, case in cases().items():
        if case.rows not in codes:
            codes[case.rows] = compile_epilogue(target, case.epilogue())
        peak = meter.gflops() * 1e9
        best, median = measure(codes[case.rows], case, target)
        shares = "".join(f"{100 * case.flops / t / peak:7.1f}%" for t in (best, median))
        line = f"{name:18}{shares} {best * 1e6:9.1f} µs"
        if case.rows:
            read, speed = case.w.nbytes / best / 1e9, meter.read(_MEMORY)
            line += f"  {read:.1f} GB/s of weights; memory reads at {speed:.1f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
