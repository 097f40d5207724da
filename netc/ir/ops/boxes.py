"""Boxes for detection."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from netc.ir.dims import Dim, product
from netc.ir.op import Array, Op, case, require
from netc.ir.ops.windows import Ints, floats, known
from netc.ir.types import TensorType, f32

Floats: TypeAlias = tuple[float, ...]


class PriorBox(Op, name="prior_box"):
    """SSD's boxes (Liu et al., 2016; prior_box_layer.cpp): [1, 2, h·w·priors·4].

    Only shapes are read: a feature map x and an image. Row 0 holds x0, y0, x1, y1 over the image's
    size, per cell, per min_size: a square of min_size, one of √(min·max) where max_size is given,
    then min·√a by min/√a for each aspect ratio but 1; these sizes are cut to whole pixels. Or per
    `width` and `height` a box of that size (Intel's prior_box_clustered_layer.cpp). Row 1 holds the
    variance. `img_size` and `step` are (height, width), () taken from the shapes.
    """

    min_size: Floats = ()
    max_size: Floats = ()
    aspect_ratio: Floats = ()
    flip: bool = True
    clip: bool = False
    variance: Floats = (0.1,)
    img_size: Ints = ()
    step: Floats = ()
    offset: float = 0.5
    width: Floats = ()
    height: Floats = ()

    def sides(self) -> list[tuple[float, float]]:
        """Width and height of the boxes of one cell, in pixels."""
        if self.width:
            return [*zip(self.width, self.height, strict=True)]
        ratios: list[float] = [1.0]
        for a in self.aspect_ratio:
            if all(abs(a - r) >= 1e-6 for r in ratios):
                ratios += [a, 1.0 / a] if self.flip else [a]
        out = []
        for i, size in enumerate(self.min_size):
            low = float(int(size))
            out.append((low, low))
            if self.max_size:
                out.append((math.sqrt(low * int(self.max_size[i])),) * 2)
            out += [(low * math.sqrt(r), low / math.sqrt(r)) for r in ratios[1:]]
        return out

    def infer(self, x: TensorType, image: TensorType) -> TensorType:
        require(x.rank == 4 and image.rank == 4, f"x is {x}, image is {image}; four axes each")
        require(bool(self.min_size or self.width), "min_size is missing")
        require(not self.min_size or not self.width, "min_size and width are both given")
        alike = len(self.width) == len(self.height)
        require(alike, f"{len(self.width)} width for {len(self.height)} height")
        for name in ("min_size", "max_size", "aspect_ratio", "width", "height"):
            given: Floats = getattr(self, name)
            good = all(0 < s < math.inf for s in given)
            require(good, f"{name} {given} is not positive and finite")
        pairs = not self.max_size or len(self.max_size) == len(self.min_size)
        require(pairs, f"{len(self.max_size)} max_size for {len(self.min_size)} min_size")
        above = all(a > b for a, b in zip(self.max_size, self.min_size, strict=False))
        require(above, f"max_size {self.max_size} is not above min_size {self.min_size}")
        require(len(self.variance) in (1, 4), "variance has 1 or 4 entries")
        require(len(self.img_size) in (0, 2), "img_size is (height, width)")
        require(len(self.step) in (0, 2), "step is (height, width)")
        cells = x.shape[2] * x.shape[3]
        return f32[1, 2, cells * (4 * len(self.sides()))]

    @np.errstate(all="ignore")
    def reference(self, x: Array, image: Array) -> Array:
        exact = np.float64 if x.dtype == np.float64 else np.float32
        rows, columns = x.shape[2:]
        height, width = self.img_size or known(image.shape[2:], "sizes")
        down, across = self.step or (height / max(1, rows), width / max(1, columns))
        sides = np.array(self.sides())
        middle = np.empty((rows, columns, 1, 2))
        middle[..., 0] = ((np.arange(columns) + self.offset) * across)[:, None]
        middle[..., 1] = ((np.arange(rows) + self.offset) * down)[:, None, None]
        scale = np.array([width, height])
        boxes = np.concatenate([middle - sides / 2, middle + sides / 2], -1) / np.tile(scale, 2)
        boxes = np.clip(boxes, 0, 1) if self.clip else boxes
        variance = np.broadcast_to(np.array(self.variance), boxes.shape)
        return np.stack([boxes.reshape(1, -1), variance.reshape(1, -1)], 1).astype(exact)

    samples = (
        case(f32[1, 5, 3, 4], f32[1, 3, 48, 64], min_size=(16.0,)),
        case(f32[2, 1, 5, 3], f32[2, 3, 60, 60], min_size=(10.5, 20.0), max_size=(20.0, 33.0),
             aspect_ratio=(2.0, 3.0), variance=(0.1, 0.1, 0.2, 0.2), clip=True),
        case(f32[1, 7, 2, 2], f32[1, 3, 9, 9], min_size=(4.0,), aspect_ratio=(1.0, 2.0, 2.0),
             flip=False, img_size=(32, 48), step=(8.0, 16.0), offset=0.25),
        case(f32[1, 7, 3, 2], f32[1, 3, 40, 30], width=(7.5, 12.0, 30.0), height=(9.25, 4.0, 60.0),
             clip=True, variance=(0.1, 0.1, 0.2, 0.2)),
        case(f32[1, 3, 0, 4], f32[1, 3, 8, 8], min_size=(4.0,)),
        case(f32[1, 5, 3, 4], f32[1, 3, 48, 64], min_size=(), error="missing"),
        case(f32[1, 5, 3, 4], f32[1, 3, 8, 8], min_size=(4.0,), max_size=(3.0,), error="not above"),
        case(f32[1, 5, 3, 4], f32[1, 3, 8, 8], min_size=(4.0,), variance=(1.0, 2.0),
             error="1 or 4"),
        case(f32[1, 5, 3, 4], f32[1, 3, 8, 8], min_size=(4.0,), max_size=(math.inf,),
             error="max_size (inf,) is not positive and finite"),
        case(f32[1, 5, 3, 4], f32[1, 3, 8, 8], min_size=(4.0,), aspect_ratio=(math.inf,),
             error="aspect_ratio (inf,) is not positive and finite"),
        case(f32[1, 5, 3, 4], f32[1, 3, 8, 8], min_size=(4.0,), width=(4.0,), height=(4.0,),
             error="both given"),
        case(f32[1, 5, 3, 4], f32[1, 3, 8, 8], width=(4.0, 5.0), height=(4.0,),
             error="2 width for 1 height"),
        case(f32[1, 5, 3, 4], f32[1, 3, 8, 8], width=(4.0,), height=(0.0,),
             error="height (0.0,) is not positive and finite"),
        case(f32[5, 3], f32[1, 3, 8, 8], min_size=(4.0,), error="four axes"),
    )  # fmt: skip


class NonMaxSuppression(Op, name="non_max_suppression"):
    """1 for each box that is kept, else 0: f32[…, t, 4], a group in falling order, to f32[…, t].

    A box x0, y0, x1, y1 is kept unless it overlaps with a kept one before it by more than the
    threshold: inter / (size(a) + size(b) − inter), where the boxes meet. `border` is 1 where boxes
    are of whole pixels (Fast R-CNN), and is added to sides: size is (x1 − x0 + border)·(y1 − y0 +
    border), or 0 where x1 < x0 or y1 < y0. The threshold begins as `overlap`; each box that is
    kept multiplies it by `eta` while it is above 0.5 (SSD's bbox_util.cpp). A box with a NaN is
    kept, and suppresses none.
    """

    overlap: float
    border: float = 0.0
    eta: float = 1.0

    def infer(self, boxes: TensorType) -> TensorType:
        floats(boxes)
        fits = boxes.rank >= 2 and boxes.shape[-1] == 4
        require(fits, f"boxes is {boxes}; f32[…, t, 4] is needed")
        require(0 <= self.overlap <= 1, f"overlap {self.overlap} is not in [0, 1]")
        require(0 <= self.border < math.inf, f"border {self.border} is not 0 or above, and finite")
        require(0 < self.eta <= 1, f"eta {self.eta} is not in (0, 1]")
        return boxes.with_shape(boxes.shape[:-1])

    @np.errstate(all="ignore")
    def reference(self, boxes: Array) -> Array:
        groups, count = math.prod(boxes.shape[:-2]), boxes.shape[-2]
        low, high = np.split(boxes.reshape(groups, count, 4), 2, axis=-1)
        size = np.where((high < low).any(-1), 0, (high - low + self.border).prod(-1))
        threshold = np.full((groups, 1), self.overlap, boxes.dtype)
        kept = np.zeros((groups, count), bool)
        for i in range(count):
            here, before = slice(i, i + 1), slice(i)
            side = np.minimum(high[:, here], high[:, before])
            side = side - np.maximum(low[:, here], low[:, before]) + self.border
            inter = np.where((side <= 0).any(-1), 0, side.prod(-1))
            ratio = inter / (size[:, here] + size[:, before] - inter)
            hit = kept[:, before] & (inter > 0) & (ratio > threshold)
            kept[:, i] = ~hit.any(-1)
            lower = kept[:, here] & (threshold > 0.5)
            threshold = np.where(lower, threshold * boxes.dtype.type(self.eta), threshold)
        return kept.reshape(boxes.shape[:-1]).astype(boxes.dtype)

    def flops(self, boxes: TensorType) -> Dim:
        count = boxes.shape[-2]
        return product(boxes.shape[:-2]) * count * count * 5

    samples = (
        case(f32[17, 4], draw=("boxes",), overlap=0.3),
        case(f32[2, 37, 4], draw=("boxes",), overlap=0.5, border=1.0),
        case(f32[3, 1, 70, 4], draw=("boxes",), overlap=0.9, eta=0.8),
        case(f32[2, 3, 5, 4], overlap=0.1),
        case(f32[5, 1, 4], overlap=0.0),
        case(f32[2, 0, 4], overlap=0.5),
        case(f32[0, 3, 4], overlap=0.5),
        case(f32[4], overlap=0.5, error="f32[…, t, 4] is needed"),
        case(f32[2, 5], overlap=0.5, error="f32[…, t, 4] is needed"),
        case(f32[2, 4], overlap=1.5, error="overlap 1.5 is not in [0, 1]"),
        case(f32[2, 4], overlap=math.nan, error="overlap nan is not in [0, 1]"),
        case(f32[2, 4], overlap=0.5, border=-1.0, error="border -1.0"),
        case(f32[2, 4], overlap=0.5, eta=0.0, error="eta 0.0 is not in (0, 1]"),
    )
