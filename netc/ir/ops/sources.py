"""Where values come from: inputs, parameters, constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from netc.ir.op import Array, Op, case, require
from netc.ir.types import TensorType, f32, i32, u8


@dataclass(frozen=True)
class Initializer:
    """How a parameter without weights is drawn (Caffe's fillers, include/caffe/filler.hpp).

    `kind` is constant (value a), uniform (a to b), gaussian (mean a, deviation b, `sparse` of
    each output's inputs kept), positive_unitball, xavier (U(±√(3/n))), msra (N(0, 2/n)) or
    bilinear; n is "fan_in", "fan_out" or "average".
    """

    kind: str = "constant"
    a: float = 0.0
    b: float = 1.0
    fan: str = "fan_in"
    sparse: int = -1

    def __post_init__(self) -> None:
        require(self.kind in KINDS, f"no initializer {self.kind!r}; there are {', '.join(KINDS)}")
        drawn = self.kind in ("uniform", "gaussian")
        finite = abs(self.a) < _LARGE and abs(self.b) < _LARGE
        require(finite or not drawn, f"{self.kind} takes numbers, not {self.a} and {self.b}")
        require(self.a <= self.b or self.kind != "uniform", f"{self.a} to {self.b} is no range")
        require(self.b >= 0 or self.kind != "gaussian", f"a deviation of {self.b} is below 0")

    def __str__(self) -> str:
        return f"{self.kind}({self.a!r}, {self.b!r}, {self.fan}, {self.sparse})"

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """A float32 array of this shape."""
        fan_in = int(np.prod(shape[1:])) if shape else 1
        fan_out = int(np.prod(shape)) // max(1, shape[1]) if len(shape) > 1 else fan_in
        n = {"fan_in": fan_in, "fan_out": fan_out}.get(self.fan, (fan_in + fan_out) / 2) or 1
        match self.kind:
            case "uniform":
                out = _drawn(shape, lambda count: rng.uniform(self.a, self.b, count))
            case "gaussian":
                out = _drawn(shape, lambda count: rng.normal(self.a, self.b, count))
                if self.sparse >= 0 and shape:
                    out *= rng.random(shape) < self.sparse / max(1, shape[0])
            case "positive_unitball":
                out = rng.random(shape)
                out /= out.sum(tuple(range(1, out.ndim)), keepdims=True)
            case "xavier":
                most = np.sqrt(3 / n)
                out = _drawn(shape, lambda count: rng.uniform(-most, most, count))
            case "msra":
                out = _drawn(shape, lambda count: rng.normal(0, np.sqrt(2 / n), count))
            case "bilinear":
                out = np.broadcast_to(_bilinear(shape[-1] if shape else 1), shape)
            case _:
                out = np.full(shape, self.a)
        return np.asarray(out, np.float32)


_LARGE = 3.4e38  # the largest float32, about
_DRAWN = 1 << 14  # numbers
KINDS = ("constant", "uniform", "gaussian", "positive_unitball", "xavier", "msra", "bilinear")


def _drawn(shape: tuple[int, ...], draw: Callable[[int], Array]) -> Array:
    """A float32 array of float64 draws, made some at a time: a cache holds them."""
    out = np.empty(shape, np.float32)
    flat = out.reshape(-1)
    for start in range(0, flat.size, _DRAWN):
        part = flat[start : start + _DRAWN]
        part[:] = draw(part.size)
    return out


def _bilinear(k: int) -> Array:
    f = -(-k // 2)
    c = (2 * f - 1 - f % 2) / (2.0 * f)
    line = 1 - np.abs(np.arange(k) / f - c)
    return np.asarray(np.outer(line, line))


class Input(Op, name="input"):
    """A tensor given at each run."""

    type: TensorType

    def infer(self) -> TensorType:
        return self.type


class Param(Op, name="param"):
    """A named weight: constant when serving, state when training."""

    type: TensorType
    init: Initializer = Initializer()

    def infer(self) -> TensorType:
        sizes = self.type.shape[-2:]
        square = len(sizes) == 2 and sizes[0] == sizes[1]
        require(square or self.init.kind != "bilinear", f"bilinear fills no {self.type}")
        if self.init.kind == "constant":
            self.type.dtype.element(self.init.a)
        return self.type


class Const(Op, name="const"):
    """One number spread over a shape."""

    type: TensorType
    value: float = 0.0

    def infer(self) -> TensorType:
        self.type.dtype.element(self.value)
        return self.type

    def reference(self) -> Array:
        shape = tuple(int(d) for d in self.type.shape if isinstance(d, int))
        require(len(shape) == self.type.rank, "the shape of a constant must be known")
        return np.full(shape, self.value, self.type.dtype.numpy)

    samples = (
        case(type=f32[2, 3], value=1.5),
        case(type=f32[()], value=-2.0),
        case(type=i32[3], value=2.0**24 + 1),
        case(type=u8[3], value=-1.0, error="-1 is no u8"),
    )
