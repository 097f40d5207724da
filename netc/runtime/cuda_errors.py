"""What goes wrong on a GPU, as netc says it; a GPU that stopped is lost for the whole process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from netc.errors import NetcError, ResourceError, clean
from netc.runtime.driver import DeviceLost

AGAIN = "start the process again"
_NOT_THE_GPU = (
    *("OUT_OF_MEMORY", "INVALID_VALUE", "INVALID_IMAGE", "NO_BINARY_FOR_GPU", "INVALID_PTX"),
    *("UNSUPPORTED_PTX_VERSION", "JIT", "NOT_FOUND", "LAUNCH_OUT_OF_RESOURCES", "NOT_SUPPORTED"),
)
_STOPPED = (
    *("ILLEGAL_ADDRESS", "LAUNCH_FAILED", "ILLEGAL_INSTRUCTION", "MISALIGNED_ADDRESS", "ASSERT"),
    *("INVALID_ADDRESS_SPACE", "INVALID_PC", "HARDWARE_STACK_ERROR", "ECC_UNCORRECTABLE"),
    *("LAUNCH_TIMEOUT", "CONTEXT_IS_DESTROYED", "DEVICE_UNAVAILABLE", "UNKNOWN"),
)


class _Process(threading.local):
    """What became of this process's GPUs, and which one a thread uses."""

    lost: ClassVar[list[str]] = []  # why nothing runs on them any more
    current: int | None = None
    device: Any = None


PROCESS = _Process()


@contextmanager
def asking(what: str, waits: bool = False) -> Iterator[None]:
    """Errors of cuda.core as netc's own."""
    try:
        yield
    except NetcError:
        raise
    except Exception as error:
        raise told(error, what, waits) from error


def told(error: Exception, what: str, waits: bool) -> NetcError:
    """An error of cuda.core for a user: what was asked, and whether the GPU goes on."""
    text = clean(error)
    late = waits and "CUDA_ERROR" in text and not any(word in text for word in _NOT_THE_GPU)
    if late or any(f"CUDA_ERROR_{word}" in text for word in _STOPPED):
        PROCESS.lost.append(f"the GPU stopped: {text}")
        return DeviceLost(PROCESS.lost[0], help=AGAIN)
    if "OUT_OF_MEMORY" in text:
        help = "give a smaller batch or image"
        return ResourceError(f"no GPU memory to {what}: {text}", help=help)
    return ResourceError(f"the GPU does not {what}: {text}")
