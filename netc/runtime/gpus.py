"""The NVIDIA GPUs of this machine and what they are, by asking their driver.

Nothing is set up on a GPU: this is for lists, and for knowing what to compile for.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from netc.runtime.cuda_probe import LIBRARY, probe

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…
_NAME = 256  # bytes


@dataclass(frozen=True)
class GpuFacts:
    """A GPU as its driver describes it."""

    name: str
    memory: int  # bytes
    capability: tuple[int, int]  # (9, 0)

    @property
    def arch(self) -> str:
        """What machine code for it is called: sm_90."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


def list_gpus(library: str = LIBRARY) -> tuple[GpuFacts, ...]:
    """The GPUs in the driver's order; none where `probe` finds none."""
    count = probe(library).count
    return tuple(_facts(ctypes.CDLL(library), i) for i in range(count))


def _facts(driver: ctypes.CDLL, ordinal: int) -> GpuFacts:
    device, memory = ctypes.c_int(0), ctypes.c_size_t(0)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    name = ctypes.create_string_buffer(_NAME)
    driver.cuDeviceGet(ctypes.byref(device), ordinal)
    driver.cuDeviceGetName(name, _NAME, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    said = name.value.decode("utf-8", "replace")
    return GpuFacts(said, memory.value, (major.value, minor.value))
