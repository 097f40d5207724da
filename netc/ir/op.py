"""An operator: its fields are its attributes, its methods are its meaning.

Subclass `Op` (or `Elementwise`, in `netc.ir.scalar`) with `name="…"`; the class becomes a frozen
dataclass and enters `REGISTRY`. Everything else is read from it: keyword arguments in the
language and in Python, the IR text, the docs, the CSE key, and the tests every op gets from
`samples`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from netc.errors import GraphError
from netc.ir.dims import Dim
from netc.ir.types import Layout, TensorType

if TYPE_CHECKING:
    from netc.ir.graph import Builder, Value

Array: TypeAlias = NDArray[Any]
Types: TypeAlias = TensorType | tuple[TensorType, ...]
Grads: TypeAlias = "tuple[Value | None, ...]"

REGISTRY: dict[str, type[Op]] = {}


def require(condition: bool, message: str) -> None:
    """Raise a GraphError unless `condition` holds; whoever builds the node adds its place."""
    if not condition:
        raise GraphError(message)


@dataclass(frozen=True)
class Case:
    """One sample of an op: input types, attributes, and how to draw the inputs.

    `draw` names a domain per input: "normal", "positive", "index:K" (integers below K as
    floats), "unit" ([0, 1)), "distinct" (no ties), "boxes" (corners, in clusters), "region:N:S"
    (rows of an image's number, one of them N, and two corners in an image of S by S, or near it).
    `error` marks an illegal sample by a fragment of its message.
    """

    inputs: tuple[TensorType, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    draw: tuple[str, ...] = ()
    error: str = ""


def case(
    *inputs: TensorType, draw: tuple[str, ...] = (), error: str = "", **attributes: Any
) -> Case:
    """`case(f32[2, 4, 9, 9], f32[6, 2, 3, 3], groups=2)`."""
    return Case(inputs, attributes, draw, error)


@dataclass_transform(frozen_default=True)
class Op:
    """An operator. Attributes are its dataclass fields and are hashable and printable."""

    name: ClassVar[str] = ""
    samples: ClassVar[tuple[Case, ...]] = ()
    # Which inputs may be channel-blocked (C8); the result is blocked when one of them is.
    blocked: ClassVar[tuple[int, ...] | None] = None

    def __init_subclass__(cls, name: str = "") -> None:
        dataclass(frozen=True, repr=False)(cls)
        if not name:
            return
        if name in REGISTRY:
            raise TypeError(f"op {name!r} is defined twice: {REGISTRY[name]} and {cls}")
        cls.name = name
        REGISTRY[name] = cls

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in attributes(self))})"

    def infer(self, *xs: Any, **_: Any) -> Types:
        """The types of the results; raises GraphError where the inputs do not fit."""
        raise NotImplementedError(f"{self.name} has no shape rule")

    def reference(self, *xs: Any, **_: Any) -> Array | tuple[Array, ...]:
        """The meaning, in NumPy, in the precision of the inputs."""
        raise NotImplementedError(f"{self.name} has no reference")

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        """The gradient with respect to each input, given that of the result."""
        raise GraphError(f"{self.name} has no gradient")

    def flops(self, *xs: Any, **_: Any) -> Dim:
        """Floating-point operations; a multiply-add counts two."""
        return 0

    def result_layout(self, *xs: TensorType) -> Layout:
        """C8 when an input that may be blocked is."""
        return Layout.C8 if any(x.layout is Layout.C8 for x in xs) else Layout.PLAIN


def attributes(op: Op) -> Iterator[tuple[str, Any]]:
    """The attributes of an op, in the order of its fields."""
    for f in fields(cast(Any, op)):
        yield f.name, getattr(op, f.name)


def typed(op: Op, xs: tuple[TensorType, ...]) -> tuple[TensorType, ...]:
    """The result types of `op` with layouts: `infer` sees shapes, this function lays them out."""
    for i, x in enumerate(xs):
        may = op.blocked is not None and (i in op.blocked or -1 in op.blocked)
        require(x.layout is Layout.PLAIN or may, f"input {i} of {op.name} must be row-major")
    got = op.infer(*(x.plain() for x in xs))
    types = got if isinstance(got, tuple) else (got,)
    if op.result_layout(*xs) is Layout.C8:
        return tuple(t.blocked() if t.rank == 4 else t for t in types)
    return types


def as_tuple(out: Array | tuple[Array, ...]) -> tuple[Array, ...]:
    """The results of a reference, always as a tuple of arrays."""
    outs = out if isinstance(out, tuple) else (out,)
    return tuple(np.asarray(o) for o in outs)
