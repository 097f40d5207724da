"""Memory of GPUs, and of the host for their copies."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from netc.runtime.memory import Bytes

if TYPE_CHECKING:
    from netc.runtime.cuda import CudaDriver


class Held:
    """Memory that a driver gives back when it is closed."""

    def __init__(self, driver: CudaDriver, ordinal: int, buffer: Any, size: int) -> None:
        self._driver, self.buffer = driver, buffer
        self.ordinal, self.size = ordinal, size
        self.address = int(buffer.handle)
        driver.hold(self)

    def close(self) -> None:
        """Give it back."""
        self._driver.forget(self)
        with suppress(Exception):
            self._driver.use(self.ordinal)
            self.buffer.close()


class CudaBlock(Held):
    """Memory of a GPU."""


class Pinned(Held):
    """Memory of the host that GPUs copy from and to without help."""

    def __init__(self, driver: CudaDriver, ordinal: int, buffer: Any, size: int) -> None:
        super().__init__(driver, ordinal, buffer, size)
        whole: Any = (ctypes.c_uint8 * max(size, 1)).from_address(self.address)
        self.bytes: Bytes = np.frombuffer(whole, np.uint8)[:size]

    def close(self) -> None:
        """Give it back; no one may look at it any more."""
        self.bytes = np.empty(0, np.uint8)
        super().close()
