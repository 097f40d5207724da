"""Boxes that a detector found: as lines, and drawn onto the image they were found in.

They are rows (image, label, score, x0, y0, x1, y1) of a [1, 1, K, 7] array, corners as parts of the
image's width and height (SSD's DetectionOutput); the image of a row behind the last one is −1.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.cli.images import upright
from netc.errors import UsageError, clean
from netc.runtime.atomic import write_file

NUMBERS = 7  # of a row
_LISTED = 10
_DRAWN = 0.5  # the least score of a box that is drawn
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def is_found(array: NDArray[Any]) -> bool:
    """Whether an array is of such rows."""
    fits = array.ndim == 4 and array.shape[:2] == (1, 1) and array.shape[3] == NUMBERS
    if not fits or not array.size or array.dtype.kind != "f":
        return False
    numbers, rest = array[0, 0, :, :2], array[0, 0, :, 2:]
    counts = np.isfinite(numbers) & (numbers == np.floor(numbers)) & (numbers >= -1)
    nothing = (array == -1).all()
    return bool(counts.all() and (nothing or (rest != np.floor(rest)).any()))


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    """The rows there are, from the best score down."""
    rows = array[0, 0]
    rows = rows[(rows[:, :2] >= 0).all(1)]
    best: NDArray[Any] = rows[np.argsort(-rows[:, 2], kind="stable")]
    return best


def _name(label: float, labels: Sequence[str]) -> str:
    return clean(labels[int(label)]) if label < len(labels) else f"class {int(label)}"


def listed(array: NDArray[Any], labels: Sequence[str]) -> list[str]:
    """The best boxes, a line each, corners in thousandths of the image's sides."""
    rows = _rows(array)
    if not len(rows):
        return ["  nothing is found"]
    several = rows[:, 0].max() > 0
    best = [
        (f"[{int(image)}] " if several else "") + _name(label, labels)
        for image, label, *_ in rows[:_LISTED]
    ]
    wide = max(map(len, best))
    lines = []
    for name, (_, _, score, x0, y0, x1, y1) in zip(best, rows, strict=False):
        lines.append(f"  {name:<{wide}}  {score:6.4f}  {x0:6.3f} {y0:6.3f}  {x1:6.3f} {y1:6.3f}")
    more = len(rows) - len(lines)
    return [*lines, f"  … and {more} more"] if more else lines


def check_drawing(to: Path, pictures: Sequence[Path], notes: Sequence[str]) -> None:
    """Refuse what cannot be drawn, before anything is run."""
    from netc.frontend.preprocess import CUT

    if to.suffix.lower() not in _FORMATS:
        raise UsageError(f"cannot draw {clean(to)}", help="a picture is .png or .jpg")
    if len(pictures) != 1:
        what = f"boxes are drawn onto one image, and {len(pictures)} are given"
        raise UsageError(what, help="one image: --input data=street.jpg")
    for note in notes:
        if str(note).startswith(CUT):
            help = "a net compiled with --resize alone sees all of it"
            raise UsageError(f"boxes would be drawn beside their places: {clean(note)}", help=help)


def draw(
    picture: Path,
    results: Mapping[str, NDArray[Any]],
    labels: Sequence[str],
    to: Path,
) -> int:
    """Draw the boxes with a score of at least a half onto a picture; how many they are."""
    from PIL import ImageDraw, ImageFont

    found = [array for array in results.values() if is_found(array)]
    if len(found) != 1:
        what = f"{len(found) or 'no'} outputs have boxes"
        help = "boxes are what DetectionOutput gives: [1, 1, K, 7]"
        raise UsageError(f"nothing to draw: {what}", help=help)
    image = upright(picture, "RGB")
    line = max(1, min(image.size) // 200)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(max(11, min(image.size) // 40))
    rows = [row for row in _rows(found[0]) if row[2] >= _DRAWN and not np.isnan(row).any()]
    for _, label, score, *corners in reversed(rows):
        x0, y0, x1, y1 = (
            float(np.clip(c, 0, 1)) * side
            for c, side in zip(corners, (*image.size, *image.size), strict=True)
        )
        box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        colour = f"hsl({int(label) * 137 % 360}, 80%, 35%)"
        pen.rectangle(box, outline=colour, width=line)
        text, corner = f"{_name(label, labels)} {score:.2f}", (box[0] + line, box[1] + line)
        pen.rectangle(pen.textbbox(corner, text, font=font), fill=colour)
        pen.text(corner, text, fill="white", font=font)
    out = io.BytesIO()
    image.save(out, _FORMATS[to.suffix.lower()])
    write_file(to, [out.getbuffer()])
    return len(rows)
