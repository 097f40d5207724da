"""Arrays from a NumPy `.npz`, with limits: no pickles, no bombs, no duplicate names."""

from __future__ import annotations

import ast
import io
import math
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netc.errors import Span, WeightsError, clean

MAX_ENTRIES = 100_000
MAX_RATIO = 200  # bytes unpacked for each byte packed, beyond the allowance
ALLOWANCE = 64 << 20  # bytes
_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 1 << 16  # bytes; NumPy writes 118


def is_zip(data: memoryview | bytes) -> bool:
    """Whether the bytes start as a zip archive does."""
    return bytes(data[:4]) in (b"PK\x03\x04", b"PK\x05\x06")


def read_npz(data: memoryview | bytes, name: str = "<npz>") -> dict[str, NDArray[Any]]:
    """Every array of the archive by name."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check(entries, len(data), name)
            return {_key(e.filename): _entry(archive, e, name) for e in entries}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as e:
        raise WeightsError(f"damaged archive: {clean(e)}", Span(name)) from None
    except (NotImplementedError, struct.error) as e:
        raise WeightsError(f"archive of an unknown kind: {clean(e)}", Span(name)) from None


def _check(entries: list[zipfile.ZipInfo], size: int, name: str) -> None:
    if len(entries) > MAX_ENTRIES:
        raise WeightsError(f"more than {MAX_ENTRIES:,} arrays", Span(name))
    if any(e.filename.endswith("/data.pkl") for e in entries):
        help = "its arrays by parameter name fit: safetensors.torch.save_file(arrays, path)"
        raise WeightsError("the file is of PyTorch", Span(name), help)
    keys = [_key(e.filename) for e in entries]
    if len(set(keys)) != len(keys):
        raise WeightsError("two arrays have one name", Span(name))
    unpacked = sum(e.file_size for e in entries)
    if unpacked > size * MAX_RATIO + ALLOWANCE:
        what = f"{size:,} bytes would unpack to {unpacked:,}; netc allows {MAX_RATIO}:1"
        raise WeightsError(what, Span(name))


def _key(filename: str) -> str:
    return filename.removesuffix(".npy")


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> NDArray[Any]:
    with archive.open(entry) as stream:
        raw = stream.read(entry.file_size + 1)
    if len(raw) != entry.file_size:
        raise WeightsError(f"{clean(entry.filename)} is not as long as it says", Span(name))
    return read_npy(raw, f"{name}: {entry.filename}")


def read_npy(raw: bytes | memoryview, name: str = "<npy>") -> NDArray[Any]:
    """The array of a `.npy`, a view of its bytes."""
    raw = memoryview(raw)
    if bytes(raw[:6]) != _MAGIC or len(raw) < 12 or raw[6] not in (1, 2, 3):
        raise WeightsError("not a NumPy array", Span(name))
    wide = raw[6] > 1
    start = 12 if wide else 10
    length = int.from_bytes(raw[8:start], "little")
    if length > min(_MAX_HEADER, len(raw) - start):
        raise WeightsError("damaged array header", Span(name))
    dtype, shape, fortran = _header(bytes(raw[start : start + length]), name)
    body = raw[start + length :]
    if len(body) != math.prod(shape) * dtype.itemsize:
        what = f"{len(body):,} bytes for {dtype}{list(shape)}"
        raise WeightsError(what, Span(name))
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")


def _header(text: bytes, name: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """The dictionary NumPy writes: a literal, so it is read as one."""
    try:
        found = ast.literal_eval(text.decode("latin-1").strip())
        dtype, shape = np.dtype(found["descr"]), tuple(found["shape"])
        fortran = bool(found["fortran_order"])
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        raise WeightsError("damaged array header", Span(name)) from None
    if dtype.kind not in "fiub" or dtype.hasobject:
        raise WeightsError(f"the array holds {clean(dtype)}, not numbers", Span(name))
    if len(shape) > 32 or any(not isinstance(d, int) or not 0 <= d < 1 << 40 for d in shape):
        raise WeightsError("damaged array header", Span(name))
    return dtype, shape, fortran
