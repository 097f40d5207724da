"""Resizing and unpooling of feature maps [n, c, h, w]."""

from __future__ import annotations

import numpy as np

from netc.ir.dims import Dim
from netc.ir.op import Array, Op, case, require
from netc.ir.ops.indexing import whole
from netc.ir.ops.shape import Dims
from netc.ir.ops.windows import Ints, floats, known, per_axis
from netc.ir.types import TensorType, f32


def _target(x: TensorType, size: Dims, scale: Ints) -> Dims:
    """The height and width asked for, by size or by a whole factor."""
    require(x.rank == 4, f"x is {x}; four axes are needed")
    require(bool(size) != bool(scale), "give either size or scale")
    if scale:
        factors = per_axis(scale, 2, 1, "scale", 1)
        return tuple(d * f for d, f in zip(x.shape[2:], factors, strict=True))
    require(len(size) == 2, f"size has {len(size)} entries; height and width are needed")
    for d in size:
        require(not isinstance(d, int) or d >= 1, f"the size {d} must be at least 1")
    return size


def _readable(x: TensorType) -> None:
    for d in x.shape[2:]:
        require(not isinstance(d, int) or d >= 1, f"x is {x}: there is nothing to read")


class ResizeBilinear(Op, name="resize_bilinear"):
    """Bilinear interpolation to `size` (height, width), or by whole factors `scale`.

    With align_corners, output i reads input i·(in − 1)/(out − 1) (DeepLab's Interp); without,
    (i + ½)·in/out − ½, held within the image.
    """

    size: Dims = ()
    scale: Ints = ()
    align_corners: bool = True
    blocked = (0,)

    def infer(self, x: TensorType) -> TensorType:
        floats(x)
        out = _target(x, self.size, self.scale)
        _readable(x)
        return x.with_shape((*x.shape[:2], *out))

    def line(self, size: int, out: int) -> tuple[Array, Array, Array]:
        """Per output: the first input read, the second, and the weight of the second."""
        i = np.arange(out)
        if self.align_corners:
            at = i * ((size - 1) / (out - 1) if out > 1 else 0.0)
        else:
            at = np.clip((i + 0.5) * (size / out) - 0.5, 0, size - 1)
        low = np.minimum(np.floor(at).astype(np.int64), size - 1)
        return low, np.minimum(low + 1, size - 1), at - low

    @np.errstate(all="ignore")
    def reference(self, x: Array) -> Array:
        height, width = known(_target_of(self, x), "sizes")
        y0, y1, fy = self.line(x.shape[2], height)
        x0, x1, fx = self.line(x.shape[3], width)
        fy, fx = fy.astype(x.dtype)[:, None], fx.astype(x.dtype)
        rows = x[:, :, y0] * (1 - fy) + x[:, :, y1] * fy
        return np.asarray(rows[..., x0] * (1 - fx) + rows[..., x1] * fx)

    def flops(self, x: TensorType) -> Dim:
        return self.infer(x).count * 9

    samples = (
        case(f32[2, 3, 5, 7], size=(9, 13)),
        case(f32[1, 5, 8, 9], size=(3, 4)),
        case(f32[1, 17, 4, 4], scale=(2, 2), align_corners=False),
        case(f32[1, 3, 7, 5], size=(4, 11), align_corners=False),
        case(f32[1, 3, 1, 1], size=(3, 3)),
        case(f32[1, 1, 5, 5], size=(1, 1)),
        case(f32[0, 3, 5, 5], size=(2, 2)),
        case(f32[1, 3, 5, 5], error="either size or scale"),
        case(f32[1, 3, 5, 5], size=(2,), error="height and width"),
        case(f32[1, 3, 5, 5], size=(0, 2), error="at least 1"),
        case(f32[1, 3, 0, 5], size=(2, 2), error="nothing to read"),
        case(f32[3, 5, 5], size=(2, 2), error="four axes"),
    )


def _target_of(op: ResizeBilinear | ResizeNearest | Unpool, x: Array) -> Dims:
    size = () if isinstance(op, ResizeNearest) else op.size
    return _target(f32[x.shape], size, op.scale)


class ResizeNearest(Op, name="resize_nearest"):
    """Every element repeated scale[0] times down and scale[1] times across."""

    scale: Ints = (2, 2)
    blocked = (0,)

    def infer(self, x: TensorType) -> TensorType:
        return x.with_shape((*x.shape[:2], *_target(x, (), self.scale)))

    def reference(self, x: Array) -> Array:
        return x.repeat(self.scale[0], 2).repeat(self.scale[1], 3)

    samples = (
        case(f32[2, 3, 4, 5]),
        case(f32[1, 17, 3, 3], scale=(3, 1)),
        case(f32[0, 3, 2, 2]),
        case(f32[1, 3, 4, 4], scale=(0, 2), error="scale 0x2"),
        case(f32[1, 3, 4, 4], scale=(2,), error="2 spatial axes"),
        case(f32[3, 4, 4], error="four axes"),
    )


class Unpool(Op, name="unpool"):
    """Zeros of the given size (or x's size times scale), with each x at its index.

    The index counts h·W + w in the plane, as `max_pool_index` gives it for the result's plane. The
    last of equal indices wins; one out of range is dropped (SegNet's Upsample).
    """

    size: Dims = ()
    scale: Ints = ()

    def infer(self, x: TensorType, index: TensorType) -> TensorType:
        floats(x)
        out = _target(x, self.size, self.scale)
        require(index.shape == x.shape, f"the index is {index}, x is {x}: the shapes differ")
        return x.with_shape((*x.shape[:2], *out))

    def reference(self, x: Array, index: Array) -> Array:
        height, width = known(_target_of(self, x), "sizes")
        out = np.zeros((x.shape[0] * x.shape[1], height * width), x.dtype)
        at, legal = whole(index.reshape(len(out), x.shape[2] * x.shape[3]), height * width)
        plane, place = np.nonzero(legal)
        out[plane, at[plane, place]] = x.reshape(at.shape)[plane, place]
        return out.reshape(*x.shape[:2], height, width)

    samples = (
        case(f32[2, 3, 4, 5], f32[2, 3, 4, 5], scale=(2, 2), draw=("normal", "index:80")),
        case(f32[1, 5, 3, 3], f32[1, 5, 3, 3], size=(5, 7), draw=("normal", "index:60")),
        case(f32[0, 3, 2, 2], f32[0, 3, 2, 2], scale=(2, 2)),
        case(f32[1, 3, 2, 2], f32[1, 3, 2, 3], scale=(2, 2), error="shapes differ"),
        case(f32[1, 3, 2, 2], f32[1, 3, 2, 2], error="either size or scale"),
    )
