"""What a value is: element type, shape, and how its elements lie in memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from operator import index
from typing import Any

import numpy as np

from netc.errors import GraphError, clean
from netc.ir.dims import MAX_DIM, Dim, Expr, evaluate, parse_dim, product, sym, symbols

MAX_RANK = 32  # Caffe's kMaxBlobAxes


class DType(Enum):
    """Element types. `f32["N", 3, 224, 224]` is a tensor type."""

    F32 = "f32"
    U8 = "u8"
    I32 = "i32"
    I64 = "i64"

    def __str__(self) -> str:
        return self.value

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy type of one element."""
        return np.dtype(_NUMPY[self])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The same, under the name by which NumPy asks: `x.astype(spec.dtype)` works."""
        return self.numpy

    @property
    def size(self) -> int:
        """Bytes of one element."""
        return self.numpy.itemsize

    def element(self, value: float) -> Any:
        """A number as one element. Raises GraphError for one that is no integer of the type."""
        if self is DType.F32:
            with np.errstate(over="ignore"):  # infinity beyond the largest float32
                return np.float32(value)
        limits = np.iinfo(self.numpy)
        if not (limits.min <= value <= limits.max and value == int(value)):
            help = f"integers from {limits.min} to {limits.max} are"
            shown = f"{value:.17g}" if isinstance(value, float) else value
            raise GraphError(f"{shown} is no {self}", help=help)
        return self.numpy.type(int(value))

    def __getitem__(self, dims: int | str | Dim | tuple[int | str | Dim, ...]) -> TensorType:
        """`f32["N", 3]` is a type; `f32[()]` is a scalar's."""
        shape = dims if isinstance(dims, tuple) else (dims,)
        return TensorType(self, tuple(map(_dim, shape)))


def _dim(d: int | str | Dim) -> Dim:
    """A size as a user gives it."""
    if isinstance(d, str):
        return parse_dim(d)
    if isinstance(d, Expr):
        return d
    try:
        return index(d)
    except TypeError:
        raise GraphError(f"{clean(repr(d))} is no size; a number or a name is") from None


_NUMPY = {DType.F32: "float32", DType.U8: "uint8", DType.I32: "int32", DType.I64: "int64"}

f32, u8, i32, i64 = DType.F32, DType.U8, DType.I32, DType.I64


class Layout(Enum):
    """PLAIN is row-major. C8 is [N][⌈C/8⌉][H][W][8], lanes beyond C holding zeros."""

    PLAIN = "plain"
    C8 = "c8"


@dataclass(frozen=True)
class TensorType:
    """Element type, shape, layout: `f32[N,64,56,56]`, or blocked, `f32[N,64,56,56]{c8}`."""

    dtype: DType
    shape: tuple[Dim, ...]
    layout: Layout = Layout.PLAIN

    def __post_init__(self) -> None:
        if len(self.shape) > MAX_RANK:
            raise GraphError(f"{len(self.shape)} axes; at most {MAX_RANK} are allowed")
        for d in self.shape:
            if isinstance(d, int) and not 0 <= d <= MAX_DIM:
                raise GraphError(f"the size {d} is not between 0 and {MAX_DIM}")

    def __str__(self) -> str:
        tail = "{c8}" if self.layout is Layout.C8 else ""
        return f"{self.dtype}[{','.join(map(str, self.shape))}]{tail}"

    @property
    def rank(self) -> int:
        """How many axes."""
        return len(self.shape)

    @property
    def count(self) -> Dim:
        """How many elements."""
        return product(self.shape)

    @property
    def symbols(self) -> frozenset[str]:
        """The names of the sizes that are known only at run time."""
        return frozenset().union(*(symbols(d) for d in self.shape))

    def sizes(self, known: Mapping[str, int]) -> tuple[int, ...]:
        """The shape when each symbol has the given size."""
        return tuple(evaluate(d, known) for d in self.shape)

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        """The same elements in another shape."""
        return replace(self, shape=shape)

    def plain(self) -> TensorType:
        """The same tensor in row-major layout."""
        return replace(self, layout=Layout.PLAIN)

    def blocked(self) -> TensorType:
        """The same tensor in channel blocks of 8."""
        return replace(self, layout=Layout.C8)

    @staticmethod
    def parse(text: str) -> TensorType:
        """The inverse of `str`."""
        m = re.fullmatch(r"\s*(\w+)\s*\[(.*)\](\{c8\})?\s*", text)
        if m is None or m[1] not in {d.value for d in DType}:
            raise GraphError(f"{clean(text)!r} is not a type such as f32[N,3,224,224]")
        shape = tuple(parse_dim(d) for d in split_dims(m[2]))
        return TensorType(DType(m[1]), shape, Layout.C8 if m[3] else Layout.PLAIN)


def split_dims(text: str) -> list[str]:
    """The sizes in `N,(H-1)//2+1,min(a,b)`: commas within brackets do not count."""
    out, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            out.append(text[start:i])
            start = i + 1
    return [*out, text[start:]] if text.strip() else []


__all__ = ["DType", "Layout", "TensorType", "f32", "i32", "i64", "split_dims", "sym", "u8"]
