"""cuda.core with the host's memory for a GPU's: so much of it as the driver uses, as strict.

A graph runs its nodes in an order that is random but for the edges, so that a missing edge shows.
Kernels are Python functions, found by the bytes that stand for their machine code.
"""

from __future__ import annotations

import ctypes
import gc
import random
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import pytest

from netc.runtime.cuda_probe import Probe


class CUDAError(Exception):
    """As cuda.core has it."""


class FakeCuda:
    """What tests look at and turn."""

    def __init__(self, gpus: int = 1, capability: tuple[int, int] = (9, 0)) -> None:
        self.gpus, self.capability = gpus, capability
        self.kernels: dict[bytes, Callable[..., None]] = {}
        self.arguments: dict[bytes, int] = {}
        self.free = 1 << 30
        self.given_back: list[Any] = []  # memory that no one may touch, kept from being used anew
        self.log: list[str] = []
        self.fails: dict[str, str] = {}  # what is asked -> the error
        self.stuck = ""
        self.seconds: dict[bytes, float] = {}  # that a kernel takes
        self.now = self.host = 0.0  # the clocks of the GPU and of who asks it
        self.late = 0.0  # seconds that the host takes to ask for a launch, give or take a half
        self.current: int | None = None
        self.shared: dict[str, int] = {}
        self.chance = random.Random(0)

    def ask(self, what: str) -> None:
        """Note a call, and fail where a test says so."""
        self.log.append(what)
        if what in self.fails:
            raise CUDAError(self.fails[what])

    def take_time(self) -> None:
        """The host asks for something; the GPU does not begin before."""
        self.host += self.late * self.chance.uniform(0.5, 1.5)
        self.now = max(self.now, self.host)

    def need_context(self) -> None:
        if self.current is None:
            raise CUDAError("CUDA_ERROR_INVALID_CONTEXT: no current context")


@dataclass
class EventOptions:
    timing_enabled: bool = False
    blocking_sync: bool = False
    ipc_enabled: bool = False


@dataclass
class LaunchConfig:
    grid: Any = None
    cluster: Any = None
    block: Any = None
    shmem_size: int | None = None


def as_int(value: object) -> int:
    assert type(value) is int, value
    return value


def make_core(fake: FakeCuda) -> dict[str, types.ModuleType]:
    """The modules cuda.core, cuda.core.graph and cuda.bindings.driver."""

    class Event:
        def __init__(self, timed: bool) -> None:
            self.timed, self.at = timed, max(fake.now, fake.host)

        def sync(self) -> None:
            fake.ask("event.sync")
            if fake.stuck:
                raise CUDAError(fake.stuck)

        def __sub__(self, other: Event) -> float:
            assert self.timed
            assert other.timed
            return (self.at - other.at) * 1e3

    class Stream:
        def __init__(self, device: int) -> None:
            self.device = device

        def sync(self) -> None:
            fake.ask("sync")
            if fake.stuck:
                raise CUDAError(fake.stuck)
            fake.host = max(fake.host, fake.now)

        def record(self, event: Event | None = None, options: EventOptions | None = None) -> Event:
            fake.ask("record")
            assert event is None
            return Event(options is not None and options.timing_enabled)

        def wait(self, event: Event) -> None:
            assert isinstance(event, Event)
            fake.ask("wait")

    class Buffer:
        def __init__(self, handle: int, size: int, owner: object, on_gpu: bool = False) -> None:
            self.handle, self.size, self._owner, self._on_gpu = handle, size, owner, on_gpu
            self.is_closed = False

        @staticmethod
        def from_handle(ptr: int, size: int, mr: object = None, owner: object = None) -> Buffer:
            return Buffer(as_int(ptr), as_int(size), owner)

        def copy_from(self, src: Buffer, *, stream: Stream) -> None:
            fake.ask("copy")
            fake.need_context()
            assert isinstance(stream, Stream)
            assert src.size == self.size
            for gone in fake.given_back:
                assert not any(0 <= x.handle - gone.handle < gone.size for x in (self, src))
            ctypes.memmove(self.handle, src.handle, self.size)

        def fill(self, value: int, *, stream: Stream) -> None:
            fake.ask("fill")
            assert 0 <= value < 256
            ctypes.memset(self.handle, value, self.size)

        def close(self, stream: Stream | None = None) -> None:
            fake.need_context()
            assert not self.is_closed
            self.is_closed = True
            fake.given_back.append(self)
            if self._on_gpu:
                fake.free += self.size

    def memory(size: int, on_gpu: bool) -> Buffer:
        whole = (ctypes.c_uint8 * (as_int(size) + 256))()
        start = -(-ctypes.addressof(whole) // 256) * 256
        return Buffer(start, size, whole, on_gpu)

    class LegacyPinnedMemoryResource:
        def allocate(self, size: int, *, stream: Stream | None = None) -> Buffer:
            fake.ask("pin")
            fake.need_context()
            return memory(size, False)

    class Properties:
        max_shared_memory_per_block_optin = 227 << 10

    class Device:
        def __init__(self, device_id: int) -> None:
            assert 0 <= as_int(device_id) < fake.gpus
            self.device_id, self.name = device_id, "Fake GPU"
            self.compute_capability, self.properties = fake.capability, Properties()

        def set_current(self) -> None:
            fake.current = self.device_id

        def can_access_peer(self, peer: int) -> bool:
            return False

        def create_stream(self) -> Stream:
            fake.need_context()
            return Stream(self.device_id)

        def create_graph_builder(self) -> GraphBuilder:
            fake.ask("builder")
            return GraphBuilder()

        def allocate(self, size: int, *, stream: Stream) -> Buffer:
            fake.ask("allocate")
            assert isinstance(stream, Stream)
            if size > fake.free:
                raise CUDAError("CUDA_ERROR_OUT_OF_MEMORY: The API call failed")
            fake.free -= size
            return memory(size, True)

    class Kernel:
        def __init__(self, code: bytes, name: str) -> None:
            self.code, self.handle = code, name

        @property
        def num_arguments(self) -> int:
            return fake.arguments[self.code]

    class ObjectCode:
        def __init__(self, code: bytes) -> None:
            self._code = code

        @staticmethod
        def from_cubin(module: bytes, *, name: str = "") -> ObjectCode:
            assert type(module) is bytes
            fake.ask(f"cubin {module.decode()}")
            return ObjectCode(module)

        @staticmethod
        def from_ptx(module: bytes, *, name: str = "") -> ObjectCode:
            assert module.endswith(b"\0")
            fake.ask("ptx")
            return ObjectCode(module.split(b"//")[-1].rstrip(b"\0"))

        def get_kernel(self, name: str) -> Kernel:
            assert type(name) is str
            return Kernel(self._code, name)

    def run(config: LaunchConfig, kernel: Kernel, args: tuple[Any, ...]) -> None:
        assert type(config.grid) is int
        assert 0 < config.grid < 1 << 31
        assert len(args) == kernel.num_arguments
        assert all(type(a) in (int, np.int32, np.int64) for a in args)
        if kernel.handle in fake.fails:
            raise CUDAError(fake.fails[kernel.handle])
        fake.log.append(f"run {kernel.code.decode()}")
        fake.kernels[kernel.code](config.grid, *args)
        fake.now += fake.seconds.get(kernel.code, 1e-5)

    def launch(stream: Any, config: LaunchConfig, kernel: Kernel, *args: Any) -> None:
        fake.need_context()
        if isinstance(stream, GraphBuilder):
            stream.work.append((config, kernel, args))
            return
        assert isinstance(stream, Stream)
        fake.take_time()
        run(config, kernel, args)

    class Graph:
        def __init__(self, work: list[Any], before: list[set[int]]) -> None:
            self.work, self.before = work, before

        def upload(self, stream: Stream) -> None:
            assert isinstance(stream, Stream)

        def launch(self, stream: Stream) -> None:
            fake.ask("graph")
            fake.take_time()
            done: set[int] = set()
            while len(done) < len(self.work):
                ready = [i for i, b in enumerate(self.before) if i not in done and b <= done]
                i = fake.chance.choice(ready)
                run(*self.work[i])
                done.add(i)

    class GraphBuilder:
        def __init__(self) -> None:
            self.work: list[Any] = []

        def begin_building(self, mode: str = "relaxed") -> GraphBuilder:
            return self

        def end_building(self) -> GraphBuilder:
            return self

        def complete(self, options: object = None) -> Graph:
            return Graph(self.work, [set(range(i)) for i in range(len(self.work))])

    class Pred:
        def __init__(self, node: Node) -> None:
            self._node = node

        def update(self, *others: Any) -> None:
            for nodes in others:
                for node in nodes:
                    assert isinstance(node, Node)
                    self._node.definition.before[self._node.place].add(node.place)

    class Node:
        def __init__(self, definition: GraphDefinition, place: int) -> None:
            self.definition, self.place, self.pred = definition, place, Pred(self)

        def launch(self, config: LaunchConfig, kernel: Kernel, *args: Any) -> Node:
            node = self.definition.launch(config, kernel, *args)
            self.definition.before[node.place].add(self.place)
            return node

    class GraphDefinition:
        def __init__(self) -> None:
            fake.ask("definition")
            self.work: list[Any] = []
            self.before: list[set[int]] = []

        def launch(self, config: LaunchConfig, kernel: Kernel, *args: Any) -> Node:
            fake.need_context()
            self.work.append((config, kernel, args))
            self.before.append(set())
            return Node(self, len(self.work) - 1)

        def instantiate(self, options: object = None) -> Graph:
            return Graph(self.work, self.before)

    class Attribute(Enum):
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8

    def set_attribute(attribute: Attribute, value: int, kernel: str, device: int) -> tuple[int]:
        fake.shared[kernel] = value
        return (0,)

    core, graph = types.ModuleType("cuda.core"), types.ModuleType("cuda.core.graph")
    raw = types.ModuleType("cuda.bindings.driver")
    mine = (Device, Buffer, LegacyPinnedMemoryResource, ObjectCode, LaunchConfig, EventOptions)
    vars(core).update({kind.__name__: kind for kind in mine}, launch=launch)
    vars(graph).update(GraphDefinition=GraphDefinition)
    vars(raw).update(
        CUfunction_attribute=Attribute,
        cuDeviceGet=lambda ordinal: (0, ordinal),
        cuKernelSetAttribute=set_attribute,
        cuMemGetInfo=lambda: (0, fake.free, 1 << 30),
    )
    return {"cuda.core": core, "cuda.core.graph": graph, "cuda.bindings.driver": raw}


def install(monkeypatch: pytest.MonkeyPatch, fake: FakeCuda, version: int = 13000) -> None:
    """Let the driver find this instead of cuda.core, and GPUs."""
    from netc.runtime.cuda_errors import PROCESS

    gc.collect()  # what an earlier test left gives its memory back now
    for name, module in make_core(fake).items():
        monkeypatch.setitem(sys.modules, name, module)
    found = Probe(fake.gpus, version) if fake.gpus else Probe(why="the NVIDIA driver sees no GPU")
    monkeypatch.setattr("netc.runtime.cuda_probe.probe", lambda: found)
    monkeypatch.setattr(type(PROCESS), "lost", [])
    PROCESS.current = None
