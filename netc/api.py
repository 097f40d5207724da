"""What users call: read a net, compile it, load it, run it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netc import choices
from netc.errors import InputError, UsageError, clean
from netc.runtime.session import Executable
from netc.runtime.session import load as _load

if TYPE_CHECKING:
    from netc.compiler import Options
    from netc.ir.device import Device
    from netc.ir.graph import Graph
    from netc.ir.machine import Machine
    from netc.ir.op import Array
    from netc.passes.base import Fired
    from netc.passes.partition.placement import Placement
    from netc.passes.shardings import Sharding
    from netc.runtime.driver import GpuOptions

__all__ = ["Executable", "compile", "from_caffe", "interpret", "load", "parse", "read"]

NET_OPTIONS = ("weights", "phase", "shapes", "net", "strict", "labels", "warn")  # of a .net
IR_OPTIONS = ("weights", "strict", "warn")
CAFFE_OPTIONS = (  # beside those of `netc.frontend.preprocess`
    *("weights", "caffemodel", "phase", "level", "stages", "shapes", "strict", "labels", "warn"),
    *("seed", "preprocessing"),
)


def read(
    path: str | os.PathLike[str], *, outputs: str | Iterable[str] | None = None, **options: Any
) -> Graph:
    """The graph in a file: `.net`, `.prototxt` or `.ir` by its suffix.

    `outputs` asks for any values of the net by name; of a prototxt only the layers they need are
    read. `options` are those of `parse` for a `.net` and of `from_caffe` for a prototxt. Raises
    NetcError with the place of every mistake.
    """
    from netc.frontend.files import display

    suffix = Path(display(path)).suffix.lower()
    if suffix in (".prototxt", ".caffemodel", ".pt", ".txt"):
        return from_caffe(path, outputs=outputs, **options)
    return _giving(_read(path, suffix, options), outputs)


def _giving(graph: Graph, outputs: str | Iterable[str] | None) -> Graph:
    return graph if outputs is None else graph.with_outputs(_names(outputs))


def _names(outputs: str | Iterable[str]) -> list[str]:
    return choices.names_of("outputs", [outputs] if isinstance(outputs, str) else outputs)


def _read(path: str | os.PathLike[str], suffix: str, options: Mapping[str, Any]) -> Graph:
    from netc.frontend.files import decoded, display, mapped

    if suffix == ".net":
        from netc.frontend.net.elaborate import read_net

        return read_net(path, **_known(options, NET_OPTIONS))
    if suffix == ".ir":
        from netc.frontend.net.fill import filled
        from netc.ir.text import parse as parse_ir

        graph = parse_ir(decoded(mapped(path), display(path), UsageError), display(path))
        given = dict(_known(options, IR_OPTIONS))
        return filled(graph, given.pop("weights", None), **given)
    raise UsageError(
        f"{clean(path)} ends in {clean(suffix) or 'nothing'}",
        help="a net is a .net, .prototxt or .ir file; a compiled one is loaded with netc.load",
    )


def parse(text: str, name: str = "<text>", **options: Any) -> Graph:
    """The graph in a text in the netc language, with no file at all."""
    from netc.frontend.net.elaborate import parse_net

    return parse_net(text, name, **_known(options, NET_OPTIONS))


def _known(options: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """The options, if all of them are among these."""
    for option in (given for given in options if given not in names):
        fits = f"there are {', '.join(names)}"
        raise UsageError(f"there is no option {clean(option)!r}", help=fits)
    return options


def from_caffe(
    prototxt: Any,
    caffemodel: Any = None,
    *,
    outputs: str | Iterable[str] | None = None,
    **options: Any,
) -> Graph:
    """The graph of a Caffe net; either file may be a path, text or bytes.

    With `outputs` only the layers that these blobs need are read: what netc does not do may stand
    behind them. `weights` is another name of `caffemodel`. See `netc.frontend.caffe.from_caffe`
    for phase, level, stages, shapes, strict and the rest.
    """
    from netc.frontend.caffe.importer import from_caffe as import_caffe
    from netc.frontend.preprocess import OPTIONS

    given = dict(_known(options, (*CAFFE_OPTIONS, *OPTIONS)))
    weights, stages = given.pop("weights", None), given.pop("stages", None)
    if weights is not None and caffemodel is not None:
        raise UsageError("weights and caffemodel are two names of one option", help="give one")
    if stages is not None:
        given["stages"] = stages if isinstance(stages, str) else choices.names_of("stages", stages)
    given["outputs"] = None if outputs is None else _names(outputs)
    given["seed"] = choices.seed_of(given.get("seed", 0), most=2**31 - 1)
    return import_caffe(prototxt, caffemodel if weights is None else weights, **given)


def compile(
    source: Graph | str | os.PathLike[str],
    target: str | Sequence[str] = "cpu",
    outputs: Iterable[str] | None = None,
    devices: Sequence[str] | None = None,
    optimize: bool = True,
    *,
    cpu: str | Sequence[str] = "native",
    arch: str | Sequence[str] | None = None,
    precision: str = "high",
    precisions: Mapping[str, str] | None = None,
    gpu: str | None = None,
    on_gpu_loss: str = "error",
    cache: str | os.PathLike[str] | bool | None = None,
    threads: int | None = None,
    check: int | None = None,
    place: Mapping[str, str] | None = None,
    strategy: str | None = None,
    replicate: str | Sequence[str] | None = None,
    split: Mapping[str, Any] | None = None,
    pipeline: str | Sequence[str] | None = None,
    micro_batches: int | None = None,
    machine: str | os.PathLike[str] | None = None,
    hosts: Mapping[str, str | Sequence[str]] | None = None,
    **options: Any,
) -> Executable:
    """A net made ready to run; `source` is a graph or the path of a net.

    `outputs` asks for any values of the net by name. `target` is "cpu", "cuda", or both: a file
    that runs on a GPU where there is one. `cpu` names processor levels: "native", "x86-64-v2" to
    "x86-64-v4", "aarch64", or one of those with more instructions, "x86-64-v3-vnni",
    "x86-64-v4-vnni", "x86-64-v4-bf16", "aarch64-dot", "aarch64-bf16"; the best that fits runs of
    those in a file. Without `optimize` the graph runs as it was written. `place` maps layers to
    devices; `strategy` ("greedy", "min_cut", "stages", "milp", "annotated") places the rest on
    `devices`. `replicate` shares the batch among devices, `split` the channels of layers, and
    `pipeline` the nodes, `micro_batches` following one another, beside what the net itself says of
    its nodes (`replicate over cpu:0, cpu:1 { … }`): docs/DEVICES.md. What strategies and
    pipelines know of the devices is `machine`: a table's file, or "two cpus", "eight gpus", "two
    hosts"; without it, what is typical. Where devices are on other hosts (`cuda:0@node1`), `hosts`
    maps each to the command that starts its worker, as in `load`. Other options are `read`'s.

    `precision` says how exactly products are computed, "exact", "high", "low" or "int8" ("medium",
    "fp16" too on GPUs), and `precisions` maps layers to other ones. For GPUs, all in docs/GPU.md:
    `arch` names architectures ("native", "sm_90", "ptx", …; without it the GPU here, or else the
    usual ones). `cache` is a folder of compiled kernels, or False. `gpu` is "auto", "cuda" or
    "interpret"; NETC_GPU where it is not given. `on_gpu_loss` is "error" or "cpu".
    """
    from netc.compiler import build
    from netc.runtime.session import executable

    graph = _graph(source, options, outputs)
    runs = gpu_options(gpu, on_gpu_loss, cache)
    sharding = choices.sharding_of(replicate, split, pipeline, micro_batches)
    others = choices.by_layer("precisions go", precisions, "low")
    gpus = {"precision": precision, "precisions": others, "cache": choices.cache_of(cache)}
    chosen = compile_options(optimize, cpu, check, devices, target, sharding, **gpus)
    known = choices.machine_of(machine)
    made = arranged(graph, chosen, devices, place, strategy, sharding, known)
    chosen = choices.for_gpus(made.graph, made.options, arch, runs.gpu)
    return executable(build(made.graph, chosen), threads, gpu=runs, hosts=hosts)


def _graph(
    source: Any, options: Mapping[str, Any], outputs: str | Iterable[str] | None = None
) -> Graph:
    from netc.ir.graph import Graph

    if isinstance(source, str | os.PathLike):
        return read(source, outputs=outputs, **options)
    source = getattr(source, "graph", source)
    if not isinstance(source, Graph):
        raise UsageError(f"a {type(source).__name__} is no net: give a graph or a path")
    if options:
        raise UsageError(f"a graph takes no option {clean(next(iter(options)))!r}")
    return _giving(source, outputs)


def wanted_devices(devices: str | Sequence[str] | None) -> tuple[Device, ...]:
    """The devices by their names, or those of NETC_DEVICES where none are given."""
    from netc.ir.device import Device
    from netc.runtime.logical import named_devices

    names = named_devices() if devices is None else choices.names_of("devices", devices)
    found = tuple(Device.named(name) for name in names)
    if len(set(found)) < len(found):
        raise UsageError(f"devices names one twice: {clean(', '.join(map(str, found)))}")
    return found


@dataclass(frozen=True)
class Arranged:
    """A net with its nodes where they were sent, and what a strategy and a sharding say of it."""

    graph: Graph
    options: Options
    placement: Placement | None = None
    fired: tuple[Fired, ...] = ()


def arranged(
    graph: Graph,
    options: Options,
    devices: str | Sequence[str] | None,
    places: Mapping[str, str] | None,
    strategy: str | None,
    sharding: Sharding | None = None,
    machine: Machine | None = None,
) -> Arranged:
    """The graph with layers where `places` says, and the rest where a strategy puts it.

    What the net and `sharding` say of devices that share it is done, instead of a strategy.
    `machine` tells of the devices.
    """
    places = choices.by_layer("place goes", places, "cuda:0")
    shared = sharding is not None or any(n.shards for n in graph.nodes)
    if not places and strategy is None and not shared:
        return Arranged(graph, options)
    from netc.codegen.accept import no_kernel
    from netc.ir.machine import Machine
    from netc.passes.partition.choose import annotate, apply, placement_of

    if shared and strategy is not None:
        help = "leave the strategy out; place and the net say where layers go"
        raise UsageError("a strategy and a sharding both say where a net runs", help=help)
    graph, given = annotate(graph, places), wanted_devices(devices)
    if shared:
        return _sharded(graph, options, sharding, machine, given)
    if strategy is None:
        return _fitting(Arranged(graph, options), machine)
    if not given:
        raise UsageError("a strategy needs devices", help="such as devices cpu:0,cpu:1")
    table = Machine.typical(given) if machine is None else machine.only(given)
    placement = placement_of(graph, table, strategy, no_kernel)
    return Arranged(apply(graph, placement), options, placement)


def _sharded(
    graph: Graph,
    options: Options,
    said: Sharding | None,
    machine: Machine | None,
    given: tuple[Device, ...],
) -> Arranged:
    """The graph after all its shardings; `given` are the devices that a user names."""
    from netc.compiler import check_net
    from netc.passes.base import Context, run_passes
    from netc.passes.shardings import Shardings, annotated, sharding_devices

    check_net(graph)
    graph = graph if said is None else annotated(graph, said)
    named = sharding_devices(graph)
    choices.check_devices(given, named)
    context = Context(check=options.check)
    made = run_passes(graph, (Shardings(machine),), context)
    options = replace(options, devices=given or named)
    choices.check_target(options.targets, options.devices)
    options = choices.sharded_options(options, graph, made, bool(given))
    return _fitting(Arranged(made, options, fired=tuple(context.fired)), machine)


def _fitting(made: Arranged, machine: Machine | None) -> Arranged:
    """The net itself, where each device of a table has memory and links for its share."""
    from netc.passes.partition.choose import check_places

    placed = (n.device for n in made.graph.nodes if n.device is not None)
    devices = tuple(dict.fromkeys((*made.options.devices[:1], *placed)))
    if machine is not None and devices and set(devices) <= set(machine.devices):
        check_places(made.graph, machine, devices)
    return made


def compile_options(
    optimize: bool,
    cpu: str | Sequence[str],
    check: int | None,
    devices: str | Sequence[str] | None = None,
    target: str | Sequence[str] = "cpu",
    sharding: Sharding | None = None,
    **gpu: Any,
) -> Options:
    """The compiler's options, with NETC_CHECK where `check` is not given; `gpu` are those of GPUs
    (archs, precision, precisions, cache, progress). Without devices, a sharding's own are there."""
    from netc.compiler import Options
    from netc.runtime.artifact import ARCHITECTURES

    levels = tuple(choices.names_of("cpu", cpu))
    for name in levels:
        if name != "native" and name not in ARCHITECTURES:
            fits = f"levels are native, {', '.join(ARCHITECTURES)}"
            raise UsageError(f"no processor level {clean(name)!r}", help=fits)
    if not levels:
        raise UsageError("no processor level is named", help="native is this machine's")
    text = os.environ.get("NETC_CHECK", "1")
    if check is None and text not in ("0", "1", "2", "3"):
        raise UsageError(f"NETC_CHECK is {clean(text)!r}; 0, 1, 2 or 3 fits")
    if check not in (None, 0, 1, 2, 3):
        raise UsageError(f"check is {clean(repr(check))}; 0, 1, 2 or 3 fits")
    level = int(text) if check is None else check
    targets = choices.targets_of(target)
    found = choices.with_sharding(wanted_devices(devices), sharding)
    choices.check_target(targets, found)
    made = Options(
        optimize=optimize, cpu=levels, check=level, devices=found, targets=targets, **gpu
    )
    choices.check_precisions(made.precision, made.precisions)
    return made


def gpu_options(gpu: str | None, on_gpu_loss: str = "error", cache: Any = None) -> GpuOptions:
    """Where runs are on a GPU, with NETC_GPU where `gpu` is not given."""
    from netc.runtime.driver import CHOICES, GpuOptions

    named = os.environ.get("NETC_GPU") or "auto"
    if gpu is None and named not in CHOICES:
        raise UsageError(f"NETC_GPU is {clean(named)!r}", help=f"{', '.join(CHOICES)} fit")
    folder = None if cache is False else _cache_folder()
    wanted = named if gpu is None else gpu
    return GpuOptions(wanted, on_gpu_loss, folder, _for_processors, _for_gpus)


def _cache_folder() -> Path:
    """Where what was measured is kept: `$NETC_CACHE_DIR`, or `netc` among the user's caches."""
    named, base = (os.environ.get(n, "") for n in ("NETC_CACHE_DIR", "XDG_CACHE_HOME"))
    home = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.cache"))
    return Path(named).absolute() if named else home / "netc"


def load(
    path: str | os.PathLike[str],
    threads: int | str | None = None,
    trust: bool | None = None,
    sha256: str | None = None,
    *,
    gpu: str | None = None,
    on_gpu_loss: str = "error",
    hosts: Mapping[str, str | Sequence[str]] | None = None,
) -> Executable:
    """A saved net, every byte of it checked, ready to run.

    Native code is used where it was signed by this user, or `sha256` pins the file, or `trust`
    is True, and where this processor can run it. Otherwise it is made again from the model when
    the compiler is installed, or ArtifactError names both ways out.

    A net on GPUs runs where `gpu` says: "cuda", "interpret" (Triton's interpreter: slow, for
    tests), or "auto", which is cuda, or the processor where there is no GPU and the file has code
    for it; NETC_GPU where it is not given. With `on_gpu_loss` "cpu" the processor takes over where
    there is no GPU, or none any more; the file's code for it is made where it has none.

    A net on several hosts needs to know how to start the worker of each: `hosts` maps its name to
    a command, such as {"node1": "ssh node1 netc worker"}; NETC_HOSTS has those not given.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise UsageError(f"a {type(path).__name__} is no path")
    runs = gpu_options(gpu, on_gpu_loss)
    remake = partial(_recompile, runs=runs)
    exe = _load(path, threads, trust, sha256, remake, gpu=runs, hosts=hosts)
    if (gpu, on_gpu_loss) == ("cuda", "error") and not any("cuda" in d for d in exe.devices):
        help = "compile the net with target cuda, or place layers on cuda:0"
        raise UsageError(f"{clean(path)} has nothing for a GPU to run", help=help)
    return exe


def load_part(
    data: Any, trusted: bool, threads: int | None, gpu: str | None, on_gpu_loss: str
) -> Executable:
    """A part of a net that another host has sent, ready to run: for its worker."""
    from netc.runtime.session import load_part as load_it

    runs = gpu_options(gpu, on_gpu_loss)
    return load_it(data, trusted, threads, runs, partial(_recompile, runs=runs))


def _recompile(file: Any, runs: GpuOptions) -> Any:
    """Make a file's code again; ImportError where the compiler is not installed."""
    from netc.recompile import recompile_here

    return recompile_here(file, runs.gpu, runs.on_loss)


def _for_gpus(model: Any) -> Any:
    """Make code for the GPUs that are here."""
    from netc.recompile import for_gpus

    return for_gpus(model)


def _for_processors(model: Any) -> Any:
    """Make code for processors of a model for GPUs."""
    from netc.recompile import for_processors

    return for_processors(model)


def interpret(graph: Graph, feed: Mapping[str, Any], **options: Any) -> dict[str, Array]:
    """The reference meaning: the outputs of the graph, computed by NumPy in float64.

    Inputs are taken as an executable takes them, but f32 from anything that float64 holds.
    Options: `dtype`, np.float32 for its precision; `seed`, of parameters without weights.
    """
    import numpy as np

    from netc.ir.conditions import check_symbols
    from netc.ir.interpret import interpret as run
    from netc.ir.plan import Port
    from netc.runtime.ports import collect, intakes

    if not isinstance(feed, Mapping):
        raise InputError("inputs go by name: give a mapping")
    net, given = _graph(graph, {}), _known(options, ("dtype", "seed"))
    known = {name: _CHECKS[name](value) for name, value in given.items()}
    check_symbols(net)
    wanted = [
        replace(i, dtype=np.dtype(np.float64)) if i.dtype.kind == "f" else i
        for i in intakes([Port(n.name, n.types[0], 0) for n in net.inputs])
    ]
    arrays = collect(wanted, feed, {})
    named = {i.name: array for i, array in zip(wanted, arrays, strict=True)}
    return run(net, named, **known)


def _float_of(given: Any) -> Any:
    """A precision that NumPy computes in."""
    import numpy as np

    try:
        found = None if given is None else np.dtype(given)
    except TypeError:
        found = None
    if found is None or found.kind != "f":
        help = "np.float64 or np.float32 fits"
        raise UsageError(f"dtype is {clean(repr(given))}", help=help)
    return found


_CHECKS: Mapping[str, Callable[[Any], Any]] = {"dtype": _float_of, "seed": choices.seed_of}
