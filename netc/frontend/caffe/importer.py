"""A Caffe net as a graph: the whole import, stop by stop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from netc.errors import Diagnostic, ParseError, UsageError, WeightsError, clean
from netc.frontend.binding import is_by_name
from netc.frontend.caffe.binder import Binder
from netc.frontend.caffe.build import KNOWN, NetBuilder
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.needed import Part, needed, with_tops
from netc.frontend.caffe.netrules import kept, net_of, state_of
from netc.frontend.caffe.prototxt import MAX_BYTES, read_text
from netc.frontend.caffe.upgrade import upgraded
from netc.frontend.caffe.weights import Source, read_weights
from netc.frontend.caffe.wire import read_binary
from netc.frontend.files import decoded, display, is_text, mapped
from netc.frontend.generalize import Shape, generalized
from netc.frontend.labels import read_labels
from netc.frontend.net.fill import filled, tell
from netc.frontend.preprocess import Preprocessing
from netc.frontend.preprocess import preprocessing as options_of
from netc.frontend.shapes import given_shapes
from netc.ir.graph import Graph
from netc.ir.interpret import SEED

Warn = Callable[[Diagnostic], None]


def from_caffe(
    prototxt: Source,
    caffemodel: Source | Mapping[str, Any] | None = None,
    phase: str = "test",
    level: int = 0,
    stages: Iterable[str] = (),
    shapes: Mapping[str, Iterable[int | str]] | None = None,
    strict: bool = False,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    labels: str | os.PathLike[str] | Iterable[str] = (),
    *,
    outputs: Sequence[str] | None = None,
    warn: Warn | None = None,
    seed: int = 0,
    **prepare: Any,
) -> Graph:
    """The net in a prototxt (a path, text or bytes), with weights from a caffemodel.

    Weights by parameter name, an npz, a safetensors file or a mapping, do as well. With `outputs`
    only the layers that these blobs need are read.
    `shapes` gives inputs the shapes the file lacks, or others. Batch, height and width vary from
    run to run where the net allows it. Warnings go to `warn`, or to the log; `strict` makes
    errors of them. Random layers draw from `seed`. `resize`, `crop`, `mean`, `scale`, `channels`,
    `layout` and `dtype` (or a `preprocessing` that holds them) put that at the head of the net.
    """
    root = read_net(prototxt)
    net, state = net_of(root, state_of(phase, level, stages))
    every = upgraded(net, KNOWN)
    given = given_shapes(shapes)
    part = Part(with_tops(kept(every, state)))
    if outputs is not None:
        part = needed(part.layers, outputs, given, every, state)
    told = partial(tell, warn=warn)
    _report(root.document.warnings, ParseError, strict, told)
    by_name = is_by_name(caffemodel)
    blobs = None if by_name or caffemodel is None else read_weights(cast(Source, caffemodel))
    name = net.text("name") or _stem(root.document.name)
    image = options_of(preprocessing or prepare)

    def builder(sizes: Mapping[str, Shape]) -> NetBuilder:
        return NetBuilder(part, state, {**given, **sizes}, blobs, seed, image)

    first = builder({})
    graph = first.graph(name, every)
    _unknown_shapes(given.keys() - part.others, graph)
    resized = image is not None and image.fixes_size()
    graph = generalized(graph, first.declared, lambda s: builder(s).graph(name, every), resized)
    unread = {m.text("name") for m in part.rest}
    if by_name:
        graph = filled(graph, caffemodel, strict, told, unread)
    else:
        _report(_about_weights(graph, first.binder, unread), WeightsError, strict, told)
    if outputs is not None:
        graph = graph.with_outputs([*outputs])
    notes = (*graph.notes, *(image.notes() if image is not None else ()))
    return replace(graph, labels=read_labels(labels), notes=notes)


def read_net(source: Source) -> Message:
    """The message in a prototxt or in a binary NetParameter: a path, text or bytes."""
    if isinstance(source, str) and ("{" in source or "\n" in source):
        return read_text(source)
    if isinstance(source, bytes | memoryview):
        return _read(memoryview(source), "<bytes>")
    return _read(mapped(source), display(source))


def _read(data: memoryview, name: str) -> Message:
    if not is_text(data):
        return read_binary(data, "NetParameter", name)
    if len(data) > 4 * MAX_BYTES:  # even if each character took four bytes
        return read_text(" " * (MAX_BYTES + 1), name)
    return read_text(decoded(data, name, ParseError), name)


def _stem(name: str) -> str:
    return Path(name).stem if not name.startswith("<") else "net"


def _unknown_shapes(given: Iterable[str], graph: Graph) -> None:
    inputs = {n.name for n in graph.inputs}
    for name in sorted(given):
        if name not in inputs:
            fits = f"its inputs are {', '.join(map(clean, sorted(inputs)))}"
            raise UsageError(f"a shape is given for {clean(name)!r}, not an input", help=fits)


def _report(found: list[Diagnostic], error: type[ParseError] | type[WeightsError], strict: bool,
            warn: Warn) -> None:  # fmt: skip
    if strict and found:
        raise error([replace(d, severity="error") for d in found])
    for d in found:
        warn(d)


def _about_weights(graph: Graph, binder: Binder, unread: set[str]) -> list[Diagnostic]:
    """What the weights lack, and what they have that the net, with its layers `unread`, has not."""
    drawn = [n.name for n in graph.params if n.name not in graph.weights]
    if binder.blobs is None:
        what = f"no weights are given: {len(drawn)} parameters are drawn with seed {SEED}"
        return [Diagnostic(what, severity="warning")] if drawn else []
    out = []
    if drawn:
        what = f"the weights lack {_listed(drawn)}: drawn with seed {SEED}"
        out.append(Diagnostic(what, severity="warning"))
    unused = [name for name in binder.blobs if name not in {*binder.owner, *unread}]
    if unused:
        what = f"the net has no layer for these weights: {_listed(unused)}"
        out.append(Diagnostic(what, severity="warning"))
    return out


def _listed(names: list[str]) -> str:
    return ", ".join(map(clean, names))
