"""Pooling over regions of feature maps, for detectors (Fast R-CNN, R-FCN).

A region is a row (image, x0, y0, x1, y1), its corners in pixels of the net's image; `scale` takes
them to the feature map. Where its bins begin and end is found in float32, as Caffe finds it,
whatever the precision of the inputs: a step of these is rounded up or down to a whole pixel.
"""

from __future__ import annotations

import math

import numpy as np

from netc.ir.dims import Dim, ceil_div, product
from netc.ir.op import Array, Op, case, require
from netc.ir.ops.indexing import whole
from netc.ir.ops.windows import Ints, floats, known, per_axis
from netc.ir.types import TensorType, f32

FARTHEST = 4194304.0  # 2²², pixels; sums of such numbers are exact in float32
THINNEST = 0.1  # pixels; of a region of R-FCN

Line = tuple[Array, Array]  # of each region the first pixel of every bin, and the one behind it


def nearest(x: Array) -> Array:
    """The nearest whole number, a half away from zero: C's round."""
    size = np.abs(x)
    low = np.floor(size)
    return np.asarray(np.copysign(low + (size - low >= np.float32(0.5)), x))


def held(x: Array) -> Array:
    """x between −2²² and 2²²; NaN stays NaN."""
    return np.asarray(np.clip(x, np.float32(-FARTHEST), np.float32(FARTHEST)))


class Regions(Op):
    """Bins laid over each region, and one number for each bin of a plane."""

    def pooled(self) -> tuple[int, int]:
        """Bins down and across."""
        raise NotImplementedError

    def line(self, first: Array, last: Array, count: int) -> Line:
        """Where bins lie along one axis, in whole pixels, given the corners of each region."""
        raise NotImplementedError

    def planes(self, image: Array, row: int, column: int) -> Array:
        """The planes of an image that the bin at a place reads, one for each channel."""
        raise NotImplementedError

    def joined(self, part: Array) -> Array:
        """The number of each plane's part."""
        raise NotImplementedError

    @np.errstate(all="ignore")
    def reference(self, x: Array, rois: Array) -> Array:
        channels = known(self.infer(f32[x.shape], f32[rois.shape]).shape, "sizes")[1]
        out = np.zeros((len(rois), channels, *self.pooled()), x.dtype)
        image, legal = whole(rois[:, 0], len(x))
        x0, y0, x1, y1 = rois[:, 1:].astype(np.float32).T
        rows, columns = self.pooled()
        top, bottom = self._clipped(self.line(y0, y1, rows), x.shape[2])
        left, right = self._clipped(self.line(x0, x1, columns), x.shape[3])
        for r in np.flatnonzero(legal):
            for i, j in np.ndindex(rows, columns):
                planes = self.planes(x[image[r]], i, j)
                part = planes[:, top[r, i] : bottom[r, i], left[r, j] : right[r, j]]
                if part.size:
                    out[r, :, i, j] = self.joined(part)
        return out

    def _clipped(self, line: Line, size: int) -> Line:
        """Whole numbers from 0 to the size; NaN is 0, so that its bins are empty."""
        low, high = (np.nan_to_num(v).astype(np.int64).clip(0, size) for v in line)
        return low, high

    def flops(self, x: TensorType, rois: TensorType) -> Dim:
        """As if each region were a quarter of the image high and wide; bins share their edges."""
        sides = zip(x.shape[2:], self.pooled(), strict=True)
        return self.infer(x, rois).count * product(ceil_div(d, 4 * n) + 1 for d, n in sides)

    def infer(self, x: TensorType, rois: TensorType) -> TensorType:
        raise NotImplementedError


def _fit(x: TensorType, rois: TensorType, scale: float) -> None:
    """Require a feature map, regions, and a scale that float32 has."""
    floats(x, rois)
    require(x.rank == 4, f"x is {x}; four axes are needed")
    good = rois.rank == 2 and rois.shape[1] == 5
    require(good, f"rois is {rois}; rows of image, x0, y0, x1, y1 are needed")
    with np.errstate(all="ignore"):
        rounded = float(np.float32(scale))
    require(0 < rounded < math.inf, f"scale {scale} is not positive and finite")


class RoiPool(Regions, name="roi_pool"):
    """Fast R-CNN's pooling (Girshick, 2015; roi_pooling_layer.cpp): [r, c, height, width].

    x is [n, c, h, w], `rois` [r, 5]: image, x0, y0, x1, y1. Corners times `scale` are rounded to
    whole pixels of x, a half away from zero, and both belong to the region, which is one pixel
    high and wide at least. `size` (height, width) bins divide it; each gives the largest element
    of its part inside x: NaN when one is NaN, 0 when there is none. A region of an image that is
    not there, or with NaN in it, gives 0.
    """

    size: Ints
    scale: float = 1.0
    blocked = (0,)

    def pooled(self) -> tuple[int, int]:
        rows, columns = self.size
        return rows, columns

    def infer(self, x: TensorType, rois: TensorType) -> TensorType:
        _fit(x, rois, self.scale)
        require(
            len(self.size) == 2, f"size has {len(self.size)} entries; height and width are needed"
        )
        return x.with_shape((rois.shape[0], x.shape[1], *per_axis(self.size, 2, 1, "size", 1)))

    def line(self, first: Array, last: Array, count: int) -> Line:
        scale, at = np.float32(self.scale), np.arange(count + 1, dtype=np.float32)
        start, end = (nearest(held(v * scale))[:, None] for v in (first, last))
        step = np.maximum(end - start + np.float32(1), np.float32(1)) / np.float32(count)
        return np.floor(at[:-1] * step) + start, np.ceil(at[1:] * step) + start

    def planes(self, image: Array, row: int, column: int) -> Array:
        return image

    def joined(self, part: Array) -> Array:
        return np.asarray(part.max((1, 2)))

    samples = (
        case(f32[2, 3, 9, 7], f32[5, 5], size=(2, 3), draw=("normal", "region:2:9")),
        case(f32[1, 17, 6, 8], f32[3, 5], size=(3, 3), scale=0.25, draw=("normal", "region:1:28")),
        case(f32[3, 8, 5, 5], f32[7, 5], size=(7, 7), scale=0.0625, draw=("normal", "region:3:80")),
        case(f32[1, 5, 13, 11], f32[2, 5], size=(1, 1), scale=0.3, draw=("normal", "region:1:40")),
        case(f32[2, 1, 4, 4], f32[0, 5], size=(2, 2)),
        case(f32[0, 3, 4, 4], f32[2, 5], size=(2, 2), draw=("normal", "region:1:4")),
        case(f32[1, 3, 0, 4], f32[2, 5], size=(2, 1), draw=("normal", "region:1:4")),
        case(f32[1, 3, 4, 4], f32[2, 5], size=(2,), error="height and width"),
        case(f32[1, 3, 4, 4], f32[2, 5], size=(0, 2), error="size 0x2"),
        case(f32[1, 3, 4, 4], f32[2, 4], size=(2, 2), error="rows of image, x0, y0, x1, y1"),
        case(f32[1, 3, 4, 4], f32[2, 5, 1], size=(2, 2), error="rows of image"),
        case(f32[3, 4, 4], f32[2, 5], size=(2, 2), error="four axes"),
        case(f32[1, 3, 4, 4], f32[2, 5], size=(2, 2), scale=0.0, error="scale 0.0 is not positive"),
        case(f32[1, 3, 4, 4], f32[2, 5], size=(2, 2), scale=math.inf, error="scale inf"),
    )


class PsRoiPool(Regions, name="ps_roi_pool"):
    """R-FCN's pooling (Dai et al., 2016; psroi_pooling_layer.cu): [r, channels, group, group].

    x is [n, channels·group·group, h, w], `rois` [r, 5]: image, x0, y0, x1, y1. The bin at (i, j)
    of channel c gives the mean of its part of channel (c·group + i)·group + j of x, 0 without
    elements. Corners are rounded before they are multiplied by `scale`, and the far ones' pixels
    belong to the region, which is 0.1 high and wide at least. A region of an image that is not
    there, or with NaN in it, gives 0.
    """

    channels: int
    group: int
    scale: float = 1.0

    def pooled(self) -> tuple[int, int]:
        return self.group, self.group

    def infer(self, x: TensorType, rois: TensorType) -> TensorType:
        _fit(x, rois, self.scale)
        for name, n in (("channels", self.channels), ("group", self.group)):
            require(1 <= n < 2**31, f"{name} {n} must be at least 1")
        (found,) = known(x.shape[1:2], "channels of x")
        needed = f"{self.channels}·{self.group}·{self.group}"
        fits = found == self.channels * self.group**2
        require(fits, f"x has {found} channels; {needed} are needed")
        return x.with_shape((rois.shape[0], self.channels, self.group, self.group))

    def line(self, first: Array, last: Array, count: int) -> Line:
        scale, at = np.float32(self.scale), np.arange(count + 1, dtype=np.float32)
        start = held(nearest(first) * scale)[:, None]
        end = held((nearest(last) + np.float32(1)) * scale)[:, None]
        step = np.maximum(end - start, np.float32(THINNEST)) / np.float32(count)
        edges = held(at * step) + start
        return np.floor(edges[:, :-1]), np.ceil(edges[:, 1:])

    def planes(self, image: Array, row: int, column: int) -> Array:
        return image[row * self.group + column :: self.group**2]

    def joined(self, part: Array) -> Array:
        return np.asarray(part.mean((1, 2)))

    samples = (
        case(f32[2, 12, 9, 7], f32[5, 5], channels=3, group=2, draw=("normal", "region:2:9")),
        case(f32[1, 45, 6, 8], f32[3, 5], channels=5, group=3, scale=0.25,
             draw=("normal", "region:1:28")),
        case(f32[3, 49, 5, 5], f32[7, 5], channels=1, group=7, scale=0.0625,
             draw=("normal", "region:3:80")),
        case(f32[1, 7, 13, 11], f32[2, 5], channels=7, group=1, scale=0.3,
             draw=("normal", "region:1:40")),
        case(f32[2, 4, 4, 4], f32[0, 5], channels=1, group=2),
        case(f32[0, 4, 4, 4], f32[2, 5], channels=1, group=2, draw=("normal", "region:1:4")),
        case(f32[1, 4, 4, 0], f32[2, 5], channels=1, group=2, draw=("normal", "region:1:4")),
        case(f32[1, 5, 4, 4], f32[2, 5], channels=1, group=2, error="x has 5 channels; 1·2·2"),
        case(f32[1, 4, 4, 4], f32[2, 5], channels=0, group=2, error="channels 0 must be"),
        case(f32[1, 4, 4, 4], f32[2, 5], channels=1, group=0, error="group 0 must be"),
        case(f32[1, 4, 4, 4], f32[2, 6], channels=1, group=2, error="rows of image"),
        case(f32[4, 4, 4], f32[2, 5], channels=1, group=2, error="four axes"),
        case(f32[1, 4, 4, 4], f32[2, 5], channels=1, group=2, scale=-1.0, error="not positive"),
    )  # fmt: skip
