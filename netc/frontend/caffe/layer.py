"""What the rule of a layer type is given: the layer's message, its inputs, and a builder.

A rule is a function `rule(c: Layer) -> Value | list of Values`, one value per top, entered into
`RULES` by `@layer("Type")`. It builds nodes with `c.b.relu(x, …)` and parameters with
`c.weight(…)`, and raises `c.fail(…)` where the layer is wrong, `c.unsupported(…)` where it is
right but beyond netc.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from netc.errors import Diagnostic, GraphError, UnsupportedError, clean
from netc.frontend.caffe.binder import Binder
from netc.frontend.caffe.fillers import initializer
from netc.frontend.caffe.message import Message
from netc.ir.dims import Dim
from netc.ir.graph import Builder, Node, Value
from netc.ir.op import Array, Op
from netc.ir.ops.sources import Initializer
from netc.ir.types import DType, TensorType

Result: TypeAlias = "Value | Sequence[Value]"
Rule: TypeAlias = "Callable[[Layer], Result]"
Count: TypeAlias = "int | tuple[int, int | None]"


@dataclass(frozen=True)
class LayerType:
    """A rule, and how many bottoms and tops its layers may have."""

    rule: Rule
    bottoms: tuple[int, int | None]
    tops: tuple[int, int | None]


RULES: dict[str, LayerType] = {}


def layer(*names: str, bottoms: Count = 1, tops: Count = 1) -> Callable[[Rule], Rule]:
    """Enter a rule for the layer types `names`; counts are exact, or (least, most or None)."""

    def enter(rule: Rule) -> Rule:
        for name in names:
            assert name not in RULES, f"layer type {name} has two rules"
            RULES[name] = LayerType(rule, _range(bottoms), _range(tops))
        return rule

    return enter


def _range(count: Count) -> tuple[int, int | None]:
    return (count, count) if isinstance(count, int) else count


class Misfit(GraphError):
    """An op or a layer whose inputs have types or sizes it does not take."""


class ScopedBuilder(Builder):
    """A builder that names nodes `<layer>/<op>` unless told otherwise."""

    scope = ""

    def __call__(self, op: Op, *inputs: Value, name: str = "") -> Node:
        try:
            return super().__call__(op, *inputs, name=name or f"{self.scope}/{op.name}")
        except GraphError as e:
            raise Misfit(e.diagnostics) from None


class Layer:
    """One layer while its rule runs."""

    def __init__(
        self, message: Message, b: ScopedBuilder, xs: list[Value], binder: Binder, phase: str
    ) -> None:
        self.message, self.b, self.xs, self.binder = message, b, xs, binder
        self.name, self.type = message.text("name"), message.text("type")
        self.tops: list[str] = message.all("top")
        self.train = phase == "TRAIN"
        self.count = 0  # parameters made so far
        self.seed = 0

    @property
    def x(self) -> Value:
        """The first bottom."""
        return self.xs[0]

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The shape of the first bottom."""
        return self.x.type.shape

    def param(self, name: str) -> Message:
        """The layer's own parameters, with their defaults."""
        return self.message.sub(name)

    def fail(self, what: str, at: Message | None = None, field: str = "", help: str = "") -> Any:
        """The error that this layer is wrong, at a field of one of its messages."""
        span = (at or self.message).span(field or None)
        return GraphError(Diagnostic(f"layer {clean(self.name)}: {what}", span, help))

    def unsupported(self, what: str, help: str = "") -> UnsupportedError:
        """The error that netc does not do what this layer asks for."""
        return UnsupportedError(unsupported(self.message, what, help))

    def check(
        self, good: bool, what: str, at: Message | None = None, field: str = "", help: str = ""
    ) -> None:
        """Raise `fail` unless `good`."""
        if not good:
            raise self.fail(what, at, field, help)

    def fits(self, good: bool, what: str) -> None:
        """Raise `fail`, as of sizes of the bottoms, unless `good`."""
        if not good:
            raise Misfit(self.fail(what).diagnostics)

    def unfit(self, what: str) -> None:
        """Note what is wrong with the layer's weights, for one error of those of all layers."""
        said = f"layer {clean(self.name)}: {what}"
        self.binder.problems.append(Diagnostic(said, self.message.span()))

    def axis(
        self, axis: int, at: Message | None = None, field: str = "axis", extra: int = 0
    ) -> int:
        """An axis of the first bottom counted from the front; `extra` allows one past the end."""
        rank = self.x.type.rank + extra
        self.check(-rank <= axis < rank, f"axis {axis} is outside {self.x.type}", at, field)
        return axis % rank

    def size(self, axis: int) -> int:
        """A size of the first bottom that has to be a number."""
        rank = len(self.shape)
        self.check(axis < rank, f"at least {axis + 1} axes are needed, not {self.x.type}")
        d = self.shape[axis]
        if not isinstance(d, int):
            raise self.fail(f"the size of axis {axis} must be a number, not {d}")
        return d

    def weight(
        self,
        name: str,
        shape: Sequence[Dim],
        filler: Message | None = None,
        default: float = 0.0,
    ) -> Value:
        """The layer's next parameter, `<layer>.<name>`, its values from the weights file."""
        index, self.count = self.count, self.count + 1
        init = initializer(filler, default)
        return self.binder.param(self, index, name, self.sizes(shape), init)

    def scaled(
        self, index: int, name: str, shape: Sequence[Dim], value: Array | None, fill: float
    ) -> Value:
        """Blob `index` over the factor in blob 2; `fill` where the weights have none.

        Layers that share both blobs share it.
        """
        names = [spec.text("name") for spec in self.specs()]
        both = [names[i] for i in (index, 2) if i < len(names) and names[i]]
        common = "/".join(both) if len(both) == 2 else ""
        init = Initializer("constant", fill)
        return self.binder.derived(self, index, common, name, self.sizes(shape), init, value)

    def sizes(self, shape: Sequence[Dim]) -> tuple[int, ...]:
        """The shape of a parameter, which has to be known."""
        fixed = tuple(d for d in shape if isinstance(d, int))
        self.check(len(fixed) == len(shape), "its parameters depend on the size of its input")
        return fixed

    def constant(self, value: float, shape: tuple[Dim, ...] = ()) -> Value:
        """One number spread over a shape."""
        return self.b.const(type=TensorType(DType.F32, shape), value=value)

    def reshape(self, x: Value, shape: Sequence[Dim]) -> Value:
        """x in another shape; of sizes that vary, one as it was is written 0, one other -1."""
        old = x.type.shape
        new: list[Dim] = [
            0 if not isinstance(d, int) and i < len(old) and d == old[i] else d
            for i, d in enumerate(shape)
        ]
        loose = [i for i, d in enumerate(new) if not isinstance(d, int)]
        if len(loose) == 1 and -1 not in new:
            new[loose[0]] = -1
        return self.b.reshape(x, shape=tuple(new))

    def stored(self) -> list[Array | None]:
        """The blobs the weights file has for this layer."""
        return self.binder.stored(self)

    def specs(self) -> list[Message]:
        """The layer's `param { }` messages."""
        return self.message.messages("param")

    def per_channel(self, count: Dim, axis: int = 1) -> tuple[Dim, ...]:
        """The shape of a parameter with one number per index of `axis` of the first bottom."""
        return (count, *(1 for _ in self.shape[axis + 1 :]))


def unsupported(message: Message, what: str = "", help: str = "") -> Diagnostic:
    """The line of the list of unsupported layers for this one."""
    name, kind = clean(message.text("name")), clean(message.text("type"))
    text = f"layer {name} of type {kind} is not supported" if kind else f"layer {name} has no type"
    return Diagnostic(f"{text}: {what}" if what else text, message.span(), help)


def unknown_choices(message: Message, layer: str) -> Iterator[Diagnostic]:
    """Names in a layer's fields that are none of the enumerators Caffe has there."""
    for name, value, at in message.entries():
        field = message.type.fields.get(name) if message.type else None
        if field is None or name == "blobs":
            continue
        if isinstance(value, Message):
            yield from unknown_choices(value, layer)
        elif field.values and not field.is_open and value not in field.values:
            what = f"layer {clean(layer)}: {name} takes {field.wanted()}, not {clean(value)}"
            yield Diagnostic(what, message.document.span(at), field.near(value))
