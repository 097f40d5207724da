"""What users may choose for GPUs and of shardings, checked before any work begins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netc.errors import Diagnostic, GraphError, UnsupportedError, UsageError, clean
from netc.ir.device import Device
from netc.ir.shards import BY, By, Shard

if TYPE_CHECKING:
    from netc.compiler import Options
    from netc.ir.graph import Graph
    from netc.ir.machine import Machine
    from netc.passes.shard_channels import SplitChannels
    from netc.passes.shardings import Sharding

TARGETS = ("cpu", "cuda")
NATIVE = "native"
ARCHS = ("sm_80", "sm_90", "ptx")  # what is compiled for where nothing is said


def names_of(what: str, given: str | Iterable[str]) -> list[str]:
    """Names given one by one, or in one text with commas between them."""
    names = given.split(",") if isinstance(given, str) else given
    found = list(names) if isinstance(names, Iterable) else [None]
    if not all(isinstance(n, str) for n in found):
        raise UsageError(f"{what} is a name or several, not {clean(repr(given))}")
    return found


def targets_of(target: str | Sequence[str]) -> tuple[str, ...]:
    """What a net is compiled for. Raises UnsupportedError for what there is no back end for."""
    names = [n.strip() for n in names_of("target", target)]
    fits = f"this version compiles for {', '.join(TARGETS)}"
    for name in names:
        if name not in TARGETS:
            raise UnsupportedError(f"no back end for {clean(name)!r}", help=fits)
    if not names:
        raise UsageError("no target is named", help=fits)
    return tuple(dict.fromkeys(names))


def check_target(targets: Sequence[str], devices: Sequence[Device]) -> None:
    """Raise UsageError where a net is to run on a GPU and the devices given have none."""
    if "cuda" in targets and devices and all(d.kind != "cuda" for d in devices):
        named = ", ".join(map(str, devices))
        help = "name a device such as cuda:0, or leave devices (and NETC_DEVICES) out"
        raise UsageError(f"the target is cuda, and the devices are {named}", help=help)


def archs_of(
    arch: str | Iterable[str] | None, gpu: str, usual: Sequence[str] = ()
) -> tuple[str, ...]:
    """The architectures to compile for; where none are given, the usual ones.

    Without usual ones that is the GPU here; where there is none, those most GPUs run; and none at
    all where kernels are interpreted.
    """
    if arch is None and not usual:
        return () if gpu == "interpret" else _native() or ARCHS
    names = list(usual) if arch is None else [n.strip() for n in names_of("arch", arch)]
    if not names:
        raise UsageError("no GPU architecture is named", help=_known())
    out: list[str] = []
    for name in names:
        out += _required_native() if name == NATIVE else [_known_arch(name)]
    return tuple(dict.fromkeys(out))


def _native() -> tuple[str, ...]:
    """The architectures of the GPUs here; PTX for those that are newer than this version."""
    from netc.runtime.gpus import list_gpus

    found = [gpu.arch if gpu.arch in _archs() else "ptx" for gpu in list_gpus()]
    return tuple(dict.fromkeys(found))


def _required_native() -> tuple[str, ...]:
    from netc.runtime.cuda_probe import probe

    found = _native()
    if not found:
        what = f"arch native is that of the GPU here, and {probe().why}"
        raise UnsupportedError(what, help=_known())
    return found


def _known_arch(name: str) -> str:
    if name not in _archs():
        raise UsageError(f"no GPU architecture {clean(name)!r}", help=_known())
    return name


def _archs() -> Sequence[str]:
    from netc.runtime.gpu_json import ARCHS as known

    return known


def _known() -> str:
    return f"there are {', '.join(_archs())}, and native for the GPU here"


def by_layer(said: str, given: Any, example: str) -> Mapping[str, Any]:
    """What is said of layers by name; nothing where nothing is given."""
    found = {} if given is None else given
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        help = f'such as {{"conv1": "{example}"}}'
        raise UsageError(f"{said} by layer: give a mapping", help=help)
    return found


def seed_of(given: Any, most: int = 2**63 - 1) -> int:
    """A whole number that random numbers begin with."""
    try:
        seed = -1 if isinstance(given, bool) else index(given)
    except TypeError:
        seed = -1
    if not 0 <= seed <= most:
        help = f"a whole number from 0 to {most} fits"
        raise UsageError(f"seed is {clean(repr(given))}", help=help)
    return seed


def check_precisions(precision: str, precisions: Mapping[str, str]) -> None:
    """Raise UsageError for a way to compute that there is not."""
    from netc.codegen.precision import Precision

    known = [p.value for p in Precision]
    for layer, name in (("", precision), *precisions.items()):
        if name not in known:
            said = f" for {clean(layer)!r}" if layer else ""
            fits = f"from the most exact to the fastest there are {', '.join(known)}"
            raise UsageError(f"no precision {clean(repr(name))}{said}", help=fits)


def for_gpus(
    graph: Graph,
    options: Options,
    arch: str | Iterable[str] | None,
    gpu: str,
    usual: Sequence[str] = (),
) -> Options:
    """The options with the architectures that a placed graph is to be compiled for.

    Raises where a precision is chosen for a layer that is not there, or for no GPU at all.
    """
    from netc.codegen.precision import ON_PROCESSORS
    from netc.passes.layers import layer

    for name in options.precisions:
        layer(graph, name, "to compute")
    if "cuda" in options.targets or _on_gpu(graph, options.devices):
        elsewhere = any(n.device.host for n in graph.nodes if n.device) and gpu != "interpret"
        return replace(options, archs=archs_of(arch, gpu, usual or ARCHS * elsewhere))
    others = options.named - {p.value for p in ON_PROCESSORS}
    if arch is not None or others:
        what = f"precision {min(others)} is" if others else "an architecture is chosen"
        help = "target cuda puts the net on one; devices and place put layers there"
        raise UsageError(f"{what} for GPUs, and nothing is on one", help=help)
    _tell_of_no_gain(options)
    return options


def _tell_of_no_gain(options: Options) -> None:
    """Say in the log where no processor level is faster in a precision that is asked for."""
    from netc.codegen.cpu.target import target_named
    from netc.frontend.net.fill import tell

    levels = [target_named(name, pairs=True, quads=True) for name in options.cpu]
    gains = {"low": any(t.pairs for t in levels), "int8": any(t.quads for t in levels)}
    for name in sorted(options.named.intersection(n for n, some in gains.items() if not some)):
        these = ", ".join(t.name for t in levels)
        what = f"{name} is computed as high: {these} has no instructions for less"
        tell(Diagnostic(what, severity="warning"), None)


def _on_gpu(graph: Graph, devices: Sequence[Device]) -> bool:
    """Whether anything is on a GPU; the first device is that of all that says nothing."""
    named = [*devices[:1], *(n.device for n in graph.nodes)]
    return any(device is not None and device.kind == "cuda" for device in named)


def cache_of(cache: Any) -> Path | None:
    """The folder of compiled kernels: the user's own, the one given, or none for False."""
    from netc.codegen.triton.cache import default_directory

    if cache is None or cache is True:
        return default_directory()
    if cache is False:
        return None
    if not isinstance(cache, str | os.PathLike) or cache == "":
        help = "a folder, or False for none"
        raise UsageError(f"cache is {clean(repr(cache))}", help=help)
    return Path(cache)


def machine_of(given: Any) -> Machine | None:
    """A machine table: the name of a ready one, or a file as `netc devices --probe` writes it."""
    from netc.frontend.files import decoded, display, mapped
    from netc.ir.machine import READY, Machine

    if given is None:
        return None
    if isinstance(given, str) and given in READY:
        return READY[given]
    if not isinstance(given, str | os.PathLike):
        help = f"a file, or one of {', '.join(READY)}"
        raise UsageError(f"a {type(given).__name__} is no machine table", help=help)
    return Machine.parse(decoded(mapped(given), display(given), UsageError), display(given))


def sharding_of(
    replicate: Any = None, split: Any = None, pipeline: Any = None, micro_batches: Any = None
) -> Sharding | None:
    """How a net is shared by devices, as a user says it; None where nothing is said."""
    said = {"replicate": replicate, "split": split, "pipeline": pipeline}
    given = [name for name, value in said.items() if value is not None]
    if len(given) > 1 and replicate is not None:
        help = "replicate goes by itself; split and pipeline go together"
        raise UsageError(f"a net is sharded in one way, not by {' and '.join(given)}", help=help)
    if micro_batches is not None and pipeline is None:
        help = "such as pipeline cpu:0,cpu:1 and 4 micro-batches"
        raise UsageError("micro-batches are of a pipeline, and none is given", help=help)
    if not given:
        return None
    from netc.passes.shardings import Sharding

    whole = None
    if replicate is not None:
        whole = Shard("replicate", _named_once("replicate", replicate))
    elif pipeline is not None:
        whole = _pipeline(_named_once("pipeline", pipeline), micro_batches)
    return Sharding(whole, None if split is None else _split(split))


def _pipeline(devices: tuple[Device, ...], count: Any) -> Shard:
    try:
        return Shard("pipeline", devices, micro_batches=count)
    except GraphError as e:
        d = e.diagnostics[0]
        raise UsageError(d.message, help=d.help) from None


def _split(split: Any) -> SplitChannels:
    """Layer -> devices, or (devices, "output" or "input"); a text may say `cpu:0,cpu:1:input`."""
    from netc.passes.shard_channels import SplitChannels

    help = 'such as {"conv1": ["cpu:0", "cpu:1"], "conv2": (["cpu:0", "cpu:1"], "input")}'
    if not isinstance(split, Mapping) or not all(isinstance(layer, str) for layer in split):
        raise UsageError("split goes by layer: give a mapping", help=help)
    if not split:
        raise UsageError("split names no layer", help=help)
    ways: list[By] = []
    over: list[tuple[Device, ...]] = []
    for layer, said in split.items():
        devices, by = _split_way(layer, said)
        ways.append(by)
        over.append(_named_once(f"split of {clean(layer)!r}", devices))
    return SplitChannels(tuple(split), tuple(over), tuple(ways))


def _split_way(layer: str, said: Any) -> tuple[Any, By]:
    """The devices of a layer that is split, and by what; by output where that is not said."""
    devices, by = said, "output"
    if isinstance(said, str):
        head, colon, last = said.rpartition(":")
        if colon and last.strip() in BY:
            devices, by = head, last.strip()
    elif isinstance(said, Sequence) and len(said) == 2 and _is_pair(*said):
        devices, by = said
    if by not in BY:
        what = f"no way to split {clean(layer)!r}: {clean(repr(by))}"
        raise UsageError(what, help=f"channels are split by {' or '.join(BY)}")
    return devices, "output" if by == "output" else "input"


def _is_pair(first: Any, second: Any) -> bool:
    """Whether these are devices and a way, not two devices."""
    return second in BY or not isinstance(first, str)


def _named_once(what: str, given: Any) -> tuple[Device, ...]:
    """The devices that a sharding names, each once."""
    found = tuple(Device.named(name) for name in names_of(what, given))
    if not found:
        raise UsageError(f"{what} names no device", help="such as cpu:0,cpu:1")
    if len(set(found)) < len(found):
        named = ", ".join(map(str, found))
        raise UsageError(f"{what} names a device twice: {named}")
    return found


def with_sharding(devices: tuple[Device, ...], sharding: Sharding | None) -> tuple[Device, ...]:
    """The devices given, those of a sharding being among them; its own where none are given."""
    if sharding is None:
        return devices
    check_devices(devices, sharding.devices)
    return devices or sharding.devices


def check_devices(devices: Sequence[Device], named: Sequence[Device]) -> None:
    """Raise UsageError where a sharding names a device that is not among those given."""
    for device in named if devices else ():
        if device not in devices:
            fits = f"the devices are {', '.join(map(str, devices))}"
            raise UsageError(f"the sharding names {device}, which is not there", help=fits)


def sharded_options(options: Options, before: Graph, after: Graph, given: bool) -> Options:
    """The options for a net that was sharded: precisions of layers are those of their shares.

    Where no devices were given, those that the net and `place` name are there as well.
    """
    from netc.passes.follow import shares_of
    from netc.passes.layers import layer

    now = [n.name for n in after.nodes]
    written = {n.name for n in before.nodes}
    precisions: dict[str, str] = {}
    for name, precision in options.precisions.items():
        for node in layer(before, name, "to compute"):
            shares = shares_of(node.name, written, now)
            kept = [node.name] if node.name in now else []
            precisions |= dict.fromkeys((*kept, *shares), precision)
    named = [n.device for n in after.nodes if n.device is not None]
    devices = options.devices if given else tuple(dict.fromkeys((*options.devices, *named)))
    return replace(options, devices=devices, precisions=precisions)
