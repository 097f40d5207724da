"""Random numbers as values: a hash of (seed, element index), the same on every run and back end.

Element i of a tensor, in row-major order, draws 24 bits from SplitMix64 (Steele, Lea & Flood, 2014;
the mixer is Stafford's variant 13), all modulo 2⁶⁴:

    z = mix(seed · 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03) + (i + 1) · 0x9E3779B97F4A7C15
    mix(z): z ^= z >> 30; z *= 0xBF58476D1CE4E5B9; z ^= z >> 27; z *= 0x94D049BB133111EB;
            z ^= z >> 31
    u = (mix(z) >> 40) · 2⁻²⁴, in [0, 1)

The first term is one constant per op (`stream`); everything else is a formula of u and x.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from netc.ir.dims import Dim
from netc.ir.op import Array, Grads, Op, case, require
from netc.ir.ops.pooling import Pool
from netc.ir.ops.windows import floats
from netc.ir.scalar import Count, NumPy, S, log, select, unary
from netc.ir.types import TensorType, f32

if TYPE_CHECKING:
    from netc.ir.graph import Builder, Value

GOLDEN = 0x9E3779B97F4A7C15  # 2⁶⁴ / the golden ratio, made odd
OFFSET = 0xD1B54A32D192ED03
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = 2**64 - 1


def mix(z: Any) -> Any:
    """SplitMix64's finalizer, on a uint64 array."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
    return z ^ (z >> np.uint64(31))


def stream(seed: int) -> int:
    """The 64-bit constant that a seed becomes."""
    z = (seed * GOLDEN + OFFSET) & _MASK
    return int(mix(np.array([z], np.uint64))[0])


def uniform(seed: int, shape: tuple[int, ...]) -> Array:
    """u in [0, 1) for every element of a shape: multiples of 2⁻²⁴, exact in float32."""
    index = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
    bits = mix(np.uint64(stream(seed)) + index * np.uint64(GOLDEN)) >> np.uint64(40)
    return np.asarray(bits.astype(np.float64) * 2.0**-24).reshape(shape)


class Random(Op):
    """An element-wise op of x and a uniform number u per element."""

    def scalar(self, u: S, x: S) -> S:
        """The formula."""
        raise NotImplementedError

    def infer(self, x: TensorType) -> TensorType:
        floats(x)
        seed = getattr(self, "seed", 0)
        require(0 <= seed < 2**63, f"seed {seed} is not between 0 and 2^63 - 1")
        return x

    def reference(self, x: Array) -> Array:
        b = NumPy(x.dtype)
        u = uniform(getattr(self, "seed", 0), x.shape).astype(x.dtype)
        with np.errstate(all="ignore"):
            out = self.scalar(S(b, u), S(b, x)).h
        return np.broadcast_to(np.asarray(out, x.dtype), x.shape).copy()

    def flops(self, x: TensorType) -> Dim:
        count = Count()
        self.scalar(S(count, None), S(count, None))
        return x.count * (count.total + 10)


_SAMPLES = (case(f32[3, 17]), case(f32[2, 3, 4, 5], seed=7), case(f32[0, 3]), case(f32[()], seed=1),
            case(f32[5], seed=-1, error="seed"))  # fmt: skip


class RandomUniform(Random, name="random_uniform"):
    """low + (high − low) · u for every element of x, whose values are not read."""

    low: float = 0.0
    high: float = 1.0
    seed: int = 0

    def scalar(self, u: S, x: S) -> S:
        return u * (self.high - self.low) + self.low

    samples = (*_SAMPLES, case(f32[7, 5], low=-2.0, high=3.0, seed=3))


class RandomNormal(Random, name="random_normal"):
    """mean + std · √2 · erfinv(2u + 2⁻²⁴ − 1) for every element of x, whose values are not read.

    erfinv as in M. Giles, "Approximating the erfinv function" (GPU Computing Gems, 2010), single
    precision.
    """

    mean: float = 0.0
    std: float = 1.0
    seed: int = 0

    def scalar(self, u: S, x: S) -> S:
        centred = u * 2.0 + (2.0**-24 - 1.0)
        return erfinv(centred) * (self.std * math.sqrt(2.0)) + self.mean

    samples = (*_SAMPLES, case(f32[7, 5], mean=-2.0, std=0.5, seed=3))


# Giles (2010), table 5: the central region in w − 2.5, the tails in √w − 3; highest power first.
_CENTRAL = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
            -0.00125372503, -0.00417768164, 0.246640727, 1.50140941)  # fmt: skip
_TAIL = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
         -0.0076224613, 0.00943887047, 1.00167406, 2.83297682)  # fmt: skip


def erfinv(x: S) -> S:
    """The inverse of the error function, for |x| < 1."""
    w = -log((1.0 - x) * (1.0 + x))
    near, far = w < 5.0, unary("sqrt", w) - 3.0
    t = select(near, w - 2.5, far)
    p = select(near, _CENTRAL[0], _TAIL[0])
    for a, b in zip(_CENTRAL[1:], _TAIL[1:], strict=True):
        p = p * t + select(near, a, b)
    return p * x


class Dropout(Random, name="dropout"):
    """x / (1 − ratio) where u ≥ ratio, else 0 · x: dropout of the train phase."""

    ratio: float = 0.5
    seed: int = 0

    def scalar(self, u: S, x: S) -> S:
        return x * select(u < self.ratio, 0.0, 1.0 / (1.0 - self.ratio))

    def grad(self, b: Builder, xs: tuple[Value, ...], y: Value, dy: Value) -> Grads:
        return (b.dropout(dy, ratio=self.ratio, seed=self.seed),)

    def infer(self, x: TensorType) -> TensorType:
        require(0.0 <= self.ratio < 1.0, f"ratio {self.ratio} is not from 0 to below 1")
        return super().infer(x)

    samples = (*_SAMPLES, case(f32[7, 5], ratio=0.25), case(f32[7, 5], ratio=0.0),
               case(f32[5], ratio=1.0, error="ratio 1.0"))  # fmt: skip


class StochasticPool(Pool, name="stochastic_pool"):
    """Pooling by chance (Zeiler & Fergus, 2013; Caffe pooling_layer.cu), x not negative.

    In training, the first element, row by row, where the window's running sum reaches u times its
    total, u drawn per result; else Σx² / Σx, and 0 where Σx is not positive.
    """

    train: bool = False
    seed: int = 0

    def infer(self, x: TensorType) -> TensorType:
        require(0 <= self.seed < 2**63, f"seed {self.seed} is not between 0 and 2^63 - 1")
        return super().infer(x)

    @np.errstate(all="ignore")
    def reference(self, x: Array) -> Array:
        windows = self.windows(x, 0.0)
        total = windows.sum(-1)
        if not self.train:
            mean = (windows * windows).sum(-1) / total
            return np.asarray(np.where((total > 0) | np.isnan(total), mean, x.dtype.type(0)))
        u = uniform(self.seed, total.shape).astype(x.dtype)
        inside = self.windows(np.ones_like(x), 0.0) > 0
        short = (np.cumsum(windows, -1) < (u * total)[..., None]) | ~inside
        first = short.argmin(-1)[..., None]
        picked = np.take_along_axis(windows, first, -1)[..., 0]
        return np.asarray(np.where(np.isnan(total), total, picked))

    samples = (
        case(f32[2, 3, 6, 6], kernel=(2, 2), stride=(2, 2), draw=("positive",)),
        case(f32[1, 5, 7, 7], kernel=(3, 3), stride=(2, 2), ceil=True, draw=("positive",)),
        case(f32[1, 7, 6, 6], kernel=(3, 3), stride=(3, 3), train=True, draw=("positive",)),
        case(f32[2, 3, 5, 5], kernel=(2, 2), train=True, seed=9, ceil=True, draw=("positive",)),
        case(f32[0, 3, 4, 4], kernel=(2, 2)),
        case(f32[1, 3, 4, 4], kernel=(5, 5), error="does not fit 4"),
        case(f32[1, 3, 4, 4], kernel=(2, 2), seed=-1, error="seed"),
    )
