"""The run side of GPU plans: what a driver does, and what it is told to do.

A driver has memory, queues, kernels and clocks. `netc.runtime.cuda` has them on NVIDIA GPUs;
`netc.runtime.interpreter` has them in shared memory, its kernels run by Triton's interpreter.
Addresses are the driver's own numbers; what is between them and memory is its business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from netc.errors import ResourceError, UnsupportedError, UsageError, clean
from netc.ir.gpu_code import GpuImage
from netc.runtime.memory import Bytes

Span: TypeAlias = tuple[int, int]  # addresses, the end excluded

CHOICES = ("auto", "cuda", "interpret")
LOSSES = ("error", "cpu")
# How a replay is made: a graph by dependencies, one in order, or no graph. Each falls back to the
# next; "fastest" measures the first two.
GRAPHS = ("nodes", "capture", "launches")
FASTEST = "fastest"


class DeviceLost(ResourceError):
    """A GPU that stopped: nothing of this process runs on it any more."""


class NoGpuCode(UnsupportedError):
    """A GPU that is here, and of another kind than a file has code for."""


@dataclass(frozen=True)
class GpuOptions:
    """Where cuda steps run and how.

    `gpu` is a driver's name, `auto` for `cuda`. `on_loss` is what happens without a GPU:
    an error, or the model's CPU code, which `spare` makes where the model has none. `remake` makes
    a model's GPU code for the GPUs that are here. `cache` is a folder for what was measured.
    """

    gpu: str = "auto"
    on_loss: str = "error"
    cache: Path | None = None
    spare: Callable[[Any], Any] | None = None  # a model -> an Artifact
    remake: Callable[[Any], Any] | None = None
    graphs: str = FASTEST
    tuning: float = 5.0  # seconds one binding may measure variants
    timeout: float = 600.0  # seconds one run in the interpreter may take

    def __post_init__(self) -> None:
        known = (
            ("gpu", self.gpu, CHOICES),
            ("on_gpu_loss", self.on_loss, LOSSES),
            ("graphs", self.graphs, (FASTEST, *GRAPHS)),
        )
        for name, value, fits in known:
            if value not in fits:
                help = f"{', '.join(fits)} fit"
                raise UsageError(f"{name} is {clean(repr(value))}", help=help)


@dataclass(frozen=True)
class Launch:
    """One start of a kernel: its extents, its parameters in order, the bytes it touches.

    Launches of one `group` do not depend on each other, but for what they have `alone`: addresses
    of counters, which one launch at a time may use. `label` is for people.
    """

    kernel: str
    extents: tuple[int, ...]
    args: tuple[int, ...]
    reads: tuple[Span, ...] = ()
    writes: tuple[Span, ...] = ()
    alone: tuple[int, ...] = ()
    group: int = -1
    label: str = ""


class Block(Protocol):
    """Memory of a device, from `address` on."""

    address: int
    size: int

    def close(self) -> None:
        """Give it back. Nothing may use it any more."""


class Staging(Protocol):
    """Memory of the host that copies to and from devices are fast with."""

    address: int
    bytes: Bytes

    def close(self) -> None:
        """Give it back."""


class Event(Protocol):
    """A point in a queue."""

    def wait(self) -> None:
        """Until the queue has come past it. Raises DeviceLost."""


class Replay(Protocol):
    """Launches made ready once, to be started again and again on the queue they were made for."""

    variants: tuple[int, ...]  # of each launch, the variant in use

    def start(self) -> None:
        """Begin; the queue's wait ends it."""

    def times(self, repeat: int) -> list[float]:
        """The seconds of each of so many replays, on the device's clock."""

    def kernel_times(self, repeat: int) -> list[float]:
        """The seconds of each launch alone: the median of so many."""

    def run_one(self, index: int) -> float:
        """Start one launch alone and wait for it; its seconds."""


class Queue(Protocol):
    """Work of one device that is done in its order."""

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy bytes; each side is an address of a device, or of the host."""

    def fill(self, block: Block, byte: int) -> None:
        """Set every byte of a block."""

    def prepare(self, launches: Sequence[Launch], scratch: Sequence[Block]) -> Replay:
        """Make launches ready, the fastest variant of each; it may overwrite `scratch` for that."""

    def record(self) -> Event:
        """The point after all that was asked for so far."""

    def after(self, event: Event) -> None:
        """What is asked for from now on begins after a point of another queue."""

    def wait(self) -> None:
        """Until all is done. Raises DeviceLost."""


class Driver(Protocol):
    """One executable's hold on the devices. Logical device n is GPU n modulo their number."""

    name: str

    def allocate(self, device: int, size: int, what: str) -> Block:
        """Memory of a device. Raises ResourceError naming `what`, the need and what is free."""

    def staging(self, size: int) -> Staging:
        """Memory of the host."""

    def queue(self, device: int, stream: str) -> Queue:
        """The queue of a device and stream; always the same one."""

    def free_memory(self, device: int) -> int:
        """Bytes of a device that could be allocated."""

    def check(self) -> None:
        """Raise DeviceLost, or UsageError after a fork, where nothing can run any more."""

    def close(self) -> None:
        """Give everything back."""


def open_driver(image: GpuImage, devices: Sequence[int], options: GpuOptions) -> Driver:
    """The driver that the options name. Raises UnsupportedError where its GPU is not here."""
    made: Any
    if options.gpu == "interpret":
        from netc.runtime.interpreter import InterpreterDriver

        made = InterpreterDriver(image, options)
    else:
        from netc.runtime.cuda import CudaDriver

        made = CudaDriver(image, devices, options)
    driver: Driver = made
    return driver
