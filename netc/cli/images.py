"""Image files as arrays for a net's input: the header is judged before a pixel is decoded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from netc.errors import InputError, ResourceError, clean
from netc.ir.dims import MAX_DIM, parse_dim
from netc.ir.solve import line_of
from netc.runtime.limits import DEFAULT
from netc.runtime.memory import require_memory

if TYPE_CHECKING:
    import PIL.Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_LARGEST = 0xFFFF  # of a pixel
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def is_image(path: Path) -> bool:
    """Whether the name says that the file is an image."""
    return path.suffix.lower() in SUFFIXES


def read_image(path: Path, shape: tuple[int | str, ...], what: str) -> NDArray[np.uint8]:
    """An image as [C, H, W] bytes (RGB) with the channels of `shape`, resized where it is fixed.

    `shape` is [N, C, H, W]; `what` names the input in errors.
    """
    if len(shape) != 4 or shape[1] not in _MODES:
        help = "an image fits an input of shape [N, C, H, W] with 1, 3 or 4 channels"
        raise InputError(f"{what} does not take an image", help=help)
    pixels = _decode(path, _MODES[int(shape[1])], shape[2], shape[3])
    planes = pixels if pixels.ndim == 3 else pixels[:, :, None]
    return np.ascontiguousarray(planes.transpose(2, 0, 1))


def _decode(path: Path, mode: str, height: int | str, width: int | str) -> NDArray[Any]:
    from PIL import Image

    image = upright(path, mode)
    wanted = _side(width, image.width), _side(height, image.height)
    if wanted != image.size:
        size = wanted[0] * wanted[1] * len(mode)
        what = f"{clean(path.name)} in {wanted[0]}×{wanted[1]} pixels"
        if max(wanted) > MAX_DIM:
            raise ResourceError(f"{what}: a side has at most {MAX_DIM}")
        require_memory(size, lambda: [(what, size)], DEFAULT)
        image = image.resize(wanted, Image.Resampling.BILINEAR)
    return np.asarray(image)


def _side(wanted: int | str, own: int) -> int:
    """The fixed side of an input, or the image's own one; of multiples the nearest."""
    if isinstance(wanted, int):
        return wanted
    line = line_of(parse_dim(wanted))
    if line is None:
        return own
    times = max(line.solve_near(1), round((own - line.rest) / line.factor))
    return line.factor * times + line.rest


def upright(path: Path, mode: str) -> PIL.Image.Image:
    """The picture in a file, turned as its camera was held, in one of Pillow's modes."""
    from PIL import Image, ImageOps

    name = clean(path.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                pixels = image.width * image.height
                if pixels > MAX_PIXELS:
                    size = f"{image.width}×{image.height}"
                    raise InputError(f"{name} is {size}; at most {MAX_PIXELS:,} pixels are read")
                return _in_bytes(ImageOps.exif_transpose(image), name).convert(mode)
    except InputError:
        raise
    except Exception as e:  # decoders raise anything at all on damaged files
        reason = "it is not an image netc reads" if "identify" in str(e) else clean(e)
        raise InputError(f"cannot read {name}: {reason}") from None


def _in_bytes(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """16-bit pixels by their upper bytes, as OpenCV reads them; any other picture as it is."""
    from PIL import Image

    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    help = "give it as .npy, in the numbers that the net expects"
    if image.mode == "F":
        raise InputError(f"cannot read {name}: its pixels are floating-point numbers", help=help)
    pixels = np.asarray(image)
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > _LARGEST:
        text = f"its pixels are 32-bit integers from {low} to {high}; 16 bits are read"
        raise InputError(f"cannot read {name}: {text}", help=help)
    return Image.fromarray((pixels >> 8).astype(np.uint8))
