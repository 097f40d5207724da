"""What a launch may touch, checked at every access in Triton's interpreter.

On a GPU a read beyond a buffer gives what lies there, or stops the process; here it is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Span: TypeAlias = tuple[int, int]  # addresses, the end excluded


class Spans:
    """Some memory."""

    def __init__(self, spans: Sequence[Span] = ()) -> None:
        joined: list[list[int]] = []
        for start, end in sorted(spans):
            if joined and start <= joined[-1][1]:
                joined[-1][1] = max(joined[-1][1], end)
            else:
                joined.append([start, end])
        self._starts = np.array([start for start, _ in joined], np.uint64)
        self._ends = np.array([end for _, end in joined], np.uint64)

    def beyond(self, addresses: Any, item: int) -> int:
        """How many of these items do not lie in it."""
        if not addresses.size:
            return 0
        if not len(self._starts):
            return int(addresses.size)
        at = np.searchsorted(self._starts, addresses, "right")
        ends = self._ends[np.maximum(at, 1) - 1]
        return int(np.count_nonzero((at == 0) | (addresses + np.uint64(item) > ends)))


class Bounds:
    """The memory of the launch that runs."""

    def __init__(self) -> None:
        self._read, self._written = Spans(), Spans()

    def allow(self, reads: Sequence[Span], writes: Sequence[Span]) -> None:
        """From now on; what may be written may be read."""
        self._read, self._written = Spans([*reads, *writes]), Spans(writes)

    def check(self, pointers: Any, mask: Any, writes: bool) -> None:
        """Raises IndexError where an access lies beyond what is allowed."""
        addresses = np.broadcast_to(pointers.data, np.shape(mask.data))[np.asarray(mask.data, bool)]
        item = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        spans = self._written if writes else self._read
        count = spans.beyond(addresses.astype(np.uint64), item)
        if count:
            does = "writes" if writes else "reads"
            raise IndexError(f"it {does} {count} of {addresses.size} elements beyond its buffers")

    def patch(self, builder: Any) -> None:
        """Check what kernels ask of this class of builders, for good."""
        load, store = builder.create_masked_load, builder.create_masked_store
        atomic = builder.create_atomic_rmw

        def masked_load(own: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
            self.check(pointers, mask, writes=False)
            return load(own, pointers, mask, *rest)

        def masked_store(own: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
            self.check(pointers, mask, writes=True)
            return store(own, pointers, value, mask, *rest)

        def atomic_rmw(own: Any, op: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
            self.check(pointers, mask, writes=True)
            return atomic(own, op, pointers, value, mask, *rest)

        builder.create_masked_load, builder.create_masked_store = masked_load, masked_store
        builder.create_atomic_rmw = atomic_rmw
