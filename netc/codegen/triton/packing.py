"""Weights in the order matrix kernels walk: [group, column, tap, channel], depth side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netc.errors import ArtifactError, clean
from netc.ir.op import Array

UNIT = 16  # channels, or in flat rows elements, are padded with zeros to a multiple of it


@dataclass(frozen=True)
class Layout:
    """How a parameter of a convolution or an inner product is packed.

    For an inner product `sizes` are those of x's summed axes and `order` the order in which they
    lie in memory (without those of 1).
    """

    groups: int
    columns: int  # per group
    taps: tuple[int, ...]
    channels: int  # per group
    flat: int  # channels that a tap takes in rows without gaps, zeros behind the real ones; 0: none
    transposed: bool
    sizes: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    patches: bool = False  # of a transposed convolution: every tap of every column is a column

    @property
    def count(self) -> int:
        """The taps of a window."""
        return int(np.prod(self.taps)) if self.taps else 1

    @property
    def strides(self) -> tuple[int, int, int]:
        """Elements from column to column, from tap to tap, and from channel to channel."""
        if self.patches:
            return _up(self.channels), 0, 1
        if self.flat:
            return _up(self.count * self.flat), self.flat, 1
        return self.count * _up(self.channels), _up(self.channels), 1

    @property
    def words(self) -> tuple[str | int, ...]:
        """The layout as a file says it."""
        if self.patches:
            return ("gpu_patches",)
        if self.sizes:
            return ("gpu_fc", len(self.sizes), self.channels, *self.sizes, *self.order)
        return ("gpu_conv", self.groups, self.flat, int(self.transposed))


def _up(n: int) -> int:
    return -(-n // UNIT) * UNIT


def pack(weights: Array, packing: Sequence[str | int], out: Array) -> None:
    """Write a parameter packed so; `out` is flat."""
    out[:] = packed_array(weights, layout_of(packing, weights.shape)).reshape(-1)


def packed_array(array: Array, layout: Layout) -> Array:
    """[group, column, tap, channel] with zeros where channels (flat: rows) are padded."""
    taps = _in_order(array, layout)
    if layout.patches:  # [tap, column, channel]
        taps = taps.transpose(0, 2, 1, 3).reshape(1, -1, 1, layout.channels)
    groups, columns, count, channels = taps.shape
    if layout.flat:
        rows = np.zeros((groups, columns, _up(count * layout.flat)), np.float32)
        places = rows[:, :, : count * layout.flat].reshape(groups, columns, count, layout.flat)
        places[..., :channels] = taps
        rows[:, :, : count * layout.flat] = places.reshape(groups, columns, -1)
        return rows
    out = np.zeros((groups, columns, count, _up(channels)), np.float32)
    out[..., :channels] = taps
    return out


def _in_order(array: Array, layout: Layout) -> Array:
    """The weights as [group, column, tap, channel]."""
    g, n, c, t = layout.groups, layout.columns, layout.channels, layout.count
    if layout.transposed:
        return array.reshape(g, c, n, t).transpose(0, 2, 3, 1)
    if layout.sizes:
        whole = array.reshape(n, *layout.sizes)
        rest = [a for a in range(len(layout.sizes)) if a not in layout.order]
        return whole.transpose(0, *(1 + a for a in (*rest, *layout.order))).reshape(1, n, t, c)
    return array.reshape(g, n, c, t).transpose(0, 1, 3, 2)


def packed_count(packing: Sequence[str | int], shape: tuple[int, ...]) -> int:
    """How many numbers a parameter of this shape has when it is packed so."""
    return int(np.prod(packed_shape(packing, shape)))


def packed_shape(packing: Sequence[str | int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a parameter packed so."""
    layout = layout_of(packing, shape)
    row = layout.strides[0]
    return (layout.groups, layout.columns * (layout.count if layout.patches else 1), row)


def layout_of(packing: Sequence[str | int], shape: tuple[int, ...]) -> Layout:
    """The layout that a file's words say, for a parameter of this shape."""
    kind, *words = packing
    numbers = [word for word in words if isinstance(word, int) and not isinstance(word, bool)]
    if len(shape) < 2 or len(numbers) < len(words):
        kind = ""
    match kind, numbers:
        case "gpu_conv", [groups, flat, 0 | 1 as turned] if _splits(shape, groups):
            taps, columns, channels = shape[2:], shape[0] // groups, shape[1]
            if turned:
                columns, channels = channels, columns
            if flat == 0 or channels <= flat < channels + UNIT:
                return Layout(groups, columns, taps, channels, flat, bool(turned))
        case "gpu_patches", []:
            return Layout(1, shape[1], shape[2:], shape[0], 0, True, patches=True)
        case "gpu_fc", [axes, channels, *rest] if len(rest) >= axes > 0 <= channels:
            sizes, order = tuple(rest[:axes]), tuple(rest[axes:])
            if len(shape) == 2 and min(sizes) >= 0 and math.prod(sizes) == shape[1]:
                return _fc_layout(shape[0], sizes, order, channels)
    raise ArtifactError(f"weights are packed in an unknown way, {clean(packing)}")


def _splits(shape: tuple[int, ...], groups: int) -> bool:
    """Whether weights of this shape can be those of so many groups."""
    return groups > 0 and shape[0] % groups == 0


def _fc_layout(
    columns: int, sizes: tuple[int, ...], order: tuple[int, ...], channels: int
) -> Layout:
    depth = int(np.prod(sizes))
    taps = depth // max(channels, 1)
    if (
        sorted(order) != [a for a, size in enumerate(sizes) if size != 1]
        or taps * channels != depth
    ):
        raise ArtifactError(f"weights are packed in an unknown way, axes {clean(order)}")
    return Layout(1, columns, (taps,), channels, 0, False, sizes, order)


def unpack(packed: Array, packing: Sequence[str | int], shape: tuple[int, ...]) -> Array:
    """The inverse of `pack` for float32."""
    layout = layout_of(packing, shape)
    g, n, c, t = layout.groups, layout.columns, layout.channels, layout.count
    if layout.patches:
        taps = packed.reshape(1, t, n, _up(c))[..., :c].transpose(0, 2, 1, 3)
    elif layout.flat:
        rows = packed.reshape(g, n, -1)[:, :, : t * layout.flat]
        taps = rows.reshape(g, n, t, layout.flat)[..., :c]
    else:
        taps = packed.reshape(g, n, t, _up(c))[..., :c]
    if layout.transposed:
        return taps.transpose(0, 3, 1, 2).reshape(shape)
    if layout.sizes:
        rest = [a for a in range(len(layout.sizes)) if a not in layout.order]
        axes = [*rest, *layout.order]
        whole = taps.reshape(n, *(layout.sizes[a] for a in axes))
        back = np.argsort(axes)
        return whole.transpose(0, *(1 + int(a) for a in back)).reshape(shape)
    return taps.transpose(0, 1, 3, 2).reshape(shape)
