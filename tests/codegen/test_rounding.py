"""float32 as bfloat16."""

from __future__ import annotations

import numpy as np

from netc.codegen.rounding import rounded


def test_to_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -2.5, np.inf, np.nan, 9.2e-41], np.float32)
    bits = rounded(values, "bf16").astype(np.uint32) << 16
    want = np.array([1.0, 1.0, 1.015625, -2.5, np.inf, np.nan, 9.2e-41], np.float32)
    np.testing.assert_allclose(bits.view(np.float32), want, rtol=1e-2)


def test_numbers_are_rounded_to_the_nearest_and_ties_to_even() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF818000, 0x7F7FFFFF])
    got = rounded(bits.astype(np.uint32).view(np.float32), "bf16")
    assert [hex(v) for v in got] == ["0x3f80", "0x3f82", "0x3f81", "0x3f80", "0xbf82", "0x7f80"]
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0], np.float32)
    assert [hex(v) for v in rounded(special, "bf16")] == [
        "0x7fc0", "0x7f80", "0xff80", "0x8000", "0x0"
    ]  # fmt: skip
