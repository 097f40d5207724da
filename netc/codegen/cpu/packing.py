"""Weights in the order the microkernels read them: panels of sixteen output channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from netc.codegen.rounding import as_bytes, of_bytes, rounded
from netc.errors import ArtifactError, clean
from netc.ir.gemm_plan import BLOCK, PANEL
from netc.spread import MOST, spread

F32 = npt.NDArray[np.float32]
IN_PAIRS = "bf16"  # of bfloat16, pairs of k where k would be: [groups, panels, k / 2, 16, 2]
IN_QUADS = "int8"  # of bytes, four of them: [groups, panels, k / 4, 16, 4], and what they are worth
ROUNDED = (IN_PAIRS, IN_QUADS)
_TOGETHER = {IN_PAIRS: 2, IN_QUADS: 4}
_WRAPPED = {IN_PAIRS: ("conv", "fc", "phases"), IN_QUADS: ("conv", "fc")}  # what may be packed so
_WORTH_A_THREAD = 4 << 20  # bytes


def pack(weights: F32, packing: Sequence[str | int], out: F32) -> None:
    """Write weights packed so; `out` is flat.

    A convolution's w[o, c, kh, kw] becomes [groups, panels, k, 16], zero beyond the last channel.
    k runs over (eight channels, kh, kw, channel), the channels beyond a multiple of eight last as
    (kh, kw, channel): sums have one order, however their input lies. An inner product's
    w[o, c·h·w] is that of a convolution of the whole image. A transposed convolution's
    w[c, o, kh, kw] is one of every so-manieth tap after the other.

    In pairs of bfloat16 or four bytes, what is left of the channels has zeros beside it at each of
    its taps. A byte is worth its output channel's scale. Scales, and the sums of channels' bytes as
    int32, both [groups, panels, 16], are behind the panels.
    """
    together, packing = _kind(packing)
    match packing:
        case ["conv", int(groups)]:
            _pack_conv(weights, groups, out, together)
        case ["fc", int(c), int(h), int(w)]:
            _pack_conv(weights.reshape(weights.shape[0], c, h, w), 1, out, together)
        case ["phases", int(groups), int(i), int(j)]:
            turned = _turned(weights, groups)
            places = phase_places(weights.shape, groups, (i, j), together)
            for (down, across), place in places.items():
                _pack_conv(turned[:, :, down::i, across::j], groups, out[place], together)


def _kind(packing: Sequence[str | int]) -> tuple[int, tuple[str | int, ...]]:
    """How many weights of a packing lie in four bytes, and what it is without such a word."""
    if len(packing) > 1 and packing[1] in _WRAPPED.get(str(packing[0]), ()):
        return _TOGETHER[str(packing[0])], tuple(packing[1:])
    return 1, tuple(packing)


def _depth(channels: int, taps: int, together: int) -> int:
    """Products that are summed: at each tap a multiple of those in four bytes."""
    return taps * (channels + -channels % together)


def panel_floats(outputs: int, groups: int, depth: int) -> int:
    """Elements of panels with so many rows."""
    return groups * -(-outputs // PANEL) * PANEL * depth


def _pack_conv(weights: F32, groups: int, out: F32, together: int) -> None:
    channels = weights.shape[1]
    full = channels - channels % BLOCK
    grouped = weights.reshape(groups, weights.shape[0] // groups, *weights.shape[1:])
    outputs, height, width = grouped.shape[1], *weights.shape[2:]
    depth = _depth(channels, height * width, together)
    rows = panel_floats(outputs, groups, depth // together)
    packed = out[:rows].reshape(groups, -(-outputs // PANEL), depth // together, PANEL)
    worth = out[rows:].reshape(-1, *packed.shape[:2], PANEL)

    def panel(p: int) -> None:
        if together == 1:
            fill(p, packed[:, p])
            return
        floats = np.empty((groups, depth, PANEL), np.float32)
        fill(p, floats)
        words = floats.reshape(groups, -1, together, PANEL).swapaxes(2, 3)
        if together == 2:
            packed[:, p] = rounded(words, "bf16").view(np.float32)[..., 0]
            return
        made, worth[0, :, p] = as_bytes(words, (1, 3))
        worth[1, :, p] = made.sum((1, 3), np.int32).view(np.float32)
        packed[:, p] = made.view(np.float32)[..., 0]

    def fill(p: int, target: F32) -> None:  # one panel's weights fit a cache: in place
        rows = np.ascontiguousarray(grouped[:, p * PANEL : (p + 1) * PANEL])
        count = rows.shape[1]
        eights = rows[:, :, :full].reshape(groups, count, -1, BLOCK, height, width)
        eights = eights.transpose(0, 2, 4, 5, 3, 1).reshape(groups, -1, count)
        target[:, : eights.shape[1], :count] = eights
        if full < channels:
            beside = np.zeros((groups, count, -channels % together, height, width), np.float32)
            rest = np.concatenate([rows[:, :, full:], beside], axis=2)
            rest = rest.transpose(0, 3, 4, 2, 1).reshape(groups, -1, count)
            target[:, eights.shape[1] :, :count] = rest
        target[:, :, count:] = 0

    spread(panel, packed.shape[1], 1 if packed.nbytes < _WORTH_A_THREAD else MOST)


def phase_places(
    shape: Sequence[int], groups: int, every: tuple[int, int], together: int
) -> dict[tuple[int, int], slice]:
    """Where the taps of each residue of a transposed convolution's weights are, packed."""
    places, at = {}, 0
    for i, j in _residues(shape, every):
        taps = len(range(i, shape[2], every[0])) * len(range(j, shape[3], every[1]))
        depth = _depth(shape[0] // groups, taps, together) // together
        size = panel_floats(shape[1], groups, depth)
        places[i, j] = slice(at, at + size)
        at += size
    return places


def _turned(weights: F32, groups: int) -> F32:
    """w[c, o, …] as [o, c, …] or the reverse, group by group."""
    first, second, *window = weights.shape
    split = weights.reshape(groups, first // groups, second, *window).swapaxes(1, 2)
    return split.reshape(groups * second, first // groups, *window)


def _residues(shape: Sequence[int], every: tuple[int, int]) -> list[tuple[int, int]]:
    """The residues of which a window has taps."""
    down, across = (range(min(n, k)) for n, k in zip(every, shape[2:], strict=True))
    return [(i, j) for i in down for j in across]


def pack_channels(values: F32, groups: int, fill: float = 0.0) -> F32:
    """One value a channel (a bias, a slope) -> [groups, panels · 16]."""
    grouped = values.reshape(groups, -1)
    width = -(-grouped.shape[1] // PANEL) * PANEL
    packed = np.full((groups, width), fill, np.float32)
    packed[:, : grouped.shape[1]] = grouped
    return packed


def unpack(packed: F32, packing: Sequence[str | int], shape: tuple[int, ...]) -> F32:
    """The weights of this shape that were packed so: the inverse of `pack`."""
    together, inner = _kind(packing)
    if not math.prod(shape):
        return np.zeros(shape, np.float32)
    match inner:
        case ["conv", int(groups)] if _splits(shape, groups):
            return _unpack_conv(packed, shape, groups, together)
        case ["fc", int(c), int(h), int(w)] if _are_inputs(shape, (c, h, w)):
            return _unpack_conv(packed, (shape[0], c, h, w), 1, together).reshape(shape)
        case ["phases", int(groups), int(i), int(j)] if _splits(shape, groups) and min(i, j) > 0:
            return _unpack_phases(packed, shape, groups, (i, j), together)
        case ["raw"]:
            return packed.reshape(shape)
    raise ArtifactError(f"weights are packed in an unknown way, {clean(packing)}")


def _splits(shape: tuple[int, ...], groups: int) -> bool:
    """Whether weights of this shape can be a convolution's with so many groups."""
    return len(shape) == 4 and type(groups) is int and groups > 0 and shape[0] % groups == 0


def _are_inputs(shape: tuple[int, ...], sizes: tuple[int, int, int]) -> bool:
    """Whether weights of this shape can be an inner product's over channels of such maps."""
    fit = all(type(d) is int and d >= 0 for d in sizes)
    return fit and len(shape) == 2 and math.prod(sizes) == shape[1]


def packed_count(packing: Sequence[str | int], shape: tuple[int, ...]) -> int:
    """How many times four bytes a parameter of this shape has when packed so."""
    (together, inner), count, groups = _kind(packing), math.prod(shape), 1
    if len(shape) < 2 or not count:
        return count
    match inner:
        case ["conv", int(number), *_]:
            groups = max(1, number)
            channels, outputs = shape[1], shape[0] // groups
        case ["phases", int(number), *_]:
            groups = max(1, number)
            channels, outputs = shape[0] // groups, shape[1]
        case ["fc", int(channels), *_] if channels > 0:
            outputs = shape[0]
        case _:
            return count
    taps = count // max(1, groups * outputs * channels)
    depth = _depth(channels, taps, together) // together
    return panel_floats(outputs, groups, depth + (2 if together == 4 else 0))


def _unpack_conv(packed: F32, shape: tuple[int, ...], groups: int, together: int) -> F32:
    outputs, channels, height, width = shape[0] // groups, *shape[1:]
    full = channels - channels % BLOCK
    depth = _depth(channels, height * width, together)
    if together == 2:
        halves = packed.view(np.uint16).reshape(-1, PANEL, 2).swapaxes(1, 2)
        packed = (halves.astype(np.uint32) << 16).view(np.float32)
    if together == 4:
        count = panel_floats(outputs, groups, depth // 4)
        scales = packed[count:].reshape(2, groups, -1, 1, PANEL)[0]
        words = packed[:count].view(np.int8).reshape(*scales.shape[:2], depth // 4, PANEL, 4)
        words = words.swapaxes(3, 4).reshape(*scales.shape[:2], depth, PANEL)
        packed = of_bytes(words, scales)
    rows = packed.reshape(groups, -1, depth, PANEL).transpose(0, 2, 1, 3)
    rows = rows.reshape(groups, depth, -1)[:, :, :outputs]
    split = full * height * width
    eights = rows[:, :split].reshape(groups, full // BLOCK, height, width, BLOCK, outputs)
    eights = eights.transpose(0, 5, 1, 4, 2, 3).reshape(groups, outputs, full, height, width)
    rest = rows[:, split:].reshape(groups, height, width, -1, outputs)[..., : channels - full, :]
    rest = rest.transpose(0, 4, 3, 1, 2)
    return np.concatenate([eights, rest], axis=2).reshape(shape)


def _unpack_phases(
    packed: F32, shape: tuple[int, ...], groups: int, every: tuple[int, int], together: int
) -> F32:
    channels, outputs, height, width = shape
    out = np.zeros((groups * outputs, channels // groups, height, width), np.float32)
    for (i, j), place in phase_places(shape, groups, every, together).items():
        part = out[:, :, i :: every[0], j :: every[1]]
        part[...] = _unpack_conv(packed[place], part.shape, groups, together)
    return _turned(out, groups)
