"""The weights section in the making: each array once, at multiples of a cache line."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from netc.codegen.weight_store import WeightStore
from netc.ir.plan import ALIGN

LENGTHS = st.sampled_from([0, 1, 15, 16, 17, 5000])


@given(st.lists(st.tuples(st.integers(0, 2), LENGTHS, st.booleans()), max_size=8))
def test_arrays_lie_where_it_says(drawn: list[tuple[int, int, bool]]) -> None:
    store, said, zeros = WeightStore(), {}, []
    for value, length, is_zeros in drawn:
        if is_zeros:
            zeros.append((store.zeros(length).offset, length))
            continue
        array = np.full(length, value, np.float32)
        array[length // 2 :][:1] = 9  # which no sample need see
        at = store.add(array).offset
        assert said.setdefault((value, length), at) == at
    section = np.full(store.size, 0xFF, np.uint8)
    store.fill(section)
    whole = section.tobytes()
    assert len(whole) % ALIGN == 0
    for (value, length), at in said.items():
        read = np.frombuffer(whole[at : at + 4 * length], np.float32)
        assert at % ALIGN == 0
        assert set(np.delete(read, length // 2) if length else read) <= {np.float32(value)}
    for at, length in zeros:
        assert whole[at : at + length] == bytes(length)


def test_what_differs_in_one_place_is_two_arrays() -> None:
    store, one = WeightStore(), np.zeros(1 << 16, np.float32)
    other = one.copy()
    other[12345] = -0.0
    assert store.add(one) == store.add(one.copy())
    assert store.add(one) != store.add(other)
    assert store.add(np.zeros(4, np.int32)) != store.add(np.zeros(4, np.float32))
