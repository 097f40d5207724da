"""What a matrix kernel is told at run time: its argument slots and its blocking.

Convolutions and inner products share one driver; everything that depends on sizes is data.
Offsets count float32 elements. This file imports no compiler: a saved model binds new image
and batch sizes with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Offsets = npt.NDArray[np.int32]

PANEL = 16  # output channels in one panel of packed weights
BLOCK = 8  # channels that lie together in a blocked activation
SCRATCH = 32768  # bytes of sums one thread holds on its stack; within half of any L1 cache


PARTS = 4  # runs of units that threads begin at; who is done with its own helps with another


class Slot(IntEnum):
    """Eight-byte slots of a matrix kernel's argument block."""

    INPUT = 0  # first image, first channel, first pixel inside the halo's corner
    PIXELS = 1  # i32 input offset of each output pixel of the images taken together
    TAPS = 2  # i32 offsets: N8 steps of eight channels, then N1 of one
    N8 = 3
    N1 = 4
    WEIGHTS = 5  # [groups][PANELS][8 · N8 + N1][16]
    IMAGES = 6
    TOGETHER = 7  # images one pixel table covers
    PER_IMAGE = 8  # output pixels of one image
    IMAGE_STRIDE = 9
    GROUPS = 10
    GROUP_STRIDE = 11  # from one group's input channels to the next
    TILES = 12  # i32 rows of four: panel, panels, pixels at most, 0
    NTILES = 13
    PIXEL_BLOCK = 14
    CHUNK = 15  # steps of eight channels summed by themselves; results depend on it, so on K alone
    CHANNELS_OUTER = 16  # 1: weights stay, pixels pass by; 0: the reverse
    PANELS = 17  # panels of one group
    OUTPUT = 18
    OUT_PIXELS = 19  # i32 output offset of each pixel of the images taken together
    OUT_IMAGE_STRIDE = 20
    OUT_PLANE = 21  # from eight output channels to the next eight
    OUT_GROUP = 22  # from one group's outputs to the next's
    OUT_CHANNELS = 23  # of one group
    COUNTERS = 24  # units taken of each part of the work, PARTS of them, each on a cache line
    OPERANDS = 56  # per-channel pointers, then per-pixel rows like OUTPUT to OUT_GROUP


@dataclass(frozen=True)
class GemmPlan:
    """The blocking of one matrix kernel."""

    tiles: Offsets
    pixel_block: int
    chunk: int
    channels_outer: bool


def cover_panels(panels: int, sizes: Sequence[tuple[int, int]]) -> Offsets:
    """Rows (panel, panels, pixels, 0) covering all panels, widest kernels first.

    One panel alone is bound by its loads, a fifth slower than several: 5 is 3 + 2, not 4 + 1.
    """
    rows = []
    done = 0
    while done < panels:
        fitting = [row for row in sorted(sizes, reverse=True) if row[0] <= panels - done]
        pairing = [row for row in fitting if panels - done - row[0] != 1]
        count, pixels = (pairing or fitting)[0]
        rows.append((done, count, pixels, 0))
        done += count
    return np.array(rows, np.int32)


def plan_gemm(
    panels: int, steps: int, pixels: int, sizes: Sequence[tuple[int, int]], input_bytes: int
) -> GemmPlan:
    """Blocking from panels per group, steps of eight channels and pixels taken together."""
    widest = max(count for count, _ in sizes)
    block = min(60, SCRATCH // (64 * widest))
    weights = panels * steps * BLOCK * PANEL * 4
    chunks = max(1, round(steps / 72))
    outer = weights > (1 << 19) and weights > input_bytes
    return GemmPlan(cover_panels(panels, sizes), block, -(-steps // chunks) or 1, outer)
