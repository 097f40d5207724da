"""What makes nodes for a word: names, scopes, parameters of its own, shared parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

import numpy as np

from netc.errors import GraphError, clean
from netc.frontend.net.constants import ARRAYS, array_of
from netc.ir.device import Device
from netc.ir.dims import Dim
from netc.ir.graph import Builder, Value, frozen
from netc.ir.op import REGISTRY, Op, require
from netc.ir.ops.sources import Const, Initializer
from netc.ir.scalar import broadcast
from netc.ir.shards import Shard, contradiction, within
from netc.ir.types import DType, TensorType, f32


class Maker:
    """A graph being made, by a text or by Python calls."""

    def __init__(self, phase: str = "test") -> None:
        self.b = Builder()
        self.phase = phase
        self.params: dict[str, Value] = {}
        self.scope = ""
        self.scopes: set[str] = set()
        self._tried: dict[str, int] = {}  # how far the numbers behind a name are used up

    def path(self, name: str) -> str:
        """A name within the scope; "" is the scope's own."""
        return f"{self.scope}/{name}" if self.scope and name else name or self.scope

    def free(self, name: str) -> str:
        """`name` within the scope, or `name_1`, … where it is taken."""
        return self._numbered(self.path(name), self.b.names)

    def free_scope(self, name: str) -> str:
        """A path for a block's nodes that no other block or node has."""
        return self._numbered(self.path(name), self.scopes, self.b.names)

    def _numbered(self, base: str, *taken: Set[str]) -> str:
        n, path = self._tried.get(base, 0), base
        if n:
            path = f"{base}_{n}"
        while any(path in names for names in taken):
            n += 1
            path = f"{base}_{n}"
        self._tried[base] = n
        return path

    def explicit(self, name: str) -> str:
        """A name the user gave: it must be free."""
        path = self.path(name)
        if path in self.b.names:
            help = "in a `repeat`, `{i}` in the name makes it differ"
            raise GraphError(f"the name `{clean(path)}` is used twice", help=help)
        return path

    @contextmanager
    def within(self, scope: str) -> Iterator[None]:
        """Names made within are put under this path."""
        before, self.scope = self.scope, scope
        try:
            yield
        finally:
            self.scope = before

    @contextmanager
    def on(self, device: Device) -> Iterator[None]:
        """Nodes made within run on this device."""
        if why := contradiction(self.b.shards, device):
            message = f"what is here is placed on {device}, but {why}"
            raise GraphError(message, help="take the placement away, or the sharding")
        with self.b.on(device):
            yield

    @contextmanager
    def sharded(self, shard: Shard) -> Iterator[None]:
        """Nodes made within are shared by devices so."""
        if why := contradiction((shard,), self.b.device):
            message = f"what is here is placed on {self.b.device}, but {why}"
            raise GraphError(message, help="take the placement away, or the sharding")
        with self.b.sharded(within(self.b.shards, shard)):
            yield

    def site(self, name: str, owner: str = "") -> Site:
        """Where one word makes its nodes; `owner` is the layer whose parameters it shares."""
        return Site(self, name, owner)

    def param(self, name: str, type: TensorType, init: Initializer, value: Any = None) -> Value:
        """A new parameter."""
        if any(not isinstance(d, int) for d in type.shape):
            raise GraphError(f"the size of a parameter must be known, not {type}")
        made = self.b.param(name, type, init, None if value is None else frozen(value))
        self.params[made.node.name] = made
        return made


def real(x: float) -> float:
    """A number as a float. Raises GraphError for an int that no float is near."""
    try:
        return float(x)
    except OverflowError:
        raise GraphError("a number is too large for a float") from None


class Site:
    """One use of a word."""

    def __init__(self, maker: Maker, name: str, owner: str = "") -> None:
        self.maker, self.name, self.owner = maker, name, owner

    @property
    def phase(self) -> str:
        """`test` or `train`."""
        return self.maker.phase

    def node(self, op: Op, *xs: Value, inner: str = "") -> Any:
        """The value, or the values, of a node; an `inner` one is named below the word's own."""
        name = f"{self.name}/{inner}" if inner else self.name
        results = self.maker.b(op, *xs, name=name).results
        return results[0] if len(results) == 1 else results

    def make(self, op: str, *xs: Value, inner: str = "", **attributes: Any) -> Value:
        """The value of a node that has one, its op by name."""
        value: Value = self.node(REGISTRY[op](**attributes), *xs, inner=inner)
        return value

    def own(
        self, part: str, shape: tuple[Dim, ...], init: Initializer, given: Value | None = None
    ) -> Value:
        """The parameter `part` of this word: given, shared with the owner, or new."""
        type = f32[shape]
        if given is not None:
            return given
        if not self.owner:
            return self.maker.param(f"{self.name}.{part}", type, init)
        shared = self.maker.params.get(f"{self.owner}.{part}")
        owner = clean(self.owner)
        if shared is None:
            raise GraphError(f"`{owner}` has no parameter `{part}` to share")
        if shared.type != type:
            raise GraphError(f"`{owner}.{part}` is {shared.type}; {type} is needed here")
        return shared

    def constant(self, values: Any, dtype: DType | None = None, part: str = "c") -> Value:
        """Numbers as a tensor: a parameter whose values are known."""
        array, found = array_of(values, dtype)
        name = f"{self.name}.{part}" if part else self.name
        return self.maker.param(name, found[array.shape], Initializer(), array)

    def operands(self, xs: Sequence[Any]) -> list[Value]:
        """Tensors as they are; numbers as constants; lists as one number per channel."""
        met = [x.type.shape for x in xs if isinstance(x, Value)]
        return [self._operand(x, met) for x in xs]

    def _operand(self, x: Any, met: Sequence[tuple[Dim, ...]]) -> Value:
        if isinstance(x, Value):
            return x
        if isinstance(x, tuple):
            return self._channels(x, broadcast(*met))
        return self.maker.b(Const(f32[()], real(x)), name=f"{self.name}/const").out

    def _channels(self, numbers: tuple[Any, ...], met: tuple[Dim, ...]) -> Value:
        """A number for each place of axis 1 of a tensor of shape `met`, or of its only axis."""
        if not numbers or not all(isinstance(n, int | float) for n in numbers):
            message = "a list that meets a tensor holds one number per channel"
            raise GraphError(message, help=ARRAYS)
        require(bool(met), "a list meets a tensor without axes, which takes a number")
        channels, shape = met[:2][-1], ",".join(map(str, met))
        if channels != len(numbers):
            said = f"[{shape}] with {channels} channel{'s' * (channels != 1)}"
            help = "a list holds one number per channel; a number alone stands for all"
            raise GraphError(f"a list of {len(numbers)} meets a tensor {said}", help=help)
        array = np.array([real(n) for n in numbers]).reshape(-1, *(1 for _ in met[2:]))
        return self.constant(array, DType.F32)
