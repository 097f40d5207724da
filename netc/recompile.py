"""From a file back to code: its IR and weights, compiled again for this machine or others.

Nothing that a file says is believed: its IR is read and verified like any text, its weights are
numbers, and its notes are options that are checked like a user's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from netc.choices import archs_of, cache_of
from netc.compiler import Options, build, emit, on_processors
from netc.errors import ArtifactError, clean
from netc.ir.graph import Graph
from netc.ir.op import Array
from netc.runtime.artifact import Artifact, ArtifactFile, read_artifact

DEFAULT = Options()


def recompile(file: ArtifactFile, options: Options = DEFAULT) -> Artifact:
    """Make a file's code again, from its IR and weights, with its own options but for the rest."""
    from netc.passes.order import schedule

    graph = graph_of(file)
    return emit(graph, schedule(graph), replace(options, **noted(file)), locs=file.locs)


def recompile_here(file: ArtifactFile, gpu: str, on_gpu_loss: str) -> Artifact:
    """Make a file's code again for this machine: for its GPUs, where the file is for some.

    Kernels that are interpreted need no machine code. Where there is no GPU the processor's code
    is made, if the file was for processors too or that is to be done on the loss of a GPU.
    """
    from netc.runtime.cuda_probe import probe, require_gpu

    said = noted(file)
    if "targets" not in said or gpu == "interpret":
        return recompile(file, Options(archs=()))
    if probe().count == 0:
        both = "cpu" in said["targets"] and "cuda" in said["targets"]
        if on_gpu_loss == "cpu" or (both and gpu == "auto"):
            return for_processors(file)
        require_gpu()
    return recompile(file, Options(archs=archs_of(None, gpu), cache=cache_of(None)))


def for_gpus(model: Artifact | ArtifactFile) -> Artifact:
    """A model for GPUs, compiled again for those that are here."""
    return recompile(_file(model), Options(archs=archs_of(None, "cuda"), cache=cache_of(None)))


def for_processors(model: Artifact | ArtifactFile, options: Options = DEFAULT) -> Artifact:
    """A model for GPUs, compiled again for processors alone."""
    file = _file(model)
    return build(net_inside(file), on_processors(replace(options, **noted(file))))


def _file(model: Artifact | ArtifactFile) -> ArtifactFile:
    """A model as what can be read again."""
    if isinstance(model, ArtifactFile):
        return model
    return read_artifact(memoryview(b"".join(model.pieces())), "the net")


def net_inside(file: ArtifactFile) -> Graph:
    """The net in a file, with its weights, as any device may be compiled for."""
    from netc.passes.inline import net_of

    return net_of(graph_of(file))


def graph_of(file: ArtifactFile) -> Graph:
    """The kernels in a file, with their weights."""
    from netc.ir.text import parse

    graph = parse(file.ir, name=file.name)
    return replace(graph, weights=_unpacked(file, graph))


def noted(file: ArtifactFile) -> dict[str, Any]:
    """The options that a file was made with, as far as it says them: one for GPUs says all."""
    from netc.codegen.precision import Precision

    names = ("optimize", "targets", "precision", "precisions")
    notes = {name: file.notes[name] for name in names if name in file.notes}
    if not notes:
        return {}
    known = {p.value for p in Precision}
    match notes:
        case {
            "optimize": bool(),
            "targets": list() as targets,
            "precision": str() as precision,
            "precisions": dict() as precisions,
        } if _are(targets, {"cpu", "cuda"}) and _are([precision, *precisions.values()], known):
            return {**notes, "targets": tuple(targets)}
        case {"precision": str() as precision, "precisions": dict() as precisions, **others} if (
            not others and _are([precision, *precisions.values()], known)
        ):
            return notes
    raise ArtifactError("the file does not say how it was compiled")


def _are(values: list[Any], known: set[str]) -> bool:
    return all(isinstance(v, str) and v in known for v in values)


def _unpacked(file: ArtifactFile, graph: Graph) -> Mapping[str, Array]:
    """The parameters of a file by name, out of its packed weights."""
    from netc.codegen.packing import packed_count, unpack

    whole = np.frombuffer(file.weights, np.uint8)
    out: dict[str, Array] = {}
    for node in graph.params:
        entry = file.params.get(node.name)
        if not isinstance(entry, list) or len(entry) < 2 or not isinstance(entry[0], int):
            raise ArtifactError(f"the file does not say where parameter {clean(node.name)} is")
        at, packing, shape = entry[0], entry[1:], node.types[0].sizes({})
        dtype = node.types[0].dtype.numpy
        is_float = dtype == np.float32  # integers lie as they are
        size = 4 * packed_count(packing, shape) if is_float else dtype.itemsize * math.prod(shape)
        if at < 0 or at + size > len(whole):
            raise ArtifactError(f"parameter {clean(node.name)} is outside the weights")
        numbers = whole[at : at + size].view(dtype)
        out[node.name] = unpack(numbers, packing, shape) if is_float else numbers.reshape(shape)
    return out
