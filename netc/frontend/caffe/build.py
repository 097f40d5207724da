"""Layers to nodes, in file order: bottoms, tops, in-place versions, and all mistakes at once."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches

from netc.errors import Diagnostic, GraphError, UnsupportedError, WeightsError, clean
from netc.frontend.caffe import (
    layers_common,
    layers_ctc,
    layers_flow,
    layers_flow_data,
    layers_forks,
    layers_loss,
    layers_neuron,
    layers_norm,
    layers_proposal,
    layers_rcnn,
    layers_recurrent,
    layers_resample,
    layers_ssd,
    layers_synopsys,
    layers_transformer,
    layers_vision,
    layers_yolo,
)
from netc.frontend.caffe.binder import Binder
from netc.frontend.caffe.layer import (
    RULES,
    Layer,
    Misfit,
    ScopedBuilder,
    unknown_choices,
    unsupported,
)
from netc.frontend.caffe.layers_data import DATA, told
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.naming import settled
from netc.frontend.caffe.needed import Part, computable, is_given, ways_around
from netc.frontend.caffe.netrules import State, left_out
from netc.frontend.caffe.weights import Blobs
from netc.frontend.generalize import Shape
from netc.frontend.preprocess import Preprocessing
from netc.ir.graph import Graph, Node, Value
from netc.ir.ops.elementwise import Affine
from netc.ir.types import DType, TensorType

FAMILIES = (
    layers_common,
    layers_ctc,
    layers_flow,
    layers_flow_data,
    layers_forks,
    layers_loss,
    layers_neuron,
    layers_norm,
    layers_proposal,
    layers_rcnn,
    layers_recurrent,
    layers_resample,
    layers_ssd,
    layers_synopsys,
    layers_transformer,
    layers_vision,
    layers_yolo,
)
KNOWN = (*RULES, *DATA)


class NetBuilder:
    """One pass over the layers of a net, with given shapes for its inputs."""

    def __init__(
        self,
        part: Part,
        state: State,
        shapes: Mapping[str, Shape],
        blobs: Blobs | None,
        seed: int = 0,
        prepare: Preprocessing | None = None,
    ) -> None:
        self.part, self.state, self.shapes, self.seed = part, state, shapes, seed
        self.prepare = prepare  # what is to happen to the first image input
        self.declared: dict[str, Shape] = {}  # the shape of each input, as the net sees it
        self.own: dict[str, Shape] = {}  # those of the file
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
        self.beyond: dict[Message, Sequence[Diagnostic]] = {}  # what netc does not do, by layer

    def graph(self, name: str, left: list[Message]) -> Graph:
        """The graph; `left` are the layers other states have, for hints. Raises all mistakes."""
        for message in self.part.layers:
            try:
                self._layer(message, left)
            except UnsupportedError as e:
                self.beyond[message] = e.diagnostics
                self._break(message)
            except GraphError as e:
                is_size = isinstance(e, Misfit)
                self.wrong += [self._with_sizes(d) if is_size else d for d in e.diagnostics]
                self._break(message)
        self._raise()
        made = {b: v for b, v in self.blobs.items() if self.given.get(b) != v}
        outputs = {b: made[b] for b in sorted(self.unread) if b in made}
        if not self.part.layers:
            raise GraphError(f"the net has no layers in phase {self.state.phase}")
        if not self.part.is_whole:
            outputs = self.blobs
        if not outputs:
            why = "every blob it makes is read within it" if made else "it has only inputs"
            raise GraphError(f"the net has no outputs: {why}")
        graph = self.b.graph(name, outputs)
        last = {v.node: b for b, v in made.items() if v.index == 0}
        return settled(graph, {**last, **{n: s for n, s in self.names.items() if n not in last}})

    def _raise(self) -> None:
        if self.beyond:
            raise UnsupportedError([*self._beyond()])
        if self.wrong:
            raise GraphError(self.wrong)
        if self.binder.problems:
            raise WeightsError(self.binder.problems)

    def _beyond(self) -> Iterator[Diagnostic]:
        """What netc does not do, and the ways around it."""
        made = computable(self.part.layers, self.beyond, self.shapes)
        for message, found in self.beyond.items():
            ways = ways_around(message, self.part.layers, made)
            yield from (replace(d, help="; ".join(filter(None, (d.help, ways)))) for d in found)

    def _with_sizes(self, d: Diagnostic) -> Diagnostic:
        """What does not fit, and once, which sizes are the file's own and how to give others."""
        sizes, self.own = self.own, {}
        if not sizes:
            return d
        given = " ".join(f"{clean(n)}={','.join(map(str, s))}" for n, s in sizes.items())
        other = " ".join(f"--shape {clean(n)}={_other(s)}" for n, s in sizes.items())
        says = f"the file gives {given}; {other} gives other sizes"
        return replace(d, help="; ".join(filter(None, (d.help, says))))

    def _break(self, message: Message) -> None:
        self.broken.update(message.all("top"))
        for bottom in message.all("bottom"):
            self.unread.pop(bottom, None)

    def _layer(self, message: Message, left: list[Message]) -> None:
        kind, bottoms = message.text("type"), message.all("bottom")
        is_input = kind in DATA or is_given(message, self.shapes)
        if kind not in RULES and not is_input:
            raise UnsupportedError(unsupported(message, help=_spelled(kind)))
        if not is_input and (chosen := [*unknown_choices(message, message.text("name"))]):
            raise UnsupportedError(chosen)
        if not is_input and not self.broken.isdisjoint(bottoms):
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

    def _inputs(self, message: Message) -> None:
        tops = message.all("top")
        known = told(message, self.shapes)
        for i, (top, shape) in enumerate(zip(tops, known, strict=False)):
            if not self.part.has(top):
                continue
            self._free_top(message, i, top)
            found = self.shapes.get(top, shape)
            if found is None:
                what = f"input {clean(top)!r} has no shape in the file"
                help = f"give it: --shape {clean(top)}=N,C,H,W or shapes={{{top!r}: (…)}}"
                self.wrong.append(Diagnostic(what, message.span("top", i), help))
                self.broken.add(top)
                continue
            self._enter(message, top, self._input(top, found))
            if self.shapes.keys().isdisjoint(tops) and self.declared[top] == found:
                self.own[top] = found

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
        bottoms = layer.message.all("bottom")
        for i, (top, value) in enumerate(zip(layer.tops, values, strict=False)):
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


def _other(shape: Shape) -> str:
    """Other sizes of an input in place of these, as `--shape` takes them."""
    return ",".join((*map(str, shape[:2]), "H", "W")) if len(shape) == 4 else "…"


def _spelled(kind: str) -> str:
    """The layer type that one of unknown type may mean."""
    spelled = {k.lower(): k for k in KNOWN}
    near = get_close_matches(kind.lower(), spelled, 1, 0.85)
    return f"did you mean {spelled[near[0]]}?" if near else ""
