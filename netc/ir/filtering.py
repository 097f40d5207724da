"""Which convolutions processors do by Winograd's filtering F(4×4, 3×3), and what is left to do.

Of a tile of 4×4 outputs 36 products are left of 144, for some sums before and after
(`codegen/cpu/anchors/winograd.py` has the algorithm). Placement and kernels ask here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from netc.ir.dims import IMAGE, Dim, ceil_div, evaluate
from netc.ir.gemm_plan import BLOCK
from netc.ir.graph import Node
from netc.ir.ops.convolution import Conv
from netc.ir.types import TensorType

TILE, SEEN = 4, 6  # outputs and inputs along each side of a tile
PLANES = SEEN * SEEN
# Operations for each tile and channel: lines that are transformed, and those of a line.
SPREAD, GATHER = 12 * 24, 10 * 16
LEAST_CHANNELS, LEAST_TILES = 16, 9  # below, the sums take what the products save


def is_filtered(op: Conv, x: TensorType, w: TensorType) -> bool:
    """Whether a convolution is done this way, where its results may be less exact for it.

    How many channels it gives, and how many images there are, does not matter: parts of a layer
    on several devices compute what the whole does.
    """
    if x.rank != 4 or (w.shape[2:], *op.window(2)) != ((3, 3), (1, 1), (1, 1), (1, 1)):
        return False
    outs, ins = (evaluate(d, {}) for d in w.shape[:2])
    fit = ins >= LEAST_CHANNELS and ins % BLOCK == 0
    fit = fit and (op.groups == 1 or outs % (BLOCK * op.groups) == 0)
    return fit and math.prod(usual_sizes(x, tiles_of(x))) >= LEAST_TILES


def tiles_of(x: TensorType) -> tuple[Dim, Dim]:
    """How many tiles an image has, down and across."""
    height, width = x.shape[2:]
    return ceil_div(height, TILE), ceil_div(width, TILE)


def usual_sizes(
    type: TensorType, sizes: tuple[Dim, ...], usual: Mapping[str, int] | None = None
) -> tuple[int, ...]:
    """Sizes, where images that may have any are of 224 × 224, or of their usual sizes."""
    symbols = dict.fromkeys(type.symbols, IMAGE) | dict(usual or {})
    return tuple(evaluate(d, symbols) for d in sizes)


def operations(node: Node, flops: Dim) -> Dim:
    """The floating-point operations of a node on a processor, where its op has so many."""
    if not isinstance(node.op, Conv):
        return flops
    x, w = (v.type.plain() for v in node.inputs[:2])
    if not is_filtered(node.op, x, w):
        return flops
    down, across = tiles_of(x)
    outs, ins = w.shape[:2]
    each = 2 * PLANES * ins * outs + SPREAD * x.shape[1] + GATHER * outs
    return x.shape[0] * down * across * each
