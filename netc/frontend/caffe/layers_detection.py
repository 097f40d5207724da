"""Pooling over regions, by the forks of Fast R-CNN and R-FCN."""

from __future__ import annotations

from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.ir.dims import product
from netc.ir.graph import Value


@layer("ROIPooling", bottoms=2)
def roi_pooling(c: Layer) -> Value:
    """The largest element of each bin of each region."""
    p = c.param("roi_pooling_param")
    size = (_count(c, p, "pooled_h"), _count(c, p, "pooled_w"))
    return c.b.roi_pool(c.x, _regions(c), size=size, scale=_scale(c, p))


@layer("PSROIPooling", bottoms=2)
def psroi_pooling(c: Layer) -> Value:
    """The mean of each bin of each region, each bin of channels of its own."""
    p = c.param("psroi_pooling_param")
    channels, group = _count(c, p, "output_dim"), _count(c, p, "group_size")
    scale = _scale(c, p)
    return c.b.ps_roi_pool(c.x, _regions(c), channels=channels, group=group, scale=scale)


def _count(c: Layer, p: Message, field: str) -> int:
    c.check(p.whole(field) >= 1, f"{field} must be at least 1", p, field)
    return p.whole(field)


def _scale(c: Layer, p: Message) -> float:
    c.check(p.real("spatial_scale") > 0, "spatial_scale must be above 0", p, "spatial_scale")
    return p.real("spatial_scale")


def _regions(c: Layer) -> Value:
    """The second bottom as [r, 5]: Caffe's [r, 5, 1, 1] too."""
    rois = c.xs[1]
    sizes = rois.type.shape
    c.check(product(sizes[1:]) == 5, f"rois is {rois.type}; five numbers for each are needed")
    return rois if len(sizes) == 2 else c.reshape(rois, (sizes[0], 5))
