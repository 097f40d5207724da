"""What the processor is and can: its architecture and features, in the kernel's own words."""

from __future__ import annotations

import functools
import platform


@functools.cache
def architecture() -> str:
    """`x86_64` or `aarch64`, or the machine's own word."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@functools.cache
def cpu_features() -> frozenset[str]:
    """The processor's features in the kernel's own spelling (x86 `flags`, ARM `Features`).

    The kernel lists a feature only where it also saves its registers, so what is listed can run.
    """
    try:
        with open("/proc/cpuinfo", "rb", buffering=0) as stream:
            head = stream.read(1 << 14)  # the first processor's part: the rest may be long
    except OSError:
        return frozenset()
    for line in head.decode("ascii", "replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
