"""Plans as JSON: columns of numbers (see `netc.runtime.flat_plan`), every type and range checked.

What is read names only what is there. Reading evaluates and compiles no text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from netc.errors import ArtifactError, GraphError, clean
from netc.ir.dims import Dim
from netc.ir.plan import Buffer, Condition, Plan, Port, Space
from netc.ir.types import DType, Layout, TensorType
from netc.runtime.checked import below, listed, text, whole, wrong
from netc.runtime.flat_plan import BUFFERS, WEIGHTS, Columns, FlatPlan, Ints, Part, flatten, ints
from netc.runtime.sizes import SizeList, sizes_from_json

_ALONE = "cpu:0"  # the device of a plan that names no queues
_MAX_AXES = 16  # of one part of a table
_KEYS = {
    *("inputs", "outputs", "buffers", "conditions", "tables", "symbols"),
    *("bases", "offsets", "steps", "sizes"),
}
_SOMETIMES = {"images", "queues", "setup"}


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The plan as lists, texts and numbers."""
    flat = flatten(plan)
    c = flat.columns
    sizes = SizeList(c.sizes.rows)
    made: dict[str, Any] = {
        "inputs": [_port(port, sizes) for port in flat.inputs],
        "outputs": [_port(port, sizes) for port in flat.outputs],
        "buffers": [
            [b.space.value, size, b.first, b.last]
            for b, size in zip(flat.buffers, c.buffers.tolist(), strict=True)
        ],
        "conditions": [[sizes.of(q.size), q.minimum, q.why] for q in flat.conditions],
        "tables": c.tables,
        "symbols": c.symbols,
        "bases": c.bases.tolist(),
        "offsets": c.offsets.tolist(),
        "steps": [
            *(a.tolist() for a in (c.kernels, c.counts, c.flops, c.bytes, c.barriers)),
            *(c.names, c.ops, c.devices, c.reads, c.writes),
        ],
    }
    made["sizes"] = sizes.sizes.rows
    if {*c.devices, *(b.device for b in flat.buffers)} - {_ALONE} or any(c.waits):
        made["queues"] = [c.streams, c.waits, [[b.device, b.parts] for b in flat.buffers]]
    if flat.batch:
        made["images"] = [flat.batch, c.by_image.tolist()]
    if flat.setup is not None:
        made["setup"] = plan_to_json(flat.setup)
    return made


def _port(port: Port, sizes: SizeList) -> list[Any]:
    shape = [sizes.of(d) for d in port.type.shape]
    kind = port.type.dtype.value, port.type.layout.value
    return [port.name, *kind, shape, port.buffer, port.count]


def plan_from_json(value: Any) -> FlatPlan:
    """The inverse of `plan_to_json`. Raises ArtifactError."""
    if type(value) is not dict or set(value) - _SOMETIMES != _KEYS:
        raise wrong(value, f"a mapping with {', '.join(sorted(_KEYS))}")
    try:
        setup = _setup(value["setup"]) if "setup" in value else None
        return _Reading(value).plan(setup)
    except (GraphError, RecursionError) as error:
        raise ArtifactError(f"the plan does not read: {clean(error)}") from None


def _setup(value: Any) -> FlatPlan:
    """The plan that makes weights: it has one output of a known size, and no plan of its own."""
    if type(value) is not dict or "setup" in value:
        raise wrong(value, "a plan without a setup")
    made = plan_from_json(value)
    types = [port.type for port in made.outputs]
    if made.inputs or len(types) != 1 or types[0].symbols or types[0].dtype is not DType.F32:
        raise wrong(value, "a plan without inputs and with one output, of f32 and of a known size")
    return made


def _member(kind: type[Any], value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise wrong(value, f"a {kind.__name__}") from None


def _placed(buffer: Buffer, device: Any, parts: Any) -> Buffer:
    return replace(buffer, device=text(device), parts=whole(parts))


class _Reading:
    """One plan being read."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.value = value
        self.sizes = sizes_from_json(value["sizes"])
        self.symbols = tuple(map(text, listed(value["symbols"])))
        self.tables = tuple(tuple(map(self.part, listed(t))) for t in listed(value["tables"]))
        self.buffers = tuple(map(self.buffer, listed(value["buffers"])))
        self.streams, self.waits = self.queues(value)
        self.batch, self.by_image = self.images(value)

    def plan(self, setup: FlatPlan | None) -> FlatPlan:
        """All of it, with the plan that makes weights for it."""
        inputs, outputs = (
            tuple(map(self.port, listed(self.value[key]))) for key in ("inputs", "outputs")
        )
        conditions = tuple(map(self.condition, listed(self.value["conditions"])))
        columns = self.columns(setup is not None)
        made = inputs, outputs, self.buffers, conditions, columns
        return FlatPlan(*made, setup, self.batch)

    def size(self, place: Any) -> Dim:
        """The size at a place."""
        return self.sizes[below(place, len(self.sizes))]

    def numbers(self, values: Any, below: int, count: int | None = None) -> Ints:
        """A column of places in a list of length `below`."""
        if not all(type(v) is int and 0 <= v < below for v in listed(values, count)):
            raise wrong(values, f"numbers below {below}")
        return ints(values)

    def part(self, value: Any) -> Part:
        """One part of a table."""
        dims, strides, base = listed(value, 3)
        if len(listed(dims)) > _MAX_AXES:
            raise wrong(dims, f"at most {_MAX_AXES} axes")
        count = len(self.sizes)
        lengths = [below(d, count) for d in dims]
        steps = [below(s, count) for s in listed(strides, len(dims))]
        return tuple(lengths), tuple(steps), below(base, count)

    def buffer(self, value: Any) -> Buffer:
        """A buffer."""
        space, size, first, last = listed(value, 4)
        return Buffer(_member(Space, space), self.size(size), whole(first), whole(last))

    def queues(self, value: dict[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
        """Streams and waits of the steps; one queue where the plan does not say."""
        devices = listed(listed(value["steps"], 10)[7])
        steps = len(devices)
        if "queues" not in value:
            if any(d != _ALONE for d in devices):
                raise wrong(devices, f"{_ALONE} alone in a plan without queues")
            return ("compute",) * steps, ((),) * steps
        streams, waits, places = listed(value["queues"], 3)
        pairs = zip(self.buffers, listed(places, len(self.buffers)), strict=True)
        self.buffers = tuple([_placed(buffer, *listed(more, 2)) for buffer, more in pairs])
        for i, waited in enumerate(listed(waits, steps)):
            if not all(type(w) is int and 0 <= w < i for w in listed(waited)):
                raise wrong(waited, "steps before the one that waits")
        return tuple(map(text, listed(streams, steps))), tuple(map(tuple, waits))

    def images(self, value: dict[str, Any]) -> tuple[str, Ints]:
        """The symbol of the batch, and which steps treat each of its elements alone."""
        steps = len(listed(listed(value["steps"], 10)[0]))
        if "images" not in value:
            return "", ints([0] * steps)
        batch, each = listed(value["images"], 2)
        if not text(batch):
            raise wrong(batch, "the name of a size")
        return batch, self.numbers(each, 2, steps)

    def port(self, value: Any) -> Port:
        """An input or output."""
        name, dtype, layout, shape, buffer, count = listed(value, 6)
        dims = tuple(self.size(d) for d in listed(shape))
        kind = TensorType(_member(DType, dtype), dims, _member(Layout, layout))
        many = len(self.buffers)
        counted = None if count is None else below(count, many)
        return Port(text(name), kind, below(buffer, many), counted)

    def condition(self, value: Any) -> Condition:
        """What a size must be at least."""
        size, minimum, why = listed(value, 3)
        return Condition(self.size(size), whole(minimum), text(why))

    def touched(self, value: Any) -> tuple[int, ...]:
        """The buffers a step reads or writes."""
        return tuple([below(b, len(self.buffers)) for b in listed(value)])

    def columns(self, makes: bool) -> Columns:
        """The steps and their arguments, among which may be what the setup `makes`."""
        kernels, counts, flops, bytes_, barriers, *facts = listed(self.value["steps"], 10)
        names, ops, devices, reads, writes = facts
        steps, sizes = len(listed(kernels)), len(self.sizes)
        last = BUFFERS + len(self.buffers) + len(self.tables) + len(self.symbols)
        many = len(listed(self.value["bases"]))
        made = Columns(
            sizes=self.sizes,
            buffers=ints([size for _, size, _, _ in self.value["buffers"]]),
            tables=self.tables,
            symbols=self.symbols,
            kernels=self.numbers(kernels, len(self.symbols)),
            counts=self.numbers(counts, many + 1, steps),
            bases=self.numbers(self.value["bases"], last + makes),
            offsets=self.numbers(self.value["offsets"], sizes, many),
            flops=self.numbers(flops, sizes, steps),
            bytes=self.numbers(bytes_, sizes, steps),
            barriers=self.numbers(barriers, 2, steps),
            names=tuple(map(text, listed(names, steps))),
            ops=tuple(map(text, listed(ops, steps))),
            devices=tuple(map(text, listed(devices, steps))),
            reads=tuple(map(self.touched, listed(reads, steps))),
            writes=tuple(map(self.touched, listed(writes, steps))),
            streams=self.streams,
            waits=self.waits,
            by_image=self.by_image,
        )
        if int(made.counts.sum()) != many:
            raise wrong(counts, f"counts of {many} arguments")
        fixed = (made.bases == WEIGHTS) | (made.bases == last)
        if not all(self.sizes.is_number(i) for i in made.offsets[fixed]):
            raise ArtifactError("the plan reads weights at a place that depends on the input")
        return made
