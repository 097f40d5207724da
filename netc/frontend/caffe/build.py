"""Layers to nodes, in file order: bottoms, tops, in-place versions, and all mistakes at once."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches

from netc.errors import Diagnostic, GraphError, UnsupportedError, WeightsError, clean
from netc.frontend.caffe import (
    layers_common,
    layers_forks,
    layers_loss,
    layers_neuron,
    layers_norm,
    layers_recurrent,
    layers_vision,
)
from netc.frontend.caffe.binder import Binder
from netc.frontend.caffe.layer import RULES, Layer, ScopedBuilder, unsupported
from netc.frontend.caffe.layers_data import DATA
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.naming import settled
from netc.frontend.caffe.netrules import State, left_out
from netc.frontend.caffe.weights import Blobs
from netc.frontend.generalize import Shape
from netc.frontend.preprocess import Preprocessing
from netc.ir.graph import Graph, Node, Value
from netc.ir.ops.elementwise import Affine
from netc.ir.types import DType, TensorType

FAMILIES = (
    layers_common,
    layers_forks,
    layers_loss,
    layers_neuron,
    layers_norm,
    layers_recurrent,
    layers_vision,
)
KNOWN = (*RULES, *DATA)


class NetBuilder:
    """One pass over the layers of a net, with given shapes for its inputs."""

    def __init__(
        self,
        layers: list[Message],
        state: State,
        shapes: Mapping[str, Shape],
        blobs: Blobs | None,
        seed: int = 0,
        prepare: Preprocessing | None = None,
    ) -> None:
        self.layers, self.state, self.shapes, self.seed = layers, state, shapes, seed
        self.prepare = prepare  # what is to happen to the first image input
        self.declared: dict[str, Shape] = {}  # the shape of each input, as the net sees it
        self.given: dict[str, Value] = {}  # what each input is before any layer changes it
        self.b = ScopedBuilder()
        self.binder = Binder(self.b, blobs)
        self.blobs: dict[str, Value] = {}  # each blob's current version
        self.named: Counter[Value] = Counter()  # how many blobs a value is the current version of
        self.maker: dict[str, Message] = {}  # the layer that made it
        self.unread: dict[str, None] = {}  # blobs that no layer has read
        self.broken: set[str] = set()  # blobs of layers that have a mistake
        self.names: dict[Node, str] = {}
        self.wrong: list[Diagnostic] = []
        self.beyond: list[Diagnostic] = []

    def graph(self, name: str, left: list[Message]) -> Graph:
        """The graph; `left` are the layers other states have, for hints. Raises all mistakes."""
        for message in self.layers:
            try:
                self._layer(message, left)
            except UnsupportedError as e:
                self.beyond += e.diagnostics
                self._break(message)
            except GraphError as e:
                self.wrong += e.diagnostics
                self._break(message)
        self._raise()
        made = {b: v for b, v in self.blobs.items() if self.given.get(b) != v}
        outputs = {b: made[b] for b in sorted(self.unread) if b in made}
        if not self.layers:
            raise GraphError(f"the net has no layers in phase {self.state.phase}")
        if not outputs:
            raise GraphError("the net has no outputs: every blob it makes is read within it")
        graph = self.b.graph(name, outputs)
        last = {v.node: b for b, v in made.items() if v.index == 0}
        return settled(graph, {**last, **{n: s for n, s in self.names.items() if n not in last}})

    def _raise(self) -> None:
        if self.beyond:
            raise UnsupportedError(self.beyond)
        if self.wrong:
            raise GraphError(self.wrong)
        if self.binder.problems:
            raise WeightsError(self.binder.problems)

    def _break(self, message: Message) -> None:
        self.broken.update(message.all("top"))
        for bottom in message.all("bottom"):
            self.unread.pop(bottom, None)

    def _layer(self, message: Message, left: list[Message]) -> None:
        kind, bottoms = message.text("type"), message.all("bottom")
        is_input = kind in DATA or self._is_given(message)
        if kind not in RULES and not is_input:
            raise UnsupportedError(unsupported(message, help=_fits(message)))
        if not self.broken.isdisjoint(bottoms):
            self._break(message)
            return
        self.b.loc, self.b.scope = message.span(), message.text("name")
        if is_input:
            self._inputs(message)
            return
        xs = [self._bottom(message, i, left) for i in range(len(bottoms))]
        phase = message.text("phase") if "phase" in message else self.state.phase
        layer = Layer(message, self.b, xs, self.binder, phase)
        layer.seed = self.seed << 32 | zlib.crc32(layer.name.encode())
        self._counts(layer)
        result = RULES[kind].rule(layer)
        self.binder.finish(layer)
        for bottom in bottoms:
            self.unread.pop(bottom, None)
        self._tops(layer, [result] if isinstance(result, Value) else list(result))

    def _is_given(self, message: Message) -> bool:
        """Whether a layer only makes blobs whose shapes the user gave: an input, whatever it is."""
        tops = message.all("top")
        unknown = message.text("type") not in RULES or message.text("type") == "Python"
        return unknown and bool(tops) and not message.all("bottom") and set(tops) <= {*self.shapes}

    def _inputs(self, message: Message) -> None:
        tops = message.all("top")
        shapes_of = DATA.get(message.text("type"))
        known = shapes_of(message) if shapes_of else [None] * len(tops)
        for i, (top, shape) in enumerate(zip(tops, known, strict=False)):
            self._free_top(message, i, top)
            found = self.shapes.get(top, shape)
            if found is None:
                what = f"input {clean(top)!r} has no shape in the file"
                help = f"give it: --shape {clean(top)}=N,C,H,W or shapes={{{top!r}: (…)}}"
                self.wrong.append(Diagnostic(what, message.span("top", i), help))
                self.broken.add(top)
                continue
            self._enter(message, top, self._input(top, found))

    def _input(self, name: str, shape: Shape) -> Value:
        for d in shape:
            if isinstance(d, int) and d < 0:
                raise GraphError(f"input {clean(name)!r} has the size {d}", self.b.loc)
        prepare = self.prepare if len(shape) == 4 else None
        self.prepare = None if prepare else self.prepare
        if prepare and (size := prepare.net_size()):
            shape = (*shape[:2], *size)
        self.declared[name] = shape
        try:
            if prepare:
                self.b.scope = name
                self.given[name] = prepare.head(self.b, name, shape)
            else:
                self.given[name] = self.b.input(name, TensorType(DType.F32, shape))
            return self.given[name]
        except GraphError as e:
            wrong = e.diagnostics[0]
            what = f"input {clean(name)!r}: {wrong.message}"
            raise GraphError(Diagnostic(what, self.b.loc, wrong.help)) from None

    def _bottom(self, message: Message, i: int, left: list[Message]) -> Value:
        name = message.all("bottom")[i]
        if name in self.blobs:
            return self.blobs[name]
        if name in self.shapes:  # what the layers of another state would give
            self._enter(message, name, self._input(name, self.shapes[name]))
            return self.blobs[name]
        self.broken.add(name)  # said once
        near = get_close_matches(name, self.blobs, 1)
        fits = f"did you mean {clean(near[0])!r}?" if near else ""
        help = left_out(left, name, self.state) or fits
        what = f"layer {clean(message.text('name'))}: no layer above makes {clean(name)!r}"
        raise GraphError(Diagnostic(what, message.span("bottom", i), help))

    def _counts(self, layer: Layer) -> None:
        known = RULES[layer.type]
        for what, count, (least, most) in (
            ("bottom", len(layer.xs), known.bottoms),
            ("top", len(layer.tops), known.tops),
        ):
            if count < least or (most is not None and count > most):
                wanted = f"{least}" if most == least else f"{least} to {most or 'any number'}"
                plural = "" if wanted == "1" else "s"
                layer.check(False, f"{layer.type} takes {wanted} {what}{plural}, not {count}")

    def _tops(self, layer: Layer, values: list[Value]) -> None:
        tops = layer.tops
        if not tops and values:  # a loss may be written without a top
            tops = [layer.name if layer.name not in self.blobs else "(automatic)"]
        bottoms = layer.message.all("bottom")
        for i, (top, value) in enumerate(zip(tops, values, strict=False)):
            in_place = i < len(bottoms) and bottoms[i] == top
            if not in_place:
                self._free_top(layer.message, i, top)
            if self.given.get(top) == value or (
                not in_place and (value.index or self._is_named(value))
            ):
                value = self.b(Affine(), value).out
            self._enter(layer.message, top, value)
            self.names.setdefault(value.node, f"{top}/{layer.name}")

    def _is_named(self, value: Value) -> bool:
        """Whether a value is a blob or a parameter already, so that a top is one more name."""
        return self.named[value] > 0 or not value.node.inputs

    def _free_top(self, message: Message, i: int, top: str) -> None:
        name = clean(message.text("name"))
        if not top:
            raise GraphError(f"layer {name}: a top has no name", message.span("top", i))
        if top in self.blobs:
            line = self.maker[top].span().line
            raise GraphError(
                f"layer {name}: {clean(top)!r} is made twice",
                message.span("top", i),
                f"the layer on line {line} makes it; in place is only the bottom at the same index",
            )

    def _enter(self, message: Message, top: str, value: Value) -> None:
        if top in self.blobs:
            self.named[self.blobs[top]] -= 1
        self.named[value] += 1
        self.blobs[top], self.maker[top] = value, message
        self.unread[top] = None


def _fits(message: Message) -> str:
    """What may help with a layer of unknown type."""
    kind, tops = message.text("type"), message.all("top")
    spelled = {k.lower(): k for k in KNOWN}
    near = get_close_matches(kind.lower(), spelled, 1, 0.85)
    if near:
        return f"did you mean {spelled[near[0]]}?"
    if tops and not message.all("bottom"):
        return f"if it only reads data, give its shape: --shape {clean(tops[0])}=N,C,H,W"
    return ""
