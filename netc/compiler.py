"""The eight stops from a net to something that runs, on one screen, and what users call.

1 parse      a text with its places            frontend
2 elaborate  a typed graph                     frontend
3 optimize   canonicalize, fold, lay out       passes
4 place      devices and copies                passes
5 fuse       kernel bodies, and why not more   passes
6 emit       bodies to object code             codegen
7 order      steps, buffers, barriers          passes, codegen
8 artifact   one file, or something to call    runtime
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netc.errors import GraphError, UnsupportedError, clean
from netc.ir.conditions import check_symbols
from netc.ir.cost import bytes_of
from netc.ir.device import Device
from netc.ir.dims import evaluate
from netc.ir.graph import Graph, Node, Stage
from netc.ir.interpret import initial_weights
from netc.runtime.artifact import HOSTS, MAX_PARTS, ON_GPU, Artifact, Level
from netc.version import __version__

if TYPE_CHECKING:
    from netc.codegen.backend import BackEnd
    from netc.codegen.precision import Precision
    from netc.codegen.triton.backend import GpuBackEnd
    from netc.codegen.weight_store import WeightStore
    from netc.ir.gpu_code import GpuImage
    from netc.passes.base import Context
    from netc.passes.follow import Words

MAX_WEIGHTS = 1 << 34  # bytes of one net's parameters


@dataclass(frozen=True)
class Options:
    """What a compilation may be told. `cpu` names processor levels, `native` for this one.

    Nodes that do not say where they run are on the first of `devices`, or of those for a GPU where
    `targets` has cuda; with both targets a file for GPUs also holds a plan for processors alone.
    `precision` says how exactly products are computed, in all nodes or by `precisions` of layers.
    For GPUs: `archs` names architectures; compiled kernels are kept in the folder `cache`, and
    `progress` hears how far they are.
    """

    optimize: bool = True
    cpu: tuple[str, ...] = ("native",)
    check: int = 1
    seed: int = 0
    devices: tuple[Device, ...] = ()
    targets: tuple[str, ...] = ("cpu",)
    archs: tuple[str, ...] = ("sm_80", "sm_90", "ptx")
    precision: str = "high"
    precisions: Mapping[str, str] = field(default_factory=dict)
    cache: Path | None = None
    progress: Callable[[int, int], None] | None = None

    @property
    def named(self) -> set[str]:
        """Every precision that anything is to have."""
        return {self.precision, *self.precisions.values()}

    def precision_of(self, kernel: Node) -> Precision:
        """How exactly a kernel is to be computed, on any device."""
        from netc.codegen.precision import Precision

        return Precision(self.precisions.get(kernel.name, self.precision))


@dataclass(frozen=True)
class Lowered:
    """A graph of kernels, the order in which they run, and how exactly some are computed."""

    graph: Graph
    order: tuple[Node, ...]
    context: Context
    precisions: Mapping[str, str]  # of kernels, where they are not as exact as the rest


def lower(graph: Graph, options: Options = Options()) -> Lowered:
    """Stops 3 to 5, and the order of 7: from a net to scheduled kernels."""
    from netc.codegen.accept import row_major, why_not
    from netc.passes.base import Context, run_passes
    from netc.passes.order import schedule
    from netc.passes.pipelines import INFERENCE, MINIMAL, for_back_end

    graph, default = _checked(graph, options)
    words = _words(graph, options)
    context = Context(check=options.check, seed=options.seed, hooks=(words,))
    passes = INFERENCE if options.optimize else MINIMAL
    graph = run_passes(graph, for_back_end(passes, why_not, row_major(default), default), context)
    other = {k: p for k, p in words.of_kernels(graph).items() if p != options.precision}
    return Lowered(graph, schedule(graph), context, other)


def _checked(graph: Graph, options: Options) -> tuple[Graph, Device]:
    """A net that can be compiled, with all its weights, and where nodes run that say nothing."""
    from netc.passes.place import default_device

    check_net(graph)
    _check_size(graph)
    default = default_device(graph, options.devices, "cuda" if "cuda" in options.targets else "")
    return replace(graph, weights=initial_weights(graph, options.seed)), default


def _words(graph: Graph, options: Options) -> Words:
    """The precision of every node, where they are not all alike, to be followed by name."""
    from netc.codegen.precision import most_exact
    from netc.passes.follow import Words

    said = dict.fromkeys((n.name for n in graph.nodes), options.precision)
    said |= _precisions(graph, options)
    return Words(said if options.precisions else {}, most_exact)


def _precisions(graph: Graph, options: Options) -> dict[str, str]:
    """The precision of each node of a layer that has one of its own."""
    from netc.passes.layers import layer

    said: dict[str, str] = {}
    for name, precision in options.precisions.items():
        said |= dict.fromkeys((n.name for n in layer(graph, name, "to compute")), precision)
    return said


def emit(graph: Graph, order: Sequence[Node], options: Options, locs: Any = None) -> Artifact:
    """Stops 6 to 8: code, plans and weights of a graph of kernels, for each processor level.

    `options.precisions` are of kernels, by their names.
    """
    from netc.codegen.cpu.backend import stored_params
    from netc.codegen.weight_store import WeightStore
    from netc.ir.text import show
    from netc.runtime.memory import aligned

    store = WeightStore()
    on_gpus = any(n.device is not None and n.device.kind == "cuda" for n in graph.nodes)
    gpu = _gpu_back_end(store, graph, options) if on_gpus else None
    levels = _levels(graph, order, options, store, gpu)
    params = stored_params(store, graph)
    weights = aligned(store.size, "weights", present=False)
    store.fill(weights)
    notes: dict[str, Any] = {"notes": list(graph.notes), "usual": dict(graph.usual)}
    if gpu is not None:  # what it takes to make the file again
        notes |= {"optimize": options.optimize, "targets": list(options.targets)}
    if gpu is not None or options.named != {Options.precision}:
        notes |= {"precision": options.precision, "precisions": dict(options.precisions)}
    return Artifact(
        ir=show(graph),
        weights=weights.data.toreadonly(),
        levels=levels,
        params={name: [at, *packing] for name, (at, packing) in params.items()},
        locs=_places(graph) if locs is None else locs,
        labels=graph.labels,
        notes=notes,
        compiler=__version__,
        gpu=None if gpu is None else _gpu_image(gpu, options),
    )


def _levels(
    graph: Graph,
    order: Sequence[Node],
    options: Options,
    store: WeightStore,
    gpu: GpuBackEnd | None,
) -> list[Level]:
    """A plan and code for each processor level; one plan for all where only GPUs compute.

    Beside that one, where it is asked for, the plans of the net on processors alone.
    """
    from netc.codegen.backend import HOST, plan_graph
    from netc.passes.inline import net_of

    if gpu is None:
        return _host_levels(graph, order, options, store, {})
    hosts = _computing_hosts(graph)
    both = "cpu" in options.targets and "cuda" in options.targets
    if hosts and both:
        raise UnsupportedError(
            f"target cpu,cuda asks for the whole net on a GPU; %{clean(hosts[0].name)} is on "
            f"{hosts[0].device}",
            hosts[0].loc,
            help="target cuda leaves it there, in a file that needs both devices",
        )
    if hosts:
        return _host_levels(graph, order, options, store, {"cuda": gpu})
    plan = plan_graph(graph, order, {HOST: gpu, "cuda": gpu})
    level = Level(name=ON_GPU, features=frozenset(), plan=plan, code=b"", symbols={})
    if not both:
        return [level]
    options = on_processors(options)
    alone = lower(net_of(graph), options)  # from the file's own IR, as verify does
    return [level, *_host_levels(alone.graph, alone.order, options, store, {})]


def _host_levels(
    graph: Graph,
    order: Sequence[Node],
    options: Options,
    store: WeightStore,
    others: Mapping[str, BackEnd],
) -> list[Level]:
    """Plan and code for each processor level; `others` are the back ends of other devices."""
    from netc.codegen.cpu.backend import compile_graph
    from netc.codegen.cpu.target import required_features, target_named
    from netc.codegen.precision import Precision

    levels = []
    quads = Precision.INT8.value in options.named
    pairs = quads or Precision.LOW.value in options.named
    targets = {t.name: t for t in (target_named(name, pairs, quads) for name in options.cpu)}
    for _, target in sorted(targets.items()):  # so that equal requests give equal files
        made = compile_graph(graph, order, target, store, others, options.precision_of)
        level = Level(
            name=target.name,
            features=required_features(target.name),
            plan=made.plan,
            code=made.image.code,
            symbols=made.image.symbols,
        )
        levels.append(level)
    return levels


def on_processors(options: Options) -> Options:
    """The same options for a net that is compiled for processors alone.

    Kernels are others there, so all are as exact as the most exact.
    """
    from netc.codegen.precision import most_exact

    precision = most_exact(list(options.named))
    return replace(options, targets=("cpu",), devices=(), precision=precision, precisions={})


def _computing_hosts(graph: Graph) -> list[Node]:
    """The nodes of the net that compute on a processor, or are copied to its results there."""
    from netc.passes.facts import SOURCES

    given = {v.node for v in graph.outputs.values()}
    placed = [n for n in graph.nodes if n in given or not isinstance(n.op, SOURCES)]
    return [n for n in placed if n.device is None or n.device.kind != "cuda"]


def _gpu_back_end(store: WeightStore, graph: Graph, options: Options) -> GpuBackEnd:
    from netc.codegen.precision import Precision
    from netc.codegen.triton.backend import GpuBackEnd
    from netc.ir.ops.fused import Fused
    from netc.ir.ops.sources import Input

    by_node = {name: Precision(p).on_gpus for name, p in options.precisions.items()}
    for node in graph.nodes:
        if node.name in options.precisions and isinstance(node.op, Fused):
            inner = (n.name for n in node.op.body.nodes if not isinstance(n.op, Input))
            by_node |= dict.fromkeys(inner, by_node[node.name])
    back_end = GpuBackEnd(store, Precision(options.precision).on_gpus, by_node)
    back_end.prepare(graph)
    return back_end


def _gpu_image(gpu: GpuBackEnd, options: Options) -> GpuImage:
    """The kernels compiled; where no architecture is asked for, as text only."""
    from netc.codegen.triton.image import build_image
    from netc.ir.gpu_code import GpuImage, GpuKernel

    if options.archs:
        return build_image(gpu.kernels, options.archs, options.cache, options.progress)
    kernels = {s: GpuKernel(k, tuple({} for _ in k.variants)) for s, k in gpu.kernels.items()}
    return GpuImage(kernels)


def build(graph: Graph, options: Options = Options()) -> Artifact:
    """A whole compilation of one graph."""
    from netc.passes.hosts import on_hosts

    if on_hosts(graph, options.devices[:1]):
        return build_parts(graph, options)
    return finish(lower(graph, options), options)


def build_parts(graph: Graph, options: Options) -> Artifact:
    """A compilation of a net on several hosts: a plan that calls parts, each a net of its own."""
    from netc.ir.text import show
    from netc.passes.base import Context, run_passes
    from netc.passes.canonicalize import Canonicalize
    from netc.passes.fold_params import FoldParams
    from netc.passes.hosts import cut_by_host
    from netc.passes.hosts_plan import plan_of_parts
    from netc.passes.shardings import Shardings

    graph, default = _checked(graph, options)
    before = (Shardings(), Canonicalize(), FoldParams())  # what is fixed has no place
    graph = run_passes(graph, before, Context(check=options.check))
    said = _precisions(graph, options)
    programs, plan = plan_of_parts(*cut_by_host(graph, default), said)
    if len(programs) > MAX_PARTS:
        help = "place neighbouring layers on one host"
        raise UnsupportedError(f"the net is in {len(programs)} parts; {MAX_PARTS} fit", help=help)
    level = Level(name=HOSTS, features=frozenset(), plan=plan, code=b"", symbols={})
    return Artifact(
        ir=show(graph),
        weights=b"",
        levels=[level],
        locs=_places(graph),
        labels=graph.labels,
        notes={"notes": list(graph.notes), "usual": dict(graph.usual)},
        compiler=__version__,
        parts=[build(part, _of_part(part, said, options)) for part in programs],
    )


def _of_part(part: Graph, said: Mapping[str, str], options: Options) -> Options:
    """The options for a part of a net: every node has its device, and its precision by name."""
    here = {n.name for n in part.nodes} & set(said)
    on_gpus = any(n.device is not None and n.device.kind == "cuda" for n in part.nodes)
    targets = ("cuda",) if on_gpus else ("cpu",)
    precisions = {name: said[name] for name in sorted(here, key=len)}
    return replace(options, devices=(), targets=targets, precisions=precisions)


def finish(lowered: Lowered, options: Options) -> Artifact:
    """Stops 6 to 8 of a compilation whose stops before are done."""
    return emit(lowered.graph, lowered.order, replace(options, precisions=lowered.precisions))


def check_net(graph: Graph) -> None:
    """Refuse a graph that is no longer as it was read, or whose sizes no run can know."""
    if graph.stage is not Stage.NET:
        raise GraphError(f"{graph!r} has had its passes", help="compile the net it was made from")
    check_symbols(graph)


def _check_size(graph: Graph) -> None:
    """Refuse a net whose parameters could not be held, before any memory is taken."""
    sizes = {n.name: evaluate(bytes_of(n.types[0]), {}) for n in graph.params}
    if sum(sizes.values()) > MAX_WEIGHTS:
        biggest = max(sizes, key=lambda name: sizes[name])
        raise GraphError(
            f"the net's parameters need {sum(sizes.values()) >> 20} MiB, more than "
            f"{MAX_WEIGHTS >> 20}; the biggest is {clean(biggest)}"
        )


def _places(graph: Graph) -> dict[str, list[Any]]:
    """Node -> file name, line, column; no folder, so that no path of this machine is kept."""
    return {
        n.name: [clean(Path(n.loc.file).name), n.loc.line, n.loc.column]
        for n in graph.nodes
        if n.loc.line
    }
