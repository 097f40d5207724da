"""Image files as arrays: 16-bit pixels by their upper bytes, and what has no such meaning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from netc.cli.images import read_image
from netc.errors import InputError, ResourceError

GREY = (np.arange(64).reshape(8, 8) * 1040).astype(np.uint16)  # 0 … 65520


def sixteen_bits(kind: str) -> tuple[str, Image.Image | bytes]:
    """A file's name, and the picture or the bytes to write there."""
    big = GREY.astype(">u2").tobytes()
    if kind == "pgm":  # which Pillow opens as 32-bit integers
        return "x.pgm", b"P5\n8 8\n65535\n" + big
    picture = Image.frombytes("I;16B", (8, 8), big) if kind == "I;16B" else Image.fromarray(GREY)
    return "x.png" if kind == "png" else "x.tif", picture


@pytest.mark.parametrize("kind", ["png", "I;16", "I;16B", "pgm"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bit_pixels_by_their_upper_byte(tmp_path: Path, kind: str, channels: int) -> None:
    """As OpenCV's `imread` and libpng's `png_set_strip_16`."""
    name, picture = sixteen_bits(kind)
    if isinstance(picture, bytes):
        (tmp_path / name).write_bytes(picture)
    else:
        picture.save(tmp_path / name)
    got = read_image(tmp_path / name, ("N", channels, 8, 8), "input data")
    assert got.dtype == np.uint8
    for plane in got[:3]:
        np.testing.assert_array_equal(plane, GREY >> 8)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (GREY.astype(np.float32), "its pixels are floating-point numbers"),
        (GREY.astype(np.int32) * 1000, "its pixels are 32-bit integers from 0 to 65520000"),
        (GREY.astype(np.int32) - 5, "its pixels are 32-bit integers from -5 to 65515"),
    ],
)
def test_pixels_that_are_no_bytes(tmp_path: Path, pixels: np.ndarray, message: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match=message) as caught:
        read_image(tmp_path / "x.tif", ("N", 1, 8, 8), "input data")
    assert "give it as .npy" in str(caught.value)


@pytest.mark.parametrize(
    ("side", "own", "got"),
    [
        ("32*H", 47, 32),
        ("32*H", 49, 64),
        ("32*H", 3, 32),
        ("2*H-5", 1, 1),
        ("4*H+1", 8, 9),
        ("H", 47, 47),
        (8, 47, 8),
    ],
)
def test_an_image_has_the_nearest_size_that_fits(
    tmp_path: Path, side: int | str, own: int, got: int
) -> None:
    Image.new("L", (own, own)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", ("N", 1, side, side), "input").shape == (1, got, got)


@pytest.mark.parametrize("side", ["1000000000000*H", 2**31 - 1])
def test_an_image_of_a_size_that_no_memory_holds(tmp_path: Path, side: int | str) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    with pytest.raises(ResourceError, match=r"x\.png in .* pixels"):
        read_image(tmp_path / "x.png", ("N", 1, side, side), "input data")
