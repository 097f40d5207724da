"""Random numbers of tests: the same for each, whichever ran before it in its process."""

from __future__ import annotations

import numpy as np

RNG = np.random.default_rng(0)
_FIRST = RNG.bit_generator.state


def begin_anew() -> None:
    """As at the start of every test."""
    RNG.bit_generator.state = _FIRST
