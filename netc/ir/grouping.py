"""Groups of channels that lie within a block of eight, as processors store maps.

A kernel of such a convolution keeps eight lanes of outputs and picks each one's inputs from the
lanes of its own block. Layouts and kernels ask here.
"""

from __future__ import annotations

from netc.ir.gemm_plan import BLOCK
from netc.ir.graph import Node
from netc.ir.ops.convolution import Conv


def within_blocks(conv: Node) -> bool:
    """Whether 1, 2, 4 or 8 channels of a group give as many."""
    if not isinstance(conv.op, Conv) or conv.op.groups == 1:
        return False
    outputs, channels = conv.inputs[1].type.shape[:2]
    fits = isinstance(channels, int) and channels > 0 and BLOCK % channels == 0
    return fits and outputs == conv.op.groups * channels
