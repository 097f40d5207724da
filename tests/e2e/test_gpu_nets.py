"""The ten example nets at their own sizes, on any variant of their GPU kernels, in the interpreter.

    python -m pytest -m long tests/e2e/test_gpu_nets.py -k "googlenet and low"

A minute or two a case: it computes what a GPU does, program by program, and looks at every access.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import netc
from benchmarks import zoo
from netc.compiler import Options, build
from netc.ir.device import Device
from netc.runtime.driver import GpuOptions
from netc.runtime.session import executable
from tests.codegen.triton.rules import with_variants

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="Triton is not installed"
    ),
]
# Of the largest output: float32 sums, and roundings of operands to 8 and 10 bits, of deep nets
# whose weights are drawn at random. Torch's own errors are as large.
BOUNDS = {"low": 1e-1, "fp16": 2e-2, "medium": 2e-2, "high": 1e-4, "exact": 1e-4}


@pytest.mark.parametrize("number", [0, 5, 11])
@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("name", zoo.NAMES)
def test_any_variant(name: str, precision: str, number: int) -> None:
    net = zoo.read(name)
    options = Options(devices=(Device("cuda"),), archs=(), precision=precision)
    made = with_variants(build(net.graph, options), lambda known: known[number % len(known)])
    exe = executable(made, 1, gpu=GpuOptions("interpret", timeout=3600))
    exe.poison()
    got = exe(net.feed)
    for output, want in netc.interpret(net.graph, net.feed).items():
        assert np.isfinite(got[output]).all()
        error = float(np.abs(got[output] - want).max() / np.abs(want).max())
        assert error <= BOUNDS[precision], f"{output} is off by {error:.2g} of its largest value"
