"""The same bits from run to run and for any number of threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import netc
from netc.runtime.session import executable

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("net", ["lenet", "googlenet", "resnet50"])
def test_bits_do_not_depend_on_run_or_threads(net: str) -> None:
    made = netc.compile(EXAMPLES / f"{net}.net", threads=1)
    rng = np.random.default_rng(0)
    feed = {
        name: (rng.random([1 if isinstance(d, str) else d for d in spec.shape]) * 200).astype(
            spec.dtype.numpy
        )
        for name, spec in made.inputs.items()
    }
    want = {name: y.tobytes() for name, y in made(feed).items()}
    for threads in (1, 2, 3, 4):
        exe = executable(made.model, threads)
        for _ in range(20):
            assert {name: y.tobytes() for name, y in exe(feed).items()} == want
