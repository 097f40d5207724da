"""The driver without a GPU: memory that two processes share, and kernels in Triton's interpreter.

Triton is not imported here: a subprocess has it, one per process, started again when it died.
It is slow, and meant for tests. A run that takes too long, or that ends the subprocess, is an
error that names the kernel.
"""

from __future__ import annotations

import atexit
import bisect
import ctypes
import hashlib
import json
import mmap
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from netc.errors import ResourceError, UnsupportedError, UsageError, clean
from netc.ir.gpu_code import GpuImage, GpuKernel
from netc.runtime import host
from netc.runtime.driver import Event, GpuOptions, Launch
from netc.runtime.memory import PAGE, Bytes, address, aligned, size_text

_FIRST = 1 << 60  # where the addresses of blocks begin; no address of a process is so high
_MAIN = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from netc.codegen.triton.interpret import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
_HELP = "pip install 'netc[cuda]' has Triton"


class SharedBlock:
    """Memory that the subprocess can map too; its address is a number of this driver's own."""

    def __init__(self, number: int, address: int, size: int) -> None:
        self.number, self.address, self.size = number, address, size
        self.fd = os.memfd_create("netc-gpu", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, max(size, 1))
            whole = mmap.mmap(self.fd, max(size, 1))
        except (OSError, ValueError) as error:
            os.close(self.fd)
            raise ResourceError(f"no memory for {size_text(size)} to share") from error
        self.bytes: Bytes = np.frombuffer(whole, np.uint8)

    def close(self) -> None:
        """Give it back, here and in the subprocess."""
        if self.fd >= 0:
            PROCESS.forget_block(self)
            os.close(self.fd)
            self.fd, self.bytes = -1, np.empty(0, np.uint8)


class Subprocess:
    """One process that interprets; after a death, a timeout or an interrupt it is not alive."""

    def __init__(self) -> None:
        self.blocks: set[int] = set()
        self.kernels: set[str] = set()
        self.channel, theirs = socket.socketpair()
        with theirs:
            arguments = [str(theirs.fileno()), str(os.getpid())]
            paths = [os.path.abspath(path) for path in sys.path]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _MAIN, *arguments, *paths],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"TRITON_INTERPRET": "1"},
            )
        self._held = b""

    @property
    def alive(self) -> bool:
        """Whether it takes messages."""
        return self._process.poll() is None

    def send(self, message: Mapping[str, Any], fd: int | None = None) -> None:
        """Write one line, and a descriptor beside it."""
        line = json.dumps(message).encode() + b"\n"
        sent = 0
        if fd is not None:
            sent = socket.send_fds(self.channel, [line], [fd])
        self.channel.sendall(line[sent:])

    def answers(self, seconds: float) -> Iterator[dict[str, Any]]:
        """What it says. Raises TimeoutError; ends when it has died."""
        end = time.monotonic() + seconds
        while True:
            *lines, self._held = self._held.split(b"\n")
            for line in lines:
                yield json.loads(line)
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.channel.settimeout(left)
            data = self.channel.recv(1 << 16)
            if not data:
                return
            self._held += data

    def end(self) -> str:
        """Kill it where it still lives; how it ended."""
        with suppress(OSError):
            self._process.kill()
        code = self._process.wait()
        self.channel.close()
        if code >= 0:
            return f"ended with status {code}"
        return f"died of {signal.Signals(-code).name}"


class Interpreter:
    """The subprocess of this process, and the memory shared with it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._subprocess: Subprocess | None = None
        self._blocks: list[SharedBlock] = []  # by address
        self._numbers, self._next = 0, _FIRST

    def after_fork(self) -> None:
        """In the child of a fork: the subprocess is the parent's."""
        if self._subprocess is not None:
            self._subprocess.channel.close()
        self._lock = threading.RLock()
        self._subprocess, self._blocks = None, []

    def allocate(self, size: int) -> SharedBlock:
        """New memory, zero."""
        with self._lock:
            block = SharedBlock(self._numbers, self._next, size)
            self._numbers += 1
            self._next += -(-size // PAGE) * PAGE + PAGE
            self._blocks.append(block)
            return block

    def forget_block(self, block: SharedBlock) -> None:
        """It is no longer used."""
        with self._lock:
            if block in self._blocks:
                self._blocks.remove(block)
            made = self._subprocess
            if made is not None and block.number in made.blocks:
                made.blocks.remove(block.number)
                with suppress(OSError):  # it is dead: noticed at the next run
                    made.send({"do": "unmap", "block": block.number})

    def find(self, where: int, size: int = 0) -> tuple[SharedBlock, int]:
        """The block an address is in, and the offset there."""
        i = bisect.bisect_right(self._blocks, where, key=lambda b: b.address) - 1
        block = self._blocks[i] if i >= 0 else None
        if block is None or where + size > block.address + block.size:
            raise UsageError(f"no memory of the interpreter is at {where:#x}")
        return block, where - block.address

    def place(self, start: int, end: int) -> list[int]:
        """The number of a block, and the offset and size there of the bytes between addresses."""
        block, offset = self.find(start, end - start)
        return [block.number, offset, end - start]

    def run(self, work: Sequence[Work], timeout: float) -> list[float]:
        """The launches, one after the other; the seconds of each."""
        if not work:
            return []
        with self._lock:
            made = self._ready()
            try:
                return self._run(made, work, timeout)
            except _KernelError:
                raise
            except BaseException:  # what it says from now on answers no one
                made.end()
                self._subprocess = None
                raise

    def _ready(self) -> Subprocess:
        if self._subprocess is None or not self._subprocess.alive:
            if self._subprocess is not None:
                self._subprocess.end()
            self._subprocess = Subprocess()
        return self._subprocess

    def _run(self, made: Subprocess, work: Sequence[Work], timeout: float) -> list[float]:
        launches = [w.told(self) for w in work]
        at = 0
        try:
            made.channel.settimeout(timeout)
            self._introduce(made, work, launches)
            made.send({"do": "run", "launches": launches})
            for answer in made.answers(timeout):
                if "done" in answer:
                    return [float(s) for s in answer["done"]]
                if "error" in answer:
                    why = clean(answer["error"])
                    raise _KernelError(f"{work[at].said}: {why}", help=_HELP * ("triton'" in why))
                at = int(answer["begin"])
        except TimeoutError:
            why = f"took more than {timeout:g} s, when it ran {work[at].said}"
            raise ResourceError(f"the interpreter of GPU kernels {why}") from None
        except OSError:
            pass  # it closed the socket: it is dead
        why = f"{made.end()}, when it ran {work[at].said}"
        raise ResourceError(f"the interpreter of GPU kernels {why}", help=_HELP)

    def _introduce(
        self, made: Subprocess, work: Sequence[Work], launches: Sequence[list[Any]]
    ) -> None:
        """Tell the subprocess of the kernels and blocks it does not know yet."""
        for w in work:
            if w.key not in made.kernels:
                text = w.kernel.text
                message = {"kernel": w.key, "text": text.text, "params": list(text.params)}
                made.send({"do": "kernel", **message})
                made.kernels.add(w.key)
        places = (place for launch in launches for of in launch[3:] for place in of)
        used = {place[0] for place in places if isinstance(place, list)}
        for block in self._blocks:
            if block.number in used - made.blocks:
                size = max(block.size, 1)
                made.send({"do": "map", "block": block.number, "size": size}, block.fd)
                made.blocks.add(block.number)

    def close(self) -> None:
        """End the subprocess."""
        with self._lock:
            if self._subprocess is not None:
                self._subprocess.end()
            self._subprocess = None


class _KernelError(ResourceError):
    """A kernel that raised; the subprocess is as before."""


class Work:
    """One launch as the subprocess is told of it: with the variant of fewest programs."""

    def __init__(self, kernel: GpuKernel, launch: Launch) -> None:
        self.kernel, self.launch = kernel, launch
        text = kernel.text
        self.key = hashlib.sha256(repr((text.text, text.params)).encode()).hexdigest()[:32]
        variants = list(enumerate(text.variants))
        fitting = [i for i, v in variants if v.fits(launch.extents, 1 << 31)] or [0]
        self.variant = min(fitting, key=lambda i: text.variants[i].programs(launch.extents))
        self.programs = text.variants[self.variant].programs(launch.extents)
        self.said = f"{clean(launch.label)} ({clean(launch.kernel)})"

    def told(self, interpreter: Interpreter) -> list[Any]:
        """It as JSON, places in blocks instead of addresses."""
        launch, places = self.launch, list[Any]()
        spans = [[s for s in of if s[0] < s[1]] for of in (launch.reads, launch.writes)]
        reads, writes = ([interpreter.place(*span) for span in of] for of in spans)
        for kind, value in zip(self.kernel.text.params, launch.args, strict=True):
            if not kind.startswith("*"):
                places.append(value)
                continue
            block, offset = interpreter.find(value)
            places.append([block.number, offset])
            if not any(start <= value < end for start, end in (*spans[0], *spans[1])):
                reads.append([block.number, 0, block.size])  # weights
            if value in launch.alone:
                writes.append([block.number, offset, block.size - offset])
        constants = dict(self.kernel.text.variants[self.variant].constants)
        return [self.key, self.programs, constants, places, reads, writes]


class InterpreterDriver:
    """All devices in one process: what is asked for is done at once."""

    name = "interpret"

    def __init__(self, image: GpuImage, options: GpuOptions) -> None:
        self.image, self.options = image, options
        self._pid = os.getpid()
        self._queue = _Queue(self)
        self._blocks: list[SharedBlock] = []
        if not hasattr(os, "memfd_create"):
            raise UnsupportedError("the interpreter of GPU kernels needs Linux")

    def allocate(self, device: int, size: int, what: str) -> SharedBlock:
        """Memory of a device."""
        free = self.free_memory(device)
        if size > free:
            needs = f"{clean(what)} needs {size_text(size)}"
            raise ResourceError(f"{needs} and {size_text(free)} are free")
        block = PROCESS.allocate(size)
        self._blocks.append(block)
        return block

    def staging(self, size: int) -> _HostBytes:
        """Memory of the host."""
        return _HostBytes(size)

    def queue(self, device: int, stream: str) -> _Queue:
        """One for all: nothing overlaps here."""
        return self._queue

    def free_memory(self, device: int) -> int:
        """Bytes that could be allocated."""
        return host.available_memory()

    def check(self) -> None:
        """Raise UsageError after a fork."""
        if os.getpid() != self._pid:
            help = "load the net again in the new process"
            raise UsageError("this process was forked after the net was loaded", help=help)

    def close(self) -> None:
        """Give the memory back."""
        for block in self._blocks:
            block.close()
        self._blocks.clear()


class _HostBytes:
    """Plain memory."""

    def __init__(self, size: int) -> None:
        self.bytes = aligned(size, "staging")
        self.address = address(self.bytes)

    def close(self) -> None:
        """Nothing to do."""


class _Done:
    """A point that is always behind."""

    def wait(self) -> None:
        """It is."""


class _Queue:
    """Does at once what it is asked."""

    def __init__(self, driver: InterpreterDriver) -> None:
        self._driver = driver

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy bytes."""
        ctypes.memmove(_real(target, size), _real(source, size), size)

    def fill(self, block: SharedBlock, byte: int) -> None:
        """Set every byte."""
        block.bytes[:] = byte

    def prepare(self, launches: Sequence[Launch], scratch: Sequence[SharedBlock]) -> _Replay:
        """Make launches ready."""
        kernels = self._driver.image.kernels
        work = [Work(kernels[launch.kernel], launch) for launch in launches]
        return _Replay(work, self._driver.options.timeout)

    def record(self) -> _Done:
        """All is done already."""
        return _Done()

    def after(self, event: Event) -> None:
        """All is done already."""

    def wait(self) -> None:
        """All is done already."""


def _real(where: int, size: int) -> int:
    """An address of this process."""
    if where < _FIRST:
        return where
    block, offset = PROCESS.find(where, size)
    return address(block.bytes) + offset


class _Replay:
    """Launches for the subprocess."""

    def __init__(self, work: Sequence[Work], timeout: float) -> None:
        self._work, self._timeout = work, timeout
        self.variants = tuple(w.variant for w in work)

    def start(self) -> None:
        """Run them all, to the end."""
        PROCESS.run(self._work, self._timeout)

    def times(self, repeat: int) -> list[float]:
        """The subprocess's seconds."""
        return [sum(PROCESS.run(self._work, self._timeout)) for _ in range(repeat)]

    def kernel_times(self, repeat: int) -> list[float]:
        """The subprocess's seconds."""
        runs = [PROCESS.run(self._work, self._timeout) for _ in range(repeat)]
        return [statistics.median(times) for times in zip(*runs, strict=True)]

    def run_one(self, index: int) -> float:
        """One of them."""
        return PROCESS.run(self._work[index : index + 1], self._timeout)[0]


PROCESS = Interpreter()
os.register_at_fork(after_in_child=PROCESS.after_fork)
atexit.register(PROCESS.close)
