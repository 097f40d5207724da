"""Code images in memory: mapped read and execute, never writable and executable at once."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from dataclasses import dataclass

from netc.errors import ResourceError

_FAILED = ctypes.c_void_p(-1).value


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def _unmap(address: int, size: int) -> None:
    _libc().munmap(address, size)


@dataclass(frozen=True, eq=False)
class CodeMapping:
    """An image at an address. Keep it referenced while any of its code can run."""

    address: int
    size: int

    def __post_init__(self) -> None:
        weakref.finalize(self, _unmap, self.address, self.size).atexit = False

    def entry(self, offset: int) -> int:
        """The address of the code at `offset`."""
        if not 0 <= offset < self.size:
            raise ResourceError(f"offset {offset} is outside a code image of {self.size} bytes")
        return self.address + offset


def load_image(code: bytes | bytearray | memoryview) -> CodeMapping:
    """A private copy of the image, sealed read and execute before anything can jump there.

    The kernel keeps instruction caches coherent when a written page first becomes executable.
    """
    size = max(1, len(code))
    address = _map(size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_ANONYMOUS, -1, 0)
    ctypes.memmove(address, bytes(code), len(code))
    mapping = CodeMapping(address, size)
    if _libc().mprotect(address, size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise _refused("make code executable")
    return mapping


def map_image(fd: int, offset: int, size: int) -> CodeMapping:
    """The image in place in its file, whose offset is page-aligned; nothing is copied."""
    return CodeMapping(_map(size, mmap.PROT_READ | mmap.PROT_EXEC, 0, fd, offset), size)


def _map(size: int, protection: int, flags: int, fd: int, offset: int) -> int:
    address = _libc().mmap(None, size, protection, flags | mmap.MAP_PRIVATE, fd, offset)
    if address in (None, _FAILED):
        raise _refused("map a code image")
    return int(address)


def _refused(what: str) -> ResourceError:
    return ResourceError(f"the system refused to {what}: {os.strerror(ctypes.get_errno())}")
