"""Nodes, values and graphs: immutable, compared by identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from netc.errors import NOWHERE, Diagnostic, GraphError, Span, clean
from netc.ir.device import Device
from netc.ir.op import REGISTRY, Array, Op, typed
from netc.ir.ops.sources import Const, Initializer, Input, Param
from netc.ir.shards import Shard
from netc.ir.solve import rounding
from netc.ir.types import TensorType

MAX_NODES = 100_000
_SOURCES = (Input, Param, Const)  # what is there before a run, or given to it


class Stage(Enum):
    """How far a graph is lowered."""

    NET = "net"
    PLACED = "placed"
    KERNELS = "kernels"


@dataclass(frozen=True, eq=False)
class Node:
    """One use of an op. Identity is equality."""

    op: Op
    inputs: tuple[Value, ...]
    types: tuple[TensorType, ...]
    name: str
    loc: Span = NOWHERE
    device: Device | None = None
    shards: tuple[Shard, ...] = ()  # how devices share it, the outermost first

    def __repr__(self) -> str:
        return f"<%{self.name} = {self.op.name}(…)>"

    @property
    def place(self) -> str:
        """Where it runs, as text: `cuda:0`, `replicate(cpu:0, cpu:1)`, or nothing."""
        return " @ ".join(map(str, (self.device, *self.shards) if self.device else self.shards))

    @property
    def results(self) -> tuple[Value, ...]:
        """The values this node gives."""
        return tuple(Value(self, i) for i in range(len(self.types)))

    @property
    def out(self) -> Value:
        """The only value this node gives."""
        (value,) = self.results
        return value


@dataclass(frozen=True)
class Value:
    """One result of a node."""

    node: Node
    index: int = 0

    @property
    def type(self) -> TensorType:
        """Its type."""
        return self.node.types[self.index]

    @property
    def op(self) -> Op:
        """The op that gives it."""
        return self.node.op

    @property
    def name(self) -> str:
        """The node's name, with `#i` from the second result on."""
        return self.node.name + (f"#{self.index}" if self.index else "")

    def __repr__(self) -> str:
        return f"<%{self.name}: {self.type}>"


@dataclass(frozen=True, eq=False)
class Graph:
    """A net as a value: inputs, named outputs, and the arrays of its parameters.

    Nodes and uses are derived from the outputs, so dead code is not in a graph. `weights` maps
    parameter names to float32 arrays; a parameter without one is drawn from its initializer at
    compile time. `usual` are the sizes that symbols had in the file the net comes from, where it
    gave some; `notes` are remarks for people (why a size is fixed, …).
    """

    name: str
    inputs: tuple[Node, ...]
    outputs: Mapping[str, Value]
    weights: Mapping[str, Array] = field(default_factory=dict)
    updates: Mapping[str, Value] = field(default_factory=dict)
    stage: Stage = Stage.NET
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    usual: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("outputs", "weights", "updates", "usual"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __repr__(self) -> str:
        return f"<graph @{self.name}: {len(self.nodes)} nodes>"

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Inputs, then every node the outputs and updates need, producers first."""
        done: dict[Node, None] = dict.fromkeys(self.inputs)
        roots = [*self.outputs.values(), *self.updates.values()]
        stack = [(v.node, False) for v in reversed(roots)]
        while stack:
            node, ready = stack.pop()
            if node in done:
                continue
            if ready:
                done[node] = None
            else:
                stack += [(node, True), *((v.node, False) for v in reversed(node.inputs))]
        return tuple(done)

    @cached_property
    def params(self) -> tuple[Node, ...]:
        """The parameter nodes, in the order of first use."""
        return tuple(n for n in self.nodes if isinstance(n.op, Param))

    @cached_property
    def uses(self) -> Mapping[Value, tuple[Node | None, ...]]:
        """Who reads each value; None stands for the graph's own outputs and updates."""
        uses: dict[Value, list[Node | None]] = {v: [] for n in self.nodes for v in n.results}
        for node in self.nodes:
            for v in node.inputs:
                uses[v].append(node)
        for v in (*self.outputs.values(), *self.updates.values()):
            uses[v].append(None)
        return {v: tuple(us) for v, us in uses.items()}

    @cached_property
    def by_name(self) -> Mapping[str, Value]:
        """Every value by its name."""
        return {v.name: v for n in self.nodes for v in n.results}

    def with_outputs(self, names: list[str] | tuple[str, ...]) -> Graph:
        """The same graph giving the named values: its outputs, or any value inside."""
        import difflib

        found: dict[str, Value] = {}
        for name in names:
            v = self.outputs.get(name) or self.by_name.get(name)
            if v is None:
                near = difflib.get_close_matches(name, {**self.outputs, **self.by_name}, 3)
                given = f"it gives {', '.join(map(clean, self.outputs))}; any node may be named"
                fits = f"did you mean {', '.join(map(clean, near))}?" if near else given
                raise GraphError(f"the net gives no {clean(name)!r}", help=fits)
            found[name] = v
        if not found:
            raise GraphError("no output is named")
        made = replace(self, outputs=found)
        kept = {n.name for n in made.params}
        return replace(made, weights={k: w for k, w in self.weights.items() if k in kept})


class Builder:
    """Makes nodes: infers types, keeps names unique, stamps locations and devices.

    `b.relu(x, slope=0.1, name="r1")` makes a node and gives its value; any op of the registry is
    such a method. `b(op, x, y)` takes a ready op and gives the node.
    """

    def __init__(self, names: set[str] | None = None) -> None:
        self.loc, self.device = NOWHERE, cast("Device | None", None)
        self.shards: tuple[Shard, ...] = ()
        self.names: set[str] = set() if names is None else names
        self.inputs: list[Node] = []
        self.weights: dict[str, Array] = {}
        self._count = 0
        self._tried: dict[str, int] = {}  # how far the numbers behind a name are used up

    def __call__(self, op: Op, *inputs: Value, name: str = "") -> Node:
        try:
            types = typed(op, tuple(v.type for v in inputs))
        except GraphError as e:
            raise self._located(op, inputs, e) from None
        except TypeError:
            message = f"{op.name} does not take {len(inputs)} inputs"
            raise GraphError(message, self.loc) from None
        self._count += 1
        if self._count > MAX_NODES:
            raise GraphError(f"more than {MAX_NODES} nodes", self.loc)
        shards = () if isinstance(op, _SOURCES) else self.shards
        return Node(op, inputs, types, self.unique(name or op.name), self.loc, self.device, shards)

    def _located(self, op: Op, inputs: tuple[Value, ...], e: GraphError) -> GraphError:
        d = e.diagnostics[0]
        if d.span != NOWHERE:
            return e
        given = ", ".join(f"{clean(v.name)}: {v.type}" for v in inputs)
        help = d.help or rounding(size for v in inputs for size in v.type.shape)
        return GraphError(Diagnostic(f"{op.name}({given}): {d.message}", self.loc, help))

    def unique(self, name: str) -> str:
        """`name`, or `name_1`, `name_2`, … where it is taken."""
        base, n = name, self._tried.get(name, 0)
        while name in self.names:
            n += 1
            name = f"{base}_{n}"
        self._tried[base] = n
        self.names.add(name)
        return name

    def make(self, op_name: str, *inputs: Value, name: str = "", **attributes: Any) -> Value:
        """The value of the op with this name, from the registry."""
        return self(REGISTRY[op_name](**attributes), *inputs, name=name).out

    def __getattr__(self, op_name: str) -> Callable[..., Value]:
        if op_name not in REGISTRY:
            raise AttributeError(op_name)
        return lambda *xs, name="", **attributes: self.make(op_name, *xs, name=name, **attributes)

    def input(self, name: str, type: TensorType) -> Value:
        """A tensor given at each run; inputs keep the order in which they are made."""
        node = self(Input(type), name=name)
        self.inputs.append(node)
        return node.out

    def param(
        self,
        name: str,
        type: TensorType,
        init: Initializer | None = None,
        value: Array | None = None,
    ) -> Value:
        """A parameter, with its array where it is known."""
        node = self(Param(type, init or Initializer()), name=name)
        if value is not None:
            self.weights[node.name] = frozen(value)
        return node.out

    @contextmanager
    def at(self, loc: Span) -> Iterator[None]:
        """Nodes made within carry this location."""
        before, self.loc = self.loc, loc
        try:
            yield
        finally:
            self.loc = before

    @contextmanager
    def on(self, device: Device | None) -> Iterator[None]:
        """Nodes made within run on this device."""
        before, self.device = self.device, device
        try:
            yield
        finally:
            self.device = before

    @contextmanager
    def sharded(self, shards: tuple[Shard, ...]) -> Iterator[None]:
        """Nodes made within are shared by devices so; inputs, parameters and constants are not."""
        before, self.shards = self.shards, shards
        try:
            yield
        finally:
            self.shards = before

    def graph(self, name: str, outputs: Mapping[str, Value], **more: Any) -> Graph:
        """The graph of everything the outputs need."""
        g = Graph(name, tuple(self.inputs), outputs, **more)
        kept = {n.name: self.weights[n.name] for n in g.params if n.name in self.weights}
        return replace(g, weights=kept)


def frozen(array: Array) -> Array:
    """The array, read-only and C-contiguous; a view where it is so already."""
    out = np.ascontiguousarray(array).reshape(np.shape(array)).view()
    out.flags.writeable = False
    return out
