"""What a matrix kernel is told at run time: its argument slots and its blocking.

Convolutions and inner products share one driver; everything that depends on sizes is data.
Offsets count elements, of float32, bfloat16 or bytes. This file imports no compiler: a saved model
binds new image and batch sizes with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

PANEL = 16  # output channels in one panel of packed weights
BLOCK = 8  # channels that lie together in a blocked activation
STEPS = 72  # of eight channels, about, that are summed by themselves
SCRATCH = 32768  # bytes of sums one thread holds on its stack; within half of any L1 cache


PARTS = 4  # runs of units that threads begin at; who is done with its own helps with another


class Slot(IntEnum):
    """Eight-byte slots of a matrix kernel's argument block."""

    INPUT = 0  # first image, first channel, first pixel inside the halo's corner
    PIXELS = 1  # i32 input offset of each output pixel of the images taken together
    TAPS = 2  # i32 offsets: N8 steps of eight channels, then N1 of one, or of a pair or four
    N8 = 3
    N1 = 4
    WEIGHTS = 5  # [groups][PANELS][8 / t · N8 + N1][16][t], t channels in four bytes
    IMAGES = 6
    TOGETHER = 7  # images one pixel table covers
    PER_IMAGE = 8  # output pixels of one image
    IMAGE_STRIDE = 9
    GROUPS = 10
    GROUP_STRIDE = 11  # from one group's input channels to the next
    PANELS = 12  # of one group
    PIXEL_BLOCK = 13
    CHUNK = 14  # steps of eight channels summed by themselves; results depend on it, so on K alone
    CHANNELS_OUTER = 15  # 1: weights stay, pixels pass by; 0: the reverse
    OUTPUT = 16
    OUT_PIXELS = 17  # i32 output offset of each pixel of the images taken together
    OUT_IMAGE_STRIDE = 18
    OUT_PLANE = 19  # from eight output channels to the next eight
    OUT_GROUP = 20  # from one group's outputs to the next's
    OUT_CHANNELS = 21  # of one group
    COUNTERS = 24  # units taken of each part of the work, PARTS of them, each on a cache line
    OPERANDS = (
        56  # per-channel pointers, of bytes what scales them, then per-pixel rows like OUTPUT
    )


@dataclass(frozen=True)
class GemmPlan:
    """The blocking of one matrix kernel."""

    pixel_block: int
    chunk: int
    channels_outer: bool


def plan_gemm(panels: int, steps: int | None, widest: int, input_bytes: int, item: int) -> GemmPlan:
    """Blocking from panels per group, steps of eight channels (None where a run says how many),
    the panels of the widest tile, and the bytes of one image and of one weight."""
    block = min(60, SCRATCH // (64 * widest))
    if steps is None:
        return GemmPlan(block, STEPS, False)
    weights = panels * steps * BLOCK * PANEL * item
    chunks = max(1, round(steps / STEPS))
    outer = weights > (1 << 19) and weights > input_bytes
    return GemmPlan(block, -(-steps // chunks) or 1, outer)
