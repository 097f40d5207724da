"""Non-maximum suppression against loops written from its meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.ir.op import REGISTRY
from tests.boxes import CORNERS, kept_by_hand
from tests.strategies import clustered


@pytest.mark.parametrize(("boxes", "attributes", "kept"), CORNERS)
def test_corners(boxes: Any, attributes: dict[str, float], kept: list[int]) -> None:
    x = np.array(boxes, np.float32)
    assert kept_by_hand(x, **attributes) == kept
    out = REGISTRY["non_max_suppression"](**attributes).reference(x)
    assert (out.dtype, out.tolist()) == (np.float32, kept)


@given(
    seed=st.integers(0, 99), count=st.integers(0, 40),
    overlap=st.sampled_from([0, 0.3, 0.6, 0.9, 1]), border=st.sampled_from([0.0, 1.0]),
    eta=st.sampled_from([1.0, 0.9, 0.5]), turned=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_by_hand(
    seed: int, count: int, overlap: float, border: float, eta: float, turned: bool
) -> None:
    x = clustered((2, 1, count, 4), np.random.default_rng(seed))
    x[..., : count // 3, :] = x[..., : count // 3, ::-1] if turned else x[..., : count // 3, :]
    op = REGISTRY["non_max_suppression"](overlap=overlap, border=border, eta=eta)
    want = [[kept_by_hand(group, overlap, border, eta)] for group in x[:, 0]]
    np.testing.assert_array_equal(op.reference(x), np.reshape(want, (2, 1, count)))
