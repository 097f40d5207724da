"""The driver of NVIDIA GPUs, on cuda.core: pools of memory, streams, kernels, one graph a replay.

cuda.core is imported only where a GPU was found: without a driver its calls hang. Errors of the
driver become errors that say what was asked; one that stops the GPU is kept for this process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from netc.errors import ResourceError, UnsupportedError, UsageError, clean
from netc.ir.gpu_code import GpuImage
from netc.runtime.cuda_code import Gpu, Kernels, require_code
from netc.runtime.cuda_errors import AGAIN, PROCESS, asking
from netc.runtime.cuda_memory import CudaBlock, Held, Pinned
from netc.runtime.cuda_probe import require_gpu
from netc.runtime.cuda_queue import CudaQueue
from netc.runtime.driver import FASTEST, GRAPHS, DeviceLost, GpuOptions
from netc.runtime.memory import size_text
from netc.runtime.tuning import Tuner


class CudaDriver:
    """One executable's memory, streams and kernels."""

    name = "cuda"

    def __init__(self, image: GpuImage, devices: Sequence[int], options: GpuOptions) -> None:
        self.check_process()
        found = require_gpu()
        self.image, self.options = image, options
        self._pid, self._count, self._version = os.getpid(), found.count, found.version
        try:
            self.core = import_module("cuda.core")
            self.raw = import_module("cuda.bindings.driver")
        except ImportError as error:
            help = "pip install 'netc[cuda]'"
            raise UnsupportedError(
                f"running on a GPU needs cuda-core: {error}", help=help
            ) from error
        self._queues: dict[tuple[int, str], CudaQueue] = {}
        self._gpus: dict[int, Gpu] = {}
        self._kernels: dict[int, Kernels] = {}
        self._tuners: dict[int, Tuner] = {}
        self._held: list[Held] = []
        self.graphs = [FASTEST, *GRAPHS].index(options.graphs) - (
            options.graphs != FASTEST
        )  # the first way to try
        self._first = min(devices, default=0)
        ordinals = {self.ordinal(device) for device in devices}
        for ordinal in ordinals:
            require_code(image, self.gpu(ordinal))
        self._let_reach(ordinals)

    def ordinal(self, device: int) -> int:
        """The GPU that a logical device is on."""
        return device % self._count

    def use(self, ordinal: int) -> Any:
        """A GPU as this thread's current one; `check` looks again."""
        if PROCESS.current != ordinal:
            PROCESS.device = self.core.Device(ordinal)
            PROCESS.device.set_current()
            PROCESS.current = ordinal
        return PROCESS.device

    def gpu(self, ordinal: int) -> Gpu:
        """What a GPU is."""
        if ordinal not in self._gpus:
            with asking("start"):
                device = self.use(ordinal)
                major, minor = device.compute_capability
                shared = int(device.properties.max_shared_memory_per_block_optin)
                made = Gpu(str(device.name), int(major), int(minor), shared, self._version)
            self._gpus[ordinal] = made
        return self._gpus[ordinal]

    def kernels(self, ordinal: int) -> Kernels:
        """The image's code on a GPU."""
        if ordinal not in self._kernels:
            made = Kernels(self.core, self.raw, self.image, self.gpu(ordinal), ordinal)
            self._kernels[ordinal] = made
        return self._kernels[ordinal]

    def tuner(self, ordinal: int) -> Tuner:
        """What is known of variants on a GPU."""
        if ordinal not in self._tuners:
            gpu = self.gpu(ordinal)
            self._tuners[ordinal] = Tuner(f"{gpu.name}|{gpu.version}", self.options.cache)
        return self._tuners[ordinal]

    def _let_reach(self, ordinals: set[int]) -> None:
        """Let GPUs copy from one another's memory directly, where they can."""
        self.reach: set[tuple[int, int]] = set()
        for there in ordinals:
            peers = {here for here in ordinals - {there} if self._reaches(here, there)}
            if peers:
                with suppress(Exception):  # then copies go through the host
                    self.use(there).memory_resource.peer_accessible_by = peers
                    self.reach |= {(here, there) for here in peers}

    def _reaches(self, here: int, there: int) -> bool:
        with suppress(Exception):
            return bool(self.core.Device(here).can_access_peer(there))
        return False

    def allocate(self, device: int, size: int, what: str) -> CudaBlock:
        """Memory of a device."""
        queue = self.queue(device, "compute")
        try:
            with asking("allocate"):
                buffer = queue.device().allocate(max(size, 1), stream=queue.stream)
                queue.stream.sync()  # other streams use it too
        except DeviceLost:
            raise
        except ResourceError as error:
            needs = f"{clean(what)} needs {size_text(size)}, and "
            needs += f"{size_text(self.free_memory(device))} are free on {self._said(device)}"
            help = "give a smaller batch or image, or spread the net over more devices"
            raise ResourceError(needs, help=help) from error
        return CudaBlock(self, self.ordinal(device), buffer, size)

    def _said(self, device: int) -> str:
        return clean(self.gpu(self.ordinal(device)).name)

    def staging(self, size: int) -> Pinned:
        """Memory of the host that does not move."""
        with asking(f"pin {size_text(size)} of host memory"):
            ordinal = self.ordinal(self._first)
            self.use(ordinal)
            buffer = self.core.LegacyPinnedMemoryResource().allocate(max(size, 1))
        return Pinned(self, ordinal, buffer, size)

    def queue(self, device: int, stream: str) -> CudaQueue:
        """The queue of a device and stream."""
        key = device, stream
        if key not in self._queues:
            with asking("make a stream"):
                self._queues[key] = CudaQueue(self, device)
        return self._queues[key]

    def free_memory(self, device: int) -> int:
        """Bytes that no one has allocated."""
        self.use(self.ordinal(device))
        status, free, _ = self.raw.cuMemGetInfo()
        return 0 if int(status) else int(free)

    def home(self, address: int) -> int | None:
        """The GPU whose memory an address is in; None for the host's."""
        for held in self._held:
            if held.address <= address < held.address + max(held.size, 1):
                return held.ordinal if isinstance(held, CudaBlock) else None
        return None

    def check_process(self) -> None:
        """Raise DeviceLost once a GPU of this process has stopped."""
        if PROCESS.lost:
            raise DeviceLost(PROCESS.lost[0], help=AGAIN)

    def check(self) -> None:
        """Raise where nothing can run any more."""
        self.check_process()
        if os.getpid() != self._pid:
            help = "load the net again in the new process, started by spawn"
            raise UsageError("this process was forked after its GPU was started", help=help)
        PROCESS.current = None  # others may have chosen another GPU meanwhile

    def hold(self, held: Held) -> None:
        """What is to be given back."""
        self._held.append(held)

    def forget(self, held: Held) -> None:
        """What was given back."""
        self._held = [h for h in self._held if h is not held]

    def close(self) -> None:
        """Give everything back; nothing is in use any more."""
        if os.getpid() != self._pid or PROCESS.lost:
            return
        PROCESS.current = None
        for held in self._held:
            held.close()
        self._queues.clear()
        self._kernels.clear()
