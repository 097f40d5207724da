"""Weights in the order the microkernels read them: panels of sixteen output channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from netc.ir.gemm_plan import BLOCK, PANEL

F32 = npt.NDArray[np.float32]


def pack_conv(weights: F32, groups: int, *, blocked: bool) -> F32:
    """w[o, c, kh, kw] -> [groups, panels, k, 16], zero beyond the last channel.

    k runs over (eight channels, kh, kw, channel) for blocked input, the channels beyond a
    multiple of eight last as (kh, kw, channel); over (channel, kh, kw) for planar input.
    """
    channels = weights.shape[1]
    full = channels - channels % BLOCK if blocked else 0
    grouped = weights.reshape(groups, weights.shape[0] // groups, *weights.shape[1:])
    outputs, height, width = grouped.shape[1], *weights.shape[2:]
    eights = grouped[:, :, :full].reshape(groups, outputs, -1, BLOCK, height, width)
    parts = [eights.transpose(0, 2, 4, 5, 3, 1).reshape(groups, -1, outputs)]
    rest = grouped[:, :, full:]
    order = (0, 3, 4, 2, 1) if blocked else (0, 2, 3, 4, 1)
    parts.append(rest.transpose(order).reshape(groups, -1, outputs))
    rows = np.concatenate(parts, axis=1)
    panels = -(-outputs // PANEL)
    packed = np.zeros((groups, panels, rows.shape[1], PANEL), np.float32)
    for p in range(panels):
        columns = rows[:, :, p * PANEL : (p + 1) * PANEL]
        packed[:, p, :, : columns.shape[2]] = columns
    return packed


def pack_fc(weights: F32, image: tuple[int, int, int], *, blocked: bool) -> F32:
    """w[o, c·h·w] for a blocked image, or for plain rows when `blocked` is false."""
    shape = image if blocked else (weights.shape[1], 1, 1)
    return pack_conv(weights.reshape(weights.shape[0], *shape), 1, blocked=True)


def pack_channels(values: F32, groups: int, fill: float = 0.0) -> F32:
    """One value a channel (a bias, a slope) -> [groups, panels · 16]."""
    grouped = values.reshape(groups, -1)
    width = -(-grouped.shape[1] // PANEL) * PANEL
    packed = np.full((groups, width), fill, np.float32)
    packed[:, : grouped.shape[1]] = grouped
    return packed
