"""Sines and cosines on GPUs: of angles of any size, and without local memory."""

from __future__ import annotations

import importlib.util

import pytest

from netc.codegen.triton.job import PORTABLE
from tests.angles import angles, exact
from tests.codegen.triton.rules import kernels_of, net_of, run
from tests.codegen.triton.texts import compile_all, job

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@pytest.mark.parametrize("fn", ["sin", "cos"])
def test_of_any_size(fn: str) -> None:
    x = angles()
    exact(fn, x, run(net_of(f"(x: f32[N]) -> {fn}(x)"), {"x": x})["y"])


def test_they_are_numbers_in_registers() -> None:
    """Neither approximations of the hardware nor a table that each thread has of its own."""
    (kernel,) = kernels_of(net_of("(x: f32[N]) -> sin(x) + cos(x)")).values()
    for made in compile_all([job(kernel, PORTABLE)]).values():
        assert b"sin.approx" not in made.blob
        assert b"cos.approx" not in made.blob
    machine = compile_all([job(kernel, arch) for arch in ("sm_80", "sm_90")])
    assert [code.local for code in machine.values()] == [0, 0]
