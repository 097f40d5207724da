"""Every value of a model as its own kernels compute it, and how far two models are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.choices import archs_of, cache_of
from netc.compiler import Options, emit, lower, on_processors
from netc.errors import UsageError, clean
from netc.ir.graph import Builder, Graph, Node, Value
from netc.ir.interpret import interpret
from netc.ir.ops.fused import Fused
from netc.ir.types import DType
from netc.ir.verify import is_copy
from netc.passes.order import schedule
from netc.recompile import graph_of, net_inside, noted
from netc.runtime.artifact import ArtifactFile
from netc.runtime.cuda_probe import probe
from netc.runtime.driver import GpuOptions
from netc.runtime.session import executable

Arrays = Mapping[str, NDArray[Any]]
GROWS = 4.0  # times the largest difference of what a kernel reads
ROUNDING = 1e-5  # of the largest magnitude: what two engines in float32 may differ by


@dataclass(frozen=True)
class Model:
    """The kernels of a file as they would run here, and how they are compiled."""

    graph: Graph
    options: Options

    def values(self) -> dict[str, Value]:
        """What its kernels give, in their order, and the net's outputs."""
        kernels = (n for n in self.graph.nodes if isinstance(n.op, Fused) and not is_copy(n.op))
        given = {v.name: v for n in kernels for v in n.results if v.type.dtype is DType.F32}
        return given | dict(self.graph.outputs)


@dataclass(frozen=True)
class Apart:
    """How far apart two models are in one value; errors are parts of the largest magnitude."""

    name: str
    type: str
    most: float  # |a − b|
    part: float  # of the largest |b|
    first: float  # of a, from its own meaning in float64
    second: float
    grows: bool  # more than what the value is made of


def model_of(file: ArtifactFile, runs: GpuOptions) -> Model:
    """A file's kernels: those for GPUs where they would run, else those for the processor."""
    if file.on_hosts:
        help = "compile the net for one host, with the same options but for places"
        raise UsageError(f"{file.name} is on several hosts: its values are in parts", help=help)
    said = noted(file)
    on_gpus = "targets" in said
    if on_gpus and probe().count == 0 and runs.gpu != "interpret":
        both = "cpu" in said["targets"] and "cuda" in said["targets"]
        if (both and runs.gpu == "auto") or runs.on_loss == "cpu":
            options = on_processors(replace(Options(), **said))
            return Model(lower(net_inside(file), options).graph, options)
    archs = archs_of(None, runs.gpu) if on_gpus else ()
    options = replace(Options(archs=archs, cache=cache_of(None)), **said)
    return Model(graph_of(file), replace(options, targets=options.targets[-1:]))


def compared(a: Model, b: Model, feed: Arrays, runs: GpuOptions) -> list[Apart]:
    """Every value that both have by name and shape, in the order in which they are made."""
    ours, theirs = a.values(), b.values()
    names = [n for n, v in ours.items() if n in theirs and _alike(v, theirs[n])]
    if not names:
        raise UsageError("the two models have no value in common", help="compile one net twice")
    first, second = (run(m, names, feed, runs) for m in (a, b))
    truth = [interpret(_giving(m, names), feed) for m in (a, b)]
    found: list[Apart] = []
    parts: dict[str, float] = {}
    for name in names:
        most, part = gap(first[name], second[name])
        parts[name] = part
        before = max((parts.get(v, 0.0) for v in _made_of(theirs[name].node, b.graph)), default=0.0)
        found.append(
            Apart(
                name=name,
                type=str(ours[name].type.plain()),
                most=most,
                part=part,
                first=gap(first[name], truth[0][name])[1],
                second=gap(second[name], truth[1][name])[1],
                grows=part > max(GROWS * before, ROUNDING),
            )
        )
    return found


def check_inputs(a: Model, b: Model) -> None:
    """Raise UsageError where one model cannot be given what the other takes."""
    ours, theirs = ({n.name: n.types[0] for n in m.graph.inputs} for m in (a, b))
    if ours != theirs:
        said = [
            ", ".join(f"{clean(k)}: {t}" for k, t in inputs.items()) for inputs in (ours, theirs)
        ]
        raise UsageError(
            f"the inputs differ: {said[0]} and {said[1]}", help="compile one net twice"
        )


def _alike(v: Value, other: Value) -> bool:
    return v.type.plain() == other.type.plain()


def _made_of(node: Node, graph: Graph) -> Sequence[str]:
    """The names of the values that a kernel reads, through views and copies."""
    found, waiting, seen = list[str](), list(node.inputs), set[Value]()
    while waiting:
        v = waiting.pop()
        if v in seen:
            continue
        seen.add(v)
        found.append(v.name)
        if not isinstance(v.op, Fused) or is_copy(v.op):
            waiting += v.node.inputs
    return found


def _giving(model: Model, names: Sequence[str]) -> Graph:
    values = model.values()
    return replace(model.graph, outputs={name: values[name] for name in names})


def run(model: Model, names: Sequence[str], feed: Arrays, runs: GpuOptions) -> Arrays:
    """The named values of one run. Kernels are those of the model, and lie where its own do."""
    values = model.values()
    graph = observed(model.graph, {name: values[name] for name in names})
    made = emit(graph, schedule(graph), model.options)
    return executable(made, gpu=runs)(feed)


def observed(graph: Graph, values: Mapping[str, Value]) -> Graph:
    """The graph that gives copies of some values, and changes nothing of how they are made."""
    b = Builder({n.name for n in graph.nodes})
    return replace(graph, outputs={name: _copied(b, name, v) for name, v in values.items()})


def _copied(b: Builder, name: str, v: Value) -> Value:
    """1·v + 0, a kernel of its own, so that v stays where it is."""
    if v.type.dtype is not DType.F32:
        return v
    inner = Builder()
    x = inner.input("x", v.type)
    body = inner.graph("value", {"y": inner.affine(x, scale=1.0, shift=0.0)})
    types = tuple(y.type for y in body.outputs.values())
    return Node(Fused(body), (v,), types, b.unique(f"{name}.value"), v.node.loc, v.node.device).out


def gap(x: NDArray[Any], y: NDArray[Any]) -> tuple[float, float]:
    """The largest |x − y|, and what part of the largest |y| it is. NaN equals NaN."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    with np.errstate(invalid="ignore"):
        off = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
    most = float(np.where(np.isnan(off), np.inf, off).max(initial=0.0))
    scale = float(np.abs(y[np.isfinite(y)]).max(initial=0.0))
    return most, most / scale if scale else (0.0 if most == 0 else float("inf"))
