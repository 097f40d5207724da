"""The net or model a command is given, read with the options of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netc.errors import UsageError, clean

if TYPE_CHECKING:
    from netc.ir.graph import Graph, Value

NETS = (".net", ".prototxt", ".ir", ".txt", ".pt")

# What a reader calls each option of the command line.
_NET = {
    "weights": "weights",
    "phase": "phase",
    "shape": "shapes",
    "net": "net",
    "strict": "strict",
}
_PREPARE = ("resize", "crop", "mean", "scale", "channels")
_CAFFE = {
    "weights": "caffemodel",
    "phase": "phase",
    "level": "level",
    "stage": "stages",
    "shape": "shapes",
    "strict": "strict",
    **{name: name for name in _PREPARE},
}
_DEFAULTS = {"phase": "test", "level": 0, "strict": False}
_KNOWN = {*_CAFFE, *_NET, "output", "labels"}


def is_model(path: Path) -> bool:
    """Whether a file is a compiled model, by its first bytes or else its suffix."""
    from netc.runtime.container import MAGIC

    head = b""
    try:
        if path.is_file():  # a pipe would be waited on
            with path.open("rb") as stream:
                head = stream.read(len(MAGIC))
    except (OSError, ValueError):
        return path.suffix == ".bin"
    return head == MAGIC or path.suffix == ".bin"


def read_source(path: Path, options: Mapping[str, Any]) -> Graph:
    """The graph of a net file, or the one inside a compiled model."""
    from netc import api

    given = {k: v for k, v in options.items() if k in _KNOWN and _is_given(k, v)}
    outputs, labels = [*given.pop("output", ())] or None, given.pop("labels", None)
    if is_model(path):
        if given:
            raise UsageError(f"--{next(iter(given))} says how a net is read; this is a model")
        graph = _inside(path)
        graph = graph.with_outputs(outputs) if outputs else graph
    else:
        graph = api.read(path, outputs=outputs, **_named(path, given))
    if labels is not None:
        from netc.cli.show import tell_of_labels
        from netc.frontend.labels import read_labels

        graph = replace(graph, labels=read_labels(labels))
        if graph.labels and not any(_may_name(v, graph.labels) for v in graph.outputs.values()):
            tell_of_labels(len(graph.labels))
    return graph


def _may_name(output: Value, labels: Sequence[str]) -> bool:
    """Whether the labels may be names of what an output has: scores of so many, or boxes."""
    from netc.cli.detections import NUMBERS

    shape = output.type.shape
    if len(shape) == 4 and shape[3] == NUMBERS:
        return True
    row = output.type.with_shape(shape[1:] if len(shape) >= 2 else shape)
    return bool(row.symbols) or row.count == len(labels)


def _is_given(name: str, value: Any) -> bool:
    return value not in (None, (), _DEFAULTS.get(name))


def _named(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    suffix = path.suffix.lower()
    names: Mapping[str, str] = _CAFFE if suffix in (".prototxt", ".txt", ".pt") else _NET
    if suffix == ".ir":
        names = {"weights": "weights", "strict": "strict"}
    out = {}
    for option, value in given.items():
        if option not in names:
            kind = clean(path.suffix) or "file without a suffix"
            raise UsageError(f"--{option} does not go with a {kind}")
        out[names[option]] = dict(value) if option == "shape" else value
    return out


def _inside(path: Path) -> Graph:
    """The graph a model was lowered to, without its weights."""
    from netc.ir.text import parse
    from netc.runtime.artifact import open_artifact

    file = open_artifact(path)
    return replace(parse(file.ir, file.name), labels=file.labels)
