"""What this machine can do, measured with compiled nets: `netc devices --probe`."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from netc.cli.probe_nets import chain, compiled, convolution, images
from netc.errors import UsageError
from netc.ir.device import Device
from netc.ir.graph import Builder, Value
from netc.ir.machine import DeviceSpec, Link, Machine
from netc.ir.queues import COPY
from netc.runtime import host
from netc.runtime.fleet import thread_counts
from netc.runtime.session import Executable
from netc.runtime.trace import timed

_SECONDS = 0.3  # for each measurement
_FLOATS = 1 << 25  # of an array that no cache holds
_SENT = 1 << 23  # of a large value that goes from device to device
_CHAIN = 100  # steps, or trips from device to device


def probe(devices: Sequence[Device], gpu: str = "cuda") -> Machine:
    """The machine of these logical devices: processors share cores and memory, GPUs are measured
    each for itself, and so are the links from and to them."""
    from netc.cli.probe_gpu import measured, measured_link
    from netc.runtime.gpus import list_gpus

    processors = [d for d in devices if d.kind == "cpu"]
    gpus = [d for d in devices if d.kind == "cuda"]
    machine = _processors(processors) if processors else None
    specs = dict(machine.specs) if machine else {}
    found = list_gpus()
    for d in gpus:
        specs[d] = measured(d, found[d.index % len(found)].memory if found else 1, gpu)
    pairs = [(a, b) for a, b in itertools.permutations(devices, 2) if a in gpus or b in gpus]
    links = {(a, b): measured_link(a, b, gpu) for a, b in pairs}
    if machine is None:
        return Machine("this machine", specs, links)
    return replace(machine, specs=specs, links=links)


def measured(devices: Sequence[Device]) -> Machine:
    """The machine of these logical devices, all of which must be here."""
    from netc.runtime.cuda_probe import require_gpu

    if any(d.kind not in ("cpu", "cuda") or d.host for d in devices):
        help = "such as cpu:0,cpu:1 or cpu:0,cuda:0; --host names others"
        raise UsageError("--probe measures what is here", help=help)
    if any(d.kind == "cuda" for d in devices):
        require_gpu()
    return probe(devices)


def devices_here(names: Sequence[str] = ()) -> list[Device]:
    """The devices of these names; without any the processor, and GPUs that it compiles for."""
    from netc.codegen.triton.image import compiler_version
    from netc.runtime.cuda_probe import probe as find_gpus

    if names:
        return [Device.named(name) for name in names]
    count = find_gpus().count
    try:
        if count:
            compiler_version()
    except UsageError as error:
        logging.getLogger("netc").warning("GPUs are not measured: %s", error.diagnostics[0].message)
        count = 0
    return [Device("cpu"), *(Device("cuda", i) for i in range(count))]


def _processors(devices: Sequence[Device]) -> Machine:
    """Logical devices of the processor."""
    threads = thread_counts(host.thread_count(None), len(devices))[0]
    launch, call = _launch(threads)
    cache = host.cache_size() // 2  # others use it too
    spec = DeviceSpec(
        memory=host.available_memory() // len(devices),
        flops=_flops(threads),
        bandwidth=_bandwidth(threads * len(devices), _FLOATS) / len(devices),  # all read at once
        launch=launch,
        cache=cache // len(devices),
        cache_bandwidth=_bandwidth(threads, cache // 8) if cache else 0.0,
    )
    link = _link(threads, spec) if len(devices) > 1 else None
    return Machine("this machine", dict.fromkeys(devices, spec), between=link, call=call)


def best(exe: Executable, *shape: int) -> float:
    """Seconds of the fastest run."""
    x, least = np.ones(shape, np.float32), float("inf")
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end or least == float("inf"):
        start = time.perf_counter()
        exe(x=x)
        least = min(least, time.perf_counter() - start)
    return least


def _flops(threads: int) -> float:
    """Of a convolution, all of whose operations are done."""
    shape, operations = images(1)
    exe = compiled(convolution, shape, threads=threads, precision="exact")
    return operations / best(exe, *shape)


def _bandwidth(threads: int, floats: int) -> float:
    """Of reading an array of so many floats: the largest of each of 64 parts."""

    def most(b: Builder, x: Value) -> Value:
        return b.reduce_max(x, axes=(1,))

    shape = (64, floats // 64)
    return 4.0 * floats / best(compiled(most, shape, optimize=False, threads=threads), *shape)


def _launch(threads: int) -> tuple[float, float]:
    """Of a step that has nothing to do, by the difference of two chains; and of a run's rest."""
    long, short = (
        best(compiled(chain(n), (8,), optimize=False, threads=threads), 8)
        for n in (11 * _CHAIN, _CHAIN)
    )
    step = max(1e-9, (long - short) / (10 * _CHAIN))
    return step, max(0.0, short - _CHAIN * step)


def _link(threads: int, spec: DeviceSpec) -> Link:
    """Between two devices: a small value to and fro, and a large one."""
    small = best(_hops(_CHAIN, 8, threads), 8) / _CHAIN
    latency = max(1e-9, small - 2 * spec.launch)
    return Link(4.0 * _SENT / _copying(_hops(3, _SENT, threads)), latency)


def _copying(exe: Executable) -> float:
    """Seconds of the fastest copy of a large value."""
    arrays = exe.accepted({"x": np.ones(_SENT, np.float32)}, {})
    end = time.perf_counter() + _SECONDS
    taken: list[float] = []
    while time.perf_counter() < end or not taken:
        taken += [step.seconds for step in timed(exe, arrays)[1] if step.stream == COPY]
    return max(1e-9, min(taken))


def _hops(count: int, floats: int, threads: int) -> Executable:
    """A value that goes from device to device and is touched at each end."""

    def hops(b: Builder, x: Value) -> Value:
        with b.on(Device("cpu", 0)):
            x = b.relu(x)
        for i in range(count):
            with b.on(Device("cpu", (i + 1) % 2)):
                x = b.relu(x)
        return x

    return compiled(hops, (floats,), optimize=False, threads=2 * threads)
