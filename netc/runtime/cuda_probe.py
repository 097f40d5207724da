"""Whether there is an NVIDIA GPU, by asking its driver and nothing else.

Without a driver cuda.core hangs, so it is imported only after this has found a device.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from netc.errors import UnsupportedError

LIBRARY = "libcuda.so.1"
CUBINS = 13000  # the version of the driver from which on it runs this netc's machine code
OLDEST = 12000  # and from which on it compiles this netc's PTX
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_WITHOUT = (
    "gpu='interpret' (NETC_GPU=interpret) runs it without a GPU, slowly; a net compiled with "
    "target cpu needs none"
)


@dataclass(frozen=True)
class Probe:
    """How many GPUs there are, the version of their driver, and why there are none."""

    count: int = 0
    version: int = 0  # 13000 is CUDA 13.0
    why: str = ""


def probe(library: str = "") -> Probe:
    """Ask the driver."""
    try:
        driver = ctypes.CDLL(library or LIBRARY)
    except OSError:
        return Probe(why="no NVIDIA driver is here")
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    status = driver.cuInit(0)
    if status not in (0, _NO_DEVICE):
        return Probe(why=f"the NVIDIA driver does not start: error {status}")
    if status or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return Probe(why="the NVIDIA driver sees no GPU")
    if driver.cuDriverGetVersion(ctypes.byref(version)):
        return Probe(why="the NVIDIA driver does not say its version")
    return Probe(count.value, version.value)


def require_gpu() -> Probe:
    """What the probe found, where it found a GPU. Raises UnsupportedError."""
    found = probe()
    if not found.count:
        raise UnsupportedError(f"no NVIDIA GPU is here: {found.why}", help=_WITHOUT)
    if found.version < OLDEST:
        said = f"{found.version // 1000}.{found.version % 1000 // 10}"
        help = "CUDA 12.0 or newer fits: update the NVIDIA driver"
        raise UnsupportedError(f"the NVIDIA driver is too old: it is for CUDA {said}", help=help)
    return found
