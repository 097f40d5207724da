"""The ops. Importing this package fills `netc.ir.op.REGISTRY`."""

from netc.ir.ops import (
    boxes,
    convolution,
    devices,
    elementwise,
    formula,
    fused,
    image,
    indexing,
    layout,
    normalization,
    pooling,
    random,
    reduction,
    regions,
    shape,
    sources,
)

__all__ = [
    "boxes",
    "convolution",
    "devices",
    "elementwise",
    "formula",
    "fused",
    "image",
    "indexing",
    "layout",
    "normalization",
    "pooling",
    "random",
    "reduction",
    "regions",
    "shape",
    "sources",
]
