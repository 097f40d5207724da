"""What users may choose for GPUs, checked before any work begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netc.errors import UnsupportedError, UsageError, clean
from netc.ir.device import Device

if TYPE_CHECKING:
    from netc.compiler import Options
    from netc.ir.graph import Graph

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


def check_precisions(precision: str, precisions: Mapping[str, str]) -> None:
    """Raise UsageError for a way to compute that there is not."""
    from netc.codegen.triton.precision import Precision

    known = [p.value for p in Precision]
    if not isinstance(precisions, Mapping):
        raise UsageError("precisions go by layer: give a mapping", help='such as {"conv1": "low"}')
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
    from netc.passes.layers import layer

    for name in options.precisions:
        layer(graph, name, "to compute")
    if "cuda" in options.targets or _on_gpu(graph, options.devices):
        return replace(options, archs=archs_of(arch, gpu, usual))
    if arch is not None or options.precisions or options.precision != "high":
        what = "a precision" if arch is None else "an architecture"
        help = "target cuda puts the net on one; devices and place put layers there"
        raise UsageError(f"{what} is chosen for GPUs, and nothing is on one", help=help)
    return options


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
    try:
        return Path(cache)
    except TypeError:
        help = "a folder, or False for none"
        raise UsageError(f"cache is {clean(repr(cache))}", help=help) from None
