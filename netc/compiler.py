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

import numpy as np

from netc.errors import ArtifactError, GraphError, clean
from netc.ir.device import Device
from netc.ir.dims import evaluate
from netc.ir.graph import Graph, Node, Stage
from netc.ir.interpret import initial_weights
from netc.ir.op import Array
from netc.runtime.artifact import Artifact, ArtifactFile, Level
from netc.version import __version__

if TYPE_CHECKING:
    from netc.codegen.operand import WeightStore
    from netc.codegen.triton.backend import GpuBackEnd
    from netc.ir.gpu_code import GpuImage
    from netc.passes.base import Context

MAX_WEIGHTS = 1 << 34  # bytes of one net's parameters


@dataclass(frozen=True)
class Options:
    """What a compilation may be told. `cpu` names processor levels, `native` for this one.

    Nodes that do not say where they run are on the first of `devices`. For GPUs: `archs` names
    architectures, `precision` how exactly products are computed, in all nodes or by their names;
    compiled kernels are kept in the folder `cache`, and `progress` hears how far they are.
    """

    optimize: bool = True
    cpu: tuple[str, ...] = ("native",)
    check: int = 1
    seed: int = 0
    devices: tuple[Device, ...] = ()
    archs: tuple[str, ...] = ("sm_80", "sm_90", "ptx")
    precision: str = "high"
    precisions: Mapping[str, str] = field(default_factory=dict)
    cache: Path | None = None
    progress: Callable[[int, int], None] | None = None


@dataclass(frozen=True)
class Lowered:
    """A graph of kernels and the order in which they run."""

    graph: Graph
    order: tuple[Node, ...]
    context: Context


def lower(graph: Graph, options: Options = Options()) -> Lowered:
    """Stops 3 to 5, and the order of 7: from a net to scheduled kernels."""
    from netc.codegen.accept import row_major, why_not
    from netc.passes.base import Context, run_passes
    from netc.passes.order import schedule
    from netc.passes.pipelines import INFERENCE, MINIMAL, for_back_end
    from netc.passes.place import default_device

    if graph.stage is not Stage.NET:
        raise GraphError(f"{graph!r} has had its passes", help="compile the net it was made from")
    _check_size(graph)
    default = default_device(graph, options.devices)
    graph = replace(graph, weights=initial_weights(graph, options.seed))
    context = Context(check=options.check, seed=options.seed)
    passes = INFERENCE if options.optimize else MINIMAL
    graph = run_passes(graph, for_back_end(passes, why_not, row_major(default), default), context)
    return Lowered(graph, schedule(graph), context)


def emit(graph: Graph, order: Sequence[Node], options: Options, locs: Any = None) -> Artifact:
    """Stops 6 to 8: code, plans and weights of a graph of kernels, for each processor level."""
    from netc.codegen.cpu.backend import stored_params
    from netc.codegen.operand import WeightStore
    from netc.ir.text import show

    store = WeightStore()
    kinds = {n.device.kind for n in graph.nodes if n.device is not None}
    gpu = _gpu_back_end(store, options) if "cuda" in kinds else None
    levels = _levels(graph, order, options, store, gpu)
    params = stored_params(store, graph.weights)
    notes: dict[str, Any] = {"notes": list(graph.notes)}
    if gpu is not None:
        notes |= {"precision": options.precision, "precisions": dict(options.precisions)}
    return Artifact(
        ir=show(graph),
        weights=b"".join(store.pieces),
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
    """A plan and code for each processor level; one plan for all where only GPUs compute."""
    from netc.codegen.backend import HOST, plan_graph
    from netc.codegen.cpu.backend import compile_graph
    from netc.codegen.cpu.target import required_features, target_named

    if gpu is not None and not _computing_hosts(graph):
        plan = plan_graph(graph, order, {HOST: gpu, "cuda": gpu})
        return [Level(name="cuda", features=frozenset(), plan=plan, code=b"", symbols={})]
    levels = []
    targets = {target_named(name).name: target_named(name) for name in options.cpu}
    for _, target in sorted(targets.items()):  # so that equal requests give equal files
        made = compile_graph(graph, order, target, store, {"cuda": gpu} if gpu else {})
        level = Level(
            name=target.name,
            features=required_features(target.name),
            plan=made.plan,
            code=made.image.code,
            symbols=made.image.symbols,
        )
        levels.append(level)
    return levels


def _computing_hosts(graph: Graph) -> bool:
    """Whether any node of the net computes on a processor."""
    from netc.passes.facts import SOURCES

    placed = [n for n in graph.nodes if not isinstance(n.op, SOURCES)]
    return any(n.device is None or n.device.kind != "cuda" for n in placed)


def _gpu_back_end(store: WeightStore, options: Options) -> GpuBackEnd:
    from netc.codegen.triton.backend import GpuBackEnd
    from netc.codegen.triton.precision import Precision

    by_node = {name: Precision(p) for name, p in options.precisions.items()}
    return GpuBackEnd(store, Precision(options.precision), by_node)


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
    lowered = lower(graph, options)
    return emit(lowered.graph, lowered.order, options)


def _check_size(graph: Graph) -> None:
    """Refuse a net whose parameters could not be held, before any memory is taken."""
    sizes = {n.name: 4 * evaluate(n.types[0].count, {}) for n in graph.params}
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


def recompile(file: ArtifactFile, options: Options = Options()) -> Artifact:
    """Make a file's native code again, from its IR and weights; for this processor, or others."""
    from netc.ir.text import parse
    from netc.passes.order import schedule

    graph = parse(file.ir, name=file.name)
    graph = replace(graph, weights=_unpacked(file, graph))
    notes = file.notes
    if "precision" in notes:
        options = replace(options, precision=notes["precision"], precisions=notes["precisions"])
    return emit(graph, schedule(graph), options, locs=file.locs)


def _unpacked(file: ArtifactFile, graph: Graph) -> dict[str, Array]:
    """The parameters of a file by name, out of its packed weights."""
    from netc.codegen.packing import packed_count, unpack

    whole = np.frombuffer(file.weights, np.uint8)
    out: dict[str, Array] = {}
    for node in graph.params:
        entry = file.params.get(node.name)
        if not isinstance(entry, list) or len(entry) < 2 or not isinstance(entry[0], int):
            raise ArtifactError(f"the file does not say where parameter {clean(node.name)} is")
        at, packing, shape = entry[0], entry[1:], node.types[0].sizes({})
        size = 4 * packed_count(packing, shape)
        if at < 0 or at + size > len(whole):
            raise ArtifactError(f"parameter {clean(node.name)} is outside the weights")
        out[node.name] = unpack(whole[at : at + size].view(np.float32), packing, shape)
    return out
