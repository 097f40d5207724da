"""Preprocessing as ops at the head of a net, so that image bytes go straight in.

The order is fixed: bytes to float, channels reordered, resized, the mean taken off, the middle
cut out, scaled: (x − mean) · scale, as Caffe's transform_param and Transformer do it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from netc.errors import GraphError, UsageError, WeightsError, clean
from netc.frontend.files import display, mapped
from netc.frontend.npz import read_npy
from netc.ir.dims import Dim, sym
from netc.ir.graph import Builder, Value
from netc.ir.types import DType, TensorType

Shape = tuple[Dim, ...]
Size = tuple[int, int]
CHANNELS = ("RGB", "BGR")
LAYOUTS = ("CHW", "HWC")
MAX_SIDE = 1 << 16  # pixels
CUT = "the net sees the middle of the image"  # how the remark on it begins


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the net: sizes are (height, width), `mean` is in the
    order of the net's channels, `channels` is what the net expects of an RGB image."""

    resize: Size | None = None
    crop: Size | None = None
    mean: NDArray[np.float32] | None = None
    scale: float = 1.0
    channels: str = "RGB"
    layout: str = "CHW"
    dtype: DType = DType.U8

    def head(self, b: Builder, name: str, shape: Shape) -> Value:
        """An image input called `name` and the ops that bring it to `shape`, the net's own."""
        given = self._given(shape)
        plain = (given[0], *given[2:], given[1]) if self.layout == "HWC" else given
        x = b.input(name, TensorType(self.dtype, plain))
        x = x if self.dtype is DType.F32 else b.cast(x, to=DType.F32)
        x = b.transpose(x, perm=(0, 3, 1, 2)) if self.layout == "HWC" else x
        if self.channels == "BGR":
            parts = [b.slice(x, axis=1, start=i, stop=i + 1) for i in (2, 1, 0)]
            x = b.concat(*parts, axis=1)
        if self.resize and x.type.shape[2:] != self.resize:
            x = b.resize_bilinear(x, size=self.resize, align_corners=False)
        x = self._centred(b, self._cut(b, self._centred(b, x, name, False)), name, True)
        x = x if self.scale == 1 else b.affine(x, scale=self.scale, shift=0.0)
        self._check(x.type.shape, shape)
        return x

    def fixes_size(self) -> bool:
        """Whether the image is brought to one size, whatever size it has."""
        return self.resize is not None or self.crop is not None

    def net_size(self) -> Size | None:
        """The height and width the net then sees, where they are fixed here."""
        return self.crop or self.resize

    def notes(self) -> tuple[str, ...]:
        """Remarks for people: which part of an image the net sees where it is not all of it."""
        if not self.crop or self.crop == self.resize:
            return ()
        return (f"{CUT}: {self.crop[0]}×{self.crop[1]} pixels",)

    def _given(self, shape: Shape) -> Shape:
        """The input's shape: any height and width where the image is resized."""
        if len(shape) != 4:
            raise GraphError(f"an image net takes [N, C, H, W], not {len(shape)} axes")
        if self.channels == "BGR" and shape[1] != 3:
            raise GraphError(f"BGR needs 3 channels; the net has {shape[1]}")
        if self.resize:
            return (*shape[:2], sym("H"), sym("W"))
        if not self.crop:
            return shape
        if self.mean is None or self.mean.ndim != 3 or self.mean.shape[1] == 1:
            help = "give the size to cut from: --resize"
            raise GraphError("a crop needs the size of the image it is cut from", help=help)
        return (*shape[:2], *self.mean.shape[1:])

    def _centred(self, b: Builder, x: Value, name: str, late: bool) -> Value:
        """x − mean, where the mean has this size: before the cut, or after it."""
        if self.mean is None or f"{name}.mean" in b.names:
            return x
        mean = self.mean.reshape(-1, 1, 1) if self.mean.ndim == 1 else self.mean
        fits = mean.shape[0] in (1, x.type.shape[1]) and mean.shape[1:] in (
            (1, 1),
            x.type.shape[2:],
        )
        if not fits and not late:
            return x
        if not fits:
            shown = "×".join(map(str, mean.shape))
            raise GraphError(f"a mean of {shown} does not fit an image of {x.type}")
        type = TensorType(DType.F32, mean.shape)
        return b.sub(x, b.param(f"{name}.mean", type, value=mean.astype(np.float32)))

    def _cut(self, b: Builder, x: Value) -> Value:
        """The middle of the image, as Caffe in TEST."""
        for axis, size in zip((2, 3), self.crop or (), strict=False):
            room = x.type.shape[axis]
            if not isinstance(room, int) or room < size:
                raise GraphError(f"a crop of {size} does not fit an image of {x.type}")
            start = (room - size) // 2
            x = b.slice(x, axis=axis, start=start, stop=start + size) if room != size else x
        return x

    def _check(self, made: Shape, wanted: Shape) -> None:
        if made != wanted:
            shown = ["×".join(map(str, s[2:])) for s in (made, wanted)]
            help = "give --resize or --crop the size that the net takes"
            raise GraphError(
                f"the image is {shown[0]} at last; the net takes {shown[1]}", help=help
            )


OPTIONS = tuple(f.name for f in fields(Preprocessing))


def preprocessing(given: Preprocessing | Mapping[str, Any] | None) -> Preprocessing | None:
    """Options as users give them, checked; None when there are none.

    `resize` and `crop` are a side or (height, width); `mean` is a number per channel, an array,
    or the path of a .binaryproto or .npy.
    """
    if given is None or isinstance(given, Preprocessing):
        return given
    found = {k: v for k, v in given.items() if v is not None}
    if not found:
        return None
    for name in (given for given in found if given not in OPTIONS):
        fits = f"there are {', '.join(sorted(OPTIONS))}"
        raise UsageError(f"there is no option {clean(name)!r}", help=fits)
    for name, read in _READERS.items():
        if name in found:
            found[name] = read(found[name], name)
    return Preprocessing(**found)


def _size(value: Any, name: str) -> Size:
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    good = len(pair) == 2 and all(type(n) is int and 0 < n <= MAX_SIDE for n in pair)
    if not good:
        raise UsageError(f"{name} is a side or (height, width), not {clean(value)}")
    return cast(Size, pair)


def _mean(value: Any, name: str) -> NDArray[np.float32]:
    if isinstance(value, str | os.PathLike):
        return _mean_file(value)
    try:
        mean = np.atleast_1d(np.asarray(value, np.float32))
    except (TypeError, ValueError):
        mean = np.empty((0,), np.float32)
    if mean.size == 0 or mean.ndim not in (1, 3) or not np.isfinite(mean).all():
        raise UsageError(f"{name} is a number per channel, an image or a file, not {clean(value)}")
    return mean


def _mean_file(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    from netc.frontend.caffe.blobs import read_mean  # whose importer needs this module

    data, name = mapped(path, WeightsError), display(path)
    array = read_npy(data, name) if bytes(data[:6]) == b"\x93NUMPY" else read_mean(data, name)
    if array.ndim not in (1, 3):
        raise WeightsError(f"{clean(name)} has the shape {list(array.shape)}; C×H×W is needed")
    return np.asarray(array, np.float32)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise UsageError(f"{name} is a number, not {clean(value)}")
    return float(value)


def _one_of(options: tuple[str, ...]) -> Any:
    def read(value: Any, name: str) -> str:
        if value not in options:
            raise UsageError(f"{name} is {' or '.join(options)}, not {clean(value)}")
        return str(value)

    return read


def _dtype(value: Any, name: str) -> DType:
    found = value.value if isinstance(value, DType) else value
    if found not in ("u8", "f32"):
        raise UsageError(f"{name} is u8 or f32, not {clean(found)}")
    return DType(found)


_READERS = {
    "resize": _size,
    "crop": _size,
    "mean": _mean,
    "scale": _number,
    "channels": _one_of(CHANNELS),
    "layout": _one_of(LAYOUTS),
    "dtype": _dtype,
}
